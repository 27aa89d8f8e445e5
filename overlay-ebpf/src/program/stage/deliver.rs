//! Delivery of what came out of a tunnel to an endpoint of this host.

use overlay_ebpf::{abi::DropReason, wire::eth};

use crate::{
    maps,
    packet::{Frame, Verdict},
};

/// The host side of the endpoint that the inner frame is for. Split horizon: what came from a
/// tunnel never goes to one.
#[inline(always)]
pub fn local_port(vni: u32, inner: &eth::Header) -> Result<u32, DropReason> {
    if !inner.destination.is_group() {
        match maps::fdb(vni, inner.destination) {
            Some(entry) if entry.ifindex != 0 => return Ok(entry.ifindex),
            Some(_) => return Err(DropReason::NotLocal),
            None => {}
        }
    }
    if maps::network(vni).is_none() {
        return Err(DropReason::VniUnknown);
    }
    Err(if inner.destination.is_group() {
        DropReason::Multicast
    } else {
        DropReason::DestinationUnknown
    })
}

/// Hands the frame over. The short way needs `skb->protocol` to be right; where it still names
/// the outer packet, the veth's other end classifies the frame anew.
#[inline(always)]
pub fn to_endpoint(frame: &mut Frame, ifindex: u32, protocol: u16) -> Result<Verdict, DropReason> {
    let is_fresh =
        protocol == eth::IPV4 || (protocol == eth::IPV6 && maps::decap_flags_ipv6() != 0);
    if is_fresh {
        frame.redirect_to_peer(ifindex)
    } else {
        frame.redirect_out(ifindex)
    }
}
