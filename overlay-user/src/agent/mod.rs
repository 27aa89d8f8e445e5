//! The agent: wires the registry, the datapath and the platform together.

use crate::{config::Config, model::Name};

pub mod api;
pub mod client;
pub mod server;

/// Runs the agent until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let _ = config;
    anyhow::bail!("the agent is not there yet")
}

/// Removes what an agent of `instance` left behind; for when none runs.
pub async fn down(instance: &Name) -> anyhow::Result<()> {
    anyhow::bail!("instance {instance}: the agent is not there yet")
}
