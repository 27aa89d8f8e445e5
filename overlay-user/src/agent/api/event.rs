//! What `overlay monitor` prints as it happens.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Mac, Name, Revision, Vni};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When this agent learned of it, RFC 3339, by this host's clock.
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl EventView {
    /// It happened just now. Whole milliseconds are enough.
    #[must_use]
    pub fn now(event: Event) -> Self {
        let exact = Timestamp::now();
        Self {
            time: Timestamp::from_millisecond(exact.as_millisecond()).unwrap_or(exact),
            event,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Packets were dropped since the last look, which was a second ago.
    Drop {
        /// Why.
        reason: String,
        /// How many.
        packets: u64,
        /// How many since the maps were made.
        total: u64,
    },
    /// The registry changed, or the way to it.
    Registry {
        /// What.
        #[serde(flatten)]
        change: RegistryChange,
    },
    /// This reader was too slow: so many events are not here.
    Lost {
        /// How many.
        events: u64,
    },
}

/// What changed in the registry, or on the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum RegistryChange {
    /// It is out of reach.
    Lost {
        /// Why.
        reason: String,
    },
    /// It is in reach again.
    Restored,
    /// What changed can't be told any more: the whole state was read anew.
    Resync,
    /// A network was made or changed.
    NetworkPut {
        /// Its VNI.
        vni: Vni,
        /// Its name.
        network: Name,
    },
    /// A network was removed.
    NetworkRemoved {
        /// Its VNI.
        vni: Vni,
    },
    /// A node was made or changed.
    NodePut {
        /// The node.
        node: Name,
        /// Its VTEP, `IP:PORT`.
        vtep: String,
    },
    /// A node was removed.
    NodeRemoved {
        /// The node.
        node: Name,
    },
    /// A node's agent has begun to live.
    NodeAlive {
        /// The node.
        node: Name,
    },
    /// A node's agent has not been heard of for a while, or has been stopped.
    NodeSilent {
        /// The node.
        node: Name,
    },
    /// An endpoint was made or changed.
    EndpointPut {
        /// Its network.
        vni: Vni,
        /// The endpoint.
        endpoint: Name,
        /// Its MAC.
        mac: Mac,
        /// Where it lives.
        node: Name,
        /// Its generation.
        generation: Revision,
    },
    /// An endpoint was removed.
    EndpointRemoved {
        /// The endpoint.
        endpoint: Name,
    },
}

impl fmt::Display for EventView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {}", self.time.to_string(), self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop {
                reason,
                packets,
                total,
            } => write!(f, "drop      {reason} {packets} packets, {total} in all"),
            Self::Registry { change } => write!(f, "registry  {change}"),
            Self::Lost { events } => write!(
                f,
                "lost      {events} events: they came faster than they could be printed"
            ),
        }
    }
}

impl fmt::Display for RegistryChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { reason } => write!(f, "lost: {reason}"),
            Self::Restored => f.write_str("restored"),
            Self::Resync => f.write_str("changes were missed: all of it is read anew"),
            Self::NetworkPut { vni, network } => write!(f, "network {network} put: VNI {vni}"),
            Self::NetworkRemoved { vni } => write!(f, "network with VNI {vni} removed"),
            Self::NodePut { node, vtep } => write!(f, "node {node} put: VTEP {vtep}"),
            Self::NodeRemoved { node } => write!(f, "node {node} removed"),
            Self::NodeAlive { node } => write!(f, "node {node} lives"),
            Self::NodeSilent { node } => write!(f, "node {node} is silent"),
            Self::EndpointPut {
                vni,
                endpoint,
                mac,
                node,
                generation,
            } => write!(
                f,
                "endpoint {endpoint} put: VNI {vni} {mac} on {node}, generation {generation}"
            ),
            Self::EndpointRemoved { endpoint } => write!(f, "endpoint {endpoint} removed"),
        }
    }
}
