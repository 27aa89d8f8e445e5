//! What a run found, as JSON and as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::scale::Sized;
use crate::bench::machine::Machine;

/// Everything that was measured.
#[derive(Serialize)]
pub(in crate::bench) struct Report {
    machine: Machine,
    command: String,
    pub(super) scale: Vec<Sized>,
}

impl Report {
    pub(super) fn new(machine: Machine, command: String) -> Self {
        Self {
            machine,
            command,
            scale: Vec::new(),
        }
    }

    pub(in crate::bench) fn markdown(&self) -> String {
        let mut text = format!("Machine: {}.\nCommand: `{}`.\n", self.machine, self.command);
        if !self.scale.is_empty() {
            let _ = write!(
                text,
                "\n### One agent and a registry that grows\n\n{}\n",
                scale(&self.scale)
            );
        }
        text
    }

    /// Writes control.json and control.md into `folder`.
    pub(in crate::bench) fn write(&self, folder: &Path) -> Result<()> {
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

fn scale(results: &[Sized]) -> Table {
    let titles = [
        "registry",
        "endpoints",
        "convergence, s",
        "its CPU time, s",
        "resident, MiB",
        "at most, MiB",
        "maps, MiB",
        "idle CPU, %",
        "change to map, ms p50 / p99",
        "its CPU time, us",
    ];
    let rows = results.iter().map(|result| {
        [
            result.registry.name().to_owned(),
            result.endpoints.to_string(),
            format!("{:.2}", result.convergence_s),
            format!("{:.2}", result.convergence_cpu_s),
            format!("{:.0}", result.resident_mib),
            format!("{:.0}", result.peak_mib),
            format!("{:.1}", result.maps_mib),
            format!("{:.2}", result.idle_percent),
            format!(
                "{:.2} / {:.2}",
                result.change_us.p50 / 1e3,
                result.change_us.p99 / 1e3
            ),
            format!("{:.0}", result.change_cpu_us),
        ]
    });
    table(titles, rows)
}
