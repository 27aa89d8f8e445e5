//! An endpoint: one interface on a network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Attachment, IfName, Mac, Name, Revision, Vni};

/// One interface on a network, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Unique in the registry.
    pub name: Name,
    /// Its network.
    pub vni: Vni,
    /// Unique within the VNI.
    pub mac: Mac,
    /// Its addresses with their prefix lengths; each address is unique within the VNI.
    pub addresses: Vec<IpNet>,
    /// The node that it lives on.
    pub node: Name,
    /// How it is connected to that node. `None`: it is behind a VTEP without an agent.
    #[serde(flatten, with = "super::attachment")]
    pub attachment: Option<Attachment>,
    /// The registry's revision at commit; 0 before it. An older one never overwrites a newer one.
    pub generation: Revision,
}

impl Endpoint {
    /// The namespace that its interface is in, where it is in one.
    #[must_use]
    pub fn netns(&self) -> Option<&Name> {
        self.attachment.as_ref()?.netns()
    }

    /// The name of its interface in that namespace.
    #[must_use]
    pub fn ifname(&self) -> Option<&IfName> {
        self.attachment.as_ref()?.ifname()
    }

    /// The addresses without their prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}
