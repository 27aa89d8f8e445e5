//! A network: one VNI, its subnets and how it treats what it doesn't know.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Name, Vni};

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

/// What happens to broadcast, unknown unicast and multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

/// When a host learns where the endpoints of a network are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Resolve {
    /// At once, all of them: every host's maps hold the whole network.
    #[default]
    Proactive,
    /// When one of its endpoints asks: a host's maps are a cache of what it talks to.
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

/// One tenant network. Tenants may use the same addresses in different VNIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The identifier on the wire; unique.
    pub vni: Vni,
    /// The name for people; unique.
    pub name: Name,
    /// Where addresses come from. Empty: any address is allowed, none is handed out.
    pub subnets: Vec<IpNet>,
    /// Bytes of the endpoints' IP packets; 0: the underlay's MTU less the encapsulation.
    pub mtu: u32,
    /// What happens to BUM traffic.
    pub flood: FloodMode,
    /// Whether source MACs are learned from packets.
    pub learning: bool,
    /// When hosts learn where its endpoints are.
    #[serde(default)]
    pub resolve: Resolve,
}

/// What of a network may change while traffic runs. `None`: stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// See [`Network::mtu`].
    #[serde(default)]
    pub mtu: Option<u32>,
    /// See [`Network::flood`].
    #[serde(default)]
    pub flood: Option<FloodMode>,
    /// See [`Network::learning`].
    #[serde(default)]
    pub learning: Option<bool>,
}

impl Network {
    /// The network with these settings.
    #[must_use]
    pub fn with(self, settings: NetworkSettings) -> Self {
        Self {
            mtu: settings.mtu.unwrap_or(self.mtu),
            flood: settings.flood.unwrap_or(self.flood),
            learning: settings.learning.unwrap_or(self.learning),
            ..self
        }
    }

    /// A network with the defaults: no subnet, MTU from the underlay, no flooding, no learning,
    /// proactive.
    #[must_use]
    pub fn new(name: Name, vni: Vni) -> Self {
        Self {
            vni,
            name,
            subnets: Vec::new(),
            mtu: 0,
            flood: FloodMode::None,
            learning: false,
            resolve: Resolve::Proactive,
        }
    }

    /// The subnet that `ip` lies in.
    #[must_use]
    pub fn subnet_of(&self, ip: IpAddr) -> Option<IpNet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.contains(&ip))
            .copied()
    }

    /// The network with its subnets of one address family alone, once for each that it has, in the order
    /// of their first subnets.
    #[must_use]
    pub fn by_family(&self) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        for subnet in &self.subnets {
            let is_v6 = subnet.addr().is_ipv6();
            let known = families.iter_mut().find(|family| {
                let mut subnets = family.subnets.iter();
                subnets.any(|other| other.addr().is_ipv6() == is_v6)
            });
            match known {
                Some(family) => family.subnets.push(*subnet),
                None => families.push(Self {
                    subnets: vec![*subnet],
                    ..self.clone()
                }),
            }
        }
        families
    }

    /// Whether it has subnets of IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.subnets.iter().any(|net| net.addr().is_ipv6())
    }

    /// Whether an endpoint may have `ip`.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.subnets.is_empty() || self.subnet_of(ip).is_some()
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
    fn subnets_are_told_apart_by_their_family() {
        let mut network = Network::new("blue".parse().unwrap(), Vni::try_from(42).unwrap());
        assert!(network.by_family().is_empty());
        network.subnets = ["fd00::/64", "10.0.0.0/24", "fd01::/64"]
            .map(|net| net.parse().unwrap())
            .into();
        let families = network.by_family().into_iter();
        let subnets: Vec<_> = families.map(|family| family.subnets).collect();
        let expected = [
            vec!["fd00::/64".parse().unwrap(), "fd01::/64".parse().unwrap()],
            vec!["10.0.0.0/24".parse().unwrap()],
        ];
        assert_eq!(subnets, expected);
    }

    #[test]
    fn a_network_without_subnets_allows_every_address() {
        let mut network = Network::new("blue".parse().unwrap(), Vni::try_from(42).unwrap());
        assert!(network.allows("7.7.7.2".parse().unwrap()));
        network.subnets.push("10.0.0.0/8".parse().unwrap());
        assert!(!network.allows("7.7.7.2".parse().unwrap()));
        assert!(network.allows("10.7.7.2".parse().unwrap()));
    }
}
