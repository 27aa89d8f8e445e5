//! A host of the control plane's measurements: a namespace with an underlay that leads nowhere.

use anyhow::Result;

use super::PREFIX;
use crate::bench::lab::UNDERLAY;
use crate::bench::netns::Netns;

/// A namespace, the interface `underlay` in it, and the other end of that one's veth.
pub(super) struct Host {
    pub(super) netns: Netns,
}

impl Host {
    pub(super) fn build(name: &str) -> Result<Self> {
        let netns = Netns::create(&format!("{PREFIX}{name}"))?;
        netns.ip(&format!(
            "link add {UNDERLAY} up type veth peer name nowhere"
        ))?;
        netns.ip("link set nowhere up")?;
        netns.ip(&format!("address add 192.0.2.1/24 dev {UNDERLAY}"))?;
        // Node's addresses in the registries: the way to them is the agent's to find.
        netns.ip("route add 198.18.0.0/15 via 192.0.2.2")?;
        Ok(Self { netns })
    }
}
