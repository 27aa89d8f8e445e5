//! The endpoints table as the map `endpoints` holds it.

use std::net::{Ipv4Addr, Ipv6Addr};

use overlay_ebpf::abi::{self, map};

use super::{Encode, EncodeContext};
use crate::model::{EndpointRow, Mac, Revision, Vni};

impl Encode for EndpointRow {
    type AbiKey = u32;
    type AbiValue = abi::EndpointEntry;

    const MAP: &str = map::ENDPOINTS;

    fn encode_key(ifindex: &u32) -> u32 {
        *ifindex
    }

    fn encode(_: &u32, row: &Self, context: &EncodeContext<'_>) -> abi::EndpointEntry {
        abi::EndpointEntry {
            generation: row.generation,
            vni: row.vni.get(),
            mtu: row.mtu,
            mac: row.mac.octets(),
            slot: context.slots.of(row.vni),
            ipv4: row.ipv4.map_or([0; 4], |ip| ip.octets()),
            ipv6: row.ipv6.map_or([0; 16], |ip| ip.octets()),
            reserved: [0; 4],
        }
    }

    fn decode(key: &u32, value: &abi::EndpointEntry) -> Option<(u32, Self)> {
        let row = Self {
            vni: Vni::try_from(value.vni).ok()?,
            mac: Mac::try_from(value.mac).ok()?,
            ipv4: Some(Ipv4Addr::from(value.ipv4)).filter(|ip| !ip.is_unspecified()),
            ipv6: Some(Ipv6Addr::from(value.ipv6)).filter(|ip| !ip.is_unspecified()),
            mtu: value.mtu,
            generation: value.generation,
        };
        Some((*key, row))
    }

    fn abi_generation(value: &abi::EndpointEntry) -> Option<Revision> {
        Some(value.generation)
    }
}
