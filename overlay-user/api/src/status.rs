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
    /// Whether this host's datapath agrees with the registry, and every part of the agent works.
    pub ready: bool,
    /// Whether an agent runs. False in what `overlay status` finds without one: the last agent's state.
    #[serde(default = "told_by_older_agents")]
    pub agent: bool,
    /// The interface on the underlay, as `--iface` named it.
    pub iface: IfName,
    /// This host's VTEP: its address on the underlay.
    pub vtep: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// The registry, as this agent sees it.
    pub registry: RegistryView,
    /// Networks in the registry.
    pub networks: usize,
    /// Endpoints in the registry.
    pub endpoints: EndpointCounts,
    /// Paths to other hosts, counted by state.
    #[serde(default)]
    pub paths: BTreeMap<PathState, usize>,
    /// What was sent to DHCP clients and heard of them since the agent started, by type: `offer`, `ack`, `nak`, `release`,
    /// `decline`, `advertise`, `reply`, `router_advertisement` and `ignored`.
    #[serde(default)]
    pub dhcp: BTreeMap<String, u64>,
    /// Programs and maps of this host.
    pub datapath: DatapathView,
    /// Failures that are being retried, a line each; empty if ready.
    pub problems: Vec<String>,
    /// Parts of the agent that make no progress; empty if ready.
    #[serde(default)]
    pub stalled: Vec<StalledView>,
}

/// A part of the agent that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StalledView {
    /// `loop`, `host`, `lease`, `routes`, `misses`, `underlay`, `devices` or `registry`.
    pub part: String,
    /// How long, seconds.
    pub for_s: u64,
    /// The step at which the control loop hangs; null for other parts.
    pub doing: Option<String>,
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RegistryView {
    /// Its URL, without secrets.
    pub url: String,
    /// Whether it is in reach.
    pub connected: bool,
    /// The last revision that the agent has seen.
    pub revision: Revision,
    /// Whether the agent follows the store at that URL: false for another one than before, and for one that lost
    /// more than half of what the host knows.
    #[serde(default = "followed_by_older_agents")]
    pub followed: bool,
    /// How long it has been out of reach, seconds; 0: it is in reach.
    pub stale_for_s: u64,
    /// Why it is out of reach, or not followed; null if it is neither.
    pub error: Option<String>,
    /// Rows that can't be read or break a rule, the first 100. The agent goes on without them.
    #[serde(default)]
    pub rejected: Vec<RejectedView>,
}

/// A row of the registry that the agent goes on without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RejectedView {
    /// `network VNI`, `node NAME` or `endpoint NAME`; of a row that does not say so, its place in the store.
    pub row: String,
    /// What is wrong with it, in a line.
    pub why: String,
}

fn followed_by_older_agents() -> bool {
    true
}

fn told_by_older_agents() -> bool {
    true
}

/// Endpoints, counted by place and state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointCounts {
    /// On this node.
    pub local: usize,
    /// On other nodes.
    pub remote: usize,
    /// Of those on this node: interfaces that can't be made. `overlay endpoint show` says why.
    #[serde(default)]
    pub failed: usize,
    /// Of those on this node: interfaces that are not made yet.
    #[serde(default)]
    pub waiting: usize,
}

/// The datapath of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DatapathView {
    /// The kernel's hook for the programs.
    pub attach: AttachMode,
    /// The version of the maps' layout.
    pub abi: u32,
    /// Whether packets take the fastest path of this kernel: the VXLAN device makes it aggregate received ones, and
    /// veths have head-room for the tunnel's headers.
    pub fast_path: bool,
    /// Why they do not; null if they do.
    pub fast_path_error: Option<String>,
    /// How full each map is, by its name. Capacities are 0 without an agent, where they are not known.
    pub maps: BTreeMap<String, MapUsage>,
    /// The programs' counters beside drops, since the maps were made.
    pub counters: BTreeMap<String, u64>,
    /// Dropped packets since then.
    #[serde(default)]
    pub drops: DropTotals,
}

/// The kernel's hook for the programs.
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
    /// Rows that it holds.
    pub entries: u64,
    /// Rows that it can hold.
    pub capacity: u64,
    /// Rows that it did not take because it was full, since the agent started.
    pub refused: u64,
    /// Rows that were not written because the map held a newer generation, since the agent started.
    pub stale: u64,
}
