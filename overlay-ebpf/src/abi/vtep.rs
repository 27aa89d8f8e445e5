//! `vteps` and `paths`: the tunnel ends from which packets are accepted, and the way to each.
//!
//! `vteps` is found by an address, and is what people read. `paths` has the same by number, for the programs: FDB
//! entries name a VTEP by it, and an array costs a packet less than a hash.
//!
//! The agent looks each next hop, and the MTU of the path, up in the kernel's routing table and follows
//! their changes. The programs believe it only while the agent holds the lease: `lease[0]` is the moment, in
//! nanoseconds of `CLOCK_MONOTONIC`, until which it does. After that, and where an entry has no
//! next hop, the kernel's routing table is asked for every packet.

use bytemuck::{Pod, Zeroable};

/// Key of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct VtepKey {
    /// Underlay address: IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`), order of the wire.
    pub ip: [u8; 16],
}

super::assert_layout!(VtepKey, 16, { ip: 0 });

impl VtepKey {
    /// The key for an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(ip: [u8; 4]) -> Self {
        Self {
            ip: super::mapped(ip),
        }
    }
}

/// Value of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct VtepEntry {
    /// Its slot of `paths`, 1..=65535.
    pub id: u32,
    /// UDP port that it listens on, order of the wire.
    pub port: [u8; 2],
    /// Longest outer packet that gets there, bytes; 0: as long as the interface takes.
    pub mtu: u16,
    /// What it can do. Zero: no flag has a meaning yet.
    pub flags: u32,
    /// First router on the way, or the VTEP itself on a shared link, as in [`VtepKey::ip`]. Zero: ask the kernel.
    pub next_hop: [u8; 16],
}

super::assert_layout!(VtepEntry, 28, { id: 0, port: 4, mtu: 6, flags: 8, next_hop: 12 });

/// Value of `paths`: a VTEP and the way to it. All zero: there is none with this number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct PathEntry {
    /// The VTEP's underlay address, as in [`VtepKey::ip`].
    pub vtep: [u8; 16],
    /// As in [`VtepEntry`].
    pub next_hop: [u8; 16],
    /// As in [`VtepEntry`].
    pub port: [u8; 2],
    /// As in [`VtepEntry`].
    pub mtu: u16,
    /// As in [`VtepEntry`].
    pub flags: u32,
}

super::assert_layout!(PathEntry, 40, { vtep: 0, next_hop: 16, port: 32, mtu: 34, flags: 36 });
super::user_pod!(VtepKey, VtepEntry, PathEntry);

impl PathEntry {
    /// Slots of `paths`; the first is no VTEP's.
    pub const SLOTS: u32 = 65_536;

    /// The way to the VTEP at `vtep`.
    #[must_use]
    pub const fn of(vtep: VtepKey, entry: &VtepEntry) -> Self {
        Self {
            vtep: vtep.ip,
            next_hop: entry.next_hop,
            port: entry.port,
            mtu: entry.mtu,
            flags: entry.flags,
        }
    }
}
