//! The routes table as the map `routes` holds it: a trie of prefixes.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_ebpf::{
    abi::{self, map},
    rule::nptv6,
};

use super::super::encode::{Encode, Numbering};
use crate::model::{RouteKey, RouteRow, RouteWay, Vni};

impl Encode for RouteRow {
    type AbiKey = Key<abi::RouteKey>;
    type AbiValue = abi::RouteEntry;
    type Map = LpmTrie<MapData, abi::RouteKey, Self::AbiValue>;

    const MAP: &str = map::ROUTES;

    fn encode_key(key: &RouteKey, _: &Numbering) -> Self::AbiKey {
        let router = key.router;
        let (front, data) = match key.prefix {
            IpNet::V4(prefix) => (
                abi::RouteKey::IPV4_BITS,
                abi::RouteKey::ipv4(router, prefix.network().octets()),
            ),
            IpNet::V6(prefix) => (
                abi::RouteKey::ROUTER_BITS,
                abi::RouteKey::ipv6(router, prefix.network().octets()),
            ),
        };
        Key::new(front + u32::from(key.prefix.prefix_len()), data)
    }

    fn encode(key: &RouteKey, row: &Self, _: &Numbering) -> abi::RouteEntry {
        let (kind, vni, next_hop) = match row.way {
            RouteWay::Local { vni } => (abi::RouteEntry::LOCAL, Some(vni), None),
            RouteWay::Connected { vni } => (abi::RouteEntry::CONNECTED, Some(vni), None),
            RouteWay::Via { vni, next_hop } => (abi::RouteEntry::VIA, Some(vni), Some(next_hop)),
            RouteWay::Blackhole => (abi::RouteEntry::BLACKHOLE, None, None),
            RouteWay::Outside => (abi::RouteEntry::OUTSIDE, None, None),
            RouteWay::Translated { vni, prefix } => {
                let other = IpAddr::V6(prefix.network());
                (abi::RouteEntry::TRANSLATED, Some(vni), Some(other))
            }
        };
        let (prefix_len, adjustment) = match (row.way, key.prefix) {
            (RouteWay::Translated { prefix, .. }, IpNet::V6(own)) => {
                let [own, other] = [own, prefix].map(|it| it.network().octets());
                (prefix.prefix_len(), nptv6::adjustment(own, other))
            }
            _ => (0, 0),
        };
        abi::RouteEntry {
            vni: vni.map_or(0, Vni::get),
            next_hop: next_hop.map_or([0; 16], |hop: IpAddr| match hop {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            }),
            kind,
            prefix_len,
            adjustment: adjustment.to_ne_bytes(),
        }
    }

    fn decode(
        key: &Self::AbiKey,
        value: &abi::RouteEntry,
        _: &Numbering,
    ) -> Option<(RouteKey, Self)> {
        let vni = || Vni::try_from(value.vni).ok();
        let way = match value.kind {
            abi::RouteEntry::LOCAL => RouteWay::Local { vni: vni()? },
            abi::RouteEntry::CONNECTED => RouteWay::Connected { vni: vni()? },
            abi::RouteEntry::VIA => RouteWay::Via {
                vni: vni()?,
                next_hop: Ipv6Addr::from(value.next_hop).to_canonical(),
            },
            abi::RouteEntry::BLACKHOLE => RouteWay::Blackhole,
            abi::RouteEntry::OUTSIDE => RouteWay::Outside,
            abi::RouteEntry::TRANSLATED => RouteWay::Translated {
                vni: vni()?,
                prefix: Ipv6Net::new(value.next_hop.into(), value.prefix_len).ok()?,
            },
            _ => return None,
        };
        let data = key.data();
        let key = RouteKey {
            router: data.router,
            prefix: prefix(key.prefix_len(), data.ip)?,
        };
        Some((key, Self { way }))
    }
}

/// The prefix of so many bits of a key. A key within the mapping's own bits is one of IPv6.
fn prefix(bits: u32, ip: [u8; 16]) -> Option<IpNet> {
    let ip = Ipv6Addr::from(ip);
    if let (Some(ip), Some(len)) = (
        ip.to_ipv4_mapped(),
        bits.checked_sub(abi::RouteKey::IPV4_BITS),
    ) {
        return Ipv4Net::new(ip, u8::try_from(len).ok()?)
            .ok()
            .map(IpNet::V4);
    }
    let len = bits.checked_sub(abi::RouteKey::ROUTER_BITS)?;
    Ipv6Net::new(ip, u8::try_from(len).ok()?)
        .ok()
        .map(IpNet::V6)
}
