//! ARP and neighbour discovery answered on the spot, from the neighbour table, with the frame
//! turned round in place.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry, NeighborEntry},
    rule::source as rule,
    wire::{
        arp::{self, ArpHdr},
        eth::{self, EthHdr},
        icmpv6::{self, Solicitation},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    maps,
    packet::{Frame, Held, Verdict},
};

/// What is asked for, and for whom: IPv6 addresses, or IPv4 ones mapped into it.
#[derive(Clone, Copy)]
pub struct Question {
    /// Whose MAC is wanted.
    pub address: Held<[u8; 16]>,
    /// Who wants it; `::` if it has no address yet.
    pub asker: Held<[u8; 16]>,
    /// The reason to drop the question where nobody knows the answer.
    pub otherwise: DropReason,
}

/// Where an ICMPv6 message begins.
const MESSAGE: usize = eth::LEN + ipv6::LEN;

/// Answers an ARP request for a known address; what becomes of others `miss` says. Announcements
/// and probes want no answer.
#[inline(always)]
pub fn answer_arp(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
    miss: impl FnOnce(Question) -> DropReason,
) -> Result<Verdict, DropReason> {
    frame.require(eth::LEN + arp::LEN)?;
    let request = Held(*frame.header::<ArpHdr>(eth::LEN)?);
    if !arp::is_request(&request) {
        return Err(DropReason::ArpMalformed);
    }
    if !rule::same_mac(request.sha, endpoint.mac) {
        return Err(DropReason::SourceMac);
    }
    let sender = u32::from_ne_bytes(request.spa);
    if sender == 0 {
        return Err(DropReason::ArpGratuitous);
    }
    if !rule::is_first_ipv4(endpoint, request.spa)
        && !is_own(endpoint, maps::neighbor_ipv4(endpoint.vni, request.spa))
    {
        return Err(DropReason::SourceIp);
    }
    if sender == u32::from_ne_bytes(request.tpa) {
        return Err(DropReason::ArpGratuitous);
    }
    if !arp::can_be_target(request.tpa) {
        return Err(DropReason::ArpMalformed);
    }
    let Some(neighbor) = maps::neighbor_ipv4(endpoint.vni, request.tpa) else {
        return Err(miss(Question {
            address: Held(ipv6::mapped(request.tpa)),
            asker: Held(ipv6::mapped(request.spa)),
            otherwise: DropReason::NeighborUnknown,
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
    frame.redirect_out(frame.ifindex())
}

/// Whether this IPv6 frame carries a neighbour solicitation. `NdForged`: it carries, or may hide, a
/// message that would tell its receiver where addresses are. As with ARP replies, only the network
/// has a say in that.
#[inline(always)]
pub fn is_solicitation(frame: &mut Frame) -> Result<bool, DropReason> {
    frame.require(eth::LEN + ipv6::LEN)?;
    let ip = frame.header::<Ipv6Hdr>(eth::LEN)?;
    if icmpv6::may_hide_discovery(ip) {
        return Err(DropReason::NdForged);
    }
    if ip.next_header != ipv6::ICMPV6 {
        return Ok(false);
    }
    let kind = frame.load::<u8>(MESSAGE)?;
    if icmpv6::is_announcement(kind) {
        return Err(DropReason::NdForged);
    }
    Ok(icmpv6::is_solicitation(kind))
}

/// Answers a solicitation for a known address, and a duplicate address detection for somebody
/// else's; what becomes of others `miss` says.
#[inline(always)]
pub fn advertise(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
    miss: impl FnOnce(Question) -> DropReason,
) -> Result<Verdict, DropReason> {
    frame.require(MESSAGE + icmpv6::SOLICITATION_LEN)?;
    let ip = Held(*frame.header::<Ipv6Hdr>(eth::LEN)?);
    let message = Held(*frame.header::<Solicitation>(MESSAGE)?);
    if !icmpv6::is_valid_solicitation(&ip, &message) {
        return Err(DropReason::NdMalformed);
    }
    // The neighbour table has IPv4 rows under mapped addresses.
    if ipv6::is_mapped(ip.source) || ipv6::is_mapped(message.target) {
        return Err(DropReason::Ipv4Mapped);
    }
    let detection = ipv6::is_unspecified(ip.source);
    if !detection
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
        return Err(miss(Question {
            address: Held(message.target),
            asker: Held(ip.source),
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
    frame.redirect_out(frame.ifindex())
}

/// Whether the neighbour table gives the address to this endpoint.
#[inline(always)]
fn is_own(endpoint: &EndpointEntry, neighbor: Option<NeighborEntry>) -> bool {
    neighbor.is_some_and(|neighbor| rule::owned_by(endpoint, &neighbor))
}
