//! An endpoint: one interface on a network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{IfName, Mac, Name, Revision, Vni};

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
    /// Namespace and interface in it. `None`: behind a VTEP without an agent.
    pub netns: Option<Name>,
    /// The interface's name in `netns`.
    pub ifname: Option<IfName>,
    /// The registry's revision at commit; 0 before it. An older one never overwrites a newer one.
    pub generation: Revision,
}

impl Endpoint {
    /// The addresses without their prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}
