//! `misses` and `negative`: what frames of on-demand networks asked for and the maps did not hold.
//!
//! A miss is told of once and then rests: `negative` holds until when. The programs rest a key for a
//! moment in which the agent can look it up, the agent for longer where nobody has the address.

use bytemuck::{Pod, Zeroable};

/// An address that was not found. Key of `negative`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct MissKey {
    /// The network, 1..=16777215.
    pub vni: u32,
    /// [`MissKey::MAC`] or [`MissKey::IP`].
    pub kind: u32,
    /// A MAC and ten zeros, or an IPv6 address or an IPv4 one mapped into it; order of the wire.
    pub address: [u8; 16],
}

super::assert_layout!(MissKey, 24, { vni: 0, kind: 4, address: 8 });

impl MissKey {
    /// `kind` where the FDB did not know a MAC.
    pub const MAC: u32 = 1;
    /// `kind` where the neighbour table did not know an IP address.
    pub const IP: u32 = 2;
}

/// A record of `misses`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct MissEvent {
    /// What was not found.
    pub key: MissKey,
    /// Index of the host side of the requester's interface.
    pub ifindex: u32,
    /// The requester's MAC, order of the wire.
    pub requester_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 6],
    /// The address that an answer goes to, as in the key; `::` where the requester has none yet, and
    /// where a MAC was not found.
    pub requester_ip: [u8; 16],
}

super::assert_layout!(MissEvent, 56, {
    key: 0, ifindex: 24, requester_mac: 28, reserved: 34, requester_ip: 40
});

/// Value of `negative`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Negative {
    /// Until when the key raises no further miss, nanoseconds of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
    /// 1: nobody has the address, and frames for it are dropped as for an unknown one. 0: the agent
    /// is looking.
    pub is_unknown: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of `meter`: who raises misses.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct MeterKey {
    /// [`MeterKey::ENDPOINT`], [`MeterKey::NETWORK`], [`MeterKey::TUNNEL`], [`MeterKey::ERRORS`] or [`MeterKey::ECHOES`].
    pub kind: u32,
    /// The host side's interface index, the VNI, or the VTEP's address as it lies in memory.
    pub id: u32,
}

impl MeterKey {
    /// `kind` of an endpoint's meter.
    pub const ENDPOINT: u32 = 1;
    /// `kind` of a network's meter.
    pub const NETWORK: u32 = 2;
    /// `kind` of the meter of a network's frames out of tunnels.
    pub const TUNNEL: u32 = 3;
    /// `kind` of the meter of the ICMP errors that an endpoint is sent.
    pub const ERRORS: u32 = 4;
    /// `kind` of the meter of a VTEP's echoes.
    pub const ECHOES: u32 = 5;
    /// `kind` of the meter of the frames of an endpoint that the agent is told of.
    pub const PUNTS: u32 = 40;
    /// `kind` of the meter of the frames of a network's endpoints that the agent is told of.
    pub const NETWORK_PUNTS: u32 = 41;

    /// The meter of the endpoint behind an interface of the host.
    #[must_use]
    #[inline(always)]
    pub const fn endpoint(ifindex: u32) -> Self {
        Self {
            kind: Self::ENDPOINT,
            id: ifindex,
        }
    }

    /// The meter of all that a network misses on this host.
    #[must_use]
    #[inline(always)]
    pub const fn network(vni: u32) -> Self {
        Self {
            kind: Self::NETWORK,
            id: vni,
        }
    }

    /// The meter of the ICMP errors that the endpoint behind an interface of the host is sent.
    #[must_use]
    #[inline(always)]
    pub const fn errors(ifindex: u32) -> Self {
        Self {
            kind: Self::ERRORS,
            id: ifindex,
        }
    }

    /// The meter of the echoes of the VTEP at an underlay address.
    #[must_use]
    #[inline(always)]
    pub const fn echoes(vtep: [u8; 4]) -> Self {
        Self {
            kind: Self::ECHOES,
            id: u32::from_ne_bytes(vtep),
        }
    }

    /// The meter of the frames of the endpoint behind an interface that the agent is told of.
    #[must_use]
    #[inline(always)]
    pub const fn punts(ifindex: u32) -> Self {
        Self {
            kind: Self::PUNTS,
            id: ifindex,
        }
    }

    /// The meter of all that the agent is told of by a network's endpoints on this host.
    #[must_use]
    #[inline(always)]
    pub const fn network_punts(vni: u32) -> Self {
        Self {
            kind: Self::NETWORK_PUNTS,
            id: vni,
        }
    }

    /// The meter of what a network's frames out of tunnels miss.
    #[must_use]
    #[inline(always)]
    pub const fn tunnel(vni: u32) -> Self {
        Self {
            kind: Self::TUNNEL,
            id: vni,
        }
    }
}

/// Value of `meter` and `meter_cpu`, which the programs keep for themselves: misses raised lately.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Meter {
    /// The window of time that is counted, by its number.
    pub window: u64,
    /// Misses in it.
    pub raised: u64,
}

super::assert_layout!(MeterKey, 8, { kind: 0, id: 4 });
super::assert_layout!(Meter, 16, { window: 0, raised: 8 });
super::assert_layout!(Negative, 16, { until_ns: 0, is_unknown: 8, reserved: 12 });
super::user_pod!(MissKey, MissEvent, Negative, MeterKey, Meter);
