//! Compares the overlay with the kernel's VXLAN and the bare underlay in one run.
//!
//! Two namespaces are the hosts and a veth between them is the underlay ([`lab`](crate::lab)). The modes
//! alternate ([`plan`]); what counts are the ratios within a round ([`statistics`](crate::statistics)).

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};
use overlay_lab::interrupt;

use crate::lab::{Lab, Mode};
use crate::machine::Machine;
use crate::measure::{Conditions, Cores, Group};
use crate::plan::{self, Plan, Step};
use crate::report::Report;
use crate::statistics::{Sample, Samples};
use crate::underlay::Offloads;
use crate::{control, latency, outside};

/// Measures the overlay against the kernel's VXLAN + bridge and the bare underlay.
///
/// Everything happens in network namespaces of its own; nothing leaves the machine. Let it be quiet
/// meanwhile: with two CPUs, one sends and one receives.
#[derive(clap::Args)]
#[command(
    bin_name = "cargo xtask bench",
    max_term_width = 100,
    after_help = "\
Examples:
  cargo xtask bench                                      everything, five rounds
  cargo xtask bench --rounds 1 --seconds 1 --only flood  a quick look at the packet rate
  cargo xtask bench --out docs/bench --check             what docs/benchmarks.md shows
  cargo xtask bench --control --out docs/bench           the control plane's part of it"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
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
    out: PathBuf,

    /// Fail if the overlay misses a threshold.
    #[arg(long)]
    check: bool,

    /// Measure instead how long a registry's commit takes to another agent's BPF map.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "only", "modes", "underlay"])]
    latency: bool,

    /// Measure routing and address translation instead, against the kernel's and the overlay within a network.
    #[arg(long, conflicts_with_all = ["only", "modes", "latency", "control"])]
    outside: bool,

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
    agent: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let _only_run = lock()?;
    interrupt::install()?;
    let agent = std::path::absolute(&args.agent)?;
    if args.control {
        let report = control::measure(&args.control_plane, &agent)?;
        print!("{}", report.markdown());
        report.write(&args.out)?;
        eprintln!("control.json and control.md are in {}", args.out.display());
        return Ok(());
    }
    if args.latency {
        let latency = latency::measure(&agent)?;
        print!("{}", latency.markdown());
        latency.write(&args.out)?;
        eprintln!("latency.json and latency.md are in {}", args.out.display());
        return if args.check { latency.check() } else { Ok(()) };
    }

    let conditions = Conditions {
        cores: Cores::choose()?,
        window: Duration::from_secs(args.seconds.into()),
    };
    if args.outside {
        let offloads = chosen(&args.underlay, [Offloads::On, Offloads::Off]);
        let outside = outside::measure(&agent, args.rounds, &offloads, &conditions)?;
        print!("{}", outside.markdown());
        outside.write(&args.out)?;
        eprintln!("outside.json and outside.md are in {}", args.out.display());
        return if args.check { outside.check() } else { Ok(()) };
    }

    let plan = Plan {
        rounds: args.rounds,
        offloads: chosen(&args.underlay, Offloads::ALL),
        groups: chosen(&args.only, Group::ALL),
        modes: chosen(&args.modes, Mode::ALL),
    };
    let machine = Machine::look()?;
    let lab = Lab::build(&plan.modes, &agent)?;
    let samples = measure_all(&plan.steps(), &lab, &conditions)?;
    drop(lab);

    let report = Report::new(machine, command_line(args), samples);
    print!("{}", report.text());
    report.write(&args.out)?;
    eprintln!(
        "bench.json, bench.md and bench.svg are in {}",
        args.out.display()
    );
    if args.check { check(&report) } else { Ok(()) }
}

/// What was asked for, or everything.
pub(crate) fn chosen<T: Copy + PartialEq, const N: usize>(asked: &[T], all: [T; N]) -> Vec<T> {
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
        bail!("no threshold was measured: leave --only and --modes out");
    }
    match verdicts.iter().filter(|verdict| !verdict.held).count() {
        0 => Ok(()),
        missed => bail!(
            "{missed} of {} thresholds are missed (see above)",
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
