//! Endpoints in little memory: one cache line each, found by name, by MAC and by address.
//!
//! Two endpoints may claim one MAC or address while the registry's state is only half known. Both
//! are held, and the newest has it; once one goes, the other has it again.

use std::{
    cmp::Reverse,
    hash::{BuildHasher as _, Hash},
    net::IpAddr,
};

use hashbrown::DefaultHashBuilder;
use ipnet::{IpNet, Ipv4Net};
use slab::Slab;

use super::{index::Index, nodes::NodeId};
use crate::model::{Mac, Name, Revision, Vni};

/// What every host keeps of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) addresses: Addresses,
    pub(super) generation: Revision,
    pub(super) vni: Vni,
    pub(super) node: NodeId,
    pub(super) mac: Mac,
    /// The last reading of the registry that it was in.
    pub(super) reading: u16,
}

/// An endpoint's addresses. Most have one IPv4 address: it takes no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Addresses {
    Ipv4(Ipv4Net),
    Others(Box<[IpNet]>),
}

impl From<Vec<IpNet>> for Addresses {
    fn from(addresses: Vec<IpNet>) -> Self {
        match addresses.as_slice() {
            [IpNet::V4(address)] => Self::Ipv4(*address),
            _ => Self::Others(addresses.into_boxed_slice()),
        }
    }
}

impl Addresses {
    fn get(&self, position: usize) -> Option<IpNet> {
        match self {
            Self::Ipv4(address) => (position == 0).then_some(IpNet::V4(*address)),
            Self::Others(addresses) => addresses.get(position).copied(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        (0..).map_while(|position| self.get(position))
    }
}

/// Which record claims which of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    record: u32,
    /// In the record's addresses.
    position: u16,
}

/// The records and the ways to them.
#[derive(Debug, Default)]
pub(super) struct Store {
    records: Slab<Record>,
    by_name: Index<u32>,
    by_mac: Index<u32>,
    by_ip: Index<Claim>,
    hasher: DefaultHashBuilder,
}

impl Store {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Record> {
        self.id(name).and_then(|id| self.record(id))
    }

    /// The newest endpoint that claims the MAC.
    pub(super) fn owner_of_mac(&self, vni: Vni, mac: Mac) -> Option<&Record> {
        let claimants = self.by_mac.with_hash(self.hash((vni, mac)));
        newest(
            claimants
                .filter_map(|&id| self.record(id))
                .filter(|record| (record.vni, record.mac) == (vni, mac)),
        )
    }

    /// The newest endpoint that claims the address.
    pub(super) fn owner_of_ip(&self, vni: Vni, ip: IpAddr) -> Option<&Record> {
        let claimants = self.by_ip.with_hash(self.hash((vni, ip)));
        newest(claimants.filter_map(|claim| {
            let record = self.record(claim.record)?;
            let address = record.addresses.get(usize::from(claim.position))?;
            (record.vni == vni && address.addr() == ip).then_some(record)
        }))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(|(_, record)| record)
    }

    /// Up to `limit` places from `*position` on, which it moves on; `None` once all were seen.
    /// Unlike [`Self::iter`] it bears changes between two calls.
    pub(super) fn walk(&self, position: &mut usize, limit: usize) -> Option<Vec<&Record>> {
        let end = self.records.capacity();
        if *position >= end {
            return None;
        }
        let range = *position..end.min(*position + limit);
        *position = range.end;
        Some(range.filter_map(|id| self.records.get(id)).collect())
    }

    /// Notes which reading has the endpoint as it is here.
    pub(super) fn mark(&mut self, name: &Name, reading: u16) {
        if let Some(record) = self
            .id(name)
            .and_then(|id| self.records.get_mut(id as usize))
        {
            record.reading = reading;
        }
    }

    /// Takes a record in and gives the one that had its name.
    pub(super) fn insert(&mut self, record: Record) -> Option<Record> {
        let previous = self.remove(&record.name);
        let entry = self.records.vacant_entry();
        // 2^32 records are 256 GiB: the slab ends before the numbers do.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let id = entry.key() as u32;
        entry.insert(record);
        let Self {
            records,
            by_name,
            by_mac,
            by_ip,
            hasher,
        } = self;
        let Some(record) = records.get(id as usize) else {
            return previous;
        };
        let name_hash = |id: &u32| {
            records
                .get(*id as usize)
                .map_or(0, |record| hasher.hash_one(&record.name))
        };
        by_name.insert(hasher.hash_one(&record.name), id, name_hash);
        let mac_hash = |id: &u32| {
            records
                .get(*id as usize)
                .map_or(0, |record| hasher.hash_one((record.vni, record.mac)))
        };
        by_mac.insert(hasher.hash_one((record.vni, record.mac)), id, mac_hash);
        let ip_hash = |claim: &Claim| {
            records.get(claim.record as usize).map_or(0, |record| {
                let address = record.addresses.get(usize::from(claim.position));
                address.map_or(0, |address| hasher.hash_one((record.vni, address.addr())))
            })
        };
        for (position, address) in (0..=u16::MAX).zip(record.addresses.iter()) {
            let claim = Claim {
                record: id,
                position,
            };
            let hash = hasher.hash_one((record.vni, address.addr()));
            by_ip.insert(hash, claim, ip_hash);
        }
        previous
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<Record> {
        let id = self.id(name)?;
        let record = self.records.try_remove(id as usize)?;
        let hash = self.hash(name);
        self.by_name.remove(hash, |known| *known == id);
        let hash = self.hash((record.vni, record.mac));
        self.by_mac.remove(hash, |known| *known == id);
        for address in record.addresses.iter() {
            let hash = self.hash((record.vni, address.addr()));
            self.by_ip.remove(hash, |claim| claim.record == id);
        }
        Some(record)
    }

    fn id(&self, name: &Name) -> Option<u32> {
        let is_named = |id: &u32| self.record(*id).is_some_and(|record| record.name == *name);
        let mut named = self.by_name.with_hash(self.hash(name)).copied();
        named.find(is_named)
    }

    fn record(&self, id: u32) -> Option<&Record> {
        self.records.get(id as usize)
    }

    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// The one with the highest generation. Every host chooses the same one of those that are equal.
fn newest<'a>(claimants: impl Iterator<Item = &'a Record>) -> Option<&'a Record> {
    claimants.max_by_key(|record| (record.generation, Reverse(&record.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni() -> Vni {
        Vni::try_from(42).unwrap()
    }

    fn record(name: &str, generation: Revision, addresses: &[&str]) -> Record {
        let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Record {
            name: name.parse().unwrap(),
            addresses: addresses.into(),
            generation,
            vni: vni(),
            node: NodeId::default(),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            reading: 0,
        }
    }

    fn owner(store: &Store, ip: &str) -> Option<String> {
        let owner = store.owner_of_ip(vni(), ip.parse().unwrap());
        owner.map(|record| record.name.to_string())
    }

    #[test]
    fn a_record_takes_one_cache_line() {
        // The slab adds nothing to it.
        assert_eq!(size_of::<Option<Record>>(), 64);
    }

    #[test]
    fn each_of_many_addresses_leads_to_its_record_until_that_goes() {
        let mut store = Store::default();
        let addresses = ["7.7.7.2/24", "7.7.8.2/24", "fd00::2/64"];
        store.insert(record("a", 1, &addresses));
        for ip in ["7.7.7.2", "7.7.8.2", "fd00::2"] {
            assert_eq!(owner(&store, ip).as_deref(), Some("a"));
        }
        store.insert(record("a", 2, &["7.7.9.2/24"]));
        assert_eq!(owner(&store, "7.7.7.2"), None);
        assert_eq!(owner(&store, "7.7.9.2").as_deref(), Some("a"));
        store.remove(&"a".parse().unwrap());
        assert_eq!(owner(&store, "7.7.9.2"), None);
        assert_eq!(
            (store.by_ip.len(), store.by_mac.len(), store.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn the_newest_claimant_has_an_address_and_gives_it_back_when_it_goes() {
        let mut store = Store::default();
        store.insert(record("new", 9, &["7.7.7.2/24"]));
        store.insert(record("old", 5, &["7.7.7.2/24"]));
        assert_eq!(owner(&store, "7.7.7.2").as_deref(), Some("new"));
        store.remove(&"new".parse().unwrap());
        assert_eq!(owner(&store, "7.7.7.2").as_deref(), Some("old"));
        let mac = "02:42:07:07:07:02".parse().unwrap();
        assert_eq!(store.owner_of_mac(vni(), mac).unwrap().generation, 5);
    }

    #[test]
    fn records_are_found_while_the_tables_grow_and_ids_are_used_again() {
        let mut store = Store::default();
        let name = |number: u32| format!("endpoint-{number}");
        let ip = |number: u32| format!("10.0.{}.{}/16", number / 256, number % 256);
        for number in 0..5000 {
            store.insert(record(&name(number), u64::from(number), &[&ip(number)]));
        }
        for number in (0..5000).step_by(2) {
            assert!(store.remove(&name(number).parse().unwrap()).is_some());
        }
        for number in (0..5000).step_by(4) {
            store.insert(record(&name(number), 1, &[&ip(number)]));
        }
        for number in 0..5000 {
            let known = store.get(&name(number).parse().unwrap());
            assert_eq!(
                known.is_some(),
                number % 2 == 1 || number % 4 == 0,
                "{number}"
            );
        }
    }
}
