//! What `overlay ping` and `overlay doctor --cluster` ask and get.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Finding, NodeState};
use crate::model::{Name, PathView, PingSize};

/// The echo that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// An endpoint or a node by its name, or a node by its VTEP's address; `None`: the node that is asked.
    #[serde(default)]
    pub from: Option<String>,
    /// An endpoint or a node, by its name or an address.
    pub to: String,
    /// How long it is; `None`: as long as a ping.
    #[serde(default)]
    pub size: Option<PingSize>,
}

/// Every pair of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// There is no finding of severity `problem`.
    pub healthy: bool,
    /// Every node with an agent, in the order of their names.
    pub hosts: Vec<ClusterHost>,
    /// Every pair, each direction by itself.
    pub paths: Vec<ClusterPath>,
    /// What is not as it should be, problems first.
    pub findings: Vec<Finding>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHost {
    /// Its name.
    pub node: Name,
    /// Its underlay address.
    pub vtep: IpAddr,
    /// How it stands.
    pub state: NodeState,
    /// Whether it said how its paths are.
    pub answered: bool,
    /// Its agent's version; null if it has told none.
    pub version: Option<String>,
    /// The ABI version of its datapath; null if it has told none.
    pub abi: Option<u32>,
    /// By how much its clock is ahead of the clock of the host that asked, milliseconds; null if it said nothing.
    pub clock_ms: Option<i64>,
}

/// The way of the packets of one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPath {
    /// Whose packets.
    pub from: Name,
    /// Where they are to get.
    pub to: Name,
    /// Whether they do.
    pub way: Way,
    /// The last round trip, microseconds; null if nothing came back.
    pub rtt_us: Option<u64>,
    /// How many of the last 32 short echoes were lost, percent; null if none was sent.
    pub loss: Option<u8>,
    /// The longest IP packet of an endpoint that gets there and back, bytes; null if it is not known.
    pub largest: Option<u32>,
    /// The same as the underlays' MTUs say; null if nobody said it.
    pub expected: Option<u32>,
}

impl ClusterPath {
    /// The longest packet that passes, and the one that is expected to, bytes, where that is less.
    #[must_use]
    pub fn narrow(&self) -> Option<(u32, u32)> {
        let lengths = self.largest.zip(self.expected);
        lengths.filter(|(largest, expected)| PathView::is_short(*largest, *expected))
    }
}

/// Whether packets get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// They do.
    Ok,
    /// They do not.
    Lost,
    /// They arrive changed.
    Damaged,
    /// Nobody can say.
    Unknown,
}
