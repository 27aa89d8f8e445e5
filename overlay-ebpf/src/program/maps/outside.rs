//! Looks up the way out, and whose an external address is.

use overlay_ebpf::abi::{
    FloatEntry, FloatKey, OutsideEntry, OutsideKey, RouteEntry, RouteKey, Table, UplinkEntry,
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

/// The external address that an endpoint has for its own; order of the wire.
#[inline(always)]
pub fn float(vni: u32, ip: [u8; 4]) -> Option<[u8; 4]> {
    float_entry(FloatKey { vni, ip }).map(|entry| entry.external)
}

/// The network that an address is reached in from outside without translation.
#[inline(always)]
pub fn reached_from_outside(address: [u64; 2]) -> Option<u32> {
    let route = route(RouteKey::OUTSIDE, address)?;
    (route.kind == RouteEntry::CONNECTED).then_some(route.vni)
}
