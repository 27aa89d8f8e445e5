//! `cargo xtask bench --latency`: from a commit to the registry until it shows in another host's BPF
//! map.
//!
//! Two agents watch one SQLite registry, as in mode overlay. A third process, the
//! [instrument's](super::instrument) stopwatch, commits endpoints and looks at the second agent's
//! pinned FDB.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::instrument::{self, Timed};
use super::lab::{Lab, Mode, VNI};
use super::machine::Machine;
use super::statistics::Percentiles;
use overlay_lab::process::{self, Running};

/// How many endpoints are added.
const ADDS: u16 = 1000;
/// Microseconds within which a commit has to be in the other agent's map.
const THRESHOLD: f64 = 100_000.0;

/// What the run found.
#[derive(Serialize)]
pub(super) struct Latency {
    machine: Machine,
    command: &'static str,
    adds: u16,
    /// What the commit itself takes: it is on the disk then.
    commit_us: Percentiles,
    /// From the commit's return to the entry in the map.
    commit_to_map_us: Percentiles,
    /// Both together.
    total_us: Percentiles,
}

pub(super) fn measure(agent: &Path) -> Result<Latency> {
    const LIMIT: Duration = Duration::from_mins(5);
    let machine = Machine::look()?;
    let lab = Lab::build(&[Mode::Overlay], agent)?;
    let watched = lab.pair(Mode::Overlay)?.watching_agent()?;

    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message(format!("{ADDS} endpoints, about a minute"));
    if progress.is_hidden() {
        eprintln!("{ADDS} endpoints, about a minute");
    }
    let command = process::command(
        &instrument::program()?,
        &[
            "stopwatch",
            "--registry",
            watched.registry(),
            "--pins",
            &watched.pins().to_string_lossy(),
            "--vni",
            &VNI.to_string(),
            "--count",
            &ADDS.to_string(),
        ],
    );
    let output = Running::start("the stopwatch", &command)?.finish(LIMIT)?;
    progress.finish_and_clear();
    drop(lab);

    let timed = instrument::timed(&output)?;
    let percentiles = |figure: fn(&Timed) -> f64| {
        let adds = timed.iter().filter(|timed| timed.kind == "add");
        Percentiles::of(adds.map(figure).collect()).context("the stopwatch measured nothing")
    };
    Ok(Latency {
        machine,
        command: "cargo xtask bench --latency",
        adds: ADDS,
        commit_us: percentiles(|add| add.commit_us)?,
        commit_to_map_us: percentiles(|add| add.to_map_us)?,
        total_us: percentiles(|add| add.commit_us + add.to_map_us)?,
    })
}

impl Latency {
    /// The same table for a terminal and for Markdown.
    pub(super) fn markdown(&self) -> String {
        let line = |title: &str, figures: Percentiles| {
            let milliseconds = |value: f64| value / 1e3;
            format!(
                "| {title:26} | {:8.2} | {:8.2} | {:8.2} |\n",
                milliseconds(figures.p50),
                milliseconds(figures.p99),
                milliseconds(figures.max)
            )
        };
        format!(
            "Machine: {}.\nCommand: `{}`; {} endpoints.\n\n\
             | milliseconds               |      p50 |      p99 |      max |\n\
             |----------------------------|---------:|---------:|---------:|\n{}{}{}",
            self.machine,
            self.command,
            self.adds,
            line("the commit itself", self.commit_us),
            line("commit to the other's map", self.commit_to_map_us),
            line("both", self.total_us),
        )
    }

    /// Writes latency.json and latency.md into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, content) in [("latency.json", json), ("latency.md", self.markdown())] {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Fails if commits take too long to arrive.
    pub(super) fn check(&self) -> Result<()> {
        if self.commit_to_map_us.p99 > THRESHOLD {
            bail!(
                "a commit takes {:.1} ms to the other agent's map (p99): it must be at most {:.0}",
                self.commit_to_map_us.p99 / 1e3,
                THRESHOLD / 1e3
            );
        }
        Ok(())
    }
}
