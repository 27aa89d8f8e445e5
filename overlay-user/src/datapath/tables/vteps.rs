//! The VTEPs table as the map `vteps` holds it. `paths` has the same by slot.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{VtepAddr, VtepPath, VtepRow};

impl Encode for VtepRow {
    type AbiKey = abi::VtepKey;
    type AbiValue = abi::VtepEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::VTEPS;

    fn encode_key(ip: &VtepAddr, _: &Numbering) -> abi::VtepKey {
        abi::VtepKey { ip: ip.octets() }
    }

    fn encode(ip: &VtepAddr, row: &Self, numbering: &Numbering) -> abi::VtepEntry {
        let VtepPath { next_hop, mtu } = row.path;
        abi::VtepEntry {
            id: numbering.vteps.of(ip).into(),
            port: row.port.to_be_bytes(),
            mtu: mtu.unwrap_or_default(),
            flags: 0,
            next_hop: next_hop.map_or([0; 16], |ip| VtepAddr::from(ip).octets()),
        }
    }

    fn decode(
        key: &abi::VtepKey,
        value: &abi::VtepEntry,
        _: &Numbering,
    ) -> Option<(VtepAddr, Self)> {
        let next_hop: IpAddr = Ipv6Addr::from(value.next_hop).to_canonical();
        Some((
            VtepAddr::from(key.ip),
            Self {
                port: u16::from_be_bytes(value.port),
                path: VtepPath {
                    next_hop: Some(next_hop).filter(|ip| !ip.is_unspecified()),
                    mtu: Some(value.mtu).filter(|mtu| *mtu != 0),
                },
            },
        ))
    }
}
