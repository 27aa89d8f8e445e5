//! `cargo xtask build`: the BPF object, then the agent that carries it.

mod toolchain;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::progress;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace, write_if_changed};

pub(crate) use toolchain::{DEBIAN_PACKAGES, Toolchain};

/// Builds the BPF object and the agent: target/debug/overlay or target/release/overlay.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the agent; the BPF object always is.
    #[arg(long)]
    release: bool,
}

impl Args {
    fn profile(&self) -> Profile {
        if self.release {
            Profile::Release
        } else {
            Profile::Debug
        }
    }
}

/// The package, the binary and the features that become the BPF object.
pub(crate) const BPF_PROGRAMS: [&str; 7] = [
    "--package",
    "overlay-ebpf",
    "--bin",
    BPF_BINARY,
    "--no-default-features",
    "--features",
    "program",
];
const BPF_BINARY: &str = "overlay-bpf";

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Build)?;
    let agent = build(workspace, args.profile())?;
    eprintln!("built {}", agent.display());
    Ok(())
}

/// Builds both where they are out of date and gives the agent's path. What that takes has to be
/// there: call [`setup::ensure`] before.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    object(workspace)?;
    let mut args = vec!["build", "--package", "overlay-user", "--bin", "overlay"];
    match profile {
        Profile::Release => args.push("--release"),
        // The demo's choice of packages too, which else would compile the agent a second time.
        Profile::Debug => args.extend(["--package", "overlay-bench"]),
    }
    progress::visibly("building the agent", &workspace.cargo(&args)?)?;
    Ok(workspace.agent(profile))
}

/// The agent as [`crate::test`] builds it, and builds it no second time: a choice of packages, and whether it has
/// tests, decides on the features of what they share.
pub(crate) fn build_as_tested(workspace: &Workspace) -> Result<PathBuf> {
    object(workspace)?;
    let args = [
        "build",
        "--workspace",
        "--bin",
        "overlay",
        "--test",
        "packaging",
    ];
    progress::visibly("building the agent", &workspace.cargo(&args)?)?;
    Ok(workspace.agent(Profile::Debug))
}

/// Builds the BPF object to where overlay-user's build script picks it up.
pub(crate) fn object(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::choose(workspace)?;
    eprintln!("BPF object: {toolchain}");
    let command = toolchain.cargo(workspace, "build", &BPF_PROGRAMS)?;
    progress::visibly("building the BPF object", &command)?;
    let linked = toolchain::artifacts(workspace).join(BPF_BINARY);
    let content = fs::read(&linked).with_context(|| format!("reading {}", linked.display()))?;
    write_if_changed(&workspace.bpf_object(), &content)
}
