//! The router ports table as the map `router_ports` holds it.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{Mac, RouterPortRow, Vni};

impl Encode for RouterPortRow {
    type AbiKey = u32;
    type AbiValue = abi::RouterPortEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::ROUTER_PORTS;

    fn encode_key(vni: &Vni, _: &Numbering) -> u32 {
        vni.get()
    }

    fn encode(_: &Vni, row: &Self, _: &Numbering) -> abi::RouterPortEntry {
        abi::RouterPortEntry {
            router: row.router,
            ipv4: row.ipv4.map_or([0; 4], |ip| ip.octets()),
            ipv6: row.ipv6.map_or([0; 16], |ip| ip.octets()),
            mac: row.mac.octets(),
            reserved: [0; 2],
        }
    }

    fn decode(key: &u32, value: &abi::RouterPortEntry, _: &Numbering) -> Option<(Vni, Self)> {
        let row = Self {
            router: value.router,
            mac: Mac::try_from(value.mac).ok()?,
            ipv4: Some(Ipv4Addr::from(value.ipv4)).filter(|ip| !ip.is_unspecified()),
            ipv6: Some(Ipv6Addr::from(value.ipv6)).filter(|ip| !ip.is_unspecified()),
        };
        Some((Vni::try_from(*key).ok()?, row))
    }
}
