//! What a run leaves: a table for people, Markdown, JSON and a chart.

mod chart;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::lab::Mode;
use super::machine::Machine;
use super::measure::Metric;
use super::statistics::{Sample, Samples, Summary};
use super::thresholds::{Bound, Verdict, judge};
use super::underlay::Offloads;

/// A run and what it found.
pub(super) struct Report {
    machine: Machine,
    command: String,
    samples: Samples,
    verdicts: Vec<Verdict>,
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    offloads: Offloads,
    metric: Metric,
    unit: &'static str,
    bare: Option<Summary>,
    kernel: Option<Summary>,
    overlay: Option<Summary>,
    overlay_to_kernel: Option<Summary>,
    overlay_to_bare: Option<Summary>,
}

/// A column of the tables.
struct Column {
    title: &'static str,
    summary: fn(&Row) -> Option<Summary>,
    /// Digits behind the point; `None`: as many as the figure needs.
    digits: Option<usize>,
}

const COLUMNS: [Column; 5] = [
    Column {
        title: "bare",
        summary: |row| row.bare,
        digits: None,
    },
    Column {
        title: "kernel",
        summary: |row| row.kernel,
        digits: None,
    },
    Column {
        title: "overlay",
        summary: |row| row.overlay,
        digits: None,
    },
    Column {
        title: "overlay/kernel",
        summary: |row| row.overlay_to_kernel,
        digits: Some(2),
    },
    Column {
        title: "overlay/bare",
        summary: |row| row.overlay_to_bare,
        digits: Some(2),
    },
];

/// The JSON file.
#[derive(Serialize)]
struct Json<'a> {
    machine: &'a Machine,
    command: &'a str,
    results: Vec<Row>,
    #[serde(rename = "floors")]
    thresholds: &'a [Verdict],
    samples: &'a [Sample],
}

impl Report {
    pub(super) fn new(machine: Machine, command: String, samples: Samples) -> Self {
        let verdicts = judge(&samples);
        Self {
            machine,
            command,
            samples,
            verdicts,
        }
    }

    pub(super) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// What one reads on a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for offloads in self.measured_offloads() {
            let table = self.table(offloads, presets::UTF8_FULL_CONDENSED);
            let _ = writeln!(text, "\nUnderlay: {}\n{table}", offloads.title());
        }
        for verdict in &self.verdicts {
            let _ = writeln!(text, "{}", line(verdict));
        }
        text
    }

    /// Writes bench.json, bench.md and bench.svg into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let write = |name: &str, content: String| {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
        };
        write("bench.json", self.json()?)?;
        write("bench.md", self.markdown())?;
        write("bench.svg", chart::draw(&self.samples)?)
    }

    fn json(&self) -> Result<String> {
        let json = Json {
            machine: &self.machine,
            command: &self.command,
            results: self.rows(),
            thresholds: &self.verdicts,
            samples: &self.samples.0,
        };
        Ok(serde_json::to_string_pretty(&json)? + "\n")
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "Machine: {}.\nCommand: `{}`.\n\n\
             Medians with minimum and maximum over the rounds; a ratio is the median of the rounds' \
             own ratios.\n",
            self.machine, self.command
        );
        for offloads in self.measured_offloads() {
            let table = self.table(offloads, presets::ASCII_MARKDOWN);
            let _ = writeln!(text, "\n### Underlay: {}\n\n{table}", offloads.title());
        }
        if !self.verdicts.is_empty() {
            text.push_str("\n### Thresholds\n\n");
            for verdict in &self.verdicts {
                let _ = writeln!(text, "- {}", line(verdict));
            }
        }
        text
    }

    fn measured_offloads(&self) -> impl Iterator<Item = Offloads> {
        Offloads::ALL.into_iter().filter(|offloads| {
            self.samples
                .0
                .iter()
                .any(|sample| sample.offloads == *offloads)
        })
    }

    fn rows(&self) -> Vec<Row> {
        self.measured_offloads()
            .flat_map(|offloads| {
                Metric::ALL
                    .into_iter()
                    .map(move |metric| self.row(offloads, metric))
            })
            .filter(|row| row.bare.or(row.kernel).or(row.overlay).is_some())
            .collect()
    }

    fn row(&self, offloads: Offloads, metric: Metric) -> Row {
        let summary = |mode| self.samples.summary(offloads, metric, mode);
        let ratio = |base| self.samples.ratio(offloads, metric, Mode::Overlay, base);
        Row {
            offloads,
            metric,
            unit: metric.unit(),
            bare: summary(Mode::Bare),
            kernel: summary(Mode::Kernel),
            overlay: summary(Mode::Overlay),
            overlay_to_kernel: ratio(Mode::Kernel),
            overlay_to_bare: ratio(Mode::Bare),
        }
    }

    /// A line a metric, a column a mode and a ratio that was measured.
    fn table(&self, offloads: Offloads, style: comfy_table::TableStyle) -> Table {
        let rows: Vec<_> = self
            .rows()
            .into_iter()
            .filter(|row| row.offloads == offloads)
            .collect();
        let mut table = Table::new();
        table.load_style(style);
        let columns: Vec<_> = COLUMNS
            .iter()
            .filter(|column| rows.iter().any(|row| (column.summary)(row).is_some()))
            .collect();
        table.set_header(std::iter::once("").chain(columns.iter().map(|column| column.title)));
        for row in &rows {
            let title = format!("{}, {}", row.metric.title(), row.unit);
            let cells = columns.iter().map(|column| {
                (column.summary)(row).map_or_else(String::new, |summary| {
                    cell(summary, column.digits.unwrap_or(digits(summary.median)))
                })
            });
            table.add_row(std::iter::once(title).chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// A median with its spread.
fn cell(summary: Summary, digits: usize) -> String {
    let Summary { median, min, max } = summary;
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

/// Three significant digits at least.
fn digits(value: f64) -> usize {
    match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    }
}

/// A verdict in one line.
fn line(verdict: &Verdict) -> String {
    let (word, bound) = match verdict.bound {
        Bound::AtLeast(bound) => ("at least", bound),
        Bound::AtMost(bound) => ("at most", bound),
    };
    format!(
        "{}: {} ({}): {:.2} of {}, must be {word} {bound}",
        if verdict.held { "held" } else { "MISSED" },
        verdict.metric.title(),
        verdict.offloads.title(),
        verdict.ratio,
        verdict.base.name(),
    )
}
