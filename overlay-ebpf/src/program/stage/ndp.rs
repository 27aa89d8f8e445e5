//! Answers neighbour discovery from the neighbour table, by turning the frame round in place.
//!
//! Unicast between endpoints passes on if it tells the truth.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry},
    rule::source as rule,
    wire::{
        eth::{self, EthHdr},
        icmpv6::{self, Claim, Solicitation, TargetLinkLayer},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    frame::{Frame, OnStack},
    maps,
    packet::{L3, Packet},
    step::{Question, Step},
};

/// Where an ICMPv6 message begins.
const MESSAGE: usize = eth::LEN + ipv6::LEN;

/// Takes care of neighbour discovery. `NdForged`: the packet carries, or may hide, a message that would tell its
/// receiver where others are.
#[inline(always)]
pub fn answer(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
) -> Result<Step, DropReason> {
    if packet.l3 != L3::Ipv6 {
        return Ok(Step::Next);
    }
    if packet.may_hide_discovery(frame)? {
        frame.check_extensions(eth::LEN, packet.protocol(frame)?)?;
    }
    let kind = packet.icmp_type(frame)?;
    if icmpv6::is_solicitation(kind) {
        advertise(frame, &packet.eth, from)
    } else if icmpv6::is_advertisement(kind) {
        check_advertisement(frame, from)?;
        Ok(Step::Next)
    } else if icmpv6::claim(kind) == Claim::Others {
        Err(DropReason::NdForged)
    } else {
        Ok(Step::Next)
    }
}

/// An advertisement speaks of an address and the MAC of its sender alone.
#[inline(always)]
fn check_advertisement(frame: &mut Frame, from: &EndpointEntry) -> Result<(), DropReason> {
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
    if !icmpv6::tells_only_of(len, &option, from.mac) {
        return Err(DropReason::NdForged);
    }
    let is_own = rule::is_first_ipv6(from, target)
        || ipv6::is_link_local_of(target, from.mac)
        || rule::is_own(from, maps::neighbor_ipv6(from.vni, target));
    if is_own {
        Ok(())
    } else {
        Err(DropReason::NdForged)
    }
}

/// Answers a solicitation for a known address, and a duplicate address detection for somebody
/// else's.
#[inline(always)]
fn advertise(
    frame: &mut Frame,
    header: &eth::Header,
    from: &EndpointEntry,
) -> Result<Step, DropReason> {
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
        && !rule::is_first_ipv6(from, ip.source)
        && !rule::is_own(from, maps::neighbor_ipv6(from.vni, ip.source))
    {
        return Err(DropReason::SourceIp);
    }
    let otherwise = if detection {
        DropReason::NdDetection
    } else {
        DropReason::NeighborUnknown
    };
    let address = ipv6::halves(message.target);
    let (mac, is_router) = if let Some(neighbor) = maps::neighbor_ipv6(from.vni, message.target) {
        if rule::owned_by(from, &neighbor) {
            return Err(otherwise);
        }
        (neighbor.mac, false)
    } else if let Some(gateway) = maps::gateway_mac(from.vni, address) {
        (gateway, true)
    } else {
        if !header.destination.is_group() {
            return Ok(Step::Next);
        }
        // No registry has the address that an interface makes of its MAC.
        if detection && ipv6::is_link_local_of(message.target, from.mac) {
            return Err(otherwise);
        }
        return Ok(Step::Ask(Question {
            address,
            requester: ipv6::halves(ip.source),
            otherwise,
        }));
    };
    frame.resize((MESSAGE + icmpv6::ADVERTISEMENT_LEN) as u32)?;
    frame.require(MESSAGE + icmpv6::ADVERTISEMENT_LEN)?;
    let (answer_ip, answer) = icmpv6::advertise(&ip, &message, mac, is_router);
    *frame.header_mut(MESSAGE)? = answer;
    *frame.header_mut(eth::LEN)? = answer_ip;
    *frame.header_mut(0)? = EthHdr {
        dst_addr: if detection {
            ipv6::ALL_NODES_MAC
        } else {
            header.source.octets()
        },
        src_addr: mac,
        ether_type: eth::IPV6,
    };
    frame.redirect_out(frame.ifindex()).map(Step::Done)
}
