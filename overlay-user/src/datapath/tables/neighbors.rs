//! The neighbour table as the map `neighbors` holds it.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::{
    datapath::DatapathSettings,
    model::{Mac, NeighborKey, NeighborRow, Revision, Vni},
};

impl Encode for NeighborRow {
    type AbiKey = abi::NeighborKey;
    type AbiValue = abi::NeighborEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::NEIGHBORS;
    const CAPACITY_OPTION: &str = "--neighbor-entries";

    fn capacity(settings: &DatapathSettings) -> Option<u32> {
        Some(settings.neighbor_entries)
    }

    fn encode_key(key: &NeighborKey, _: &Numbering) -> abi::NeighborKey {
        match key.ip {
            IpAddr::V4(ip) => abi::NeighborKey::ipv4(key.vni.get(), ip.octets()),
            IpAddr::V6(ip) => abi::NeighborKey::ipv6(key.vni.get(), ip.octets()),
        }
    }

    fn encode(_: &NeighborKey, row: &Self, _: &Numbering) -> abi::NeighborEntry {
        abi::NeighborEntry::new(row.generation, row.mac.octets())
    }

    fn decode(
        key: &abi::NeighborKey,
        value: &abi::NeighborEntry,
        _: &Numbering,
    ) -> Option<(NeighborKey, Self)> {
        let ip = Ipv6Addr::from(key.ip).to_canonical();
        let key = NeighborKey {
            vni: Vni::try_from(key.vni).ok()?,
            ip,
        };
        Some((
            key,
            Self {
                mac: Mac::try_from(value.mac).ok()?,
                generation: value.generation,
            },
        ))
    }

    fn abi_generation(value: &abi::NeighborEntry) -> Option<Revision> {
        Some(value.generation)
    }
}
