//! Hosts of the control plane's measurements.

use std::path::Path;

use anyhow::Result;

use super::PREFIX;
use crate::agent::Agent;
use crate::lab::UNDERLAY;
use overlay_lab::OwnedNetns;

/// The ways to the nodes of the registries are the agents' to find.
const WAY_TO_NODES: &str = "route add 198.18.0.0/15 via 192.0.2.254";

/// A namespace with the interface `underlay`.
pub(super) struct Host {
    pub(super) netns: OwnedNetns,
    /// Its address on the underlay.
    pub(super) ip: &'static str,
}

impl Host {
    /// One whose underlay leads nowhere.
    pub(super) fn build(name: &str) -> Result<Self> {
        let netns = OwnedNetns::create(&format!("{PREFIX}{name}"))?;
        netns.try_ip(&format!(
            "link add {UNDERLAY} up type veth peer name nowhere"
        ))?;
        netns.try_ip("link set nowhere up")?;
        Self::on(netns, "192.0.2.1")
    }

    /// Two that reach each other.
    pub(super) fn pair(name: &str) -> Result<[Self; 2]> {
        let [one, two] =
            [1, 2].map(|number| OwnedNetns::create(&format!("{PREFIX}{name}-{number}")));
        let (one, two) = (one?, two?);
        one.try_ip(&format!(
            "link add {UNDERLAY} up type veth peer name {UNDERLAY} netns {}",
            two.name()
        ))?;
        two.try_ip(&format!("link set {UNDERLAY} up"))?;
        Ok([Self::on(one, "192.0.2.1")?, Self::on(two, "192.0.2.2")?])
    }

    /// Starts an agent, with the URL of its registry and more words for `run`.
    pub(super) fn start(&self, binary: &Path, registry: &str, words: &[&str]) -> Result<Agent> {
        Agent::start(binary, &self.netns, self.netns.name(), registry, words)
    }

    fn on(netns: OwnedNetns, ip: &'static str) -> Result<Self> {
        netns.try_ip(&format!("address add {ip}/24 dev {UNDERLAY}"))?;
        netns.try_ip(WAY_TO_NODES)?;
        Ok(Self { netns, ip })
    }
}
