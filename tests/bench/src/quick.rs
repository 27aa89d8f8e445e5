//! A quick at how an overlay that is up compares with the kernel's VXLAN: what `cargo xtask demo`
//! shows. A benchmark it is not: short rounds, and the underlay's offloads as they are.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::lab::{End, Pair};
use super::measure::{Conditions, Cores, Measure, Metric};
use overlay_lab::Netns;

/// The best of them counts: what else the machine does meanwhile only ever slows a round down.
pub(crate) const ROUNDS: u32 = 2;
/// What is measured, and for how many seconds.
const MEASURES: [(Measure, Metric, u64); 2] = [
    (Measure::OneStream, Metric::TcpOneStream, 1),
    (Measure::Flood, Metric::FloodRate, 1),
];

/// An endpoint that is up.
pub(crate) struct Endpoint<'a> {
    /// The namespace of the host that it is on.
    pub(crate) host: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) ifname: &'static str,
    pub(crate) ip: Ipv4Addr,
}

impl Endpoint<'_> {
    fn end(&self) -> End {
        End::new(Netns::named(self.netns), self.ifname, self.ip)
    }
}

/// What one metric came to. More is better.
pub(crate) struct Figure {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) kernel: f64,
    pub(crate) overlay: f64,
}

/// Measures from `client` to `server`, in turn with a pair of hosts that have the kernel's VXLAN
/// device and a bridge. These are made for it and go away with it; all of their namespaces start
/// with one of `names`. `progress` hears what is being measured.
pub(crate) fn compare(
    client: &Endpoint<'_>,
    server: &Endpoint<'_>,
    names: &[String; 2],
    mut progress: impl FnMut(&str),
) -> Result<Vec<Figure>> {
    progress("the kernel's VXLAN gets ready");
    let kernel = Pair::kernel(names)?;
    let overlay = Pair::existing([client.host, server.host], client.end(), server.end())?;
    let cores = Cores::choose()?;

    let mut figures = Vec::new();
    for (measure, metric, seconds) in MEASURES {
        let conditions = Conditions {
            cores: cores.clone(),
            window: Duration::from_secs(seconds),
        };
        let mut read = |pair: &Pair, round: u32| -> Result<f64> {
            let title = format!("{}, {}", measure.title(), pair.mode.name());
            progress(&format!("{title}, round {round} of {ROUNDS}"));
            let readings = measure.run(pair, &conditions).context(title)?;
            let reading = readings.into_iter().find(|(of, _)| *of == metric);
            reading
                .map(|(_, value)| value)
                .context("a measurement without its figure")
        };
        let (mut best_kernel, mut best_overlay) = (0.0_f64, 0.0_f64);
        for round in 1..=ROUNDS {
            best_kernel = best_kernel.max(read(&kernel, round)?);
            best_overlay = best_overlay.max(read(&overlay, round)?);
        }
        figures.push(Figure {
            title: metric.title(),
            unit: metric.unit(),
            kernel: best_kernel,
            overlay: best_overlay,
        });
    }
    Ok(figures)
}
