//! Looks up what routers lead to. Addresses are IPv6 ones, or IPv4 ones mapped into it, as two numbers.

use aya_ebpf::btf_maps::lpm_trie::Key;
use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{NeighborEntry, RouteEntry, RouteKey, RouterPortEntry, Table},
    wire::{eth::Mac, ipv6},
};

use super::{ROUTES, neighbor_entry, network_port, trace};

/// Whose MAC an address has.
#[inline(always)]
pub fn neighbor(vni: u32, [high, low]: [u64; 2]) -> Option<NeighborEntry> {
    let [first, second] = must_cast::<_, [u32; 2]>(high);
    let [third, fourth] = must_cast::<_, [u32; 2]>(low);
    neighbor_entry(must_cast([vni, first, second, third, fourth]))
}

/// Where a router sends packets for an address.
#[inline(always)]
pub fn route(router: u32, [high, low]: [u64; 2]) -> Option<RouteEntry> {
    /// A key whose address lies aligned.
    #[repr(C, align(8))]
    struct Aligned(Key<RouteKey>);
    let [first, second] = must_cast::<_, [u32; 2]>(high);
    let [third, fourth] = must_cast::<_, [u32; 2]>(low);
    let key: RouteKey = must_cast([router, first, second, third, fourth]);
    let key = Aligned(Key::new(RouteKey::BITS, key));
    let found = ROUTES.get(&key.0);
    trace::looked(Table::Routes, &raw const key.0.data, found);
    found.copied()
}

/// The next hop of a route.
#[inline(always)]
pub fn next_hop_of(route: &RouteEntry) -> [u64; 2] {
    ipv6::halves(route.next_hop)
}

/// The gateway of the network with a VNI.
#[inline(always)]
pub fn router_port(vni: u32) -> Option<RouterPortEntry> {
    network_port(vni).filter(|port| port.router != 0)
}

/// The MAC of the network's gateway if the address is the gateway's; without a router, of the network's DHCP server if it
/// is that one's. Both have the link-local address that router advertisements come from.
#[inline(always)]
pub fn gateway_mac(vni: u32, address: [u64; 2]) -> Option<[u8; 6]> {
    let RouterPortEntry {
        router, mac, ipv4, ..
    } = network_port(vni)?;
    if address == ipv6::halves(ipv6::GATEWAY) {
        return Some(mac);
    }
    if router == 0 {
        return (address == ipv6::mapped_halves(ipv4)).then_some(mac);
    }
    let route = route(router, address)?;
    (route.kind == RouteEntry::LOCAL && route.vni == vni).then_some(mac)
}

/// Whether the MAC is that of the network's gateway.
#[inline(always)]
pub fn is_gateway(vni: u32, mac: Mac) -> bool {
    router_port(vni).is_some_and(|port| Mac::new(port.mac) == mac)
}
