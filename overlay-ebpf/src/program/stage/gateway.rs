//! Speaks for the gateway of a network: answers ping, and tells that nothing else listens there.

use core::mem;

use overlay_ebpf::{
    abi::{Call, DropReason, EndpointEntry},
    rule::icmp::IcmpError,
    wire::{
        eth::{self, EthHdr, Mac},
        icmp::{self, IcmpHdr},
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    frame::{Action, Frame},
    maps,
    packet::{L3, Packet},
    refusal::refuse,
};

/// Has a packet to the network's gateway routed, by a program of its own, where the endpoint's row names the gateway.
#[inline(always)]
pub fn divert(frame: &Frame, packet: &Packet, from: &EndpointEntry) -> Result<(), DropReason> {
    // Programs that tell look it up, for the row to be told.
    if !cfg!(feature = "trace") && packet.eth.destination == Mac::new(from.gateway) {
        return route(frame, packet, from);
    }
    Ok(())
}

/// The same by the network's row, for a MAC that is no endpoint's.
#[inline(always)]
pub fn divert_unknown(
    frame: &Frame,
    packet: &Packet,
    from: &EndpointEntry,
) -> Result<(), DropReason> {
    if maps::is_gateway(from.vni, packet.eth.destination) {
        return route(frame, packet, from);
    }
    Ok(())
}

#[inline(always)]
fn route(frame: &Frame, packet: &Packet, from: &EndpointEntry) -> Result<(), DropReason> {
    if !matches!(packet.l3, L3::Ipv4 | L3::Ipv6) {
        return Ok(());
    }
    maps::keep_endpoint(from);
    Err(maps::continue_with(Call::Route, frame))
}

/// Answers an echo request to a gateway. All else gets the error that nobody listens.
#[inline(always)]
pub fn answer(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
) -> Result<Action, DropReason> {
    let is_ping = match packet.l3 {
        L3::Ipv4 => turn_round_ipv4(frame)?,
        L3::Ipv6 => turn_round_ipv6(frame)?,
        L3::Arp | L3::Other => return Err(DropReason::GatewayService),
    };
    if !is_ping {
        return Err(refuse(frame, from, IcmpError::PortUnreachable, 0));
    }
    *frame.header_mut(0)? = EthHdr {
        dst_addr: packet.eth.source.octets(),
        src_addr: packet.eth.destination.octets(),
        ether_type: packet.eth.ether_type,
    };
    frame.redirect_out(frame.ifindex())
}

/// Exchanges the addresses and makes the request an answer. `false`: it is none. Fragments are none: nobody puts them
/// together.
#[inline(always)]
fn turn_round_ipv4(frame: &mut Frame) -> Result<bool, DropReason> {
    const ECHO: usize = eth::LEN + ipv4::LEN;
    if frame.require(ECHO + icmp::LEN).is_err() {
        return Ok(false);
    }
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    let kind = frame.header::<IcmpHdr>(ECHO)?.kind;
    if ip.vihl != ipv4::NO_OPTIONS
        || ipv4::is_fragment(ip)
        || ip.proto != ipv4::ICMP
        || kind != icmp::ECHO_REQUEST
    {
        return Ok(false);
    }
    let ip = frame.header_mut::<Ipv4Hdr>(eth::LEN)?;
    mem::swap(&mut ip.src_addr, &mut ip.dst_addr);
    icmp::turn_round(frame.header_mut(ECHO)?, icmp::ECHO_REPLY);
    Ok(true)
}

#[inline(always)]
fn turn_round_ipv6(frame: &mut Frame) -> Result<bool, DropReason> {
    const ECHO: usize = eth::LEN + ipv6::LEN;
    if frame.require(ECHO + icmp::LEN).is_err() {
        return Ok(false);
    }
    let protocol = frame.header::<Ipv6Hdr>(eth::LEN)?.next_header;
    let kind = frame.header::<IcmpHdr>(ECHO)?.kind;
    if protocol != ipv6::ICMPV6 || kind != icmp::ECHO_REQUEST_V6 {
        return Ok(false);
    }
    let ip = frame.header_mut::<Ipv6Hdr>(eth::LEN)?;
    ipv6::exchange_addresses(ip);
    icmp::turn_round(frame.header_mut(ECHO)?, icmp::ECHO_REPLY_V6);
    Ok(true)
}
