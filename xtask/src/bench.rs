//! `cargo xtask bench`: the overlay against the kernel's VXLAN device with a bridge, and against the
//! bare underlay, all in one run.
//!
//! Two namespaces are the hosts and a veth between them is the underlay ([`lab`]). The modes
//! alternate ([`plan`]); what counts are the ratios within a round ([`statistics`]).

mod control;
mod floor;
pub(crate) mod glance;
mod instrument;
pub(crate) mod interrupt;
mod lab;
mod latency;
mod machine;
mod measure;
pub(crate) mod netns;
mod plan;
pub(crate) mod process;
mod report;
mod statistics;
mod underlay;

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};

use crate::build;
use crate::host;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};
use lab::{Lab, Mode};
use machine::Machine;
use measure::{Conditions, Cores, Group};
use plan::{Plan, Step};
use report::Report;
use statistics::{Sample, Samples};
use underlay::Offloads;

/// Measures the overlay against the kernel's VXLAN + bridge and the bare underlay.
///
/// Everything happens in network namespaces of its own; nothing leaves the machine. Let it be quiet
/// meanwhile: with two CPUs, one sends and one receives.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                                      everything, five rounds
  cargo xtask bench --rounds 1 --seconds 1 --only flood  a quick look at the packet rate
  cargo xtask bench --out docs/bench --check             what docs/benchmarks.md shows
  cargo xtask bench --control --out docs/bench           the control plane's part of it")]
pub(crate) struct Args {
    /// How often everything is measured; medians are over the rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// How long one measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Only these measurements.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,

    /// Only these modes.
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,

    /// Only these settings of the underlay's segmentation and GRO.
    #[arg(long, value_enum, value_delimiter = ',')]
    underlay: Vec<Offloads>,

    /// Where bench.json, bench.md and bench.svg go [default: target/bench].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Fail if the overlay misses a floor.
    #[arg(long)]
    check: bool,

    /// Measure instead how long a registry's commit takes to another agent's BPF map.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "only", "modes", "underlay"])]
    latency: bool,

    /// Measure the control plane instead: many endpoints, many agents, and misses.
    #[arg(
        long,
        conflicts_with_all = ["rounds", "seconds", "only", "modes", "underlay", "latency", "check"]
    )]
    control: bool,

    #[command(flatten)]
    control_plane: control::Args,

    /// Measure this agent rather than build one.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,

    /// For --latency and --control: this instrument rather than one that is built.
    #[arg(long, value_name = "FILE", hide = true)]
    instrument: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Bench)?;
    let plan = Plan {
        rounds: args.rounds,
        offloads: chosen(&args.underlay, Offloads::ALL),
        groups: chosen(&args.only, Group::ALL),
        modes: chosen(&args.modes, Mode::ALL),
    };
    let programs = Programs::build(args, &plan.modes, workspace)?;
    if !host::is_root() {
        return become_root(programs.built(args));
    }
    let _only_run = lock()?;
    interrupt::install()?;

    let out = args
        .out
        .clone()
        .unwrap_or_else(|| workspace.target().join("bench"));
    if let (Some(agent), Some(instrument), true) =
        (&programs.agent, &programs.instrument, args.control)
    {
        let report = control::measure(&args.control_plane, agent, instrument)?;
        print!("{}", report.markdown());
        report.write(&out)?;
        eprintln!("control.json and control.md are in {}", out.display());
        return Ok(());
    }
    if let (Some(agent), Some(instrument)) = (&programs.agent, &programs.instrument) {
        let latency = latency::measure(agent, instrument)?;
        print!("{}", latency.markdown());
        latency.write(&out)?;
        eprintln!("latency.json and latency.md are in {}", out.display());
        return if args.check { latency.check() } else { Ok(()) };
    }

    let conditions = Conditions {
        cores: Cores::choose()?,
        window: Duration::from_secs(args.seconds.into()),
    };
    let machine = Machine::look()?;
    let lab = Lab::build(&plan.modes, programs.agent.as_deref())?;
    let samples = measure_all(&plan.steps(), &lab, &conditions)?;
    drop(lab);

    let report = Report::new(machine, command_line(args), samples);
    print!("{}", report.text());
    report.write(&out)?;
    eprintln!(
        "bench.json, bench.md and bench.svg are in {}",
        out.display()
    );
    if args.check { check(&report) } else { Ok(()) }
}

/// What is built before the run.
struct Programs {
    agent: Option<PathBuf>,
    instrument: Option<PathBuf>,
}

impl Programs {
    /// Builds what was not given and is needed.
    fn build(args: &Args, modes: &[Mode], workspace: &Workspace) -> Result<Self> {
        let agent = match &args.agent {
            Some(agent) => Some(std::path::absolute(agent)?),
            None if args.latency || args.control || modes.contains(&Mode::Overlay) => {
                Some(build::build(workspace, Profile::Release)?)
            }
            None => None,
        };
        let instrument = match &args.instrument {
            Some(instrument) => Some(std::path::absolute(instrument)?),
            None if args.latency || args.control => Some(instrument::build(workspace)?),
            None => None,
        };
        Ok(Self { agent, instrument })
    }

    /// The options that name those that were built here.
    fn built<'a>(&'a self, args: &Args) -> impl Iterator<Item = (&'static str, &'a Path)> {
        [
            ("--agent", &self.agent, args.agent.is_none()),
            ("--instrument", &self.instrument, args.instrument.is_none()),
        ]
        .into_iter()
        .filter(|(_, _, built)| *built)
        .filter_map(|(option, path, _)| Some((option, path.as_deref()?)))
    }
}

/// What was asked for, or everything.
fn chosen<T: Copy + PartialEq, const N: usize>(asked: &[T], all: [T; N]) -> Vec<T> {
    all.into_iter()
        .filter(|item| asked.is_empty() || asked.contains(item))
        .collect()
}

fn measure_all(steps: &[Step], lab: &Lab, conditions: &Conditions) -> Result<Samples> {
    let estimate = HumanDuration(plan::estimate(steps, conditions.window));
    eprintln!("{} measurements, about {estimate}", steps.len());
    let progress = ProgressBar::new(steps.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len}, {eta} left: {msg}",
    )?);

    let mut samples = Samples::default();
    let mut offloads = None;
    let mut round = 0;
    for (done, step) in steps.iter().enumerate() {
        if round != step.round {
            round = step.round;
            if progress.is_hidden() {
                let left = plan::estimate(steps.get(done..).unwrap_or_default(), conditions.window);
                eprintln!("round {round}, about {} left", HumanDuration(left));
            }
        }
        if offloads != Some(step.offloads) {
            lab.set_offloads(step.offloads)?;
            offloads = Some(step.offloads);
        }
        let title = format!(
            "round {}, {}, {}, {}",
            step.round,
            step.offloads.title(),
            step.measure.title(),
            step.mode.name()
        );
        progress.set_message(title.clone());
        let readings = step
            .measure
            .run(lab.pair(step.mode)?, conditions)
            .context(title)?;
        samples
            .0
            .extend(readings.into_iter().map(|(metric, value)| Sample {
                round: step.round,
                offloads: step.offloads,
                mode: step.mode,
                metric,
                value,
            }));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(samples)
}

fn check(report: &Report) -> Result<()> {
    let verdicts = report.verdicts();
    if verdicts.is_empty() {
        bail!("no floor was measured: leave --only and --modes out");
    }
    match verdicts.iter().filter(|verdict| !verdict.held).count() {
        0 => Ok(()),
        missed => bail!(
            "{missed} of {} floors are missed (see above)",
            verdicts.len()
        ),
    }
}

/// Two runs at once would measure each other, and tread on each other's namespaces.
fn lock() -> Result<Flock<File>> {
    const PATH: &str = "/run/overlay-bench.lock";
    let file = File::create(PATH).with_context(|| format!("opening {PATH}"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow!("another benchmark is running: wait for its end"))
}

/// Starts this program again as root, with the same arguments and options that name what it has
/// built.
pub(crate) fn become_root<'a>(
    built: impl IntoIterator<Item = (&'static str, &'a Path)>,
) -> Result<()> {
    let mut line = vec![env::current_exe()?.into_os_string()];
    line.extend(env::args_os().skip(1));
    for (option, path) in built {
        line.extend([OsString::from(option), path.as_os_str().to_owned()]);
    }
    let vars: Vec<_> = ["CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"]
        .into_iter()
        .filter_map(|name| env::var_os(name).map(|value| (name, value)))
        .collect();
    let line = host::as_root(&vars, &line)?;
    let (program, args) = line.split_first().context("a command has a program")?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

/// The command that measures the same again, without paths.
fn command_line(args: &Args) -> String {
    fn list<T: clap::ValueEnum>(option: &str, chosen: &[T]) -> Option<String> {
        let names: Vec<_> = chosen
            .iter()
            .filter_map(T::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        (!names.is_empty()).then(|| format!("--{option} {}", names.join(",")))
    }
    [
        Some("cargo xtask bench".to_owned()),
        Some(format!("--rounds {}", args.rounds)),
        Some(format!("--seconds {}", args.seconds)),
        list("only", &args.only),
        list("modes", &args.modes),
        list("underlay", &args.underlay),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}
