//! `cargo xtask test`: unit tests, then the lab as root; with `--kernels` the same programs on other
//! kernels.

mod tally;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use duct::Expression;

use crate::build;
use crate::host;
use crate::kernels;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};

pub(crate) use tally::Tally;

/// Runs every test on this machine's kernel.
///
/// First what needs no rights, then the lab: agents in network namespaces, as root, through sudo
/// where this is not root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boot Debian's other kernels in QEMU and test there, instead of here.
    #[arg(long, conflicts_with = "filter")]
    kernels: bool,

    /// Only tests whose name contains one of these.
    filter: Vec<String>,
}

/// Packages whose tests need no rights.
const UNPRIVILEGED: [&str; 6] = [
    "--package",
    "overlay-ebpf",
    "--package",
    "overlay-user",
    "--package",
    "xtask",
];

/// The package of the tests that need root; the kernels run a part of it.
pub(crate) const LAB: &str = "overlay-tests";

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let broken = if args.kernels {
        kernels::run(workspace, &mut tally)?
    } else {
        here(workspace, &args.filter, &mut tally)?
    };

    println!(
        "\ncargo xtask test: {tally} in {:.0} s",
        started.elapsed().as_secs_f32()
    );
    if !broken.is_empty() || tally.failed > 0 {
        bail!("tests failed in: {} (see above)", broken.join(", "));
    }
    if tally.passed == 0 {
        bail!("no test ran: no name contains {}", args.filter.join(" or "));
    }
    Ok(())
}

/// Runs the tests on this machine; gives the names of the suites that failed.
fn here(workspace: &Workspace, filter: &[String], tally: &mut Tally) -> Result<Vec<&'static str>> {
    setup::ensure(Work::Test)?;
    let agent = build::build(workspace, Profile::Debug)?;
    let runner = runner(&agent)?;

    let suites = [
        ("unit tests", UNPRIVILEGED.to_vec()),
        ("lab", vec!["--package", LAB, "--config", &runner]),
    ];
    let mut broken = Vec::new();
    for (name, selection) in suites {
        let mut line = vec!["test", "--no-fail-fast"];
        line.extend(selection);
        line.push("--");
        line.extend(filter.iter().map(String::as_str));
        if !counted(&workspace.cargo(&line)?, tally)? {
            broken.push(name);
        }
    }
    Ok(broken)
}

/// cargo's configuration that runs test binaries as root and tells them where the agent is. Variables
/// of cargo itself would do for root, but not through sudo.
fn runner(agent: &Path) -> Result<String> {
    let vars = [
        ("OVERLAY_BIN", agent.as_os_str().to_owned()),
        ("PATH", host::search_path()?),
        (
            "RUST_BACKTRACE",
            std::env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into()),
        ),
    ];
    let line = host::as_root::<&str>(&vars, &[]).map_err(|_| {
        anyhow!(
            "the lab needs root, and there is no sudo here: run `su --preserve-environment -c 'cargo \
             xtask test'`"
        )
    })?;
    let line = line
        .into_iter()
        .map(OsString::into_string)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|word| anyhow!("{} is not UTF-8", word.display()))?;
    // A list of plain strings reads the same in Rust and in TOML.
    Ok(format!("target.'cfg(all())'.runner = {line:?}"))
}

/// Runs a test command, shows what it prints and adds its results up; false if it fails.
fn counted(command: &Expression, tally: &mut Tally) -> Result<bool> {
    let output = command
        .unchecked()
        .reader()
        .context("starting cargo test")?;
    for line in BufReader::new(&output).lines() {
        let line = line?;
        println!("{line}");
        tally.count(&line);
    }
    Ok(output
        .try_wait()?
        .is_some_and(|output| output.status.success()))
}
