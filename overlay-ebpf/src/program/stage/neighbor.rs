//! Answers ARP and neighbour discovery from the neighbour table, by turning the frame round in place.
//!
//! Unicast between endpoints passes on if it tells the truth.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry, NeighborEntry},
    rule::source as rule,
    wire::{
        arp::{self, ArpHdr},
        eth::{self, EthHdr},
        icmpv6::{self, Claim, Solicitation, TargetLinkLayer},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    maps,
    packet::{Action, Frame, OnStack},
};

/// A question for an address: IPv6 addresses, or IPv4-mapped ones.
#[derive(Clone, Copy)]
pub struct Question {
    /// The address whose MAC is wanted.
    pub address: OnStack<[u8; 16]>,
    /// The requester's address; `::` if it has none yet.
    pub requester: OnStack<[u8; 16]>,
    /// The reason to drop the question where nobody knows the answer.
    pub otherwise: DropReason,
}

/// The result of a question.
pub enum Answer {
    /// It was turned into its answer.
    Sent(Action),
    /// It is for the endpoint that its destination MAC names, or none at all.
    NotOurs,
    /// The maps don't hold the address.
    Unknown(Question),
}

/// Where an ICMPv6 message begins.
const MESSAGE: usize = eth::LEN + ipv6::LEN;

/// Answers an ARP request for a known address, and a probe for somebody else's (RFC 5227 section 2.1.1).
/// Announcements want no answer. Not ours is a reply, or a request of one that asks one endpoint alone.
#[inline(always)]
pub fn answer_arp(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
) -> Result<Answer, DropReason> {
    frame.require(eth::LEN + arp::LEN)?;
    let request = OnStack(*frame.header::<ArpHdr>(eth::LEN)?);
    let is_reply = arp::is_reply(&request);
    if !is_reply && !arp::is_request(&request) {
        return Err(DropReason::ArpMalformed);
    }
    if !rule::same_mac(request.sha, endpoint.mac) {
        return Err(DropReason::SourceMac);
    }
    let sender = u32::from_ne_bytes(request.spa);
    let is_probe = sender == 0 && !is_reply;
    if !is_probe
        && !rule::is_first_ipv4(endpoint, request.spa)
        && !is_own(endpoint, maps::neighbor_ipv4(endpoint.vni, request.spa))
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
        return Ok(Answer::NotOurs);
    }
    let otherwise = if is_probe {
        DropReason::ArpGratuitous
    } else {
        DropReason::NeighborUnknown
    };
    let Some(neighbor) = maps::neighbor_ipv4(endpoint.vni, request.tpa) else {
        if !header.destination.is_group() {
            return Ok(Answer::NotOurs);
        }
        return Ok(Answer::Unknown(Question {
            address: OnStack(ipv6::mapped(request.tpa)),
            requester: OnStack(ipv6::mapped(request.spa)),
            otherwise,
        }));
    };
    if rule::owned_by(endpoint, &neighbor) {
        return Err(DropReason::ArpGratuitous);
    }
    *frame.header_mut(eth::LEN)? = arp::reply(&request, neighbor.mac);
    *frame.header_mut(0)? = EthHdr {
        dst_addr: header.source.octets(),
        src_addr: neighbor.mac,
        ether_type: eth::ARP,
    };
    frame.redirect_out(frame.ifindex()).map(Answer::Sent)
}

/// What an IPv6 frame has to do with neighbour discovery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Nothing.
    No,
    /// It asks where an address is.
    Solicitation,
    /// It says where one is.
    Advertisement,
}

/// What this IPv6 frame has to do with neighbour discovery. `NdForged`: it carries, or may hide, a message
/// that would tell its receiver where others are.
#[inline(always)]
pub fn discovery(frame: &mut Frame) -> Result<Discovery, DropReason> {
    frame.require(eth::LEN + ipv6::LEN)?;
    let ip = frame.header::<Ipv6Hdr>(eth::LEN)?;
    if icmpv6::may_hide_discovery(ip) {
        frame.check_extensions(eth::LEN, ip.next_header)?;
    }
    if ip.next_header != ipv6::ICMPV6 {
        return Ok(Discovery::No);
    }
    let kind = frame.load::<u8>(MESSAGE)?;
    if icmpv6::is_solicitation(kind) {
        Ok(Discovery::Solicitation)
    } else if icmpv6::is_advertisement(kind) {
        Ok(Discovery::Advertisement)
    } else if icmpv6::claim(kind) == Claim::Others {
        Err(DropReason::NdForged)
    } else {
        Ok(Discovery::No)
    }
}

/// An advertisement speaks of an address and the MAC of its sender alone.
#[inline(always)]
pub fn check_advertisement(frame: &mut Frame, endpoint: &EndpointEntry) -> Result<(), DropReason> {
    frame.require(MESSAGE + icmpv6::SOLICITATION_LEN)?;
    let ip = frame.header::<Ipv6Hdr>(eth::LEN)?;
    let len = u16::from_be_bytes(ip.payload_len) as usize;
    let target = frame.header::<Solicitation>(MESSAGE)?.target;
    let option = frame
        .load::<TargetLinkLayer>(MESSAGE + icmpv6::SOLICITATION_LEN)
        .unwrap_or(TargetLinkLayer {
            kind: 0,
            len: 0,
            mac: [0; 6],
        });
    if !icmpv6::tells_only_of(len, &option, endpoint.mac) {
        return Err(DropReason::NdForged);
    }
    let is_own = rule::is_first_ipv6(endpoint, target)
        || ipv6::is_link_local_of(target, endpoint.mac)
        || is_own(endpoint, maps::neighbor_ipv6(endpoint.vni, target));
    if is_own {
        Ok(())
    } else {
        Err(DropReason::NdForged)
    }
}

/// Answers a solicitation for a known address, and a duplicate address detection for somebody
/// else's.
#[inline(always)]
pub fn advertise(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
) -> Result<Answer, DropReason> {
    frame.require(MESSAGE + icmpv6::SOLICITATION_LEN)?;
    let ip = OnStack(*frame.header::<Ipv6Hdr>(eth::LEN)?);
    let message = OnStack(*frame.header::<Solicitation>(MESSAGE)?);
    if !icmpv6::is_valid_solicitation(&ip, &message) {
        return Err(DropReason::NdMalformed);
    }
    // The neighbour table has IPv4 rows under mapped addresses.
    if ipv6::is_mapped(ip.source) || ipv6::is_mapped(message.target) {
        return Err(DropReason::Ipv4Mapped);
    }
    let detection = ipv6::is_unspecified(ip.source);
    // The answer goes to nobody but the endpoint, so it need not be proved whose a link-local address is.
    if !detection
        && !ipv6::is_link_local(ip.source)
        && !rule::is_first_ipv6(endpoint, ip.source)
        && !is_own(endpoint, maps::neighbor_ipv6(endpoint.vni, ip.source))
    {
        return Err(DropReason::SourceIp);
    }
    let otherwise = if detection {
        DropReason::NdDetection
    } else {
        DropReason::NeighborUnknown
    };
    let Some(neighbor) = maps::neighbor_ipv6(endpoint.vni, message.target) else {
        if !header.destination.is_group() {
            return Ok(Answer::NotOurs);
        }
        // No registry has the address that an interface makes of its MAC.
        if detection && ipv6::is_link_local_of(message.target, endpoint.mac) {
            return Err(otherwise);
        }
        return Ok(Answer::Unknown(Question {
            address: OnStack(message.target),
            requester: OnStack(ip.source),
            otherwise,
        }));
    };
    if rule::owned_by(endpoint, &neighbor) {
        return Err(otherwise);
    }
    frame.resize((MESSAGE + icmpv6::ADVERTISEMENT_LEN) as u32)?;
    frame.require(MESSAGE + icmpv6::ADVERTISEMENT_LEN)?;
    let (answer_ip, answer) = icmpv6::advertise(&ip, &message, neighbor.mac);
    *frame.header_mut(MESSAGE)? = answer;
    *frame.header_mut(eth::LEN)? = answer_ip;
    *frame.header_mut(0)? = EthHdr {
        dst_addr: if detection {
            ipv6::ALL_NODES_MAC
        } else {
            header.source.octets()
        },
        src_addr: neighbor.mac,
        ether_type: eth::IPV6,
    };
    frame.redirect_out(frame.ifindex()).map(Answer::Sent)
}

/// Whether the neighbour table gives the address to this endpoint.
#[inline(always)]
fn is_own(endpoint: &EndpointEntry, neighbor: Option<NeighborEntry>) -> bool {
    neighbor.is_some_and(|neighbor| rule::owned_by(endpoint, &neighbor))
}
