//! Chooses blocks of ports for endpoints: which of an address, and of which address.
//!
//! An address of a pool is one host's: it answers for it. So a host that needs a block takes one of an address that it
//! has, and another address only where these are full (RFC 4787 REQ-2: an endpoint's further blocks are of its first
//! one's address if that has any left).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use crate::{
    model::{
        Block, BlockKey, Change, FIRST_PORT, Filter, Key, MOST_BLOCKS, Name, Object,
        OutsideHistory, Owner, Pool, Resource as _, SharedAddress, Snat, Vni,
    },
    reconcile::{View, mirror::Mirror},
};

/// Ports of a block of a host's own address.
pub(super) const HOST_BLOCK: u16 = 256;

/// What of the registry says who has which ports.
#[derive(Debug, Default)]
pub(in crate::agent) struct Known {
    pools: BTreeMap<Name, Pool>,
    snats: BTreeMap<Vni, Snat>,
    addresses: Vec<SharedAddress>,
    /// By endpoint and index.
    blocks: BTreeMap<(Name, u8), Block>,
    histories: BTreeMap<Key, Object>,
}

/// What this host adds to it.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Host {
    /// This node.
    pub node: Name,
    /// The uplink's own address; `None`: it has none.
    pub address: Option<Ipv4Addr>,
    /// The ports of it that are the overlay's.
    pub ports: RangeInclusive<u16>,
}

/// What an endpoint's network has its endpoints share.
struct Offer<'a> {
    pool: Option<&'a Pool>,
    block: u16,
    max_blocks: u8,
    filter: Filter,
    ports_in_endpoint: bool,
    /// The numbers of blocks of one address.
    numbers: RangeInclusive<u16>,
}

/// Why an endpoint gets no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum NoBlock {
    /// It needs none.
    NotWanted,
    /// It has as many as it may have.
    HasAll,
    /// All are taken.
    Exhausted,
    /// The uplink has no address whose ports could be shared.
    NoAddress,
}

impl Known {
    pub(in crate::agent) fn of(mirror: &Mirror) -> Self {
        let mut known = Self::default();
        for object in mirror.objects() {
            if let Some(pool) = Pool::known(object) {
                known.pools.insert(pool.name.clone(), pool);
            } else if let Some(snat) = Snat::known(object) {
                known.snats.insert(snat.vni, snat);
            } else if let Some(address) = SharedAddress::known(object) {
                known.addresses.push(address);
            } else if let Some(block) = Block::known(object) {
                known
                    .blocks
                    .insert((block.endpoint.clone(), block.index), block);
            } else if object.id.kind == OutsideHistory::KIND {
                known
                    .histories
                    .insert(object.id.key.clone(), object.clone());
            }
        }
        known
    }

    /// The change that says that nobody has a block any more. `None`: nothing is known of who had.
    pub(super) fn end(&self, block: &Block) -> Option<Change> {
        let of = OutsideHistory::key_of_block(block);
        let there = self.histories.get(&of);
        let ended = OutsideHistory::ended(&of, there)?;
        ended.ok().map(Change::PutObject)
    }

    /// The blocks of a node's endpoints.
    pub(super) fn blocks_on(&self, node: &Name) -> impl Iterator<Item = &Block> {
        self.blocks
            .values()
            .filter(move |block| block.node == *node)
    }

    /// Whether there is nothing to share, and nobody has a part of it.
    pub(super) fn is_empty(&self) -> bool {
        self.snats.is_empty() && self.blocks.is_empty() && self.addresses.is_empty()
    }

    /// Whether endpoints of a network share their hosts' own addresses.
    pub(super) fn shares_host(&self, vni: Vni) -> bool {
        self.snats.get(&vni).is_some_and(|snat| snat.pool.is_none())
    }

    /// The blocks of an endpoint by their indexes.
    pub(super) fn blocks_of(&self, endpoint: &Name) -> impl Iterator<Item = &Block> {
        (0..MOST_BLOCKS).filter_map(|index| self.blocks.get(&(endpoint.clone(), index)))
    }

    /// The addresses of a node of which nobody has a block.
    pub(super) fn idle_addresses(&self, node: &Name) -> impl Iterator<Item = &SharedAddress> {
        let ours = self.addresses.iter().filter(|it| it.node == *node);
        ours.filter(|it| {
            let mut blocks = self.blocks.values();
            !blocks.any(|block| block.ip == it.ip && block.pool == it.pool && block.node == it.node)
        })
    }

    fn offer(&self, vni: Vni, host: &Host) -> Option<Offer<'_>> {
        let snat = self.snats.get(&vni)?;
        let Some(name) = &snat.pool else {
            let first = host.ports.start().div_ceil(HOST_BLOCK);
            let last = host.ports.end() / HOST_BLOCK;
            return Some(Offer {
                pool: None,
                block: HOST_BLOCK,
                max_blocks: MOST_BLOCKS,
                filter: Filter::Flow,
                ports_in_endpoint: false,
                numbers: first..=last,
            });
        };
        let pool = self.pools.get(name)?;
        Some(Offer {
            pool: Some(pool),
            block: pool.block,
            max_blocks: pool.max_blocks,
            filter: pool.filter,
            ports_in_endpoint: pool.ports_in_endpoint,
            numbers: FIRST_PORT / pool.block..=u16::MAX / pool.block,
        })
    }

    /// Whether a block is what the endpoint's network offers on this host.
    pub(super) fn is_wanted(&self, block: &Block, vni: Vni, host: &Host) -> bool {
        let Some(offer) = self.offer(vni, host) else {
            return false;
        };
        let is_address = match offer.pool {
            Some(pool) => pool.ranges.iter().any(|range| range.contains(&block.ip)),
            None => host.address == Some(block.ip),
        };
        block.node == host.node
            && block.vni == vni
            && block.pool.as_ref() == offer.pool.map(|pool| &pool.name)
            && block.ports == offer.block
            && block.index < offer.max_blocks
            && is_address
    }

    /// The changes that give an endpoint its next block, which none of `refused` is.
    pub(in crate::agent) fn claim(
        &self,
        endpoint: &Name,
        vni: Vni,
        host: &Host,
        refused: &BTreeSet<BlockKey>,
    ) -> Result<(Block, Vec<Change>), NoBlock> {
        let offer = self.offer(vni, host).ok_or(NoBlock::NotWanted)?;
        let index = (0..offer.max_blocks)
            .find(|index| !self.blocks.contains_key(&(endpoint.clone(), *index)))
            .ok_or(NoBlock::HasAll)?;
        let own = self.blocks_of(endpoint).map(|block| block.ip).next();
        let (address, is_new) = self.address(&offer, host, own, refused)?;
        let number = self
            .free_number(&offer, host, address.ip, refused)
            .ok_or(NoBlock::Exhausted)?;
        let block = Block {
            endpoint: endpoint.clone(),
            index,
            vni,
            node: host.node.clone(),
            ip: address.ip,
            pool: address.pool.clone(),
            number,
            ports: offer.block,
            filter: offer.filter,
            ports_in_endpoint: offer.ports_in_endpoint && index == 0,
        };
        let of = OutsideHistory::key_of_block(&block);
        let there = self.histories.get(&of);
        let objects = [
            is_new.then(|| address.to_object()),
            Some(block.to_object()),
            Some(OutsideHistory::begun(&of, Owner::from(&block), there)),
        ];
        let changes = objects
            .into_iter()
            .flatten()
            .map(|object| object.map(Change::PutObject))
            .collect::<Result<_, _>>();
        // None of them is what no object may be: they were chosen so.
        let changes = changes.map_err(|_| NoBlock::Exhausted)?;
        Ok((block, changes))
    }

    /// An address with a block left: the endpoint's own first, then this host's, then a new one.
    fn address(
        &self,
        offer: &Offer<'_>,
        host: &Host,
        own: Option<Ipv4Addr>,
        refused: &BTreeSet<BlockKey>,
    ) -> Result<(SharedAddress, bool), NoBlock> {
        let name = offer.pool.map(|pool| &pool.name);
        let ours = self.addresses.iter().filter(|it| {
            it.node == host.node && it.pool.as_ref() == name && it.block == offer.block
        });
        let mut ours: Vec<&SharedAddress> = ours.collect();
        if offer.pool.is_none() {
            let ip = host.address.ok_or(NoBlock::NoAddress)?;
            ours.retain(|it| it.ip == ip);
            if ours.is_empty() {
                return Ok((shared(ip, host, offer), true));
            }
        }
        ours.sort_by_key(|it| (own != Some(it.ip), it.ip));
        let mut free = ours
            .into_iter()
            .filter(|it| self.free_number(offer, host, it.ip, refused).is_some());
        if let Some(address) = free.next() {
            return Ok((address.clone(), false));
        }
        let pool = offer.pool.ok_or(NoBlock::Exhausted)?;
        let taken: BTreeSet<Ipv4Addr> = self.addresses.iter().map(|it| it.ip).collect();
        let mut addresses = pool.addresses().filter(|ip| !taken.contains(ip));
        let ip = addresses
            .find(|ip| self.free_number(offer, host, *ip, refused).is_some())
            .ok_or(NoBlock::Exhausted)?;
        Ok((shared(ip, host, offer), true))
    }

    /// The first block of an address that nobody has.
    fn free_number(
        &self,
        offer: &Offer<'_>,
        host: &Host,
        ip: Ipv4Addr,
        refused: &BTreeSet<BlockKey>,
    ) -> Option<u16> {
        let name = offer.pool.map(|pool| &pool.name);
        let taken: BTreeSet<u16> = self
            .blocks
            .values()
            .filter(|block| block.ip == ip && block.pool.as_ref() == name)
            .filter(|block| block.pool.is_some() || block.node == host.node)
            .map(|block| block.number)
            .collect();
        let mut numbers = offer.numbers.clone();
        numbers.find(|number| {
            let key = BlockKey {
                ip,
                number: *number,
            };
            !taken.contains(number) && !refused.contains(&key)
        })
    }
}

fn shared(ip: Ipv4Addr, host: &Host, offer: &Offer<'_>) -> SharedAddress {
    SharedAddress {
        ip,
        node: host.node.clone(),
        pool: offer.pool.map(|pool| pool.name.clone()),
        block: offer.block,
    }
}

/// The endpoints of this host that are ready, with their networks.
pub(super) fn endpoints(view: &View) -> impl Iterator<Item = (&Name, u32, Vni)> {
    view.ready().filter_map(|(name, ifindex)| {
        let known = view.mirror.endpoint(name)?;
        let has_ipv4 = known.ips().any(|ip| ip.is_ipv4());
        has_ipv4.then(|| (name, ifindex, known.vni()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(node: &str) -> Host {
        Host {
            node: node.parse().unwrap(),
            address: Some("10.0.0.1".parse().unwrap()),
            ports: 49_152..=65_535,
        }
    }

    fn vni() -> Vni {
        "42".parse().unwrap()
    }

    fn with_pool(range: &str, block: u16, max_blocks: u8) -> Known {
        let name: Name = "p".parse().unwrap();
        let pool = Pool {
            name: name.clone(),
            ranges: vec![range.parse().unwrap()],
            block,
            max_blocks,
            filter: Filter::Flow,
            ports_in_endpoint: false,
        };
        let snat = Snat {
            vni: vni(),
            pool: Some(name.clone()),
        };
        Known {
            pools: BTreeMap::from([(name, pool)]),
            snats: BTreeMap::from([(vni(), snat)]),
            ..Known::default()
        }
    }

    impl Known {
        /// Claims as a host would, and takes in what came of it.
        fn claimed(&mut self, endpoint: &str, host: &Host) -> Result<(String, u16, u8), NoBlock> {
            let name: Name = endpoint.parse().unwrap();
            let (block, changes) = self.claim(&name, vni(), host, &BTreeSet::new())?;
            for change in changes {
                let Change::PutObject(object) = change else {
                    panic!("{change:?}");
                };
                self.addresses.extend(SharedAddress::known(&object));
            }
            let told = (block.ip.to_string(), block.number, block.index);
            self.blocks.insert((name, block.index), block);
            Ok(told)
        }
    }

    #[test]
    fn endpoints_of_a_host_share_an_address_and_hosts_do_not() {
        let mut known = with_pool("203.0.113.0/31", 1024, 8);
        let (h1, h2, h3) = (host("h1"), host("h2"), host("h3"));
        let first = "203.0.113.0".to_owned();
        assert_eq!(known.claimed("a", &h1), Ok((first.clone(), 1, 0)));
        assert_eq!(known.claimed("b", &h1), Ok((first, 2, 0)));
        let second = "203.0.113.1".to_owned();
        assert_eq!(known.claimed("c", &h2), Ok((second, 1, 0)));
        assert_eq!(known.claimed("d", &h3), Err(NoBlock::Exhausted));
    }

    #[test]
    fn rfc4787_req2_an_endpoints_further_blocks_are_of_its_first_ones_address() {
        let mut known = with_pool("203.0.113.0/30", 1024, 3);
        let h1 = host("h1");
        for _ in 0..63 {
            let name = format!("e{}", known.blocks.len());
            known.claimed(&name, &h1).unwrap();
        }
        // The first address is full.
        let second = "203.0.113.1".to_owned();
        assert_eq!(known.claimed("web", &h1), Ok((second.clone(), 1, 0)));
        let released: Name = "e5".parse().unwrap();
        known.blocks.remove(&(released, 0));
        assert_eq!(known.claimed("web", &h1), Ok((second.clone(), 2, 1)));
        assert_eq!(known.claimed("web", &h1), Ok((second, 3, 2)));
        assert_eq!(known.claimed("web", &h1), Err(NoBlock::HasAll));
    }

    #[test]
    fn hosts_share_their_own_addresses_in_a_range_of_ports() {
        let mut known = Known::default();
        let snat = Snat {
            vni: vni(),
            pool: None,
        };
        known.snats.insert(vni(), snat);
        let h1 = host("h1");
        let own = "10.0.0.1".to_owned();
        assert_eq!(known.claimed("a", &h1), Ok((own, 192, 0)));
        assert_eq!(known.claimed("b", &host("h2")).unwrap().1, 192);
        let nowhere = Host {
            address: None,
            ..host("h3")
        };
        assert_eq!(known.claimed("c", &nowhere), Err(NoBlock::NoAddress));
        let other: Vni = "43".parse().unwrap();
        let name: Name = "a".parse().unwrap();
        let claim = known.claim(&name, other, &h1, &BTreeSet::new());
        assert_eq!(claim.map(drop), Err(NoBlock::NotWanted));
    }

    #[test]
    fn a_block_that_somebody_was_faster_with_is_not_tried_again() {
        let known = with_pool("203.0.113.0/32", 1024, 8);
        let refused = BTreeSet::from([BlockKey {
            ip: "203.0.113.0".parse().unwrap(),
            number: 1,
        }]);
        let name: Name = "a".parse().unwrap();
        let (block, _) = known.claim(&name, vni(), &host("h1"), &refused).unwrap();
        assert_eq!(block.number, 2);
    }
}
