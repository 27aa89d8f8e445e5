//! The endpoints table as the map `endpoints` holds it.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{EndpointRow, Mac, Revision, Vni};

impl Encode for EndpointRow {
    type AbiKey = u32;
    type AbiValue = abi::EndpointEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::ENDPOINTS;

    fn encode_key(ifindex: &u32, _: &Numbering) -> u32 {
        *ifindex
    }

    fn encode(ifindex: &u32, row: &Self, numbering: &Numbering) -> abi::EndpointEntry {
        abi::EndpointEntry {
            generation: row.generation,
            vni: row.vni.get(),
            mtu: row.mtu,
            mac: row.mac.octets(),
            slot: numbering.slots.of(row.vni),
            ipv4: row.ipv4.map_or([0; 4], |ip| ip.octets()),
            ipv6: row.ipv6.map_or([0; 16], |ip| ip.octets()),
            id: numbering.endpoints.of(ifindex).map_or(0, u32::from),
            flags: (u16::from(row.is_metered) * abi::EndpointEntry::METERED)
                | (u16::from(row.dhcp) * abi::EndpointEntry::DHCP),
            gateway: row.gateway.map_or([0; 6], Mac::octets),
        }
    }

    fn decode(key: &u32, value: &abi::EndpointEntry, _: &Numbering) -> Option<(u32, Self)> {
        let row = Self {
            vni: Vni::try_from(value.vni).ok()?,
            mac: Mac::try_from(value.mac).ok()?,
            ipv4: Some(Ipv4Addr::from(value.ipv4)).filter(|ip| !ip.is_unspecified()),
            ipv6: Some(Ipv6Addr::from(value.ipv6)).filter(|ip| !ip.is_unspecified()),
            mtu: value.mtu,
            dhcp: value.flags & abi::EndpointEntry::DHCP != 0,
            is_metered: value.is_metered(),
            gateway: Mac::try_from(value.gateway).ok(),
            generation: value.generation,
        };
        Some((*key, row))
    }

    fn abi_generation(value: &abi::EndpointEntry) -> Option<Revision> {
        Some(value.generation)
    }
}
