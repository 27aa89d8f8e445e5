//! `scratch`: what a program keeps beside its stack, and leaves to the program that it calls.

use bytemuck::{Pod, Zeroable};

use super::MissEvent;

/// The one value of `scratch`, which the programs keep for themselves: each CPU's, for as long as it has a frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Scratch {
    /// A miss that the agent may be told of.
    pub miss: MissEvent,
}

super::assert_layout!(Scratch, 56, { miss: 0 });
