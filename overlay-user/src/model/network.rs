//! A network: one VNI, its subnets and how it treats what it doesn't know.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FloodMode, Name, Resolve, Vni};

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// See [`Network::mtu`].
    pub mtu: Option<u32>,
    /// See [`Network::flood`].
    pub flood: Option<FloodMode>,
    /// See [`Network::learning`].
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
