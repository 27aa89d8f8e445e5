//! Endpoints: one interface on a network each.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    AddressRequest, EndpointDropsView, EndpointQosView, IfName, Mac, Method, Name, NetnsRef,
    NetworkRef, Operation, OrNone, RemovedView, Revision, Vni,
};

/// Adds an endpoint on this host: namespace, veth, addresses, registry record.
///
/// Answered when it is ready: its packets pass. One that is there already just as it is asked for is no failure. An
/// endpoint that can't be made on this host is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct AddEndpoint {
    /// Its name, unique among all nodes
    pub name: Name,
    /// Its network, by VNI or name
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|NAME"))]
    pub vni: NetworkRef,
    /// Its address; may be repeated. Without: one of each family that the network has subnets of
    #[cfg_attr(feature = "cli", arg(long = "ip", value_name = "A/len"))]
    #[serde(default)]
    pub addresses: Vec<AddressRequest>,
    /// Its MAC [default: 02:42 and the four bytes of the IPv4 address, or the last four of the IPv6
    /// address; another one if that is taken]
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its namespace: a name, made if it is missing; the ID of a process in it; or a path with a slash in
    /// it, as /proc/PID/ns/net [default: NAME]
    #[cfg_attr(feature = "cli", arg(long, value_name = "NS|PID|PATH"))]
    #[serde(default)]
    pub netns: Option<NetnsRef>,
    /// Its interface's name in the namespace [default: eth0]
    #[cfg_attr(feature = "cli", arg(long, value_name = "IF"))]
    #[serde(default)]
    pub ifname: Option<IfName>,
    /// Leave its addresses to a DHCP client in it: its interface comes up without any
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// The limits that it gets [default: its network's]
    #[cfg_attr(feature = "cli", arg(long, value_name = "QOS"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Name>,
}

impl AddEndpoint {
    /// An endpoint with the defaults: addresses from the network's subnets, eth0 in a namespace of its name.
    #[must_use]
    pub fn new(name: Name, vni: NetworkRef) -> Self {
        Self {
            name,
            vni,
            addresses: Vec::new(),
            mac: None,
            netns: None,
            ifname: None,
            dhcp: false,
            qos: None,
        }
    }
}

impl Operation for AddEndpoint {
    type Answer = EndpointView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/endpoints";
    const VERB: &'static str = "endpoint add";
}

/// Lists endpoints of every node. Without a filter: all.
///
/// In the order of VNIs and names up to 100,000 of them; more come in the registry's order. While the registry is
/// away the list is what this host knows, and the header `overlay-note` says so in a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ListEndpoints {
    /// Only those of this network
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|NAME"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<NetworkRef>,
    /// Only those that live on this node
    #[cfg_attr(feature = "cli", arg(long, value_name = "NODE"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
}

impl Operation for ListEndpoints {
    type Answer = Vec<EndpointView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/endpoints";
    const VERB: &'static str = "endpoint ls";
}

/// Shows one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShowEndpoint {
    /// The endpoint
    pub name: Name,
}

impl Operation for ShowEndpoint {
    type Answer = EndpointView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/endpoints/{name}";
    const VERB: &'static str = "endpoint show";
}

/// Changes an endpoint's addresses, MAC or limits while traffic runs. Answered when this host has followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct SetEndpoint {
    /// The endpoint
    pub name: Name,
    /// Its address, in place of all that it has; may be repeated
    #[cfg_attr(feature = "cli", arg(long = "ip", value_name = "A/len"))]
    #[serde(default)]
    pub addresses: Vec<AddressRequest>,
    /// Its MAC
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its limits, wherever it lives; none: its network's
    #[cfg_attr(feature = "cli", arg(long, value_name = "QOS|none"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<OrNone<Name>>,
}

impl SetEndpoint {
    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.mac.is_none() && self.qos.is_none()
    }
}

impl Operation for SetEndpoint {
    type Answer = EndpointView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/endpoints/{name}";
    const VERB: &'static str = "endpoint set";
}

/// Moves an endpoint to another node, with its MAC and addresses.
///
/// Answered when this host has followed. A node that is down can be left and not be entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct MoveEndpoint {
    /// The endpoint
    pub name: Name,
    /// The node that it is to live on [default: this one]
    #[cfg_attr(feature = "cli", arg(long, value_name = "NODE"))]
    #[serde(default)]
    pub node: Option<Name>,
    /// Its namespace there, as for `add`; a process or a path on this host alone [default: as it was]
    #[cfg_attr(feature = "cli", arg(long, value_name = "NS|PID|PATH"))]
    #[serde(default)]
    pub netns: Option<NetnsRef>,
    /// Its interface there [default: as it was]
    #[cfg_attr(feature = "cli", arg(long, value_name = "IF"))]
    #[serde(default)]
    pub ifname: Option<IfName>,
}

impl Operation for MoveEndpoint {
    type Answer = EndpointView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/endpoints/{name}/move";
    const VERB: &'static str = "endpoint move";
}

/// Removes an endpoint, wherever it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveEndpoint {
    /// The endpoint
    pub name: Name,
}

impl Operation for RemoveEndpoint {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/endpoints/{name}";
    const VERB: &'static str = "endpoint rm";
}

/// The state of an endpoint, as seen by the host that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointView {
    /// Its name, unique in the registry.
    pub name: Name,
    /// Its network.
    pub vni: Vni,
    /// Its MAC, unique in its network.
    pub mac: Mac,
    /// Its addresses, each unique in its network.
    pub ips: Vec<IpAddr>,
    /// The same with their prefix lengths.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub addresses: Vec<IpNet>,
    /// The node that it lives on.
    pub node: Name,
    /// The underlay address of that node.
    pub vtep: IpAddr,
    /// Its namespace; null behind a VTEP without an agent.
    pub netns: Option<Name>,
    /// Its interface; null behind a VTEP without an agent.
    pub ifname: Option<IfName>,
    /// Whether a DHCP client in it sets its addresses; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// The registry's revision at its last change: the newer one counts.
    pub generation: Revision,
    /// Its state, as seen by the host that was asked.
    pub state: EndpointState,
    /// Why it failed; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it was there already when it was asked for; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub existed: bool,
    /// Its dropped packets; absent unless it is ready on the host that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drops: Option<EndpointDropsView>,
    /// Its packets and bytes; absent unless it is ready on the host that was asked, and on a host with more than 8191
    /// endpoints absent of some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<EndpointTrafficView>,
    /// Its limits; absent where it has none, and in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<EndpointQosView>,
}

/// Packets of an endpoint that were carried on or delivered since it is on its host.
///
/// Each segment of an aggregate counts, with headers of its own, as on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointTrafficView {
    /// Those that it sent.
    pub sent: VolumeView,
    /// Those that were for it.
    pub received: VolumeView,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeView {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the inner Ethernet header on.
    pub bytes: u64,
}

impl EndpointView {
    /// The same, and why it failed.
    #[must_use]
    pub fn with_error(mut self, error: Option<String>) -> Self {
        self.error = error;
        self
    }
}

impl fmt::Display for VolumeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets ({} bytes)", self.packets, self.bytes)
    }
}

impl fmt::Display for EndpointTrafficView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received", self.sent, self.received)
    }
}
