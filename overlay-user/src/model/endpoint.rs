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

/// What became of an endpoint on the host that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// On another node: its entries are in this host's maps.
    Remote,
    /// On a node whose agent has not been heard of for longer than the grace time. Its entries stay
    /// in this host's maps: the node may have lost no more than the registry.
    Down,
    /// On this node: interface up, program attached, entries in the maps.
    Ready,
    /// On this node, being made.
    Pending,
    /// On this node and not to be made; the log and `endpoint show` say why.
    Failed,
    /// On this node, where no agent runs that could tell.
    Unknown,
}
