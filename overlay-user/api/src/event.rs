//! What `overlay monitor` prints as it happens.

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

/// One address of an endpoint that is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The endpoint with this MAC: a frame is for it.
    Mac(Mac),
    /// The endpoint with this address: ARP or neighbour discovery asks for it.
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

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// What older agents say, who do not tell noise apart.
const fn loss() -> DropClass {
    DropClass::Loss
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An endpoint of this host wants what the cache of an on-demand network does not hold.
    Miss {
        /// The network.
        vni: Vni,
        /// What is wanted: `{"mac": ...}` or `{"ip": ...}`.
        wanted: Wanted,
        /// The endpoint that asked; null if it is not known.
        asker: Option<Name>,
    },
    /// The registry knew who has it, and the maps have it now.
    Resolved {
        /// The network.
        vni: Vni,
        /// What was wanted.
        wanted: Wanted,
        /// Who has it.
        endpoint: Name,
        /// Where that lives.
        node: Name,
        /// From the miss on, microseconds.
        took_us: u64,
    },
    /// Nobody has it, or the registry did not say.
    Unresolved {
        /// The network.
        vni: Vni,
        /// What was wanted.
        wanted: Wanted,
        /// Why the registry did not say; null: nobody has it.
        error: Option<String>,
    },
    /// The cache gave an endpoint up.
    Evict {
        /// The network.
        vni: Vni,
        /// The endpoint.
        endpoint: Name,
        /// Whether it was idle for long; otherwise the cache was full.
        idle: bool,
    },
    /// An endpoint lives on another node from now on.
    Move {
        /// The network.
        vni: Vni,
        /// The endpoint.
        endpoint: Name,
        /// Where it lived.
        from: Name,
        /// Where it lives.
        to: Name,
        /// Its new generation.
        generation: Revision,
    },
    /// Packets were dropped since the last look, which was a second ago.
    Drop {
        /// Why.
        reason: String,
        /// How many.
        packets: u64,
        /// How many since the maps were made.
        total: u64,
        /// Whether anybody misses them.
        #[serde(default = "loss")]
        class: DropClass,
    },
    /// One of them.
    Dropped {
        /// What it was.
        #[serde(flatten)]
        dropped: DroppedView,
    },
    /// The registry changed, or the way to it.
    Registry {
        /// What.
        #[serde(flatten)]
        change: RegistryChange,
    },
    /// An endpoint of this host stands, or can't be made.
    Endpoint {
        /// The endpoint.
        endpoint: Name,
        /// Why it can't be made; null: it stands.
        error: Option<String>,
    },
    /// An endpoint is gone from this host.
    Gone {
        /// The endpoint.
        endpoint: Name,
    },
    /// Somebody changed what the agent made on this host, and it was put back.
    Repaired {
        /// The endpoint that it is of; null: of none.
        endpoint: Option<Name>,
        /// What it was.
        what: String,
    },
    /// Entries of the maps were not what they shall be.
    Mended {
        /// So many were missing or wrong.
        put: u64,
        /// So many nobody wanted.
        removed: u64,
    },
    /// Something could not be done; it is tried again.
    Failed {
        /// What and why.
        error: String,
    },
    /// This reader was too slow: so many events are not here.
    Lost {
        /// How many.
        events: u64,
    },
}

/// What changed in the registry, or on the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// It was read as a whole, or a network of it.
    Read {
        /// As of which revision.
        revision: Revision,
        /// How many endpoints came.
        endpoints: u64,
        /// How long it took until the maps had them, milliseconds.
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
