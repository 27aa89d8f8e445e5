//! What the overlay promises: ratios below which a change is a regression.

use serde::Serialize;

use super::lab::Mode;
use super::measure::Metric;
use super::statistics::Samples;
use super::underlay::Offloads;

/// A bound of the overlay's ratio to another mode.
struct Threshold {
    metric: Metric,
    /// `None`: with every setting of the underlay.
    offloads: Option<Offloads>,
    base: Mode,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

const THRESHOLDS: [Threshold; 9] = [
    Threshold {
        metric: Metric::FloodRate,
        offloads: None,
        base: Mode::Kernel,
        bound: AtLeast(2.3),
    },
    Threshold {
        metric: Metric::FloodRate,
        offloads: None,
        base: Mode::Bare,
        bound: AtLeast(0.5),
    },
    Threshold {
        metric: Metric::RrP50,
        offloads: None,
        base: Mode::Kernel,
        bound: AtMost(0.92),
    },
    Threshold {
        metric: Metric::RrP50,
        offloads: None,
        base: Mode::Bare,
        bound: AtMost(1.1),
    },
    Threshold {
        metric: Metric::TcpOneStream,
        offloads: Some(Offloads::On),
        base: Mode::Kernel,
        bound: AtLeast(1.1),
    },
    Threshold {
        metric: Metric::TcpOneStream,
        offloads: Some(Offloads::OffGro),
        base: Mode::Kernel,
        bound: AtLeast(1.1),
    },
    Threshold {
        metric: Metric::TcpOneStream,
        offloads: Some(Offloads::Off),
        base: Mode::Kernel,
        bound: AtLeast(1.05),
    },
    // The slow path is the kernel's own way with a program before and behind it.
    Threshold {
        metric: Metric::UdpAggregates,
        offloads: None,
        base: Mode::Kernel,
        bound: AtLeast(0.9),
    },
    Threshold {
        metric: Metric::TcpNested,
        offloads: None,
        base: Mode::Kernel,
        bound: AtLeast(0.9),
    },
];

/// A threshold and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) metric: Metric,
    pub(super) offloads: Offloads,
    pub(super) base: Mode,
    pub(super) bound: Bound,
    pub(super) ratio: f64,
    pub(super) held: bool,
}

/// Judges every threshold that this run measured.
pub(super) fn judge(samples: &Samples) -> Vec<Verdict> {
    THRESHOLDS
        .iter()
        .flat_map(|threshold| {
            Offloads::ALL
                .into_iter()
                .filter(|offloads| threshold.offloads.is_none_or(|only| only == *offloads))
                .filter_map(|offloads| verdict(threshold, offloads, samples))
        })
        .collect()
}

fn verdict(threshold: &Threshold, offloads: Offloads, samples: &Samples) -> Option<Verdict> {
    let ratio = samples
        .ratio(offloads, threshold.metric, Mode::Overlay, threshold.base)?
        .median;
    Some(Verdict {
        metric: threshold.metric,
        offloads,
        base: threshold.base,
        bound: threshold.bound,
        ratio,
        held: match threshold.bound {
            AtLeast(least) => ratio >= least,
            AtMost(most) => ratio <= most,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::statistics::Sample;
    use super::*;

    fn samples(metric: Metric, offloads: Offloads, overlay: f64, kernel: f64) -> Samples {
        let sample = |mode, value| Sample {
            round: 1,
            offloads,
            mode,
            metric,
            value,
        };
        Samples(vec![
            sample(Mode::Overlay, overlay),
            sample(Mode::Kernel, kernel),
        ])
    }

    #[test]
    fn more_packets_hold_a_threshold_and_more_latency_breaks_one() {
        let [flood] = &judge(&samples(Metric::FloodRate, Offloads::On, 300.0, 100.0))[..] else {
            panic!("one threshold has both modes");
        };
        assert!(flood.held);
        let [rr] = &judge(&samples(Metric::RrP50, Offloads::Off, 70.0, 72.0))[..] else {
            panic!("one threshold has both modes");
        };
        assert!(!rr.held);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert!(judge(&Samples::default()).is_empty());
        let only_kernel = Samples(vec![
            samples(Metric::FloodRate, Offloads::On, 1.0, 1.0).0[1],
        ]);
        assert!(judge(&only_kernel).is_empty());
    }
}
