//! `fdb`: (VNI, MAC) -> VTEP or local interface.

use bytemuck::{Pod, Zeroable};

/// Key of `fdb`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FdbKey {
    /// 1..=16777215.
    pub vni: u32,
    /// The endpoint's MAC, order of the wire.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

super::assert_layout!(FdbKey, 12, { vni: 0, mac: 4, reserved: 10 });

impl FdbKey {
    /// The key for a MAC of a network.
    #[must_use]
    #[inline(always)]
    pub const fn new(vni: u32, mac: [u8; 6]) -> Self {
        Self {
            vni,
            mac,
            reserved: [0; 2],
        }
    }
}

/// Value of `fdb`: either `ifindex` or `vtep` is set.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct FdbEntry {
    /// The registry's revision that this entry comes from. An older one never overwrites it.
    pub generation: u64,
    /// Host-side interface of a local endpoint; 0: the endpoint is remote.
    pub ifindex: u32,
    /// Underlay address of a remote endpoint's VTEP, order of the wire.
    pub vtep: [u8; 4],
    /// UDP port of that VTEP, order of the wire. Of a local endpoint: [`FdbEntry::QUEUED`] or zero.
    pub vtep_port: [u8; 2],
    /// Where a local endpoint's network is counted in `traffic`; 0: nowhere.
    pub slot: u16,
    /// When a frame last used the entry, seconds of `CLOCK_MONOTONIC`, written by the programs;
    /// 0: the entry is no cached one and stays.
    pub used_s: u32,
}

super::assert_layout!(FdbEntry, 24, {
    generation: 0, ifindex: 8, vtep: 12, vtep_port: 16, slot: 18, used_s: 20
});
super::user_pod!(FdbKey, FdbEntry);

impl FdbEntry {
    /// In place of a local endpoint's port: its frames go through the queue of its veth, where an XDP program
    /// of its own sees them.
    pub const QUEUED: [u8; 2] = [0, 1];

    /// Whether a local endpoint's frames go through the queue of its veth.
    #[must_use]
    #[inline(always)]
    pub const fn is_queued(&self) -> bool {
        self.vtep_port[1] == Self::QUEUED[1]
    }

    /// An endpoint on this host.
    #[must_use]
    pub const fn local(generation: u64, ifindex: u32) -> Self {
        Self {
            generation,
            ifindex,
            vtep: [0; 4],
            vtep_port: [0; 2],
            slot: 0,
            used_s: 0,
        }
    }

    /// An endpoint behind a VTEP; `port` in host byte order.
    #[must_use]
    pub const fn remote(generation: u64, vtep: [u8; 4], port: u16) -> Self {
        Self {
            generation,
            ifindex: 0,
            vtep,
            vtep_port: port.to_be_bytes(),
            slot: 0,
            used_s: 0,
        }
    }
}
