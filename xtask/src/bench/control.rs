//! `cargo xtask bench --control`: the control plane at its limits.
//!
//! - [`scale`]: one agent, and a registry that grows to a million endpoints.

mod agent;
mod etcd;
mod host;
mod report;
mod scale;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tempfile::TempDir;

use super::machine::Machine;
use super::netns;
use etcd::Etcd;
use host::Host;
pub(super) use report::Report;

/// Every namespace and instance of a run starts so.
const PREFIX: &str = "bdc-";

/// What is measured with `--control`.
#[derive(clap::Args)]
#[command(next_help_heading = "With --control")]
#[group(id = "control_plane")]
pub(super) struct Args {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,

    /// Only registries of these kinds.
    #[arg(long, value_enum, value_delimiter = ',')]
    registries: Vec<Backend>,

    /// Endpoints of the registries that one agent converges on.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COUNTS",
        default_values_t = [1_000, 100_000, 1_000_000],
        value_parser = clap::value_parser!(u32).range(1000..=10_000_000)
    )]
    endpoints: Vec<u32>,
}

impl Args {
    /// The command that measures the same again.
    fn command_line(&self) -> String {
        fn words<T: clap::ValueEnum>(values: &[T]) -> Vec<String> {
            let names = values.iter().filter_map(clap::ValueEnum::to_possible_value);
            names.map(|value| value.get_name().to_owned()).collect()
        }
        let counts: Vec<String> = self.endpoints.iter().map(u32::to_string).collect();
        let mut line = "cargo xtask bench --control".to_owned();
        for (option, words) in [
            ("parts", words(&self.parts)),
            ("registries", words(&self.registries)),
            ("endpoints", counts),
        ] {
            if !words.is_empty() {
                line.push_str(" --");
                line.push_str(option);
                line.push(' ');
                line.push_str(&words.join(","));
            }
        }
        line
    }
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One agent and a large registry.
    Scale,
}

/// A kind of registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Backend {
    /// A file of this machine.
    Sqlite,
    /// One member on this machine.
    Etcd,
}

impl Backend {
    const ALL: [Self; 2] = [Self::Sqlite, Self::Etcd];

    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Etcd => "etcd",
        }
    }
}

/// The programs that are measured, and measure.
struct Programs<'a> {
    agent: &'a Path,
    instrument: &'a Path,
}

pub(super) fn measure(args: &Args, agent: &Path, instrument: &Path) -> Result<Report> {
    netns::remove_all(PREFIX).context("removing what an earlier run left")?;
    agent::remove_instances(agent).context("removing what an earlier run left")?;
    let programs = Programs { agent, instrument };
    let parts = super::chosen(&args.parts, [Part::Scale]);
    let mut sizes = args.endpoints.clone();
    sizes.sort_unstable();
    let mut report = Report::new(Machine::look()?, args.command_line());
    if parts.contains(&Part::Scale) {
        for backend in super::chosen(&args.registries, Backend::ALL) {
            report
                .scale
                .extend(scale::measure(&programs, backend, &sizes)?);
        }
    }
    Ok(report)
}

/// A registry on this machine, gone when this goes.
enum Store {
    Sqlite(TempDir),
    Etcd(Etcd),
}

impl Store {
    fn new(backend: Backend, host: &Host) -> Result<Self> {
        Ok(match backend {
            Backend::Sqlite => Self::Sqlite(folder()?),
            Backend::Etcd => Self::Etcd(Etcd::start(host)?),
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", file(folder.path()).display()),
            Self::Etcd(etcd) => etcd.url(),
        }
    }
}

/// A folder on the machine's disk.
fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("overlay-bench-")
        .tempdir_in("/var/tmp")
        .context("making a folder for the registry")
}

fn file(folder: &Path) -> PathBuf {
    folder.join("registry.db")
}
