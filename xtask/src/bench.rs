//! `cargo xtask bench`: builds the agent and the benchmark, and runs the latter as root.
//!
//! What it measures, and how, is in tests/bench: it links the agent, which this program must not, so
//! that it builds quickly.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::build;
use crate::host;
use crate::progress;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};

/// Measures the overlay against the kernel's VXLAN + bridge and the bare underlay.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The benchmark's own; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Bench)?;
    let names = |option: &str| {
        let is = |word: &OsString| word.to_string_lossy().split('=').next() == Some(option);
        args.options.iter().any(is)
    };
    if names("--help") || names("-h") {
        let bench = build(workspace, Profile::Debug)?;
        duct::cmd!(bench, "compare", "--help").run()?;
        return Ok(());
    }
    let mut line = vec!["compare".into()];
    if !names("--agent") {
        let agent = build::build(workspace, Profile::Release)?;
        line.extend(["--agent".into(), agent.into_os_string()]);
    }
    if !names("--out") {
        let out = workspace.target().join("bench");
        line.extend(["--out".into(), out.into_os_string()]);
    }
    line.extend(args.options.iter().cloned());
    become_root(build(workspace, Profile::Release)?, line)
}

/// Builds the program of the benchmark and the demo.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    build::object(workspace)?;
    let mut line = vec!["build", "--package", "overlay-bench"];
    if profile == Profile::Release {
        line.push("--release");
    }
    progress::visibly("building the benchmark", &workspace.cargo(&line)?)?;
    Ok(workspace.agent(profile).with_file_name("overlay-bench"))
}

/// Goes on as this program with these words, as root.
pub(crate) fn become_root(program: PathBuf, words: Vec<OsString>) -> Result<()> {
    let mut line = vec![program.into_os_string()];
    line.extend(words);
    host::exec(&host::as_root(&[("PATH", host::search_path()?)], &line)?)
}
