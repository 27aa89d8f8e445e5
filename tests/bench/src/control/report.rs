//! What a run found, as JSON and as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::fanout::FanOut;
use super::miss::Missed;
use super::scale::Sized;
use crate::machine::Machine;
use crate::statistics::Percentiles;

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    command: String,
    pub(super) scale: Vec<Sized>,
    pub(super) fan_out: Vec<FanOut>,
    pub(super) misses: Vec<Missed>,
}

impl Report {
    pub(super) fn new(machine: Machine, command: String) -> Self {
        Self {
            machine,
            command,
            scale: Vec::new(),
            fan_out: Vec::new(),
            misses: Vec::new(),
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("Machine: {}.\nCommand: `{}`.\n", self.machine, self.command);
        if !self.scale.is_empty() {
            let _ = write!(
                text,
                "\n### One agent and a registry that grows\n\n{}\n\n### One change, one packet\n\n{}\n",
                scale(&self.scale),
                single(&self.scale)
            );
        }
        if !self.fan_out.is_empty() {
            let _ = write!(
                text,
                "\n### Many agents on one etcd\n\n{}\n\n{}\n",
                arrivals(&self.fan_out),
                load(&self.fan_out)
            );
        }
        if !self.misses.is_empty() {
            let _ = write!(
                text,
                "\n### The first packet on demand\n\n{}\n",
                misses(&self.misses)
            );
        }
        text
    }

    /// Writes control.json and control.md into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, content) in [("control.json", json), ("control.md", self.markdown())] {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

/// A line for each row's cells under these titles; all but the first column are figures.
fn table<const N: usize>(titles: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(titles);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What the agent took, a line a size.
fn scale(results: &[Sized]) -> Table {
    let titles = [
        "registry, networks",
        "endpoints",
        "in the maps",
        "convergence, s",
        "its CPU time, s",
        "resident, MiB",
        "at most, MiB",
        "maps, MiB",
        "server, MiB",
        "idle CPU, %",
    ];
    let rows = results.iter().map(|result| {
        [
            kind_of(result),
            result.endpoints.to_string(),
            result.in_maps.to_string(),
            format!("{:.2}", result.convergence_s),
            format!("{:.2}", result.convergence_cpu_s),
            format!("{:.0}", result.resident_mib),
            format!("{:.0}", result.peak_mib),
            format!("{:.1}", result.maps_mib),
            result
                .server_mib
                .map_or_else(String::new, |mib| format!("{mib:.0}")),
            format!("{:.2}", result.idle_percent),
        ]
    });
    table(titles, rows)
}

/// What one change and one packet cost, a line a size.
fn single(results: &[Sized]) -> Table {
    let titles = [
        "registry, networks",
        "endpoints",
        "commit to map, ms p50 / p99",
        "the agent's CPU time, us",
        "program, same destination, ns p50 / p99",
        "other destinations, ns p50 / p99",
    ];
    let nanoseconds = |figures: Option<Percentiles>| {
        figures.map_or_else(String::new, |figures| {
            format!("{:.0} / {:.0}", figures.p50, figures.p99)
        })
    };
    let rows = results.iter().map(|result| {
        [
            kind_of(result),
            result.endpoints.to_string(),
            result.change_us.map_or_else(String::new, milliseconds),
            format!("{:.0}", result.change_cpu_us),
            nanoseconds(result.same_ns),
            nanoseconds(result.other_ns),
        ]
    });
    table(titles, rows)
}

fn kind_of(result: &Sized) -> String {
    format!("{}, {}", result.registry.name(), result.resolve.name())
}

/// When changes arrived, a line a rate and kind.
fn arrivals(results: &[FanOut]) -> Table {
    let titles = [
        "agents (with BPF maps)",
        "changes/s wanted",
        "kind",
        "reached",
        "commit, ms p50 / p99",
        "to the first map",
        "to the last BPF map",
        "to the last of all",
    ];
    let rows = results.iter().flat_map(|result| {
        result.kinds.iter().map(|kind| {
            [
                format!("{} ({})", result.size.agents, result.size.real_maps),
                result.size.rate.to_string(),
                kind.name.clone(),
                format!("{:.0}", kind.rate),
                milliseconds(kind.commit_us),
                milliseconds(kind.first_us),
                milliseconds(kind.last_real_us),
                milliseconds(kind.last_us),
            ]
        })
    });
    table(titles, rows)
}

/// What that asks of etcd and of an agent, a line a rate.
fn load(results: &[FanOut]) -> Table {
    let titles = [
        "changes/s wanted",
        "etcd idle, CPU %",
        "bytes/s an agent",
        "etcd, CPU us a change",
        "bytes a change and agent",
        "etcd, MiB",
        "agent, CPU us a change",
        "with BPF maps",
        "agent, MiB",
    ];
    let rows = results.iter().map(|result| {
        [
            result.size.rate.to_string(),
            format!("{:.1}", result.idle_percent),
            format!("{:.0}", result.idle_bytes),
            format!("{:.0}", result.etcd_cpu_us),
            format!("{:.0}", result.change_bytes),
            format!("{:.0}", result.etcd_mib),
            format!("{:.1}", result.agent_cpu_us),
            format!("{:.1}", result.agent_with_maps_cpu_us),
            format!("{:.1}", result.agent_mib),
        ]
    });
    table(titles, rows)
}

/// How long first packets waited, a line a registry.
fn misses(results: &[Missed]) -> Table {
    let titles = [
        "registry",
        "ARP answer after a miss, ms p50 / p99",
        "first packet, both hosts ask",
        "second packet",
        "first packet, proactive",
    ];
    let rows = results.iter().map(|result| {
        [
            result.registry.name().to_owned(),
            milliseconds(result.arp_us),
            milliseconds(result.first_us),
            milliseconds(result.second_us),
            milliseconds(result.proactive_first_us),
        ]
    });
    table(titles, rows)
}

/// Medians and 99th percentiles.
fn milliseconds(figures: Percentiles) -> String {
    format!("{:.2} / {:.2}", figures.p50 / 1e3, figures.p99 / 1e3)
}
