//! The outside table as the map `outside` holds it.

use std::net::Ipv4Addr;

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{OutsideRow, Vni};

impl Encode for OutsideRow {
    type AbiKey = abi::OutsideKey;
    type AbiValue = abi::OutsideEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::OUTSIDE;

    fn encode_key(ip: &Ipv4Addr, _: &Numbering) -> abi::OutsideKey {
        abi::OutsideKey { ip: ip.octets() }
    }

    fn encode(_: &Ipv4Addr, row: &Self, _: &Numbering) -> abi::OutsideEntry {
        let shared = |kind, block: u16| abi::OutsideEntry {
            vni: 0,
            ip: [0; 4],
            kind,
            // At most 16.
            block_bits: block.trailing_zeros().try_into().unwrap_or(0),
            reserved: 0,
        };
        match *row {
            Self::Float { vni, own } => abi::OutsideEntry {
                vni: vni.get(),
                ip: own.octets(),
                kind: abi::OutsideEntry::FLOAT,
                block_bits: 0,
                reserved: 0,
            },
            Self::Shared { block } => shared(abi::OutsideEntry::SHARED, block),
            Self::Host { block } => shared(abi::OutsideEntry::HOST, block),
        }
    }

    fn decode(
        key: &abi::OutsideKey,
        value: &abi::OutsideEntry,
        _: &Numbering,
    ) -> Option<(Ipv4Addr, Self)> {
        let block = 1u16.checked_shl(value.block_bits.into())?;
        let row = match value.kind {
            abi::OutsideEntry::FLOAT => Self::Float {
                vni: Vni::try_from(value.vni).ok()?,
                own: value.ip.into(),
            },
            abi::OutsideEntry::SHARED => Self::Shared { block },
            abi::OutsideEntry::HOST => Self::Host { block },
            _ => return None,
        };
        Some((key.ip.into(), row))
    }
}
