//! `cargo xtask setup`: finds what is missing and installs it.
//!
//! Every verb calls [`ensure`] for its own needs. With everything in place that looks for a few
//! files and costs milliseconds; otherwise it says what it installs and why, and asks nothing. Where
//! it can't go on it names the command that can.

mod install;
mod needs;
mod unpack;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

pub(crate) use install::refresh_package_lists;
use needs::Need;
pub(crate) use unpack::unpack;

/// Installs everything that the verbs need and this machine does not have.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only list what is there and what is missing; fails if something is.
    #[arg(long)]
    check: bool,
}

/// What something is needed for. Everything needs the build too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Build,
    Demo,
    Test,
    Kernels,
    Bench,
    Lint,
    Package,
}

pub(crate) fn run(args: &Args, _: &Workspace) -> Result<()> {
    let mut missing = Vec::new();
    for need in needs::ALL {
        let found = (need.found)();
        let state = if found { "ok" } else { "missing" };
        println!("{state:8} {:28} {}", need.what, need.why);
        if !found {
            missing.push(need);
        }
    }
    if args.check && !missing.is_empty() {
        let count = missing.len();
        bail!("{count} of these are missing: run `cargo xtask setup`");
    }
    provide(&missing)
}

/// Makes sure that what `work` needs is here.
pub(crate) fn ensure(work: Work) -> Result<()> {
    let missing: Vec<&Need> = needs::ALL
        .iter()
        .filter(|need| need.work.contains(&work) || need.work.contains(&Work::Build))
        .filter(|need| !(need.found)())
        .collect();
    provide(&missing)
}

fn provide(missing: &[&Need]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: missing here, to be installed now:");
    for need in missing {
        eprintln!("  {:28} {} ({})", need.what, need.why, need.source);
    }
    install::install(missing)?;
    match missing.iter().find(|need| !(need.found)()) {
        None => Ok(()),
        Some(need) => bail!(
            "{} is still not found after installing it ({}): look at `cargo xtask setup --check`",
            need.what,
            need.source
        ),
    }
}
