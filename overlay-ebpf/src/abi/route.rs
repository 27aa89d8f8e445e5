//! `router_ports` and `routes`: which networks a router joins, and where it sends packets.

use bytemuck::{Pod, Zeroable};

/// Value of `router_ports`, whose key is a VNI: the network's gateway.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RouterPortEntry {
    /// The router's number, from 1. 0: there is none; the addresses are those of the network's DHCP server, which answers
    /// ARP and neighbour discovery and nothing else.
    pub router: u32,
    /// The gateway's first IPv4 address, order of the wire; zero: none. ICMP errors come from it.
    pub ipv4: [u8; 4],
    /// Its first IPv6 address, likewise.
    pub ipv6: [u8; 16],
    /// Its MAC, order of the wire.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

super::assert_layout!(RouterPortEntry, 32, { router: 0, ipv4: 4, ipv6: 8, mac: 24, reserved: 30 });

/// Key of `routes`, behind the number of its leading bits that count.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RouteKey {
    /// The router's number; all its bits count.
    pub router: u32,
    /// IPv6, or IPv4 mapped into it, order of the wire.
    pub ip: [u8; 16],
}

super::assert_layout!(RouteKey, 20, { router: 0, ip: 4 });

impl RouteKey {
    /// The number under which are the prefixes that are reached from outside.
    pub const OUTSIDE: u32 = 0;

    /// Added to a VNI, it makes the number under which is what the network's prefix is outside.
    pub const INSIDE: u32 = 1 << 31;

    /// How many bits of a key count in a look-up: all.
    pub const BITS: u32 = 160;
    /// Those in front of an IPv6 address.
    pub const ROUTER_BITS: u32 = 32;
    /// Those in front of an IPv4 address: the router's and the mapping's.
    pub const IPV4_BITS: u32 = Self::ROUTER_BITS + 96;

    /// The key for an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(router: u32, ip: [u8; 4]) -> Self {
        Self {
            router,
            ip: super::mapped(ip),
        }
    }

    /// The key for an IPv6 address.
    #[must_use]
    #[inline(always)]
    pub const fn ipv6(router: u32, ip: [u8; 16]) -> Self {
        Self { router, ip }
    }
}

/// Value of `routes`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RouteEntry {
    /// The network that the packet goes on in, or whose gateway has the address; 0: none.
    pub vni: u32,
    /// [`RouteEntry::VIA`]: the endpoint that routes on: IPv6, or IPv4 mapped into it, order of the wire.
    /// [`RouteEntry::TRANSLATED`]: the prefix that takes the place of the key's. Otherwise zero.
    pub next_hop: [u8; 16],
    /// [`RouteEntry::LOCAL`] and the others below.
    pub kind: u8,
    /// [`RouteEntry::TRANSLATED`]: how many bits both prefixes have. Otherwise 0.
    pub prefix_len: u8,
    /// [`RouteEntry::TRANSLATED`]: what makes up for the other prefix (RFC 6296 section 3.4), host byte order.
    pub adjustment: [u8; 2],
}

super::assert_layout!(RouteEntry, 24, { vni: 0, next_hop: 4, kind: 20, prefix_len: 21, adjustment: 22 });

super::user_pod!(RouterPortEntry, RouteKey, RouteEntry);

impl RouteEntry {
    /// `kind`: an address of the router's own.
    pub const LOCAL: u8 = 1;
    /// `kind`: an endpoint of one of its networks.
    pub const CONNECTED: u8 = 2;
    /// `kind`: an endpoint that routes on.
    pub const VIA: u8 = 3;
    /// `kind`: nowhere.
    pub const BLACKHOLE: u8 = 4;
    /// `kind`: out of the overlay.
    pub const OUTSIDE: u8 = 5;
    /// `kind`: a prefix that is another one on the other side of the way out.
    pub const TRANSLATED: u8 = 6;
}
