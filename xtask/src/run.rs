//! `cargo xtask run`: builds the agent and becomes it.

use std::ffi::OsString;

use anyhow::Result;

use crate::build;
use crate::host;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};

/// Builds the agent and runs it in the foreground, as root.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask run -- --iface enp0s1 --vni 42")]
pub(crate) struct Args {
    /// Optimise the agent.
    #[arg(long)]
    release: bool,

    /// What `overlay run` gets; see `overlay run --help`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Whether a variable reaches the agent through sudo: all of its own do, as they would without sudo.
fn is_passed_on(name: &str) -> bool {
    name.starts_with("OVERLAY_") || matches!(name, "RUST_LOG" | "RUST_BACKTRACE")
}

pub(crate) fn run(args: Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Build)?;
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Debug
    };
    let agent = build::build(workspace, profile)?;

    let own: Vec<(String, OsString)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| is_passed_on(name))
        .collect();
    let vars: Vec<_> = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let mut line = vec![agent.into_os_string(), OsString::from("run")];
    line.extend(args.args);
    let line = host::as_root(&vars, &line)?;
    host::exec(&line)
}
