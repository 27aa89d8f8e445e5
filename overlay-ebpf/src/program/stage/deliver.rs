//! Delivery of what came out of a tunnel to an endpoint of this host.

use overlay_ebpf::{
    abi::{Counter, DropReason, FdbEntry},
    rule::arrival::{self, Packet},
    wire::{
        eth,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
        tcp::TcpHdr,
    },
};

use crate::{
    maps,
    packet::{Frame, Verdict},
};

/// The entry of the endpoint of this host that the inner frame is for. Split horizon: what came
/// from a tunnel never goes to one.
#[inline(always)]
pub fn local_entry(vni: u32, inner: &eth::Header) -> Result<FdbEntry, DropReason> {
    if !inner.destination.is_group() {
        match maps::fdb(vni, inner.destination) {
            Some(entry) if entry.ifindex != 0 => return Ok(entry),
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
/// the outer packet, the veth's other end classifies the frame anew. That is the long way, on
/// which there is GRO too.
#[inline(always)]
pub fn to_endpoint(frame: &mut Frame, ifindex: u32, protocol: u16) -> Result<Verdict, DropReason> {
    let is_fresh = frame.protocol() == protocol && (protocol == eth::IPV4 || protocol == eth::IPV6);
    if is_fresh && !wants_gro(frame, protocol) {
        frame.redirect_to_peer(ifindex)
    } else {
        maps::tally(Counter::SlowQueue);
        frame.redirect_out(ifindex)
    }
}

/// Whether the packet is one that GRO shall see.
#[inline(always)]
fn wants_gro(frame: &Frame, protocol: u16) -> bool {
    tcp_packet(frame, protocol)
        .and_then(|packet| {
            maps::with_arrivals(|arrivals| arrival::wants_gro(arrivals, packet, maps::now()))
        })
        .unwrap_or(false)
}

/// What the choice of the way wants to know; `None`: no TCP, or not in its usual place.
#[inline(always)]
fn tcp_packet(frame: &Frame, protocol: u16) -> Option<Packet> {
    let tcp = if protocol == eth::IPV4 {
        let ip = frame.header::<Ipv4Hdr>(eth::LEN).ok()?;
        let is_plain = ip.vihl == ipv4::NO_OPTIONS && !ipv4::is_fragment(ip);
        (is_plain && ip.proto == ipv4::TCP).then_some(eth::LEN + ipv4::LEN)?
    } else {
        let ip = frame.header::<Ipv6Hdr>(eth::LEN).ok()?;
        (ip.next_header == ipv6::TCP).then_some(eth::LEN + ipv6::LEN)?
    };
    Some(Packet {
        len: frame.len(),
        is_aggregate: frame.gso_size() != 0,
        pushes: frame.header::<TcpHdr>(tcp).ok()?.psh() != 0,
    })
}
