//! The blocks table as the map `blocks` holds it.

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{BlockKey, BlockRow, Vni};

impl Encode for BlockRow {
    type AbiKey = abi::BlockKey;
    type AbiValue = abi::BlockEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::BLOCKS;

    fn encode_key(key: &BlockKey, _: &Numbering) -> abi::BlockKey {
        abi::BlockKey {
            ip: key.ip.octets(),
            number: key.number,
            reserved: 0,
        }
    }

    fn encode(key: &BlockKey, row: &Self, numbering: &Numbering) -> abi::BlockEntry {
        abi::BlockEntry {
            slot: numbering.blocks.of(key).map_or(0, u32::from),
            ifindex: row.ifindex,
            vni: row.vni.get(),
            ports: row.ports,
            index: row.index,
            flags: if row.is_open {
                abi::BlockEntry::OPEN
            } else {
                0
            },
        }
    }

    fn decode(
        key: &abi::BlockKey,
        value: &abi::BlockEntry,
        _: &Numbering,
    ) -> Option<(BlockKey, Self)> {
        let key = BlockKey {
            ip: key.ip.into(),
            number: key.number,
        };
        let row = Self {
            ifindex: value.ifindex,
            vni: Vni::try_from(value.vni).ok()?,
            ports: value.ports,
            index: value.index,
            is_open: value.flags & abi::BlockEntry::OPEN != 0,
        };
        Some((key, row))
    }
}
