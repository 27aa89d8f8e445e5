//! `neighbors`: (VNI, IP) -> MAC, from which ARP and ND are answered and sources checked.

use bytemuck::{Pod, Zeroable};

/// Key of `neighbors`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct NeighborKey {
    /// 1..=16777215.
    pub vni: u32,
    /// IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`), order of the wire.
    pub ip: [u8; 16],
}

super::assert_layout!(NeighborKey, 20, { vni: 0, ip: 4 });

impl NeighborKey {
    /// The key for an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(vni: u32, ip: [u8; 4]) -> Self {
        Self {
            vni,
            ip: super::mapped(ip),
        }
    }

    /// The key for an IPv6 address.
    #[must_use]
    #[inline(always)]
    pub const fn ipv6(vni: u32, ip: [u8; 16]) -> Self {
        Self { vni, ip }
    }
}

/// Value of `neighbors`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct NeighborEntry {
    /// The registry's revision that this entry comes from. An older one never overwrites it.
    pub generation: u64,
    /// The MAC to answer with, order of the wire.
    pub mac: [u8; 6],
    /// Zero: no flag has a meaning yet.
    pub flags: u16,
}

super::assert_layout!(NeighborEntry, 16, { generation: 0, mac: 8, flags: 14 });
super::user_pod!(NeighborKey, NeighborEntry);

impl NeighborEntry {
    /// The entry for a MAC.
    #[must_use]
    pub const fn new(generation: u64, mac: [u8; 6]) -> Self {
        Self {
            generation,
            mac,
            flags: 0,
        }
    }
}
