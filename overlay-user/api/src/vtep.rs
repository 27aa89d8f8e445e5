//! Nodes and their VTEPs.

use std::{fmt, net::IpAddr, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Method, Name, NameError, Operation, PathView};

/// A node, by its name or by its VTEP's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum VtepRef {
    /// By its VTEP's address, or by a name that looks like one.
    Ip(IpAddr),
    /// By its name.
    Node(Name),
}

impl VtepRef {
    /// Whether it refers to the node with this name and VTEP.
    #[must_use]
    pub fn is(&self, node: &Name, vtep: IpAddr) -> bool {
        match self {
            Self::Ip(ip) => vtep == *ip || node.as_str() == ip.to_string(),
            Self::Node(name) => node == name,
        }
    }
}

impl FromStr for VtepRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let name = text.parse().map_err(|error: NameError| {
            format!("{error}; or write a VTEP's address, for example 10.0.0.1")
        });
        name.map(Self::Node)
    }
}

impl TryFrom<String> for VtepRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VtepRef> for String {
    fn from(vtep: VtepRef) -> Self {
        vtep.to_string()
    }
}

impl fmt::Display for VtepRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Node(name) => name.fmt(f),
        }
    }
}

/// Lists the nodes and their VTEPs, in the order of the nodes' names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListVteps {}

impl Operation for ListVteps {
    type Answer = Vec<VtepView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vteps";
    const VERB: &'static str = "vtep ls";
}

/// Removes a node whose host is gone for good, and every endpoint on it.
///
/// Refused while the node's agent lives. Answered with null if the node is gone already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveVtep {
    /// The node, by name or by its VTEP's address
    pub vtep: VtepRef,
}

impl Operation for RemoveVtep {
    type Answer = Option<VtepRemovedView>;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vteps/{vtep}";
    const VERB: &'static str = "vtep rm";
}

/// A node and its VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VtepView {
    /// The node.
    pub node: Name,
    /// Its address on the underlay.
    pub ip: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// The last heartbeat of its agent, RFC 3339; null if there was none.
    pub last_seen: Option<Timestamp>,
    /// Whether it is alive: its agent has sent a heartbeat within the last 15 s.
    pub alive: bool,
    /// Whether an agent of ours runs there at all.
    pub agent: bool,
    /// Its state, by that and by the grace time.
    pub state: NodeState,
    /// Its agent's version; null if it has published none.
    pub version: Option<String>,
    /// The ABI version of its datapath; null if it has published none.
    pub abi: Option<u32>,
    /// Its underlay's MTU, bytes; null if it has published none.
    pub mtu: Option<u32>,
    /// Whether tunnel packets get there and back, as the host that was asked found out; null where nobody
    /// answers: for this host itself, and for VTEPs without an agent.
    #[serde(default)]
    pub path: Option<PathView>,
}

/// A removed node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VtepRemovedView {
    /// The node.
    pub node: Name,
    /// Its address on the underlay.
    pub ip: IpAddr,
    /// Endpoints that were removed with it.
    pub endpoints: usize,
}

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its agent is alive.
    Alive,
    /// Its agent has sent no heartbeat, for less than the grace time (`--node-grace`).
    Silent,
    /// Its agent has sent no heartbeat for longer than that: its endpoints are down.
    Down,
    /// No agent runs there, so its state is not known.
    NoAgent,
}

impl VtepView {
    /// Whether its host has no underlay address at the moment, see [`is_discard`].
    #[must_use]
    pub fn has_no_address(&self) -> bool {
        is_discard(self.ip)
    }

    /// The same, and how the path there is.
    #[must_use]
    pub fn with_path(mut self, path: Option<PathView>) -> Self {
        self.path = path;
        self
    }
}

/// The first half of the discard-only prefix `100::/64` (RFC 6666).
pub const DISCARD_PREFIX: u64 = 0x0100_0000_0000_0000;

/// Whether a VTEP's address stands for a host without an underlay address: one of the discard-only prefix.
#[must_use]
pub const fn is_discard(vtep: IpAddr) -> bool {
    match vtep {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 == DISCARD_PREFIX,
    }
}
