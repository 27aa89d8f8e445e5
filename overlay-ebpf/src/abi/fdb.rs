//! `fdb`: (VNI, MAC) -> local interface, VTEP or router.

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

/// Value of `fdb`: what a MAC is, and where frames for it go.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct FdbEntry {
    /// The registry's revision that this entry comes from. An older one never overwrites it.
    pub generation: u64,
    /// By `kind`: the host-side interface, the slot of `paths`, or the router's number.
    pub target: u32,
    /// Of a remote endpoint behind an IPv4 VTEP: that VTEP's address, order of the wire. Otherwise zero.
    pub vtep: [u8; 4],
    /// Of a local endpoint: as in [`super::EndpointEntry`]. Otherwise 0.
    pub id: u16,
    /// Where a local endpoint's network is counted in `traffic`; 0: nowhere.
    pub slot: u16,
    /// The second of `CLOCK_MONOTONIC`, modulo 2^16, in which a frame last used an entry that
    /// [`FdbEntry::AGES`]. The programs write it.
    pub used_s: u16,
    /// [`FdbEntry::LOCAL`], [`FdbEntry::REMOTE`] or [`FdbEntry::ROUTER`].
    pub kind: u8,
    /// [`FdbEntry::QUEUED`], [`FdbEntry::AGES`] and [`FdbEntry::METERED`].
    pub flags: u8,
}

super::assert_layout!(FdbEntry, 24, {
    generation: 0, target: 8, vtep: 12, id: 16, slot: 18, used_s: 20, kind: 22, flags: 23
});
super::user_pod!(FdbKey, FdbEntry);

impl FdbEntry {
    /// `kind`: an endpoint of this host.
    pub const LOCAL: u8 = 1;
    /// `kind`: an endpoint behind a VTEP.
    pub const REMOTE: u8 = 2;
    /// `kind`: the gateway of a router. No agent writes such entries: gateways are in `router_ports`.
    pub const ROUTER: u8 = 3;

    /// `flags`: frames go through the queue of the endpoint's veth, where an XDP program of its own sees them.
    pub const QUEUED: u8 = 1;
    /// `flags`: the entry is a cached one of an on-demand network, and the programs note its use.
    pub const AGES: u8 = 2;
    /// `flags`: `meters` has an entry for what the local endpoint receives.
    pub const METERED: u8 = 4;

    /// The host-side interface of a local endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn interface(&self) -> Option<u32> {
        match self.kind {
            Self::LOCAL => Some(self.target),
            _ => None,
        }
    }

    /// Whether a local endpoint's frames go through the queue of its veth.
    #[must_use]
    #[inline(always)]
    pub const fn is_queued(&self) -> bool {
        self.flags & Self::QUEUED != 0
    }

    /// Whether what a local endpoint receives is held to a limit.
    #[must_use]
    #[inline(always)]
    pub const fn is_metered(&self) -> bool {
        self.flags & Self::METERED != 0
    }

    /// An endpoint on this host.
    #[must_use]
    pub const fn local(generation: u64, ifindex: u32) -> Self {
        Self {
            generation,
            target: ifindex,
            vtep: [0; 4],
            id: 0,
            slot: 0,
            used_s: 0,
            kind: Self::LOCAL,
            flags: 0,
        }
    }

    /// An endpoint behind the VTEP with this slot of `paths`; its IPv4 address, or zero.
    #[must_use]
    pub const fn remote(generation: u64, path: u32, vtep: [u8; 4]) -> Self {
        Self {
            target: path,
            vtep,
            kind: Self::REMOTE,
            ..Self::local(generation, 0)
        }
    }
}
