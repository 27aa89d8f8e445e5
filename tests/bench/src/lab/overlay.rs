//! Our own: an agent on each host, both on one SQLite registry, and an endpoint behind each.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use overlay_lab::{Netns, OwnedNetns};
use tempfile::TempDir;

use super::{End, Host, Mode, PREFIX, VNI, VXLAN_PORT};
use crate::agent::Agent;

/// The endpoint's interface; the agent's default.
const INSIDE: &str = "eth0";

/// Agents, and the folder of their registry, which goes after them.
#[derive(Default)]
pub(super) struct Agents {
    pub(super) agents: Vec<Agent>,
    _folder: Option<TempDir>,
}

/// Starts both agents; gives client and server, their namespaces, and the agents.
pub(super) fn build(
    hosts: &[Netns; 2],
    binary: &Path,
) -> Result<(End, End, Vec<OwnedNetns>, Agents)> {
    if !binary.exists() {
        bail!(
            "{} is not there: build it with `cargo xtask build --release`",
            binary.display()
        );
    }
    let folder = tempfile::Builder::new().prefix("overlay-bench-").tempdir();
    let folder = folder.context("making a folder for the registry")?;
    let url = format!("sqlite://{}/registry.db", folder.path().display());
    let [vni, port] = [VNI, VXLAN_PORT.into()].map(|number: u32| number.to_string());
    let words = ["--vni", &vni, "--port", &port];
    let [one, two] = hosts;
    let start = |host: Host, netns: &Netns| {
        // The agent's instance on this host, and its node's name.
        let instance = format!("{PREFIX}{}", host.number());
        Agent::start(binary, netns, &instance, &url, &words)
    };
    let (first, second) = (start(Host::One, one)?, start(Host::Two, two)?);
    first.await_ready()?;
    second.await_ready()?;
    let (client, near) = add_endpoint(&first, Host::One)?;
    let (server, far) = add_endpoint(&second, Host::Two)?;
    let agents = Agents {
        agents: vec![first, second],
        _folder: Some(folder),
    };
    Ok((client, server, vec![near, far], agents))
}

fn add_endpoint(agent: &Agent, host: Host) -> Result<(End, OwnedNetns)> {
    let name = format!("{}-c", host.name(Mode::Overlay));
    let (vni, address) = (VNI.to_string(), format!("{}/24", host.container_ip()));
    // Before the agent makes the namespace, so that it goes also if the agent fails half-way.
    let netns = OwnedNetns::adopt(&name);
    let words = ["endpoint", "add", &name, "--vni", &vni, "--ip", &address];
    agent.verb(&words)?;
    Ok((End::new(netns.clone(), INSIDE, host.container_ip()), netns))
}
