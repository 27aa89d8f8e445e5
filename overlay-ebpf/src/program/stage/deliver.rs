//! Delivers frames from a tunnel to an endpoint of this host.

use overlay_ebpf::{
    abi::{Counter, DropReason, FdbEntry},
    rule::gro::{self, Packet},
    wire::{
        arp::{self, ArpHdr},
        eth::{self, Mac},
        icmpv6::{self, Solicitation},
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
        tcp::TcpHdr,
    },
};

use crate::{
    maps,
    packet::{Action, Frame},
};

/// The entry of the endpoint of this host that the inner frame is for, whose packet begins at `offset`. Split
/// horizon: what came from a tunnel never goes to one.
///
/// Whom a question to all is for, the neighbour table knows: a peer that has no agent asks in that way.
#[inline(always)]
pub fn local_entry(
    frame: &mut Frame,
    vni: u32,
    inner: &eth::Header,
    offset: usize,
) -> Result<FdbEntry, DropReason> {
    let destination = if inner.destination.is_group() {
        asked_for(frame, vni, inner.ether_type, offset)
    } else {
        Some(inner.destination)
    };
    if let Some(destination) = destination {
        match maps::fdb(vni, destination) {
            Some(entry) if entry.kind == FdbEntry::LOCAL => return Ok(entry),
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

/// The MAC of the endpoint whose address an ARP request or a neighbour solicitation asks for.
#[inline(always)]
fn asked_for(frame: &mut Frame, vni: u32, protocol: u16, offset: usize) -> Option<Mac> {
    let neighbor = if protocol == eth::ARP {
        frame.require(offset + arp::LEN).ok()?;
        let request = frame.header::<ArpHdr>(offset).ok()?;
        let is_question = arp::is_request(request)
            && u32::from_ne_bytes(request.spa) != u32::from_ne_bytes(request.tpa);
        maps::neighbor_ipv4(vni, is_question.then_some(request.tpa)?)
    } else if protocol == eth::IPV6 {
        let message = offset + ipv6::LEN;
        frame.require(message + icmpv6::SOLICITATION_LEN).ok()?;
        let ip = frame.header::<Ipv6Hdr>(offset).ok()?;
        let question = frame.header::<Solicitation>(message).ok()?;
        let is_question = ip.next_header == ipv6::ICMPV6
            && icmpv6::is_solicitation(question.kind)
            && !ipv6::is_mapped(question.target);
        maps::neighbor_ipv6(vni, is_question.then_some(question.target)?)
    } else {
        None
    };
    neighbor.map(|neighbor| Mac::new(neighbor.mac))
}

/// Hands over what another endpoint of this host sent.
#[inline(always)]
pub fn from_endpoint(
    frame: &mut Frame,
    target: &FdbEntry,
    ifindex: u32,
) -> Result<Action, DropReason> {
    if target.is_queued() {
        to_endpoint_queued(frame, ifindex)
    } else {
        frame.redirect_to_peer(ifindex)
    }
}

/// Hands over what the kernel has unpacked: it classifies the frame anew.
#[inline(always)]
pub fn to_endpoint_queued(frame: &Frame, ifindex: u32) -> Result<Action, DropReason> {
    maps::count_event(Counter::SlowQueue);
    frame.redirect_out(ifindex)
}

/// Delivers the frame to an endpoint. The fast path (`redirect_peer`) needs a correct `skb->protocol`. If it still
/// names the outer packet, the frame goes through the veth's queue, which reclassifies it and runs GRO.
#[inline(always)]
pub fn to_endpoint(
    frame: &mut Frame,
    target: &FdbEntry,
    protocol: u16,
) -> Result<Action, DropReason> {
    let is_fresh = frame.protocol() == protocol && (protocol == eth::IPV4 || protocol == eth::IPV6);
    if is_fresh && !target.is_queued() && !wants_gro(frame, protocol) {
        frame.redirect_to_peer(target.target)
    } else {
        to_endpoint_queued(frame, target.target)
    }
}

/// Whether the packet should go through GRO.
#[inline(always)]
fn wants_gro(frame: &Frame, protocol: u16) -> bool {
    tcp_packet(frame, protocol)
        .and_then(|packet| maps::with_gro_state(|state| gro::wants_gro(state, packet, maps::now())))
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
