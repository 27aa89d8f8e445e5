//! Hosts of the control plane's measurements.

use anyhow::Result;

use super::PREFIX;
use crate::bench::lab::UNDERLAY;
use crate::bench::netns::Netns;

/// The ways to the nodes of the registries are the agents' to find.
const WAY_TO_NODES: &str = "route add 198.18.0.0/15 via 192.0.2.254";

/// A namespace with the interface `underlay`.
pub(super) struct Host {
    pub(super) netns: Netns,
    /// Its address on the underlay.
    pub(super) ip: &'static str,
}

impl Host {
    /// One whose underlay leads nowhere.
    pub(super) fn build(name: &str) -> Result<Self> {
        let netns = Netns::create(&format!("{PREFIX}{name}"))?;
        netns.ip(&format!(
            "link add {UNDERLAY} up type veth peer name nowhere"
        ))?;
        netns.ip("link set nowhere up")?;
        Self::on(netns, "192.0.2.1")
    }

    /// Two that reach each other.
    pub(super) fn pair(name: &str) -> Result<[Self; 2]> {
        let [one, two] = [1, 2].map(|number| Netns::create(&format!("{PREFIX}{name}-{number}")));
        let (one, two) = (one?, two?);
        one.ip(&format!(
            "link add {UNDERLAY} up type veth peer name {UNDERLAY} netns {}",
            two.name()
        ))?;
        two.ip(&format!("link set {UNDERLAY} up"))?;
        Ok([Self::on(one, "192.0.2.1")?, Self::on(two, "192.0.2.2")?])
    }

    fn on(netns: Netns, ip: &'static str) -> Result<Self> {
        netns.ip(&format!("address add {ip}/24 dev {UNDERLAY}"))?;
        netns.ip(WAY_TO_NODES)?;
        Ok(Self { netns, ip })
    }
}
