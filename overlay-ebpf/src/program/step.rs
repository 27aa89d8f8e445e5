//! What a stage makes of a frame.

use overlay_ebpf::abi::DropReason;

use crate::frame::Action;

/// How the way goes on after a stage.
pub enum Step {
    /// With the next stage.
    Next,
    /// Not: the frame was taken care of.
    Done(Action),
    /// Not: the maps lack an address, and the agent may know it.
    Ask(Question),
}

/// A question for an address: IPv6 addresses, or IPv4-mapped ones, each as two numbers, which lie aligned on the
/// stack.
#[derive(Clone, Copy)]
pub struct Question {
    /// The address whose MAC is wanted.
    pub address: [u64; 2],
    /// The requester's address; `::` if it has none yet.
    pub requester: [u64; 2],
    /// The reason to drop the question where nobody knows the answer.
    pub otherwise: DropReason,
}
