//! The instrument: a program that links the agent's own code, which xtask itself does not. Its
//! source is in the folder beside this file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use duct::Expression;

use super::process;
use crate::workspace::Workspace;

/// Builds it, as fast as the agent is.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    const NAME: &str = "bench-instrument";
    workspace
        .cargo(&[
            "build",
            "--release",
            "--package",
            "xtask",
            "--bin",
            NAME,
            "--features",
            "instrument",
        ])?
        .run()
        .context("the benchmark's instrument does not build (see above)")?;
    Ok(workspace.target().join("release").join(NAME))
}

/// A command line of it.
pub(super) fn command(instrument: &Path, words: &[&str]) -> Result<Expression> {
    let program = instrument
        .to_str()
        .context("the instrument's path is not UTF-8")?;
    process::command(program, words)
}
