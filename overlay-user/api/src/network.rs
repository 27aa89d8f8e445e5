//! Networks: one VNI each.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    ErrorKind, Method, Name, Operation, OperationError, OrNone, SnatChoice, Vni, VniChoice,
};

/// Why a network's definition was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither `none`, `head-end` nor `multicast GROUP`.
    #[error("flood mode {0:?} is unknown: use none, head-end or multicast GROUP")]
    FloodMode(String),
    /// The group is no multicast address.
    #[error("flood group {0} is not a multicast address")]
    FloodGroup(IpAddr),
    /// Neither `proactive` nor `on-demand`.
    #[error("resolve mode {0:?} is unknown: use proactive or on-demand")]
    Resolve(String),
}

/// What happens to broadcast, unknown unicast and multicast: `none`, `head-end` or `multicast GROUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["none", "head-end", "multicast 239.1.1.1"]))
)]
#[serde(try_from = "String", into = "String")]
pub enum FloodMode {
    /// Dropped and counted.
    #[default]
    None,
    /// Copied to every VTEP of the network.
    HeadEnd,
    /// Sent to this underlay group.
    Multicast(IpAddr),
}

impl FromStr for FloodMode {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || NetworkError::FloodMode(text.to_owned());
        match text.split_once(' ') {
            None if text == "none" => Ok(Self::None),
            None if text == "head-end" => Ok(Self::HeadEnd),
            Some(("multicast", group)) => {
                let group: IpAddr = group.trim().parse().map_err(|_| unknown())?;
                if group.is_multicast() {
                    Ok(Self::Multicast(group))
                } else {
                    Err(NetworkError::FloodGroup(group))
                }
            }
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for FloodMode {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FloodMode> for String {
    fn from(mode: FloodMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for FloodMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::HeadEnd => f.pad("head-end"),
            Self::Multicast(group) => write!(f, "multicast {group}"),
        }
    }
}

/// When a host learns where the endpoints of a network are: `proactive` or `on-demand`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("enum" = ["proactive", "on-demand"]))
)]
#[serde(try_from = "String", into = "String")]
pub enum Resolve {
    /// All of them at once: every host's maps hold the whole network.
    #[default]
    Proactive,
    /// When one of its endpoints asks: a host's maps are a cache of its peers.
    OnDemand,
}

impl FromStr for Resolve {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "proactive" => Ok(Self::Proactive),
            "on-demand" => Ok(Self::OnDemand),
            _ => Err(NetworkError::Resolve(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Resolve {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Resolve> for String {
    fn from(resolve: Resolve) -> Self {
        resolve.to_string()
    }
}

impl fmt::Display for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Proactive => "proactive",
            Self::OnDemand => "on-demand",
        })
    }
}

/// Makes a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name
    pub name: Name,
    /// Its VXLAN network identifier, 1 to 16777215; auto: the lowest from 4096 that is free
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|auto"))]
    pub vni: VniChoice,
    /// Where its endpoints' addresses come from; may be repeated. Without: any address, none handed out
    #[cfg_attr(feature = "cli", arg(long = "subnet", value_name = "CIDR", value_parser = subnet))]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Bytes of an IP packet, from 576, with IPv6 from 1280; 0: what the underlay leaves
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES", default_value_t = 0, value_parser = mtu))]
    #[serde(default)]
    pub mtu: u32,
    /// What becomes of broadcast, unknown unicast and multicast: none, head-end or "multicast GROUP"
    #[cfg_attr(feature = "cli", arg(long, value_name = "MODE", default_value_t = FloodMode::None))]
    #[serde(default)]
    pub flood: FloodMode,
    /// Learn source MACs from packets
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default)]
    pub learning: bool,
    /// When hosts learn where its endpoints are: proactive (all at once) or on-demand (when one of
    /// theirs asks, for networks of which a host talks to a small part)
    #[cfg_attr(feature = "cli", arg(long, value_name = "MODE", default_value_t = Resolve::Proactive))]
    #[serde(default)]
    pub resolve: Resolve,
}

impl CreateNetwork {
    /// A network with the defaults: no subnet, MTU from the underlay, no flooding, no learning, proactive.
    #[must_use]
    pub fn new(name: Name, vni: VniChoice) -> Self {
        Self {
            name,
            vni,
            subnets: Vec::new(),
            mtu: 0,
            flood: FloodMode::None,
            learning: false,
            resolve: Resolve::Proactive,
        }
    }
}

impl Operation for CreateNetwork {
    type Answer = NetworkView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/networks";
    const VERB: &'static str = "network create";

    fn check(&self) -> Result<(), OperationError> {
        check_network(&self.subnets, self.mtu)
    }
}

/// Changes a network while traffic runs. Answered when this host has followed.
///
/// Refused is an MTU that an endpoint of the network can't have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct SetNetwork {
    /// Its name
    pub name: Name,
    /// Bytes of an IP packet, from 576, with IPv6 from 1280; 0: what the underlay leaves
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES", value_parser = mtu))]
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What becomes of broadcast, unknown unicast and multicast: none, head-end or "multicast GROUP"
    #[cfg_attr(feature = "cli", arg(long, value_name = "MODE"))]
    #[serde(default)]
    pub flood: Option<FloodMode>,
    /// Whether source MACs are learned from packets
    #[cfg_attr(feature = "cli", arg(long, value_name = "on|off", value_parser = on_or_off))]
    #[serde(default)]
    pub learning: Option<bool>,
    /// Whose address endpoints without a float have outside: none, host, or a pool's name
    #[cfg_attr(feature = "cli", arg(long, value_name = "none|host|POOL"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<SnatChoice>,
    /// Whether the network answers DHCP and advertises routers: see `dhcp set`
    #[cfg_attr(feature = "cli", arg(long, value_name = "on|off", value_parser = on_or_off))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<bool>,
    /// The limits that each of its endpoints has, unless it has its own; none: no limits
    #[cfg_attr(feature = "cli", arg(long, value_name = "QOS|none"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<OrNone<Name>>,
}

impl SetNetwork {
    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let others = self.flood.is_none() && self.learning.is_none() && self.snat.is_none();
        others && self.mtu.is_none() && self.dhcp.is_none() && self.qos.is_none()
    }
}

impl Operation for SetNetwork {
    type Answer = NetworkView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/networks/{name}";
    const VERB: &'static str = "network set";
}

/// Lists every network, in the order of their VNIs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListNetworks {}

impl Operation for ListNetworks {
    type Answer = Vec<NetworkView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/networks";
    const VERB: &'static str = "network ls";
}

/// Removes a network that has no endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveNetwork {
    /// Its name
    pub name: Name,
}

impl Operation for RemoveNetwork {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/networks/{name}";
    const VERB: &'static str = "network rm";
}

/// Whether a removal found something to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RemovedView {
    /// False: it was gone already.
    pub removed: bool,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkView {
    /// Its name, unique in the registry.
    pub name: Name,
    /// Its VNI, unique in the registry.
    pub vni: Vni,
    /// Where its addresses come from; empty: any address is allowed, none is handed out.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub subnets: Vec<IpNet>,
    /// The longest IP packet of an endpoint, bytes; 0: what the narrowest underlay of its hosts leaves.
    pub mtu: u32,
    /// What happens to broadcast, unknown unicast and multicast.
    pub flood: FloodMode,
    /// Whether source MACs are learned from packets.
    pub learning: bool,
    /// When hosts learn where its endpoints are.
    pub resolve: Resolve,
    /// Whose address endpoints without a float have outside.
    #[serde(default)]
    pub snat: SnatChoice,
    /// Whether it answers DHCP and advertises routers.
    #[serde(default)]
    pub dhcp: bool,
    /// The limits that each of its endpoints has, unless it has its own; `null`: none.
    #[serde(default)]
    pub qos: Option<Name>,
}

/// Subnets that no network may overlap, and what they are.
const SPECIAL: [(&str, &str); 6] = [
    ("0.0.0.0/8", "which means this host"),
    ("127.0.0.0/8", "which is loopback"),
    ("224.0.0.0/4", "which is multicast"),
    ("::/127", "which is unspecified and loopback"),
    ("::ffff:0:0/96", "which are IPv4 addresses"),
    ("ff00::/8", "which is multicast"),
];

/// The least MTU that each family asks for (RFC 791, RFC 8200), and what VXLAN leaves of the longest packet
/// of the underlay.
const MTU: [u32; 3] = [576, 1280, 65_535 - 50];

/// Refuses a network that can't work, whatever the registry holds.
///
/// The registry has its own rules beside these. Networks that earlier versions took are not held against it.
pub fn check_network(subnets: &[IpNet], mtu: u32) -> Result<(), OperationError> {
    let refused = |message: String| Err(OperationError::new(ErrorKind::Refused, message));
    for subnet in subnets {
        let overlaps = SPECIAL.iter().find(|(special, _)| {
            let special: Result<IpNet, _> = special.parse();
            special.is_ok_and(|special| special.contains(subnet) || subnet.contains(&special))
        });
        if let Some((special, meaning)) = overlaps {
            return refused(format!(
                "subnet {subnet} has addresses of {special}, {meaning}, that no interface can have: choose \
                 another, for example of 10.0.0.0/8 or fd00::/8"
            ));
        }
    }
    let [v4, v6, most] = MTU;
    let (least, family) = if subnets.iter().any(|net| net.addr().is_ipv6()) {
        (v6, " with IPv6")
    } else {
        (v4, "")
    };
    if mtu == 0 || (least..=most).contains(&mtu) {
        return Ok(());
    }
    refused(format!(
        "MTU {mtu} is out of range: a network{family} has {least} to {most}, or 0 for what the underlay leaves"
    ))
}

#[cfg(feature = "cli")]
fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

#[cfg(feature = "cli")]
fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        format!("subnet {text:?} is malformed: write for example 7.7.7.0/24 or fd00::/64")
    })
}

#[cfg(feature = "cli")]
fn mtu(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ (0 | 576..=65485)) => Ok(bytes),
        _ => Err(format!(
            "MTU {text:?} is not a number from 576 to 65485 (1280 with IPv6), or 0 for what the underlay leaves"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_modes_print_as_they_parse() {
        for text in [
            "none",
            "head-end",
            "multicast 239.1.1.1",
            "multicast ff05::42",
        ] {
            assert_eq!(text.parse::<FloodMode>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "all",
            "multicast",
            "multicast x",
            "multicast 10.0.0.1",
            "none 239.1.1.1",
        ] {
            assert!(text.parse::<FloodMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn resolve_modes_print_as_they_parse() {
        for text in ["proactive", "on-demand"] {
            assert_eq!(text.parse::<Resolve>().unwrap().to_string(), text);
        }
        for text in ["", "Proactive", "on_demand", "lazy"] {
            assert!(text.parse::<Resolve>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_that_cannot_work_are_refused() {
        let check = |subnets: &[&str], mtu| {
            let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
            let subnets: Vec<IpNet> = subnets;
            check_network(&subnets, mtu).map_err(|error| error.message)
        };
        for (subnets, mtu) in [
            (&[][..], 0),
            (&["7.7.7.0/24", "7.7.8.0/24", "fd00::/64"], 1280),
            (&["7.7.7.0/24"], 576),
            (&["10.0.0.0/8", "169.254.0.0/16", "fe80::/64"], 65_485),
            (&[], 65_485),
        ] {
            assert_eq!(check(subnets, mtu), Ok(()), "{subnets:?} {mtu}");
        }
        for (subnet, special) in [
            ("224.0.0.0/8", "224.0.0.0/4"),
            ("0.0.0.0/0", "0.0.0.0/8"),
            ("0.0.0.0/24", "0.0.0.0/8"),
            ("127.1.0.0/16", "127.0.0.0/8"),
            ("126.0.0.0/7", "127.0.0.0/8"),
            ("::/0", "::/127"),
            ("::/64", "::/127"),
            ("::ffff:7.7.7.0/120", "::ffff:0:0/96"),
            ("ff05::/64", "ff00::/8"),
        ] {
            let refusal = check(&[subnet], 0).unwrap_err();
            let begin = format!("subnet {subnet} has addresses of {special}, ");
            assert!(refusal.starts_with(&begin), "{refusal}");
        }
        for (subnets, mtu, range) in [
            (&["7.7.7.0/24", "fd00::/64"][..], 1279, "1280 to 65485"),
            (&["7.7.7.0/24"], 575, "576 to 65485"),
            (&[], 100, "576 to 65485"),
            (&[], 65_486, "576 to 65485"),
            (&["fd00::/64"], 65_535, "1280 to 65485"),
        ] {
            let refusal = check(subnets, mtu).unwrap_err();
            assert!(refusal.contains(range), "{refusal}");
        }
    }
}
