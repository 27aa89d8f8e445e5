//! Has an endpoint told by ICMP why its packet goes no further, by a program of its own.

use overlay_ebpf::{
    abi::{Call, DropReason, EndpointEntry},
    rule::icmp::IcmpError,
};

use crate::{frame::Frame, maps};

/// Continues with `icmp_error`, and does not come back. `limit` is the longest packet that gets further, bytes; 0 where it
/// is not about that.
#[inline(always)]
pub fn refuse(frame: &Frame, from: &EndpointEntry, error: IcmpError, limit: u32) -> DropReason {
    maps::with_scratch(|scratch| {
        scratch.limit = limit;
        scratch.vni = from.vni;
        scratch.error = error.number();
    });
    maps::continue_with(Call::IcmpError, frame)
}
