//! Routers, their ports in networks, and their routes: objects of the registry.
//!
//! A router's number and MAC stand in the ports and routes too. They stay the same as long as the router is there, and
//! so a row of the kernel's tables follows from one object.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{
    Claim, Key, Kind, Mac, Name, ObjectId, Outside, Reference, Resource, RouteKey, RouteTarget,
    Vni, ipam, is_assignable,
};

/// How long the number of a router that is gone is kept from others, seconds: hosts that lag behind have its rows.
const ID_QUARANTINE_S: u32 = 120;

/// Longest prefix that can be another one outside (RFC 6296 section 3.5).
const LONGEST_TRANSLATED: u8 = 64;

/// Joins networks. Their addresses don't overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Its name; unique.
    pub name: Name,
    /// Its number in the kernel's tables, from 1; unique.
    pub id: u32,
    /// The MAC of its gateways.
    pub mac: Mac,
    /// How it leads out of the overlay.
    #[serde(default, skip_serializing_if = "is_none")]
    pub outside: Outside,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_none(outside: &Outside) -> bool {
    *outside == Outside::None
}

impl Resource for Router {
    const KIND: Kind = Kind::new("router");

    fn key(&self) -> Key {
        (&self.name).into()
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Unique {
            space: Key::new("router-id"),
            value: self.id.into(),
            quarantine_s: ID_QUARANTINE_S,
        }]
    }

    fn check(&self) -> Result<(), String> {
        if self.id == 0 {
            return Err("router number 0 means none".to_owned());
        }
        if self.id >= RouteKey::INSIDE {
            return Err(format!("router number {} is too high", self.id));
        }
        Ok(())
    }
}

/// A network's gateway: its port on a router. A network has one at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPort {
    /// The network.
    pub vni: Vni,
    /// The router.
    pub router: Name,
    /// Its number.
    pub router_id: u32,
    /// Its MAC.
    pub mac: Mac,
    /// The gateway's addresses, with the lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// How the router leads out of the overlay: its networks' IPv6 prefixes are reached from there.
    #[serde(default, skip_serializing_if = "is_none")]
    pub outside: Outside,
    /// The prefix that its IPv6 subnet has outside, of the same length (RFC 6296).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nptv6: Option<Ipv6Net>,
}

impl RouterPort {
    /// The prefix of its subnet that is another one outside, and that one.
    #[must_use]
    pub fn translated(&self) -> Option<[Ipv6Net; 2]> {
        let outside = self.nptv6?;
        let mut subnets = self.prefixes();
        let inside = subnets.find_map(|prefix| match prefix {
            IpNet::V6(prefix) => Some(prefix),
            IpNet::V4(_) => None,
        });
        inside.map(|inside| [inside, outside])
    }

    fn check_translated(&self) -> Result<(), String> {
        let Some(outside) = self.nptv6 else {
            return Ok(());
        };
        let subnets = self.prefixes().filter(|prefix| prefix.addr().is_ipv6());
        let lengths: Vec<u8> = subnets.map(|prefix| prefix.prefix_len()).collect();
        let [length] = lengths[..] else {
            return Err(format!(
                "prefix {outside} takes the place of one IPv6 subnet, and there are {}",
                lengths.len()
            ));
        };
        if length != outside.prefix_len() || !(1..=LONGEST_TRANSLATED).contains(&length) {
            return Err(format!(
                "prefix {outside} is to have the subnet's length, {length}, which is 1 to {LONGEST_TRANSLATED}"
            ));
        }
        if outside.addr() != outside.network() {
            return Err(format!(
                "prefix {outside} is {}: write that",
                outside.trunc()
            ));
        }
        let is_fine =
            is_assignable(outside.network().into()) && !outside.network().is_unicast_link_local();
        if is_fine {
            Ok(())
        } else {
            Err(format!("prefix {outside} is none of hosts"))
        }
    }

    /// The subnets that it leads to.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().map(IpNet::trunc)
    }

    /// Whether an address is of one of its subnets.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.contains(&ip))
    }

    /// The gateway's first address of each family.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        let first = |is_ipv6| {
            let mut ips = self.addresses.iter().map(IpNet::addr);
            ips.find(|ip| ip.is_ipv6() == is_ipv6)
        };
        [first(false), first(true)].into_iter().flatten().collect()
    }
}

impl Resource for RouterPort {
    const KIND: Kind = Kind::new("router-port");

    fn key(&self) -> Key {
        self.vni.into()
    }

    fn claims(&self) -> Vec<Claim> {
        let vni = self.vni;
        let mut claims = vec![Claim::Mac { vni, mac: self.mac }];
        claims.extend(self.addresses.iter().map(|address| Claim::Ip {
            vni,
            ip: address.addr(),
        }));
        claims.extend(self.nptv6.map(|prefix| Claim::Disjoint {
            space: Key::new("outside"),
            prefix: prefix.into(),
        }));
        claims.extend(self.prefixes().map(|prefix| Claim::Disjoint {
            space: Key::new("router").join(&(&self.router).into()),
            prefix,
        }));
        claims
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::restrict(ObjectId::of_network(self.vni)),
            Reference::restrict(Router::id((&self.router).into())),
        ]
    }

    fn check(&self) -> Result<(), String> {
        if self.addresses.is_empty() {
            return Err("a gateway has an address".to_owned());
        }
        let bad = self.addresses.iter().find(|it| !is_assignable(it.addr()));
        match bad {
            Some(bad) => Err(format!("{bad} is no address of a host")),
            None => self.check_translated(),
        }
    }
}

/// A route of a router beside those to its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The router.
    pub router: Name,
    /// Its number.
    pub router_id: u32,
    /// Where to.
    pub prefix: IpNet,
    /// Which way.
    pub target: RouteTarget,
    /// The network that the next hop is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
}

impl Route {
    /// The key of a router's route to a prefix.
    #[must_use]
    pub fn key_of(router: &Name, prefix: IpNet) -> Key {
        Key::from(router).join(&prefix.trunc().into())
    }
}

impl Resource for Route {
    const KIND: Kind = Kind::new("route");

    fn key(&self) -> Key {
        Self::key_of(&self.router, self.prefix)
    }

    fn references(&self) -> Vec<Reference> {
        let router = Reference::cascade(Router::id((&self.router).into()));
        let port = self
            .vni
            .map(|vni| Reference::restrict(RouterPort::id(vni.into())));
        [Some(router), port].into_iter().flatten().collect()
    }

    fn check(&self) -> Result<(), String> {
        match (self.target, self.vni) {
            (RouteTarget::Via(hop), Some(_)) if hop.is_ipv4() == self.prefix.addr().is_ipv4() => {
                Ok(())
            }
            (RouteTarget::Via(hop), Some(_)) => Err(format!(
                "{hop} and {} are of different families",
                self.prefix
            )),
            (RouteTarget::Via(hop), None) => Err(format!("next hop {hop} is of no network")),
            (RouteTarget::Blackhole | RouteTarget::Outside, _) => Ok(()),
        }
    }
}

/// The gateway's address in a subnet unless another is chosen: the first, which no endpoint is handed out.
///
/// `None`: the subnet has one address, which is an endpoint's.
#[must_use]
pub fn gateway_of(subnet: &IpNet) -> Option<IpNet> {
    if subnet.prefix_len() == subnet.max_prefix_len() {
        return None;
    }
    IpNet::new(ipam::first_host(subnet), subnet.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(addresses: &[&str]) -> RouterPort {
        RouterPort {
            vni: "42".parse().unwrap(),
            router: "r1".parse().unwrap(),
            router_id: 7,
            mac: "02:00:5e:00:01:01".parse().unwrap(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            outside: Outside::None,
            nptv6: None,
        }
    }

    fn route(prefix: &str, target: &str, vni: Option<&str>) -> Route {
        Route {
            router: "r1".parse().unwrap(),
            router_id: 7,
            prefix: prefix.parse().unwrap(),
            target: target.parse().unwrap(),
            vni: vni.map(|vni| vni.parse().unwrap()),
        }
    }

    #[test]
    fn a_port_claims_its_addresses_in_the_network_and_its_subnets_at_the_router() {
        let object = port(&["7.7.7.1/24", "fd00::1/64"]).to_object().unwrap();
        assert_eq!(object.id.to_word(), "router-port/42");
        let slots: Vec<String> = object
            .claims
            .iter()
            .map(|claim| {
                let slot = claim.slot();
                format!("{} {} {}", slot.network(), slot.space, slot.value)
            })
            .collect();
        assert_eq!(
            slots,
            [
                "42 mac 02:00:5e:00:01:01",
                "42 ip 7.7.7.1",
                "42 ip fd00::1",
                "0 disjoint/router/r1 7.7.7.0/24",
                "0 disjoint/router/r1 fd00::/64",
            ]
        );
        assert_eq!(
            RouterPort::of(&object).unwrap(),
            port(&["7.7.7.1/24", "fd00::1/64"])
        );
    }

    #[test]
    fn a_gateway_is_a_host() {
        for bad in [&[][..], &["224.0.0.1/24"], &["7.7.7.1/24", "::1/64"]] {
            assert!(port(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_gateways_are_the_first_addresses_of_each_family() {
        let port = port(&["fd00::1/64", "7.7.7.1/24", "7.7.8.1/24"]);
        let gateways: Vec<String> = port.gateways().iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["7.7.7.1", "fd00::1"]);
    }

    #[test]
    fn a_route_goes_with_its_router_and_keeps_its_next_hops_network_attached() {
        let object = route("10.9.0.0/8", "via 7.7.7.9", Some("42"))
            .to_object()
            .unwrap();
        assert_eq!(object.id.to_word(), "route/r1/10.0.0.0/8");
        let targets: Vec<_> = object
            .references
            .iter()
            .map(|it| it.target.to_word())
            .collect();
        assert_eq!(targets, ["router/r1", "router-port/42"]);
        assert!(route("10.0.0.0/8", "blackhole", None).check().is_ok());
        assert!(route("10.0.0.0/8", "via 7.7.7.9", None).check().is_err());
        assert!(
            route("fd00::/8", "via 7.7.7.9", Some("42"))
                .check()
                .is_err()
        );
    }

    #[test]
    fn a_gateway_has_the_first_address_of_its_subnet() {
        for (subnet, gateway) in [
            ("7.7.7.0/24", Some("7.7.7.1/24")),
            ("fd00::/64", Some("fd00::1/64")),
            ("7.7.7.0/31", Some("7.7.7.0/31")),
            ("7.7.7.7/32", None),
        ] {
            let found = gateway_of(&subnet.parse().unwrap());
            assert_eq!(
                found.map(|it| it.to_string()).as_deref(),
                gateway,
                "{subnet}"
            );
        }
    }

    #[test]
    fn a_prefix_outside_takes_the_place_of_one_subnet_of_its_length() {
        let with = |addresses: &[&str], prefix: &str| RouterPort {
            nptv6: Some(prefix.parse().unwrap()),
            ..port(addresses)
        };
        let good = with(&["7.7.7.1/24", "fd00::1/64"], "2001:db8:1::/64");
        assert_eq!(good.check(), Ok(()));
        let expected = ["fd00::/64", "2001:db8:1::/64"].map(|it| it.parse().unwrap());
        assert_eq!(good.translated(), Some(expected));
        for (addresses, prefix) in [
            (&["7.7.7.1/24"][..], "2001:db8:1::/64"),
            (&["fd00::1/64", "fd01::1/64"], "2001:db8:1::/64"),
            (&["fd00::1/64"], "2001:db8:1::/48"),
            (&["fd00::1/96"], "2001:db8:1::/96"),
            (&["fd00::1/64"], "2001:db8:1::1/64"),
            (&["fd00::1/64"], "ff02::/64"),
            (&["fd00::1/64"], "fe80::/64"),
        ] {
            assert!(
                with(addresses, prefix).check().is_err(),
                "{addresses:?} {prefix}"
            );
        }
    }
}
