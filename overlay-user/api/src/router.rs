//! Routers: what joins networks, and the gateway of each.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{AddressRequest, Mac, Method, Name, NetworkRef, Operation, RemovedView, Vni};

/// The MAC of gateways unless another is chosen: the same in every network and on every host, so that neighbour
/// entries of an endpoint stay right wherever it goes.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x01, 0x01];

/// Makes a router, which joins no network yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct CreateRouter {
    /// Its name
    pub name: Name,
    /// The MAC of its gateways [default: 02:00:5e:00:01:01, as of every other router]
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default)]
    pub mac: Option<Mac>,
}

impl Operation for CreateRouter {
    type Answer = RouterView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/routers";
    const VERB: &'static str = "router create";
}

/// Lists every router, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListRouters {}

impl Operation for ListRouters {
    type Answer = Vec<RouterView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/routers";
    const VERB: &'static str = "router ls";
}

/// Shows a router, its networks and its routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ShowRouter {
    /// Its name
    pub name: Name,
}

impl Operation for ShowRouter {
    type Answer = RouterView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/routers/{name}";
    const VERB: &'static str = "router show";
}

/// Removes a router that joins no network; its routes go with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveRouter {
    /// Its name
    pub name: Name,
}

impl Operation for RemoveRouter {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/routers/{name}";
    const VERB: &'static str = "router rm";
}

/// How a router leads out of the overlay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// Not at all.
    #[default]
    None,
    /// Each host by its own uplink.
    Host,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Host => "host",
        })
    }
}

/// Changes a router while traffic runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct SetRouter {
    /// Its name
    pub name: Name,
    /// How it leads out of the overlay
    #[cfg_attr(feature = "cli", arg(long, required = true, value_name = "none|host"))]
    #[serde(default)]
    pub outside: Option<Outside>,
}

impl Operation for SetRouter {
    type Answer = RouterView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/routers/{name}";
    const VERB: &'static str = "router set";
}

/// Joins a network to a router: from then on the network has gateways, and its endpoints reach the router's other
/// networks by them.
///
/// A network has one router at most, and the networks of a router don't overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct AttachRouter {
    /// The router's name
    pub router: Name,
    /// The network, by name or VNI
    pub network: NetworkRef,
    /// The gateway's address, A or A/LEN; may be repeated [default: the first of each subnet]
    #[cfg_attr(feature = "cli", arg(long = "ip", value_name = "A/LEN"))]
    #[serde(default)]
    pub ips: Vec<AddressRequest>,
    /// The prefix that the network's IPv6 subnet has outside, of the same length (NPTv6, RFC 6296): for a network
    /// whose own prefix nobody routes
    #[cfg_attr(feature = "cli", arg(long, value_name = "PREFIX"))]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nptv6: Option<Ipv6Net>,
}

impl Operation for AttachRouter {
    type Answer = RouterView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/routers/{router}/ports";
    const VERB: &'static str = "router attach";
}

/// Takes a network off a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct DetachRouter {
    /// The router's name
    pub router: Name,
    /// The network, by name or VNI
    pub network: NetworkRef,
}

impl Operation for DetachRouter {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/routers/{router}/ports/{network}";
    const VERB: &'static str = "router detach";
}

/// Where a route leads: `via A`, `outside` or `blackhole`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["via 7.7.7.9", "outside", "blackhole"]))
)]
#[serde(try_from = "String", into = "String")]
pub enum RouteTarget {
    /// To an endpoint of one of the router's networks, which routes on.
    Via(IpAddr),
    /// Nowhere: refused with an ICMP error.
    Blackhole,
    /// Out of the overlay.
    Outside,
}

impl FromStr for RouteTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(' ') {
            None if text == "blackhole" => Ok(Self::Blackhole),
            None if text == "outside" => Ok(Self::Outside),
            Some(("via", "blackhole")) => Ok(Self::Blackhole),
            Some(("via", "outside")) => Ok(Self::Outside),
            Some(("via", hop)) => hop
                .trim()
                .parse()
                .map(Self::Via)
                .map_err(|_| format!("next hop {hop:?} is no IP address")),
            _ => Err(format!(
                "route target {text:?} is unknown: write `via A`, A an address of one of the router's networks, or \
                 `blackhole`"
            )),
        }
    }
}

impl TryFrom<String> for RouteTarget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RouteTarget> for String {
    fn from(target: RouteTarget) -> Self {
        target.to_string()
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(hop) => write!(f, "via {hop}"),
            Self::Blackhole => f.pad("blackhole"),
            Self::Outside => f.pad("outside"),
        }
    }
}

/// Adds a route to a router.
///
/// There already with another target: refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddRoute {
    /// The router's name
    pub router: Name,
    /// Where to: a prefix, of which the longest that fits is taken
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub prefix: IpNet,
    /// Which way
    pub target: RouteTarget,
}

impl Operation for AddRoute {
    type Answer = RouteView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/routers/{router}/routes";
    const VERB: &'static str = "router route add";
}

/// Removes a route of a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveRoute {
    /// The router's name
    pub router: Name,
    /// The prefix
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub prefix: IpNet,
}

impl Operation for RemoveRoute {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/routers/{router}/routes";
    const VERB: &'static str = "router route rm";
}

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterView {
    /// Its name, unique in the registry.
    pub name: Name,
    /// Its number in the programs' tables, unique in the registry.
    pub id: u32,
    /// The MAC of its gateways.
    pub mac: Mac,
    /// How it leads out of the overlay.
    #[serde(default)]
    pub outside: Outside,
    /// Its networks, by VNI.
    pub ports: Vec<RouterPortView>,
    /// Its routes beside those to its networks, by prefix.
    pub routes: Vec<RouteView>,
}

/// A network that is joined to a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterPortView {
    /// The network.
    pub vni: Vni,
    /// Its name; `null`: the network is not known here.
    pub network: Option<Name>,
    /// The gateway's addresses, with the lengths of their subnets.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub addresses: Vec<IpNet>,
    /// The prefix that its IPv6 subnet has outside; `null`: its own.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    #[serde(default)]
    pub nptv6: Option<Ipv6Net>,
}

/// A route of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouteView {
    /// Where to.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub prefix: IpNet,
    /// Which way.
    pub target: RouteTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_targets_print_as_they_parse() {
        for text in ["via 7.7.7.9", "via fd00::9", "blackhole", "outside"] {
            assert_eq!(text.parse::<RouteTarget>().unwrap().to_string(), text);
        }
        for text in ["", "via", "via x", "blackhole 7.7.7.9", "7.7.7.9"] {
            assert!(text.parse::<RouteTarget>().is_err(), "{text}");
        }
    }
}
