//! Floats, pools and blocks of ports: how endpoints have external addresses. Objects of the registry.
//!
//! What a row of the kernel's tables says stands in one object: blocks and external addresses repeat what they have from
//! their pool.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{Claim, Filter, Key, Kind, Name, ObjectId, Reference, Resource, Vni};

/// The space in which external addresses don't overlap.
const SPACE: &str = "outside";
/// The space of blocks.
const BLOCKS: &str = "block";
/// How long a block that is free again is kept from other endpoints, seconds: what is under way to its last one must not
/// reach another (RFC 6888 REQ-8).
pub const BLOCK_QUARANTINE_S: u32 = 120;
/// Least and most ports of a block.
pub const BLOCK_PORTS: [u16; 2] = [64, 1024];
/// The first port that is given out: those below are for services (RFC 4787 REQ-3).
pub const FIRST_PORT: u16 = 1024;
/// Most blocks of an endpoint.
pub const MOST_BLOCKS: u8 = 8;

/// An external address of one endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Float {
    /// The external address.
    pub ip: Ipv4Addr,
    /// The endpoint.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// Its address in the network.
    pub own: Ipv4Addr,
}

impl Resource for Float {
    const KIND: Kind = Kind::new("float");

    fn key(&self) -> Key {
        IpAddr::V4(self.ip).into()
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::Disjoint {
                space: Key::new(SPACE),
                prefix: Ipv4Net::from(self.ip).into(),
            },
            // Packets that leave have one source.
            Claim::Unique {
                space: Key::new("float-of"),
                value: Key::from(self.vni).join(&IpAddr::V4(self.own).into()),
                quarantine_s: 0,
            },
        ]
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference::cascade(ObjectId::of_endpoint(&self.endpoint))]
    }

    fn check(&self) -> Result<(), String> {
        check_external(self.ip)
    }
}

/// External addresses that endpoints share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name; unique.
    pub name: Name,
    /// Its addresses.
    pub ranges: Vec<Ipv4Net>,
    /// Ports of a block: a power of two, see [`BLOCK_PORTS`].
    pub block: u16,
    /// Most blocks of an endpoint.
    pub max_blocks: u8,
    /// Who outside may send to a mapping.
    pub filter: Filter,
    /// Endpoints send from the ports of their first block, where the agent made their namespaces.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ports_in_endpoint: bool,
}

impl Pool {
    /// How many blocks it has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        let of_an_address =
            (u64::from(u16::MAX) + 1 - u64::from(FIRST_PORT)) / u64::from(self.block);
        let addresses = self
            .ranges
            .iter()
            .map(|range| 1 << (32 - range.prefix_len()));
        of_an_address * addresses.sum::<u64>()
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.ranges.iter().flat_map(|range| {
            let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
            (first..=last).map(Ipv4Addr::from)
        })
    }
}

impl Resource for Pool {
    const KIND: Kind = Kind::new("pool");

    fn key(&self) -> Key {
        (&self.name).into()
    }

    fn claims(&self) -> Vec<Claim> {
        let ranges = self.ranges.iter();
        ranges
            .map(|range| Claim::Disjoint {
                space: Key::new(SPACE),
                prefix: IpNet::V4(range.trunc()),
            })
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.ranges.is_empty() {
            return Err("a pool has addresses".to_owned());
        }
        let [least, most] = BLOCK_PORTS;
        if !self.block.is_power_of_two() || !(least..=most).contains(&self.block) {
            return Err(format!(
                "{} is no length of a block: choose a power of two from {least} to {most}",
                self.block
            ));
        }
        if !(1..=MOST_BLOCKS).contains(&self.max_blocks) {
            return Err(format!(
                "an endpoint has 1 to {MOST_BLOCKS} blocks, not {}",
                self.max_blocks
            ));
        }
        let mut ranges = self.ranges.iter();
        ranges.try_for_each(|range| {
            check_external(range.network()).and_then(|()| check_external(range.broadcast()))
        })
    }
}

/// How the endpoints of a network share external addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snat {
    /// The network.
    pub vni: Vni,
    /// Whose addresses; `None`: each host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
}

impl Resource for Snat {
    const KIND: Kind = Kind::new("snat");

    fn key(&self) -> Key {
        self.vni.into()
    }

    fn references(&self) -> Vec<Reference> {
        let network = Reference::cascade(ObjectId::of_network(self.vni));
        let pool = self.pool.as_ref();
        let pool = pool.map(|pool| Reference::restrict(Pool::id(pool.into())));
        [Some(network), pool].into_iter().flatten().collect()
    }
}

/// An external address that endpoints of one node share. The node has it as long as it is alive in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedAddress {
    /// The address.
    pub ip: Ipv4Addr,
    /// The node.
    pub node: Name,
    /// The pool that it is of; `None`: it is the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Ports of a block.
    pub block: u16,
}

impl SharedAddress {
    /// The key of an address of a pool, or of a node's own.
    #[must_use]
    pub fn key_of(ip: Ipv4Addr, node: &Name, is_nodes_own: bool) -> Key {
        if is_nodes_own {
            Key::new("host").join(&node.into())
        } else {
            IpAddr::V4(ip).into()
        }
    }
}

impl Resource for SharedAddress {
    const KIND: Kind = Kind::new("shared-address");

    fn key(&self) -> Key {
        Self::key_of(self.ip, &self.node, self.pool.is_none())
    }

    fn references(&self) -> Vec<Reference> {
        let node = Reference::cascade(ObjectId::of_node(&self.node));
        let pool = self.pool.as_ref();
        let pool = pool.map(|pool| Reference::restrict(Pool::id(pool.into())));
        [Some(node), pool].into_iter().flatten().collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.block.is_power_of_two() {
            Ok(())
        } else {
            Err(format!("{} is no length of a block", self.block))
        }
    }
}

/// Ports of an external address that one endpoint has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The endpoint.
    pub endpoint: Name,
    /// Which of its blocks it is, from 0.
    pub index: u8,
    /// The endpoint's network.
    pub vni: Vni,
    /// The node that the endpoint was on when it got the block: it has the address.
    pub node: Name,
    /// The external address.
    pub ip: Ipv4Addr,
    /// The pool that it is of; `None`: it is the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Its first port, divided by how many it has.
    pub number: u16,
    /// How many ports it has.
    pub ports: u16,
    /// Who outside may send to a mapping.
    pub filter: Filter,
    /// The endpoint sends from these ports, where the agent made its namespace: of its first block.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ports_in_endpoint: bool,
}

impl Block {
    /// The key of an endpoint's block.
    #[must_use]
    pub fn key_of(endpoint: &Name, index: u8) -> Key {
        Key::from(endpoint).join(&u32::from(index).into())
    }

    /// Its ports.
    #[must_use]
    pub fn port_range(&self) -> std::ops::RangeInclusive<u16> {
        let first = self.number.saturating_mul(self.ports);
        first..=first.saturating_add(self.ports - 1)
    }
}

impl Resource for Block {
    const KIND: Kind = Kind::new("block");

    fn key(&self) -> Key {
        Self::key_of(&self.endpoint, self.index)
    }

    fn claims(&self) -> Vec<Claim> {
        let address = SharedAddress::key_of(self.ip, &self.node, self.pool.is_none());
        vec![Claim::Unique {
            space: Key::new(BLOCKS),
            value: address.join(&u32::from(self.number).into()),
            quarantine_s: BLOCK_QUARANTINE_S,
        }]
    }

    fn references(&self) -> Vec<Reference> {
        let address = SharedAddress::key_of(self.ip, &self.node, self.pool.is_none());
        vec![
            Reference::cascade(ObjectId::of_endpoint(&self.endpoint)),
            Reference::cascade(SharedAddress::id(address)),
        ]
    }

    fn check(&self) -> Result<(), String> {
        let [least, most] = BLOCK_PORTS;
        if !self.ports.is_power_of_two() || !(least..=most).contains(&self.ports) {
            return Err(format!("{} is no length of a block", self.ports));
        }
        if u32::from(self.number) * u32::from(self.ports) > u32::from(u16::MAX) {
            return Err(format!("there is no block {}", self.number));
        }
        if self.index >= MOST_BLOCKS {
            return Err(format!("an endpoint has no block {}", self.index));
        }
        Ok(())
    }
}

/// Refuses what is no address of a host outside.
fn check_external(ip: Ipv4Addr) -> Result<(), String> {
    if ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
    {
        return Err(format!("{ip} is no external address of a host"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float() -> Float {
        Float {
            ip: "203.0.113.5".parse().unwrap(),
            endpoint: "web".parse().unwrap(),
            vni: "42".parse().unwrap(),
            own: "7.7.7.2".parse().unwrap(),
        }
    }

    #[test]
    fn a_pool_has_blocks_from_port_1024_on_of_each_of_its_addresses() {
        let pool = |ranges: &[&str], block| Pool {
            name: "p".parse().unwrap(),
            ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
            block,
            max_blocks: 8,
            filter: Filter::Flow,
            ports_in_endpoint: false,
        };
        assert_eq!(pool(&["203.0.113.8/29"], 1024).blocks(), 8 * 63);
        assert_eq!(
            pool(&["203.0.113.1/32", "203.0.113.4/31"], 64).blocks(),
            3 * 1008
        );
    }

    fn block(number: u16, ports: u16) -> Block {
        Block {
            endpoint: "web".parse().unwrap(),
            index: 0,
            vni: "42".parse().unwrap(),
            node: "h1".parse().unwrap(),
            ip: "203.0.113.7".parse().unwrap(),
            pool: Some("p".parse().unwrap()),
            number,
            ports,
            filter: Filter::Flow,
            ports_in_endpoint: false,
        }
    }

    fn slots<R: Resource>(resource: &R) -> Vec<String> {
        let slot = |claim: &Claim| {
            let slot = claim.slot();
            format!("{} {}", slot.space, slot.value)
        };
        resource.claims().iter().map(slot).collect()
    }

    #[test]
    fn a_float_claims_its_address_outside_and_its_endpoints() {
        let object = float().to_object().unwrap();
        assert_eq!(object.id.to_word(), "float/203.0.113.5");
        assert_eq!(
            slots(&float()),
            [
                "disjoint/outside 203.0.113.5/32",
                "unique/float-of 42/7.7.7.2"
            ]
        );
        let lost = Float {
            ip: "127.0.0.1".parse().unwrap(),
            ..float()
        };
        assert!(lost.to_object().is_err());
    }

    #[test]
    fn a_block_claims_its_number_of_its_address() {
        assert_eq!(slots(&block(40, 1024)), ["unique/block 203.0.113.7/40"]);
        let own = Block {
            pool: None,
            ..block(40, 1024)
        };
        assert_eq!(slots(&own), ["unique/block host/h1/40"]);
        assert_eq!(block(40, 1024).port_range(), 40_960..=41_983);
        assert_eq!(block(63, 1024).port_range(), 64_512..=65_535);
        assert!(block(40, 1000).check().is_err());
        assert!(block(64, 1024).check().is_err());
    }

    #[test]
    fn a_pool_has_addresses_and_blocks_of_a_length_that_can_be() {
        let pool = |block, max_blocks, ranges: &[&str]| Pool {
            name: "p".parse().unwrap(),
            ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            block,
            max_blocks,
            filter: Filter::Flow,
            ports_in_endpoint: false,
        };
        let good = pool(1024, 8, &["203.0.113.0/31", "203.0.113.9/32"]);
        assert!(good.check().is_ok());
        let addresses: Vec<_> = good.addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(addresses, ["203.0.113.0", "203.0.113.1", "203.0.113.9"]);
        for bad in [
            pool(1000, 8, &["203.0.113.0/31"]),
            pool(32, 8, &["203.0.113.0/31"]),
            pool(1024, 0, &["203.0.113.0/31"]),
            pool(1024, 9, &["203.0.113.0/31"]),
            pool(1024, 8, &[]),
            pool(1024, 8, &["224.0.0.0/24"]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rfc6888_req8_a_block_rests_two_minutes_before_another_endpoint_has_it() {
        let claims = block(40, 1024).claims();
        let rests = |claim: &Claim| {
            matches!(
                claim,
                Claim::Unique {
                    quarantine_s: 120..,
                    ..
                }
            )
        };
        assert!(!claims.is_empty() && claims.iter().all(rests));
    }
}
