//! Looks up the way out, and whose an external address is.

use overlay_ebpf::{
    abi::{
        FloatEntry, FloatKey, OutsideEntry, OutsideKey, RouteEntry, RouteKey, Table, UplinkEntry,
    },
    rule::nptv6::{self, Prefix},
    wire::ipv6,
};

use super::{FLOATS, Key, OUTSIDE, UPLINK, route, trace};

/// The interface to the outside. `None`: there is none.
#[inline(always)]
pub fn uplink() -> Option<UplinkEntry> {
    let slot = 0_u32;
    let uplink = UPLINK.get(slot).filter(|uplink| uplink.ifindex != 0);
    trace::looked(Table::Uplink, &raw const slot, uplink);
    uplink.copied()
}

lookup! {
    /// Whose an external address is.
    outside_entry, OUTSIDE, Outside, OutsideKey => OutsideEntry
}
lookup! {
    float_entry, FLOATS, Floats, FloatKey => FloatEntry
}

/// Whose an external address is; order of the wire.
#[inline(always)]
pub fn outside(ip: [u8; 4]) -> Option<OutsideEntry> {
    outside_entry(OutsideKey { ip })
}

/// Whether an address is one that endpoints have outside. The host's own is not.
#[inline(always)]
pub fn is_external(address: [u64; 2]) -> bool {
    match ipv6::mapped_in(address) {
        Some(ip) => outside(ip).is_some_and(|entry| entry.kind != OutsideEntry::HOST),
        None => reached_from_outside(address).is_some(),
    }
}

/// The external address that an endpoint has for its own; order of the wire.
#[inline(always)]
pub fn float(vni: u32, ip: [u8; 4]) -> Option<[u8; 4]> {
    float_entry(FloatKey { vni, ip }).map(|entry| entry.external)
}

/// Where an IPv6 address is reached from outside.
#[derive(Clone, Copy)]
pub struct Reached {
    /// The network.
    pub vni: u32,
    /// The prefix that it has there, if that is another one.
    pub inside: Option<Prefix>,
}

/// Where an IPv6 address is reached from outside. `None`: nowhere.
#[inline(always)]
pub fn reached_from_outside(address: [u64; 2]) -> Option<Reached> {
    let route = route(RouteKey::OUTSIDE, address)?;
    match route.kind {
        RouteEntry::CONNECTED | RouteEntry::TRANSLATED => Some(Reached {
            vni: route.vni,
            inside: translated(&route),
        }),
        _ => None,
    }
}

/// The prefix that an address of a network has outside. `None`: its own.
#[inline(always)]
pub fn prefix_outside(vni: u32, address: [u64; 2]) -> Option<Prefix> {
    translated(&route(RouteKey::INSIDE | vni, address)?)
}

#[inline(always)]
fn translated(route: &RouteEntry) -> Option<Prefix> {
    (route.kind == RouteEntry::TRANSLATED)
        .then(|| nptv6::prefix(route.next_hop, route.prefix_len, route.adjustment))
}
