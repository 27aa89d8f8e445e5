//! `cargo xtask test`: unit tests and the lab on this kernel, or with `--kernels` a part of them on
//! others.

mod tally;

use std::env;
use std::io::{BufRead as _, BufReader};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use duct::Expression;

use crate::build;
use crate::host;
use crate::kernels;
use crate::progress;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};

pub(crate) use tally::Tally;

/// Runs every test on this machine's kernel.
///
/// Unit tests run as who calls; the lab, agents in network namespaces, runs as root, through sudo
/// where this is not root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boot Debian's other kernels in QEMU and test there, instead of here.
    #[arg(long, conflicts_with = "filter")]
    kernels: bool,

    /// Only tests whose name contains one of these.
    filter: Vec<String>,
}

/// Modules of tests/tests/hosts that mostly wait, and hold nothing to a time that a busy machine could miss:
/// twice as many of their tests as of others run at a time.
const WAITING: [&str; 9] = [
    "bad_start::",
    "carried::",
    "connect::",
    "echoes::",
    "hosts::",
    "identity::",
    "interop::",
    "paths::",
    "upgrade::",
];

/// Starts test programs for cargo: those of the lab as root. sudo's policy may refuse to pass
/// variables, so `env` sets them on its other side.
const RUNNER: &str = r#"target.'cfg(all())'.runner = ["sh", "-c", '''
    if [ "$CARGO_PKG_NAME" = overlay-tests ]; then
        exec sudo env PATH="$PATH" OVERLAY_BIN="$OVERLAY_BIN" RUST_BACKTRACE="$RUST_BACKTRACE" "$@"
    fi
    exec "$@"
''', "runner"]"#;

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let passed = if args.kernels {
        kernels::run(workspace, &mut tally)?
    } else {
        here(workspace, &args.filter, &mut tally)?
    };

    let seconds = started.elapsed().as_secs_f32();
    println!("\ncargo xtask test: {tally} in {seconds:.0} s");
    if !passed || tally.failed > 0 {
        bail!("not every test passed (see above)");
    }
    if tally.passed == 0 {
        bail!("no test ran: no name contains {}", args.filter.join(" or "));
    }
    Ok(())
}

/// Runs the tests on this machine; false if not all of them passed.
fn here(workspace: &Workspace, filter: &[String], tally: &mut Tally) -> Result<bool> {
    setup::ensure(Work::Test)?;
    if !host::is_root() && host::program("sudo").is_none() {
        bail!(
            "the lab needs root, and there is no sudo here: run `su --preserve-environment -c 'cargo \
             xtask test'`"
        );
    }
    build::object(workspace)?;
    // The agent and all tests in one go: each other choice of packages would choose other features
    // of what they share, and compile that again.
    let everything = ["build", "--workspace", "--all-targets"];
    progress::visibly("building the tests", &workspace.cargo(&everything)?)?;

    let command = |targets: &[&str], words: &[&str]| -> Result<Expression> {
        let mut line = [&["test", "--workspace", "--no-fail-fast"], targets].concat();
        if !host::is_root() {
            line.extend(["--config", RUNNER]);
        }
        line.push("--");
        line.extend(words);
        let backtrace = env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into());
        let command = workspace.cargo(&line)?;
        Ok(command
            .env("OVERLAY_BIN", workspace.agent(Profile::Debug))
            .env("RUST_BACKTRACE", backtrace))
    };
    if !filter.is_empty() {
        let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
        return counted(&command(&[], &filter)?, tally);
    }
    // Whatever one of these runs, the other leaves out.
    let skipped: Vec<&str> = WAITING.iter().flat_map(|name| ["--skip", name]).collect();
    let threads = (thread::available_parallelism()?.get() * 2).to_string();
    let waiting = [&["--test-threads", &threads], &WAITING[..]].concat();
    let first = counted(&command(&[], &skipped)?, tally)?;
    Ok(counted(&command(&["--tests"], &waiting)?, tally)? && first)
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
