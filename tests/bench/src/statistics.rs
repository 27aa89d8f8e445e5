//! Medians, spreads and ratios of what was measured.

use std::collections::BTreeMap;

use serde::Serialize;

use super::lab::Mode;
use super::measure::Metric;
use super::underlay::Offloads;

/// One figure of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) round: u32,
    pub(super) offloads: Offloads,
    pub(super) mode: Mode,
    pub(super) metric: Metric,
    /// In the metric's unit.
    pub(super) value: f64,
}

/// Figures of the same thing over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// `None` without a figure.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// The middle of sorted figures; of an even number the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The least of sorted figures that `percent` of them do not exceed (nearest rank).
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// What is reported of a series, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Percentiles {
    /// `None` without a figure.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            p50: percentile(&values, 50)?,
            p99: percentile(&values, 99)?,
            max: *values.last()?,
        })
    }
}

/// Everything that a run measured.
#[derive(Debug, Default)]
pub(super) struct Samples(pub(super) Vec<Sample>);

impl Samples {
    /// The figures of one thing, by round.
    fn rounds(&self, offloads: Offloads, metric: Metric, mode: Mode) -> BTreeMap<u32, f64> {
        self.0
            .iter()
            .filter(|sample| {
                (sample.offloads, sample.metric, sample.mode) == (offloads, metric, mode)
            })
            .map(|sample| (sample.round, sample.value))
            .collect()
    }

    pub(super) fn summary(
        &self,
        offloads: Offloads,
        metric: Metric,
        mode: Mode,
    ) -> Option<Summary> {
        let values: Vec<_> = self.rounds(offloads, metric, mode).into_values().collect();
        Summary::of(&values)
    }

    /// How many times `base` `mode` is: made in each round, so that what slows the machine for a
    /// while falls out.
    pub(super) fn ratio(
        &self,
        offloads: Offloads,
        metric: Metric,
        mode: Mode,
        base: Mode,
    ) -> Option<Summary> {
        let base = self.rounds(offloads, metric, base);
        let ratios: Vec<_> = self
            .rounds(offloads, metric, mode)
            .into_iter()
            .filter_map(|(round, value)| Some(value / base.get(&round)?))
            .collect();
        Summary::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, mode: Mode, value: f64) -> Sample {
        Sample {
            round,
            offloads: Offloads::On,
            mode,
            metric: Metric::FloodRate,
            value,
        }
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let summary = |median, min, max| Some(Summary { median, min, max });
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), summary(2.0, 1.0, 3.0));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]), summary(2.5, 1.0, 4.0));
        assert_eq!(Summary::of(&[7.0]), summary(7.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let hundred: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50), Some(50.0));
        assert_eq!(percentile(&hundred, 99), Some(99.0));
        assert_eq!(percentile(&hundred, 0), Some(1.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own_ratios() {
        // The medians themselves would give 200 / 20 = 10.
        let samples = Samples(vec![
            sample(1, Mode::Overlay, 100.0),
            sample(1, Mode::Kernel, 50.0),
            sample(2, Mode::Overlay, 200.0),
            sample(2, Mode::Kernel, 20.0),
            sample(3, Mode::Overlay, 300.0),
            sample(3, Mode::Kernel, 10.0),
            sample(4, Mode::Overlay, 1.0),
        ]);
        let ratio = samples
            .ratio(Offloads::On, Metric::FloodRate, Mode::Overlay, Mode::Kernel)
            .unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (10.0, 2.0, 30.0));
    }
}
