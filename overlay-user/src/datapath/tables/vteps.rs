//! The VTEPs table as the map `vteps` holds it.

use std::net::Ipv4Addr;

use overlay_ebpf::abi::{self, map};

use super::{Encode, EncodeContext};
use crate::model::{VtepPath, VtepRow};

impl Encode for VtepRow {
    type AbiKey = abi::VtepKey;
    type AbiValue = abi::VtepEntry;

    const MAP: &str = map::VTEPS;

    fn encode_key(ip: &Ipv4Addr) -> abi::VtepKey {
        abi::VtepKey { ip: ip.octets() }
    }

    fn encode(_: &Ipv4Addr, row: &Self, _: &EncodeContext<'_>) -> abi::VtepEntry {
        let VtepPath { next_hop, mtu } = row.path;
        let next_hop = next_hop.map_or([0; 4], |ip| ip.octets());
        abi::VtepEntry {
            mtu: mtu.unwrap_or_default(),
            ..abi::VtepEntry::new(row.port, next_hop)
        }
    }

    fn decode(key: &abi::VtepKey, value: &abi::VtepEntry) -> Option<(Ipv4Addr, Self)> {
        Some((
            Ipv4Addr::from(key.ip),
            Self {
                port: u16::from_be_bytes(value.port),
                path: VtepPath {
                    next_hop: Some(Ipv4Addr::from(value.next_hop))
                        .filter(|ip| !ip.is_unspecified()),
                    mtu: Some(value.mtu).filter(|mtu| *mtu != 0),
                },
            },
        ))
    }
}
