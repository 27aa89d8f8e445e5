//! The state of an agent, and its end.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{DropTotals, IfName, Method, Name, Operation, PathState, Revision};

/// Shows the state of the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShowStatus {}

impl Operation for ShowStatus {
    type Answer = StatusView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/status";
    const VERB: &'static str = "status";
}

/// Removes all that this instance made, then ends the agent.
///
/// The datapath, its veths and namespaces, and its rows in the registry go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Down {}

impl Operation for Down {
    type Answer = DownView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/down";
    const VERB: &'static str = "down";
}

/// An instance that is down: nothing is left to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DownView {}

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StalledView {
    /// `loop`, `host`, `lease`, `routes`, `misses`, `underlay`, `devices` or `registry`.
    pub part: String,
    /// For how many seconds it has not.
    pub for_s: u64,
    /// What the loop is doing; null for other parts.
    pub doing: Option<String>,
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// BPF links on the tcx hook (Linux 6.6 and newer).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MapUsage {
    /// Rows in it.
    pub entries: u64,
    /// Rows that it can hold.
    pub capacity: u64,
    /// Rows that it did not take because it was full, since the agent started.
    pub refused: u64,
    /// Rows that were not written because the map held a newer generation, since the agent started.
    pub stale: u64,
}
