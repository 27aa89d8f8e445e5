//! What verbs print: the keys are the contract.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DropTotals, EndpointDropsView};
pub use crate::datapath::AttachMode;
use crate::{
    model::{
        Endpoint, EndpointState, FloodMode, IfName, Mac, MapUsage, Name, Network, Node, PathState,
        PathView, Resolve, Revision, Vni, Vtep,
    },
    reconcile::watchdog::Stalled,
};

/// What an import took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportView {
    /// The network.
    pub vni: Vni,
    /// How many endpoints the folder holds.
    pub endpoints: usize,
    /// Behind how many VTEPs they are.
    pub vteps: usize,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// Its VNI.
    pub vni: Vni,
    /// Where its addresses come from.
    pub subnets: Vec<IpNet>,
    /// Bytes of an IP packet; 0: from the underlay.
    pub mtu: u32,
    /// `none`, `head-end` or `multicast GROUP`.
    pub flood: FloodMode,
    /// Whether source MACs are learned from packets.
    pub learning: bool,
    /// When hosts learn where its endpoints are: `proactive` or `on-demand`.
    pub resolve: Resolve,
}

impl From<Network> for NetworkView {
    fn from(network: Network) -> Self {
        Self {
            name: network.name,
            vni: network.vni,
            subnets: network.subnets,
            mtu: network.mtu,
            flood: network.flood,
            learning: network.learning,
            resolve: network.resolve,
        }
    }
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its name.
    pub name: Name,
    /// Its network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The same with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The node that it lives on.
    pub node: Name,
    /// That node's address on the underlay.
    pub vtep: IpAddr,
    /// Its namespace; null behind a VTEP without an agent.
    pub netns: Option<Name>,
    /// Its interface; null behind a VTEP without an agent.
    pub ifname: Option<IfName>,
    /// The registry's revision at its commit.
    pub generation: Revision,
    /// What became of it on the host that was asked.
    pub state: EndpointState,
    /// Why it failed; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it was there already when it was asked for; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub existed: bool,
    /// What was dropped of it; absent unless it stands on the host that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drops: Option<EndpointDropsView>,
}

impl EndpointView {
    /// The view of `endpoint`, whose node has its VTEP at `vtep`.
    #[must_use]
    pub fn new(endpoint: Endpoint, vtep: IpAddr, state: EndpointState) -> Self {
        Self {
            ips: endpoint.ips().collect(),
            name: endpoint.name,
            vni: endpoint.vni,
            mac: endpoint.mac,
            addresses: endpoint.addresses,
            node: endpoint.node,
            vtep,
            netns: endpoint.netns,
            ifname: endpoint.ifname,
            generation: endpoint.generation,
            state,
            error: None,
            existed: false,
            drops: None,
        }
    }

    /// The same, and what was dropped of it.
    #[must_use]
    pub fn with_drops(mut self, drops: Option<EndpointDropsView>) -> Self {
        self.drops = drops;
        self
    }

    /// The same, and why it failed.
    #[must_use]
    pub fn with_error(mut self, error: Option<String>) -> Self {
        self.error = error;
        self
    }
}

/// A node's VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepView {
    /// The node.
    pub node: Name,
    /// Its address on the underlay.
    pub ip: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// When its agent last said that it lives, RFC 3339; null if it never did.
    pub last_seen: Option<Timestamp>,
    /// Whether it lives: it has said so within the last 15 s.
    pub alive: bool,
    /// Whether an agent of ours runs there at all.
    pub agent: bool,
    /// How it stands.
    pub state: NodeState,
    /// Its agent's version; null if it has told none.
    pub version: Option<String>,
    /// The ABI version of its datapath; null if it has told none.
    pub abi: Option<u32>,
    /// Its underlay's MTU, bytes; null if it has told none.
    pub mtu: Option<u32>,
    /// Whether tunnel packets get there and back, as the host that was asked found out; null where nobody
    /// answers: for this host itself, and for VTEPs without an agent.
    #[serde(default)]
    pub path: Option<PathView>,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRemovedView {
    /// The node.
    pub node: Name,
    /// Its address on the underlay.
    pub ip: IpAddr,
    /// How many endpoints were removed with it.
    pub endpoints: usize,
}

/// What was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    /// Whether there was one.
    pub removed: bool,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its agent lives.
    Alive,
    /// Its agent has not been heard of, for less than the grace time (`--node-grace`).
    Silent,
    /// Nor for longer: its endpoints are down.
    Down,
    /// No agent of ours runs there: nobody can say.
    NoAgent,
}

impl VtepView {
    /// Whether its host has no underlay address at the moment, see [`Vtep::discard`].
    #[must_use]
    pub fn has_no_address(&self) -> bool {
        let vtep = Vtep {
            ip: self.ip.into(),
            port: self.port,
        };
        vtep.is_discard()
    }

    /// The view of `node`, times in whole milliseconds.
    #[must_use]
    pub fn new(node: Node, state: NodeState) -> Self {
        Self {
            node: node.name,
            ip: node.vtep.ip.into(),
            port: node.vtep.port,
            last_seen: node.last_seen.and_then(milliseconds),
            alive: node.alive,
            agent: node.agent,
            state,
            version: node.version,
            abi: node.abi,
            mtu: node.mtu,
            path: None,
        }
    }

    /// The same, and how the path there is.
    #[must_use]
    pub fn with_path(mut self, path: Option<PathView>) -> Self {
        self.path = path;
        self
    }
}

/// The time in whole milliseconds.
#[must_use]
pub fn milliseconds(time: SystemTime) -> Option<Timestamp> {
    let exact = Timestamp::try_from(time).ok()?;
    Timestamp::from_millisecond(exact.as_millisecond()).ok()
}

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The instance.
    pub instance: Name,
    /// This host's name in the registry.
    pub node: Name,
    /// Whether the datapath is what the registry wants it to be.
    pub ready: bool,
    /// Whether an agent runs; otherwise all this is what it left.
    #[serde(default = "told_by_older_agents")]
    pub agent: bool,
    /// The underlay interface.
    pub iface: IfName,
    /// This host's address on the underlay.
    pub vtep: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// The registry, as this agent sees it.
    pub registry: RegistryView,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are.
    pub endpoints: EndpointCounts,
    /// How many ways to other hosts are in each state.
    #[serde(default)]
    pub paths: BTreeMap<PathState, usize>,
    /// The datapath.
    pub datapath: DatapathView,
    /// What could not be done and is tried again, a line each; empty if ready.
    pub problems: Vec<String>,
    /// Parts of the agent that have not turned for too long; empty if ready.
    #[serde(default)]
    pub stalled: Vec<StalledView>,
}

/// A part of the agent that has not turned for too long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StalledView {
    /// `loop`, `host`, `lease`, `routes`, `misses`, `underlay`, `devices` or `registry`.
    pub part: String,
    /// For how many seconds it has not.
    pub for_s: u64,
    /// What the loop is doing; null for other parts.
    pub doing: Option<String>,
}

impl From<Stalled> for StalledView {
    fn from(stalled: Stalled) -> Self {
        Self {
            part: stalled.part.name().to_owned(),
            for_s: stalled.since.as_secs(),
            doing: stalled.doing.map(str::to_owned),
        }
    }
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// Where it is; never with a secret.
    pub url: String,
    /// Whether it is in reach.
    pub connected: bool,
    /// The last revision seen.
    pub revision: Revision,
    /// Whether the store that is there is followed: false for another one, and for one that lost too much.
    #[serde(default = "followed_by_older_agents")]
    pub followed: bool,
    /// For how many seconds it has been out of reach; 0: it is in reach.
    pub stale_for_s: u64,
    /// Why it is out of reach, or not followed; null if it is neither.
    pub error: Option<String>,
    /// Rows that are left out because they can't be read or break a rule, the first 100.
    #[serde(default)]
    pub rejected: Vec<RejectedView>,
}

/// A row of the registry that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedView {
    /// `network VNI`, `node NAME`, `endpoint NAME`, or where it is.
    pub row: String,
    /// Why.
    pub why: String,
}

fn followed_by_older_agents() -> bool {
    true
}

fn told_by_older_agents() -> bool {
    true
}

/// Endpoints here and elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounts {
    /// On this node.
    pub local: usize,
    /// On other nodes.
    pub remote: usize,
    /// Of those on this node, the ones that can't be made.
    #[serde(default)]
    pub failed: usize,
    /// Of those on this node, the ones that are not made yet.
    #[serde(default)]
    pub waiting: usize,
}

/// The datapath of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathView {
    /// How programs are attached.
    pub attach: AttachMode,
    /// The version of what kernel and user space share.
    pub abi: u32,
    /// Whether packets take the fastest way that there is here: the VXLAN device opens the port, so
    /// that received ones are aggregated, and veths have head-room for the tunnels' headers.
    pub fast_path: bool,
    /// Why they don't; null if they do.
    pub fast_path_error: Option<String>,
    /// How full each map is, by its name. Without an agent the capacities are not known, and 0.
    pub maps: BTreeMap<String, MapUsage>,
    /// What the programs count beside drops, since the maps were made.
    pub counters: BTreeMap<String, u64>,
    /// What it dropped since then.
    #[serde(default)]
    pub drops: DropTotals,
}
