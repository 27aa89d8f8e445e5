//! `cargo xtask demo`: chooses an agent, and runs the demo of tests/bench with it as root.

use std::path::PathBuf;

use anyhow::Result;

use crate::bench;
use crate::build;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};

/// Shows the overlay at work: an agent killed and an endpoint moved under a running ping, and the speed.
///
/// Everything happens in network namespaces that it makes and removes, also on Ctrl-C and when
/// something fails. Nothing leaves the machine.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo                 half a minute, with the build that is there
  cargo xtask demo --build         build before, as `cargo xtask build` does
  cargo xtask demo | tee demo.txt  without colours
  cargo xtask demo --keep          leave it up, to look around
  cargo xtask demo --down          remove it")]
pub(crate) struct Args {
    /// Leave everything up at the end, and say how to look around.
    #[arg(long)]
    keep: bool,

    /// Remove a demo that was kept, or what is left of one that was killed.
    #[arg(long, conflicts_with = "keep")]
    down: bool,

    /// Build first, also where there is a build.
    #[arg(long)]
    build: bool,

    /// Show this agent rather than one of this checkout.
    #[arg(long, value_name = "FILE", conflicts_with = "build")]
    agent: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Demo)?;
    let agent = choose(args, workspace)?;
    let demo = bench::build(workspace, Profile::Debug)?;
    let mut line = vec!["demo".into(), "--agent".into(), agent.into_os_string()];
    for (option, given) in [("--keep", args.keep), ("--down", args.down)] {
        line.extend(given.then(|| option.into()));
    }
    bench::become_root(demo, line)
}

/// The agent that is shown: the one that is asked for, or the newest build, or a new one.
fn choose(args: &Args, workspace: &Workspace) -> Result<PathBuf> {
    if let Some(agent) = &args.agent {
        return Ok(std::path::absolute(agent)?);
    }
    let built = [Profile::Release, Profile::Debug].map(|profile| workspace.agent(profile));
    let built = built.into_iter().filter_map(|agent| {
        let written = agent.metadata().and_then(|metadata| metadata.modified());
        Some((written.ok()?, agent))
    });
    if let Some((_, agent)) = built.max().filter(|_| !args.build) {
        let name = agent.strip_prefix(workspace.root()).unwrap_or(&agent);
        eprintln!("using {} (--build makes it anew)", name.display());
        return Ok(agent);
    }
    eprintln!("building the agent first, which takes some minutes");
    build::build(workspace, Profile::Debug)
}
