//! Events of one host and of the registry: `overlay monitor`.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DropClass, DropSampleView, DroppedView, Mac, Method, Name, Operation, Revision, Vni};

/// Tells what happens from now on, an event a line, until the client hangs up or the agent ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Monitor {}

impl Operation for Monitor {
    type Answer = EventView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/monitor";
    const VERB: &'static str = "monitor";
}

/// A MAC or an IP address that a frame needs and the maps do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The destination of a frame.
    Mac(Mac),
    /// The target of ARP or neighbour discovery.
    Ip(IpAddr),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// An event, with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventView {
    /// When the agent learned of it, RFC 3339, by this host's clock, in whole milliseconds.
    pub time: Timestamp,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

impl EventView {
    /// The event with the present time.
    #[must_use]
    pub fn now(event: Event) -> Self {
        let exact = Timestamp::now();
        Self {
            time: Timestamp::from_millisecond(exact.as_millisecond()).unwrap_or(exact),
            event,
        }
    }
}

impl From<DropSampleView> for EventView {
    fn from(sample: DropSampleView) -> Self {
        Self {
            time: sample.time,
            event: Event::Dropped {
                dropped: sample.dropped,
            },
        }
    }
}

/// The class of what older agents count, which know no noise.
const fn loss() -> DropClass {
    DropClass::Loss
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A frame of an on-demand network needs an address that the maps do not hold.
    Miss {
        /// The network.
        vni: Vni,
        /// The address: `{"mac": ...}` or `{"ip": ...}`.
        wanted: Wanted,
        /// The endpoint of this host that sent it; null if it is not known.
        asker: Option<Name>,
    },
    /// The registry has the address, and the maps hold it now.
    Resolved {
        /// The network.
        vni: Vni,
        /// The address.
        wanted: Wanted,
        /// The endpoint that has it.
        endpoint: Name,
        /// The node that the endpoint lives on.
        node: Name,
        /// From the miss to the maps, microseconds.
        took_us: u64,
    },
    /// No endpoint has the address, or the registry did not answer.
    Unresolved {
        /// The network.
        vni: Vni,
        /// The address.
        wanted: Wanted,
        /// Why it did not answer; null: no endpoint has the address.
        error: Option<String>,
    },
    /// An endpoint left the cache of an on-demand network.
    Evict {
        /// The network.
        vni: Vni,
        /// The endpoint.
        endpoint: Name,
        /// Whether it was idle; otherwise the cache was full.
        idle: bool,
    },
    /// An endpoint moved to another node.
    Move {
        /// The network.
        vni: Vni,
        /// The endpoint.
        endpoint: Name,
        /// The node that it lived on.
        from: Name,
        /// The node that it lives on.
        to: Name,
        /// Its new generation.
        generation: Revision,
    },
    /// Packets were dropped within the last second, counted by reason.
    Drop {
        /// The reason's name, for example `source_ip`.
        reason: String,
        /// Packets within the last second.
        packets: u64,
        /// Packets since the maps were made.
        total: u64,
        /// Loss or noise.
        #[serde(default = "loss")]
        class: DropClass,
    },
    /// One of the dropped packets, noise apart.
    Dropped {
        /// The packet.
        #[serde(flatten)]
        dropped: DroppedView,
    },
    /// The registry changed, or the connection to it.
    Registry {
        /// The change.
        #[serde(flatten)]
        change: RegistryChange,
    },
    /// An endpoint of this host is ready, or can't be made.
    Endpoint {
        /// The endpoint.
        endpoint: Name,
        /// Why it can't be made; null: it is ready.
        error: Option<String>,
    },
    /// An endpoint was removed from this host.
    Gone {
        /// The endpoint.
        endpoint: Name,
    },
    /// The agent put back an object of this host that somebody had changed.
    Repaired {
        /// The endpoint that the object belongs to; null: it belongs to none.
        endpoint: Option<Name>,
        /// The object and its change, in a line.
        what: String,
    },
    /// The agent corrected entries of the maps.
    Mended {
        /// Entries that were missing or wrong.
        put: u64,
        /// Entries that were there and not wanted.
        removed: u64,
    },
    /// An operation of the agent failed, and is being retried.
    Failed {
        /// What failed and why, in a line.
        error: String,
    },
    /// Events were lost, because they came faster than this client read them.
    Lost {
        /// The number of lost events.
        events: u64,
    },
}

/// A change of the registry, or of the connection to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum RegistryChange {
    /// The registry is out of reach.
    Lost {
        /// Why.
        reason: String,
    },
    /// The registry is in reach again.
    Restored,
    /// Changes were missed, so the whole state is read anew.
    Resync,
    /// The whole registry was read, or one network of it.
    Read {
        /// The revision that was read.
        revision: Revision,
        /// Endpoints that were read.
        endpoints: u64,
        /// From the first page to the maps, milliseconds.
        took_ms: u64,
    },
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
    /// A node's agent sends heartbeats again.
    NodeAlive {
        /// The node.
        node: Name,
    },
    /// A node's agent sends no heartbeats any more, or was stopped.
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
        /// The node that it lives on.
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

impl From<RegistryChange> for Event {
    fn from(change: RegistryChange) -> Self {
        Self::Registry { change }
    }
}

impl fmt::Display for EventView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {}", self.time.to_string(), self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Miss { vni, wanted, asker } => {
                write!(f, "miss      VNI {vni} {wanted}")?;
                match asker {
                    Some(asker) => write!(f, " wanted by {asker}"),
                    None => Ok(()),
                }
            }
            Self::Resolved {
                vni,
                wanted,
                endpoint,
                node,
                took_us,
            } => write!(
                f,
                "resolved  VNI {vni} {wanted} is {endpoint} on {node}, in {took_us} us"
            ),
            Self::Unresolved { vni, wanted, error } => match error {
                None => write!(f, "unknown   VNI {vni} {wanted}: nobody has it"),
                Some(error) => write!(f, "unknown   VNI {vni} {wanted}: {error}"),
            },
            Self::Evict {
                vni,
                endpoint,
                idle,
            } => {
                let why = if *idle { "idle" } else { "the cache is full" };
                write!(f, "evict     VNI {vni} {endpoint}: {why}")
            }
            Self::Move {
                vni,
                endpoint,
                from,
                to,
                generation,
            } => write!(
                f,
                "move      VNI {vni} {endpoint} from {from} to {to}, generation {generation}"
            ),
            Self::Drop {
                reason,
                packets,
                total,
                class,
            } => {
                let noise = match class {
                    DropClass::Loss => "",
                    DropClass::Noise => " (noise)",
                };
                write!(
                    f,
                    "drop      {reason}{noise} {packets} packets, {total} in all"
                )
            }
            Self::Dropped { dropped } => write!(f, "dropped   {dropped}"),
            Self::Registry { change } => write!(f, "registry  {change}"),
            Self::Endpoint { endpoint, error } => match error {
                None => write!(f, "endpoint  {endpoint} stands"),
                Some(error) => write!(f, "endpoint  {endpoint} can't be made: {error}"),
            },
            Self::Gone { endpoint } => write!(f, "gone      {endpoint} from this host"),
            Self::Repaired { endpoint, what } => match endpoint {
                Some(endpoint) => write!(f, "repaired  {endpoint}: {what}"),
                None => write!(f, "repaired  {what}"),
            },
            Self::Mended { put, removed } => write!(
                f,
                "mended    {put} entries were missing or wrong, {removed} nobody wanted"
            ),
            Self::Failed { error } => write!(f, "failed    {error}"),
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
            Self::Read {
                revision,
                endpoints,
                took_ms,
            } => write!(
                f,
                "{endpoints} endpoints read at revision {revision}, in {took_ms} ms"
            ),
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
