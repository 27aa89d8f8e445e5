//! `vteps`: the tunnel ends from which packets are accepted, and the way to them.
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
    /// Underlay address, order of the wire.
    pub ip: [u8; 4],
}

super::assert_layout!(VtepKey, 4, { ip: 0 });

/// Value of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct VtepEntry {
    /// UDP port that it listens on, order of the wire.
    pub port: [u8; 2],
    /// Longest outer packet that gets there, bytes; 0: as long as the interface takes.
    pub mtu: u16,
    /// First router on the way, or the VTEP itself on a shared link, order of the wire. Zero: ask
    /// the kernel.
    pub next_hop: [u8; 4],
}

super::assert_layout!(VtepEntry, 8, { port: 0, mtu: 2, next_hop: 4 });
super::user_pod!(VtepKey, VtepEntry);

impl VtepEntry {
    /// The entry for a port in host byte order and a next hop in that of the wire, to which packets as
    /// long as the interface takes get.
    #[must_use]
    pub const fn new(port: u16, next_hop: [u8; 4]) -> Self {
        Self {
            port: port.to_be_bytes(),
            mtu: 0,
            next_hop,
        }
    }
}
