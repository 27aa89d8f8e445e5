//! `cargo xtask bench --outside`: routing and address translation, against the kernel's and our own way within a network.
//!
//! The ways alternate within a round, and what counts are the ratios within one, as in [`super::compare`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::lab::{Way, Ways};
use crate::machine::Machine;
use crate::measure::{Conditions, Measure, Metric};
use crate::plan::rotated;
use crate::statistics::Summary;
use crate::underlay::Offloads;

/// What each way is measured with.
const MEASURES: [Measure; 4] = [
    Measure::Flood,
    Measure::SocketFlood,
    Measure::OneStream,
    Measure::RequestResponse,
];

/// The figures that are told.
const METRICS: [Metric; 5] = [
    Metric::FloodRate,
    Metric::SocketFloodRate,
    Metric::TcpOneStream,
    Metric::RrP50,
    Metric::RrP99,
];

/// A ratio that is promised: of this way to that one, at least, or of a latency at most.
struct Goal(Metric, Way, Way, f64);

const GOALS: [Goal; 9] = [
    Goal(Metric::FloodRate, Way::Routed, Way::Layer2, 0.93),
    Goal(Metric::FloodRate, Way::Routed, Way::KernelRouted, 2.2),
    Goal(Metric::SocketFloodRate, Way::Snat, Way::Masquerade, 2.3),
    Goal(Metric::SocketFloodRate, Way::Float, Way::Masquerade, 2.5),
    Goal(Metric::FloodRate, Way::Float, Way::Routed, 0.95),
    Goal(Metric::TcpOneStream, Way::Routed, Way::Layer2, 0.97),
    Goal(Metric::TcpOneStream, Way::Routed, Way::KernelRouted, 1.15),
    Goal(Metric::RrP50, Way::Routed, Way::Layer2, 1.02),
    Goal(Metric::RrP50, Way::Snat, Way::Masquerade, 0.9),
];

#[derive(Serialize)]
struct Row {
    offloads: Offloads,
    metric: Metric,
    way: Way,
    #[serde(flatten)]
    summary: Summary,
}

#[derive(Serialize)]
struct Verdict {
    offloads: Offloads,
    metric: Metric,
    way: Way,
    base: Way,
    bound: f64,
    ratio: f64,
    held: bool,
}

/// What a run found.
#[derive(Serialize)]
pub(super) struct Outside {
    machine: Machine,
    command: String,
    rows: Vec<Row>,
    verdicts: Vec<Verdict>,
}

type Key = (Offloads, Metric, Way);

pub(super) fn measure(
    agent: &Path,
    rounds: u32,
    offloads: &[Offloads],
    conditions: &Conditions,
) -> Result<Outside> {
    let machine = Machine::look()?;
    let ways = Ways::build(agent)?;
    let mut values: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for &setting in offloads {
            ways.set_offloads(setting)?;
            for measure in MEASURES {
                for way in rotated(&Way::ALL, round) {
                    let readings = measure.run(ways.pair(way)?, conditions);
                    let readings = readings
                        .with_context(|| format!("{}, {}", way.title(), measure.title()))?;
                    for (metric, value) in readings {
                        values
                            .entry((setting, metric, way))
                            .or_default()
                            .push(value);
                    }
                }
            }
        }
    }
    drop(ways);
    let mut rows = Vec::new();
    for &setting in offloads {
        for metric in METRICS {
            for way in Way::ALL {
                let of = values.get(&(setting, metric, way));
                rows.extend(of.and_then(|of| Summary::of(of)).map(|summary| Row {
                    offloads: setting,
                    metric,
                    way,
                    summary,
                }));
            }
        }
    }
    let settings = offloads.iter().copied();
    let verdicts = settings
        .flat_map(|setting| judge(&values, setting))
        .collect();
    let seconds = conditions.window.as_secs();
    Ok(Outside {
        machine,
        command: format!("cargo xtask bench --outside --rounds {rounds} --seconds {seconds}"),
        rows,
        verdicts,
    })
}

fn judge(values: &BTreeMap<Key, Vec<f64>>, offloads: Offloads) -> Vec<Verdict> {
    let verdict = |Goal(metric, way, base, bound): &Goal| {
        let of = |way: Way| values.get(&(offloads, *metric, way));
        let ratios = of(*way)?
            .iter()
            .zip(of(*base)?)
            .map(|(value, base)| value / base);
        let ratio = Summary::of(&ratios.collect::<Vec<_>>())?.median;
        Some(Verdict {
            offloads,
            metric: *metric,
            way: *way,
            base: *base,
            bound: *bound,
            ratio,
            held: if metric.more_is_better() {
                ratio >= *bound
            } else {
                ratio <= *bound
            },
        })
    };
    GOALS.iter().filter_map(verdict).collect()
}

impl Outside {
    /// The same tables for a terminal and for Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("Machine: {}.\nCommand: `{}`.\n", self.machine, self.command);
        let settings: Vec<Offloads> = Offloads::ALL
            .into_iter()
            .filter(|setting| self.rows.iter().any(|row| row.offloads == *setting))
            .collect();
        for setting in settings {
            let _ = write!(text, "\n| {} |", setting.title());
            for way in Way::ALL {
                let _ = write!(text, " {} |", way.title());
            }
            let _ = writeln!(text, "\n|---|{}", "---:|".repeat(Way::ALL.len()));
            for metric in METRICS {
                let _ = write!(text, "| {}, {} |", metric.title(), metric.unit());
                for way in Way::ALL {
                    let mut rows = self.rows.iter();
                    let row = rows
                        .find(|row| (row.offloads, row.metric, row.way) == (setting, metric, way));
                    let _ = match row {
                        Some(row) => write!(text, " {:.1} |", row.summary.median),
                        None => write!(text, " - |"),
                    };
                }
                let _ = writeln!(text);
            }
        }
        let _ = writeln!(
            text,
            "\n| ratio, medians of the rounds' own | | goal | |\n|---|---:|---:|---|"
        );
        for verdict in &self.verdicts {
            let _ = writeln!(
                text,
                "| {}: {} / {}, {} | {:.2} | {:.2} | {} |",
                verdict.metric.title(),
                verdict.way.title(),
                verdict.base.title(),
                verdict.offloads.title(),
                verdict.ratio,
                verdict.bound,
                if verdict.held { "held" } else { "missed" }
            );
        }
        text
    }

    /// Writes outside.json and outside.md into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, content) in [("outside.json", json), ("outside.md", self.markdown())] {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Fails if a goal is missed.
    pub(super) fn check(&self) -> Result<()> {
        match self.verdicts.iter().filter(|verdict| !verdict.held).count() {
            0 => Ok(()),
            missed => bail!(
                "{missed} of {} goals are missed (see above)",
                self.verdicts.len()
            ),
        }
    }
}
