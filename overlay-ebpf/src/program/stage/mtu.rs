//! Holds packets to the MTU of their network and of their path.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry},
    rule::{icmp::IcmpError, mtu as rule},
    wire::{eth, ipv4::Ipv4Hdr},
};

use crate::{frame::Frame, refusal::refuse};

/// Has the endpoint told of a packet that is longer than `limit` bytes, by a program of its own.
#[inline(always)]
pub fn check(
    frame: &Frame,
    from: &EndpointEntry,
    longest: u32,
    limit: u32,
) -> Result<(), DropReason> {
    if longest <= limit {
        return Ok(());
    }
    Err(refuse(frame, from, IcmpError::TooBig, limit))
}

/// Whether the packet may be cut up on the way.
#[inline(always)]
pub fn may_fragment(frame: &Frame, protocol: u16, len: u32) -> bool {
    if protocol == eth::IPV4 {
        let ip = frame.header::<Ipv4Hdr>(eth::LEN);
        ip.is_ok_and(rule::may_fragment_ipv4)
    } else {
        rule::may_fragment_ipv6(len)
    }
}
