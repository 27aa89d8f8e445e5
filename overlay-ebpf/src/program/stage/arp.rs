//! Answers ARP from the neighbour table, by turning the frame round in place.
//!
//! Unicast between endpoints passes on if it tells the truth.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry},
    rule::source as rule,
    wire::{
        arp::{self, ArpHdr},
        eth::{self, EthHdr},
        ipv6,
    },
};

use crate::{
    frame::{Frame, OnStack},
    maps,
    packet::{L3, Packet},
    step::{Question, Step},
};

/// Answers an ARP request for a known address, and a probe for somebody else's (RFC 5227 section 2.1.1).
/// Announcements want no answer. A reply goes on, and so does a request that asks one endpoint alone.
#[inline(always)]
pub fn answer(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
) -> Result<Step, DropReason> {
    let header = &packet.eth;
    if packet.l3 != L3::Arp {
        return Ok(Step::Next);
    }
    frame.require(eth::LEN + arp::LEN)?;
    let request = OnStack(*frame.header::<ArpHdr>(eth::LEN)?);
    let is_reply = arp::is_reply(&request);
    if !is_reply && !arp::is_request(&request) {
        return Err(DropReason::ArpMalformed);
    }
    if !rule::same_mac(request.sha, from.mac) {
        return Err(DropReason::SourceMac);
    }
    let sender = u32::from_ne_bytes(request.spa);
    let is_probe = sender == 0 && !is_reply;
    if !is_probe
        && !rule::is_first_ipv4(from, request.spa)
        && !rule::is_own(from, maps::neighbor_ipv4(from.vni, request.spa))
    {
        return Err(DropReason::SourceIp);
    }
    if sender == u32::from_ne_bytes(request.tpa) || (is_reply && header.destination.is_group()) {
        return Err(DropReason::ArpGratuitous);
    }
    if !arp::can_be_target(request.tpa) {
        return Err(DropReason::ArpMalformed);
    }
    if is_reply {
        return Ok(Step::Next);
    }
    let otherwise = if is_probe {
        DropReason::ArpGratuitous
    } else {
        DropReason::NeighborUnknown
    };
    let address = ipv6::mapped_halves(request.tpa);
    let mac = if let Some(neighbor) = maps::neighbor_ipv4(from.vni, request.tpa) {
        if rule::owned_by(from, &neighbor) {
            return Err(DropReason::ArpGratuitous);
        }
        neighbor.mac
    } else if let Some(gateway) = maps::gateway_mac(from.vni, address) {
        gateway
    } else if header.destination.is_group() {
        return Ok(Step::Ask(Question {
            address,
            requester: ipv6::mapped_halves(request.spa),
            otherwise,
        }));
    } else {
        return Ok(Step::Next);
    };
    *frame.header_mut(eth::LEN)? = arp::reply(&request, mac);
    *frame.header_mut(0)? = EthHdr {
        dst_addr: header.source.octets(),
        src_addr: mac,
        ether_type: eth::ARP,
    };
    frame.redirect_out(frame.ifindex()).map(Step::Done)
}
