//! Echoes from an endpoint or host to another.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{Method, Name, Operation, Vni};

/// Sends an echo from an endpoint or a node to another. Answered when it is back, or known to be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SendPing {
    /// The sender: an endpoint or a node by its name, or a node by its VTEP's address; null: the node that is asked.
    #[serde(default)]
    pub from: Option<String>,
    /// The target: an endpoint or a node, by its name or an address.
    pub to: String,
    /// The length; null: that of a ping, 84 bytes.
    #[serde(default)]
    pub size: Option<PingSize>,
}

impl Operation for SendPing {
    type Answer = Pinged;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/ping";
    const VERB: &'static str = "ping";
    const READ_ONLY: bool = true;
}

/// The length of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PingSize {
    /// Bytes, as an IP packet of an endpoint: 64 to 65535.
    Bytes(u16),
    /// The longest one that passes, which is searched for.
    Auto,
}

/// The outcome of an echo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pinged {
    /// The sender: an endpoint, or a node.
    pub from: Name,
    /// The node that it was sent from.
    pub from_node: Name,
    /// The target: an endpoint, or a node.
    pub to: Name,
    /// The node that it was sent to.
    pub to_node: Name,
    /// That node's underlay address; null: it is the same node.
    pub via: Option<IpAddr>,
    /// The network; null between hosts.
    pub vni: Option<Vni>,
    /// Its length, bytes, as an IP packet of an endpoint.
    pub size: u32,
    /// The round trip, microseconds; null if it was lost.
    pub rtt_us: Option<u64>,
    /// The longest one that passes, bytes; null if it was not searched for.
    #[serde(default)]
    pub largest: Option<u32>,
    /// The longest one that networks and interfaces allow, bytes.
    pub expected: u32,
    /// Where it was lost; null if it was not.
    pub lost: Option<LostAt>,
}

/// The place where an echo was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostAt {
    /// The last node whose programs saw it; null: none did.
    pub last_seen: Option<Name>,
    /// The drop reason, as `overlay drops` names it; null: no host says that it dropped it.
    pub reason: Option<String>,
    /// What is known, in a line.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Pinged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |name: &Name, node: &Name| {
            if name == node {
                name.to_string()
            } else {
                format!("{name} ({node})")
            }
        };
        let (from, to) = (
            place(&self.from, &self.from_node),
            place(&self.to, &self.to_node),
        );
        match self.via {
            Some(via) => write!(f, "{from} -> {to} via {via}"),
            None => write!(f, "{from} -> {to} within {}", self.to_node),
        }
    }
}
