//! `drop_samples` and `endpoint_drops`: which frames were dropped, and whose.
//!
//! A frame is noted down if few were lately: for each reason, CPU and sender the first of a window. Rows are
//! written from the back to the front, so that a copy of one that was written meanwhile shows it.

use bytemuck::{Pod, Zeroable};

use super::DropReason;

/// Value of `drop_samples`: a frame that was dropped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct DropSample {
    /// When, nanoseconds of `CLOCK_MONOTONIC`; 0: the row is free.
    pub at_ns: u64,
    /// Number of the [`DropReason`].
    pub reason: u32,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// Host-side interface of the endpoint that sent it, or was to get it; 0: not known.
    pub endpoint: u32,
    /// The network; 0: not known.
    pub vni: u32,
    /// Underlay address of the host that it came from, or was to go to: IPv6, or IPv4 mapped into it; `::`: none, or
    /// not known.
    pub peer: [u8; 16],
    /// Bytes, from the Ethernet header on that the row shows.
    pub len: u32,
    /// Source port, or type and code of ICMP.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// The Ethernet header's type.
    pub ether_type: [u8; 2],
    /// IP protocol, or next header; 0: neither IPv4 nor IPv6.
    pub protocol: u8,
    /// [`DropSample::SENT`] or [`DropSample::RECEIVED`].
    pub direction: u8,
    /// Source or ARP sender address, IPv6 or IPv4 mapped into it; `::`: none.
    pub source_ip: [u8; 16],
    /// Destination or ARP target address, likewise.
    pub destination_ip: [u8; 16],
    /// As `at_ns`, once the row is whole.
    pub sealed_ns: u64,
}

super::assert_layout!(DropSample, 104, {
    at_ns: 0, reason: 8, ifindex: 12, endpoint: 16, vni: 20, peer: 24, len: 40, source_port: 44,
    destination_port: 46, destination_mac: 48, source_mac: 54, ether_type: 60, protocol: 62, direction: 63,
    source_ip: 64, destination_ip: 80, sealed_ns: 96
});

impl DropSample {
    /// `direction` of what an endpoint of this host sent.
    pub const SENT: u8 = 1;
    /// `direction` of what came out of a tunnel, or pretended to.
    pub const RECEIVED: u8 = 2;

    /// Groups of senders whose frames take rows from each other alone, for each reason.
    pub const GROUPS: u32 = 4;
    /// Rows of a group.
    pub const ROWS: u32 = 4;
    /// Slots of `drop_samples`.
    pub const SLOTS: u32 = DropReason::SLOTS * Self::GROUPS * Self::ROWS;

    /// Slots of `drop_pace`: the groups of all reasons.
    pub const PACES: u32 = DropReason::SLOTS * Self::GROUPS;
}

/// Value of `drop_pace`, which the programs keep for themselves: the frames of a group that were noted down.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DropPace {
    /// The window of time that is counted, by its number.
    pub window: u64,
    /// Frames in it.
    pub taken: u32,
    /// Frames in all; says which row is the next.
    pub turn: u32,
}

super::assert_layout!(DropPace, 16, { window: 0, taken: 8, turn: 12 });

/// Key of `endpoint_drops`; the value is a count.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct EndpointDropKey {
    /// Host-side interface of the endpoint.
    pub ifindex: u32,
    /// Number of the [`DropReason`].
    pub reason: u16,
    /// [`DropSample::SENT`]: it sent the frames. [`DropSample::RECEIVED`]: they were for it.
    pub direction: u16,
}

super::assert_layout!(EndpointDropKey, 8, { ifindex: 0, reason: 4, direction: 6 });
super::user_pod!(DropSample, DropPace, EndpointDropKey);
