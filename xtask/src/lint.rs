//! `cargo xtask lint`.

use anyhow::Result;

use crate::workspace::Workspace;

/// Checks the source.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, _: &Workspace) -> Result<()> {
    Ok(())
}
