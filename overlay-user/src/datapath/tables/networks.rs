//! The networks table as the map `networks` holds it.

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{NetworkRow, Vni};

impl Encode for NetworkRow {
    type AbiKey = u32;
    type AbiValue = abi::NetworkEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::NETWORKS;

    fn encode_key(vni: &Vni, _: &Numbering) -> u32 {
        vni.get()
    }

    fn encode(vni: &Vni, row: &Self, numbering: &Numbering) -> abi::NetworkEntry {
        abi::NetworkEntry {
            mtu: row.mtu,
            flags: if row.on_demand {
                abi::NetworkEntry::ON_DEMAND
            } else {
                0
            },
            slot: numbering.slots.of(*vni),
            router: 0,
            reserved: [0; 4],
        }
    }

    fn decode(key: &u32, value: &abi::NetworkEntry, _: &Numbering) -> Option<(Vni, Self)> {
        let row = Self {
            mtu: value.mtu,
            on_demand: value.flags & abi::NetworkEntry::ON_DEMAND != 0,
        };
        Some((Vni::try_from(*key).ok()?, row))
    }
}
