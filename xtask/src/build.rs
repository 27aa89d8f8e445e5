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

/// The package and the binary that become a BPF object; behind them comes its feature.
pub(crate) const BPF_PROGRAMS: [&str; 6] = [
    "--package",
    "overlay-ebpf",
    "--bin",
    BPF_BINARY,
    "--no-default-features",
    "--features",
];
const BPF_BINARY: &str = "overlay-bpf";

/// A BPF object: the feature that makes it one, and its file's name.
pub(crate) struct BpfObject {
    pub(crate) feature: &'static str,
    file: &'static str,
}

/// The one whose programs are attached, and the one that tells why they do what they do.
pub(crate) const BPF_OBJECTS: [BpfObject; 2] = [
    BpfObject {
        feature: "program",
        file: "overlay.bpf.o",
    },
    BpfObject {
        feature: "trace",
        file: "overlay-trace.bpf.o",
    },
];

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

/// Builds the BPF objects to where overlay-user's build script picks them up.
pub(crate) fn object(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::choose(workspace)?;
    eprintln!("BPF objects: {toolchain}");
    for BpfObject { feature, file } in BPF_OBJECTS {
        let arguments: Vec<&str> = BPF_PROGRAMS.into_iter().chain([feature]).collect();
        let command = toolchain.cargo(workspace, "build", &arguments)?;
        progress::visibly(&format!("building {file}"), &command)?;
        let linked = toolchain::artifacts(workspace).join(BPF_BINARY);
        let content = fs::read(&linked).with_context(|| format!("reading {}", linked.display()))?;
        write_if_changed(&workspace.bpf_target().join(file), &content)?;
    }
    Ok(())
}
