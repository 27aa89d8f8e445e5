//! `gro`: what each CPU remembers of packets out of tunnels.

use bytemuck::{Pod, Zeroable};

/// The one value of `gro`, which the programs keep for themselves: nanoseconds of
/// `CLOCK_MONOTONIC`, 0 for never.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GroState {
    /// When the last aggregate of TCP came.
    pub aggregate_ns: u64,
    /// When the last aggregate came that the kernel has to unpack: of UDP or SCTP.
    pub kernel_ns: u64,
    /// When the last segment was sent through the veth's queue.
    pub queued_ns: u64,
}

super::assert_layout!(GroState, 24, { aggregate_ns: 0, kernel_ns: 8, queued_ns: 16 });
