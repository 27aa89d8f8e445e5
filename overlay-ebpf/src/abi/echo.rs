//! `echoes`: outcomes of echoes, see [`crate::wire::echo`].

use bytemuck::{Pod, Zeroable};

/// A record of `echoes`: a program has seen one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct EchoEvent {
    /// What its sender knows it by.
    pub id: [u8; 8],
    /// When it came, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The other host's underlay address: IPv6, or IPv4 mapped into it, order of the wire.
    pub vtep: [u8; 16],
    /// What became of it: [`EchoEvent::ASKED`], [`EchoEvent::BACK`], [`EchoEvent::LEFT`] or
    /// [`EchoEvent::DROPPED`].
    pub kind: u32,
    /// Bytes of the outer IP packet.
    pub len: u32,
    /// The number of the [`super::DropReason`] of one that was dropped; 0 otherwise.
    pub reason: u32,
    /// Zero.
    pub reserved: u32,
}

impl EchoEvent {
    /// It asked for an answer, and got one.
    pub const ASKED: u32 = 1;
    /// It is the answer to one of this host's.
    pub const BACK: u32 = 2;
    /// It has left this host.
    pub const LEFT: u32 = 3;
    /// It was dropped, on its way there or back.
    pub const DROPPED: u32 = 4;
}

super::assert_layout!(EchoEvent, 48, {
    id: 0, at_ns: 8, vtep: 16, kind: 32, len: 36, reason: 40, reserved: 44
});
