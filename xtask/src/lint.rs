//! `cargo xtask lint`: what a reviewer should not have to look for.

mod architecture;
mod circles;
mod imports;
mod limits;
mod source;
mod tokens;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, BPF_OBJECTS, BPF_PROGRAMS, BpfObject, Toolchain};
use crate::progress;
use crate::setup::{self, Work};
use crate::workspace::Workspace;
use source::{Finding, SourceFile};

/// Checks the source: formatting, lints, documentation, and the rules of the architecture.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One check; its findings are on the terminal when it fails.
type Check = fn(&Workspace, &[SourceFile]) -> Result<()>;

/// Quick ones first.
const CHECKS: [(&str, Check); 8] = [
    ("formatting", |workspace, _| {
        cargo(workspace, "fmt --all --check")
    }),
    ("imports", |_, files| none(&imports::check(files))),
    ("circles", |_, files| {
        none(&circles::find(&imports::graph(files)))
    }),
    ("unsafe code", |_, files| none(&limits::unsafe_code(files))),
    ("file length", |_, files| none(&limits::length(files))),
    ("clippy", |workspace, _| {
        cargo(
            workspace,
            "clippy --workspace --all-targets -- --deny warnings",
        )
    }),
    ("clippy for BPF", |workspace, _| clippy_for_bpf(workspace)),
    ("documentation", |workspace, _| {
        cargo(workspace, "doc --workspace --no-deps")
    }),
];

pub(crate) fn run(_: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Lint)?;
    // The agent does not compile without it.
    build::object(workspace)?;

    let files = source::read(workspace)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("lint: {name}");
        if let Err(error) = check(workspace, &files) {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: {} checks passed", CHECKS.len());
        return Ok(());
    }
    bail!(
        "{} of {} checks failed: {}",
        failed.len(),
        CHECKS.len(),
        failed.join(", ")
    )
}

fn cargo(workspace: &Workspace, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let command = workspace.cargo(&words)?;
    // As the documentation is to be made.
    let command = command.env("RUSTDOCFLAGS", "--deny warnings");
    progress::visibly("cargo", &command)
}

/// Lints the programs with the compiler of their target: much of them is not compiled for the host.
fn clippy_for_bpf(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::installed()
        .into_iter()
        .find(Toolchain::has_clippy)
        .context("no toolchain for BPF has clippy: run `cargo xtask setup`")?;
    for BpfObject { feature, .. } in BPF_OBJECTS {
        let line = [&BPF_PROGRAMS[..], &[feature, "--", "--deny", "warnings"]].concat();
        progress::visibly("cargo", &toolchain.cargo(workspace, "clippy", &line)?)?;
    }
    Ok(())
}

/// Prints findings; passes where there are none.
fn none(findings: &[Finding]) -> Result<()> {
    for finding in findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} found"),
    }
}
