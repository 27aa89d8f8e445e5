//! `echoes`: what came of echoes, see [`crate::wire::echo`].

use bytemuck::{Pod, Zeroable};

/// A record of `echoes`: one that was answered here, or an answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct EchoEvent {
    /// What its sender knows it by.
    pub id: [u8; 8],
    /// When it came, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The other host's underlay address, order of the wire.
    pub vtep: [u8; 4],
    /// [`crate::wire::echo::REQUEST`] or [`crate::wire::echo::REPLY`].
    pub kind: u32,
    /// Bytes of the outer IP packet.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

super::assert_layout!(EchoEvent, 32, {
    id: 0, at_ns: 8, vtep: 16, kind: 20, len: 24, reserved: 28
});
