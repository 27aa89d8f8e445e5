//! `cargo xtask bench --control`: the control plane at its limits.
//!
//! - [`scale`]: one agent, and a registry that grows to a million endpoints.
//! - [`miss`]: the first packet where networks resolve on demand.
//! - [`fanout`]: two hundred agents on one etcd, and a steady rate of changes.

mod etcd;
mod fanout;
mod host;
mod miss;
mod report;
mod scale;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tempfile::TempDir;

use super::machine::Machine;
use crate::agent::remove_instances;
use crate::compare::chosen;
use crate::instrument;
use crate::usage::Usage;
use etcd::Etcd;
use fanout::Size;
use host::Host;
use overlay_lab::netns;
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

    /// Only networks that resolve so.
    #[arg(long, value_enum, value_delimiter = ',')]
    resolve: Vec<Resolve>,

    /// Endpoints of the registries that one agent converges on.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COUNTS",
        default_values_t = [1_000, 100_000, 1_000_000],
        value_parser = clap::value_parser!(u32).range(1000..=10_000_000)
    )]
    endpoints: Vec<u32>,

    /// Control loops on one etcd.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    agents: u32,

    /// Those of them with real BPF maps, at least one and not all.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    real_maps: u32,

    /// Changes a second that they are given.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [100, 300, 1000],
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    rates: Vec<u32>,

    /// Endpoints that are added, moved and removed at each rate.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    changes: u32,
}

impl Args {
    /// The command that measures the same again.
    fn command_line(&self) -> String {
        fn words<T: clap::ValueEnum>(values: &[T]) -> Vec<String> {
            let names = values.iter().filter_map(clap::ValueEnum::to_possible_value);
            names.map(|value| value.get_name().to_owned()).collect()
        }
        let list = |counts: &[u32]| counts.iter().map(u32::to_string).collect();
        let mut line = "cargo xtask bench --control".to_owned();
        for (option, words) in [
            ("parts", words(&self.parts)),
            ("registries", words(&self.registries)),
            ("resolve", words(&self.resolve)),
            ("endpoints", list(&self.endpoints)),
            ("agents", list(&[self.agents])),
            ("real-maps", list(&[self.real_maps])),
            ("rates", list(&self.rates)),
            ("changes", list(&[self.changes])),
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
    /// Many agents and many changes.
    FanOut,
    /// The first packet where networks resolve on demand.
    Miss,
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

/// How hosts learn where a network's endpoints are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Resolve {
    /// Each knows all of them.
    Proactive,
    /// Each asks for those that somebody talks to.
    OnDemand,
}

impl Resolve {
    const ALL: [Self; 2] = [Self::Proactive, Self::OnDemand];

    /// As the command line has it.
    fn name(self) -> &'static str {
        match self {
            Self::Proactive => "proactive",
            Self::OnDemand => "on-demand",
        }
    }
}

/// The programs that are measured, and measure.
struct Programs<'a> {
    agent: &'a Path,
    instrument: String,
}

pub(super) fn measure(args: &Args, agent: &Path) -> Result<Report> {
    netns::remove_all(PREFIX).context("removing what an earlier run left")?;
    remove_instances(agent, PREFIX).context("removing what an earlier run left")?;
    let programs = Programs {
        agent,
        instrument: instrument::program()?,
    };
    let parts = chosen(&args.parts, [Part::Scale, Part::FanOut, Part::Miss]);
    let mut sizes = args.endpoints.clone();
    sizes.sort_unstable();
    let mut report = Report::new(Machine::look()?, args.command_line());
    if parts.contains(&Part::Scale) {
        for backend in chosen(&args.registries, Backend::ALL) {
            for resolve in chosen(&args.resolve, Resolve::ALL) {
                let results = scale::measure(&programs, backend, resolve, &sizes)?;
                report.scale.extend(results);
            }
        }
    }
    if parts.contains(&Part::FanOut) {
        for &rate in &args.rates {
            let size = Size {
                agents: args.agents,
                real_maps: args.real_maps,
                rate,
                changes: args.changes,
            };
            report.fan_out.push(fanout::measure(&programs, size)?);
        }
    }
    if parts.contains(&Part::Miss) {
        for backend in chosen(&args.registries, Backend::ALL) {
            report.misses.push(miss::measure(&programs, backend)?);
        }
    }
    Ok(report)
}

/// A registry on this machine, gone when this goes.
enum Store {
    Sqlite(TempDir),
    Etcd(Box<Etcd>),
}

impl Store {
    fn new(backend: Backend, host: &Host) -> Result<Self> {
        Ok(match backend {
            Backend::Sqlite => Self::Sqlite(folder()?),
            Backend::Etcd => Self::Etcd(Box::new(Etcd::start(&host.netns, host.ip)?)),
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", file(folder.path()).display()),
            Self::Etcd(etcd) => etcd.url(),
        }
    }
}

impl Store {
    /// What its server takes, if it has one.
    fn server(&self) -> Result<Option<Usage>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Etcd(etcd) => etcd.usage().map(Some),
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
