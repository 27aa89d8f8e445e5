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

use super::instrument;
use super::lab::{Lab, Mode, VNI};
use super::machine::Machine;
use super::process::Running;
use super::statistics::Percentiles;

/// How many endpoints are added.
const ADDS: u16 = 1000;
/// Microseconds within which a commit has to be in the other agent's map.
const FLOOR: f64 = 100_000.0;

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

pub(super) fn measure(agent: &Path, instrument: &Path) -> Result<Latency> {
    const LIMIT: Duration = Duration::from_mins(5);
    let machine = Machine::look()?;
    let lab = Lab::build(&[Mode::Overlay], Some(agent))?;
    let watched = lab.pair(Mode::Overlay)?.watching_agent()?;

    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message(format!("{ADDS} endpoints, about 20 seconds"));
    if progress.is_hidden() {
        eprintln!("{ADDS} endpoints, about 20 seconds");
    }
    let command = instrument::command(
        instrument,
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
    )?;
    let output = Running::start("the stopwatch", &command)?.finish(LIMIT)?;
    progress.finish_and_clear();
    drop(lab);

    let (commit, to_map) = read(&output)?;
    let total = commit.iter().zip(&to_map).map(|(a, b)| a + b).collect();
    let percentiles = |values| Percentiles::of(values).context("the stopwatch measured nothing");
    Ok(Latency {
        machine,
        command: "cargo xtask bench --latency",
        adds: ADDS,
        commit_us: percentiles(commit)?,
        commit_to_map_us: percentiles(to_map)?,
        total_us: percentiles(total)?,
    })
}

/// Takes the stopwatch's lines apart: microseconds of the commit, a blank, microseconds to the map.
fn read(output: &str) -> Result<(Vec<f64>, Vec<f64>)> {
    output
        .lines()
        .map(|line| {
            let (commit, to_map) = line.split_once(' ')?;
            Some((commit.parse::<f64>().ok()?, to_map.parse::<f64>().ok()?))
        })
        .collect::<Option<_>>()
        .context("the stopwatch's output is malformed")
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
        if self.commit_to_map_us.p99 > FLOOR {
            bail!(
                "a commit takes {:.1} ms to the other agent's map (p99): it shall be at most {:.0}",
                self.commit_to_map_us.p99 / 1e3,
                FLOOR / 1e3
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stopwatchs_lines_are_read_in_order() {
        let (commit, to_map) = read("1200 3400\n900 10\n").unwrap();
        assert_eq!((commit, to_map), (vec![1200.0, 900.0], vec![3400.0, 10.0]));
    }

    #[test]
    fn a_line_cut_short_is_an_error() {
        assert!(read("1200 3400\n900").is_err());
        assert!(read("1200 x\n").is_err());
    }
}
