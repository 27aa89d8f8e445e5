//! `scratch`: what a program keeps beside its stack, and leaves to the program that it continues with.

use bytemuck::{Pod, Zeroable};

use super::{EndpointEntry, MissEvent};

/// The one value of `scratch`, which the programs keep for themselves: each CPU's, for as long as it has a frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Scratch {
    /// A miss that the agent may be told of.
    pub miss: MissEvent,
    /// For `icmp_error`: the longest packet that gets further, bytes; 0 where that is not what it is about.
    pub limit: u32,
    /// For `icmp_error`: the network of the endpoint that sent the frame.
    pub vni: u32,
    /// For `icmp_error`: what it is about, by [`crate::rule::icmp::IcmpError`].
    pub error: u32,
    /// For `to_outside`: 1 if the packet's destination is an external address of an endpoint's.
    pub is_hairpin: u32,
    /// For `to_outside`: 1 if `nat_open` was there before.
    pub opened: u32,
    /// For `nat_error`: 1 if the error comes from outside.
    pub is_inbound: u32,
    /// For `route` and what continues it: the row of the endpoint that sent the packet.
    pub from: EndpointEntry,
    /// When a frame of an endpoint with a limit is to leave the host, nanoseconds of `CLOCK_MONOTONIC`; 0: at once.
    pub departure_ns: u64,
}

super::assert_layout!(Scratch, 144, {
    miss: 0, limit: 56, vni: 60, error: 64, is_hairpin: 68, opened: 72, is_inbound: 76, from: 80, departure_ns: 136
});
