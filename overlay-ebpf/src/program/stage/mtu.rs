//! Turns a packet that is too long into the ICMP error for its sender.

use overlay_ebpf::{
    abi::{Call, Counter, DropReason, EndpointEntry, MeterKey},
    rule::{miss, mtu as rule},
    wire::{
        eth::{self, EthHdr},
        icmp, icmpv6,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    frame::{Action, Frame, OnStack, QUOTED},
    maps,
};

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
    maps::with_scratch(|scratch| {
        scratch.limit = limit;
        scratch.vni = from.vni;
    });
    Err(maps::continue_with(Call::IcmpError, frame))
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

/// Tells the endpoint that its packet is longer than `limit` bytes. `TooBig`: it can't be told.
#[inline(always)]
pub fn refuse(frame: &mut Frame, limit: u32) -> Result<Action, DropReason> {
    let header = eth::Header::parse(frame.header(0)?);
    if frame.require(eth::LEN + QUOTED).is_err() || header.destination.is_group() {
        return Err(DropReason::TooBig);
    }
    let is_ipv4 = header.ether_type == eth::IPV4;
    if !(if is_ipv4 {
        wants_error_ipv4(frame)
    } else {
        wants_error_ipv6(frame)
    }) {
        return Err(DropReason::TooBig);
    }
    let meter = MeterKey::errors(frame.ifindex());
    let now = maps::now();
    if !maps::with_meter(meter, |meter| miss::allows(meter, now, rule::ERROR_LIMIT)) {
        maps::count_event(Counter::TooBigLimited);
        return Err(DropReason::TooBig);
    }
    let told = if is_ipv4 {
        answer_ipv4(frame, limit as u16)
    } else {
        answer_ipv6(frame, limit.max(rule::IPV6_MINIMUM) as u16)
    };
    told.map_err(|_| DropReason::TooBig)?;
    *frame.header_mut(0)? = EthHdr {
        dst_addr: header.source.octets(),
        src_addr: header.destination.octets(),
        ether_type: header.ether_type,
    };
    maps::count_event(Counter::TooBigAnswered);
    frame.redirect_out(frame.ifindex())
}

/// Whether an error about this packet may be sent (RFC 1122 section 3.2.2, RFC 1191 section 4).
#[inline(always)]
fn wants_error_ipv4(frame: &Frame) -> bool {
    let Ok(ip) = frame.header::<Ipv4Hdr>(eth::LEN) else {
        return false;
    };
    if !ipv4::must_not_fragment(ip) || ipv4::is_fragment(ip) {
        return false;
    }
    let kind = frame.load::<u8>(eth::LEN + ipv4::header_len(ip));
    ip.proto != ipv4::ICMP || kind.is_ok_and(|kind| !icmp::is_error(kind))
}

/// The same of an IPv6 packet (RFC 4443 section 2.4).
#[inline(always)]
fn wants_error_ipv6(frame: &Frame) -> bool {
    let Ok(ip) = frame.header::<Ipv6Hdr>(eth::LEN) else {
        return false;
    };
    let kind = frame.load::<u8>(eth::LEN + ipv6::LEN);
    ip.next_header != ipv6::ICMPV6 || kind.is_ok_and(|kind| !icmpv6::is_error(kind))
}

#[inline(always)]
fn answer_ipv4(frame: &mut Frame, limit: u16) -> Result<(), DropReason> {
    const ERROR: usize = ipv4::LEN + icmp::LEN;
    let ip = OnStack(*frame.header::<Ipv4Hdr>(eth::LEN)?);
    make_room(frame, ERROR)?;
    let quoted = frame.sum_of::<QUOTED>(eth::LEN + ERROR)?;
    *frame.header_mut(eth::LEN + ipv4::LEN)? = icmp::fragmentation_needed(limit, quoted);
    *frame.header_mut(eth::LEN)? = ipv4::error_about(&ip, (icmp::LEN + QUOTED) as u16);
    Ok(())
}

#[inline(always)]
fn answer_ipv6(frame: &mut Frame, limit: u16) -> Result<(), DropReason> {
    const ERROR: usize = ipv6::LEN + icmp::LEN;
    let ip = OnStack(*frame.header::<Ipv6Hdr>(eth::LEN)?);
    make_room(frame, ERROR)?;
    let quoted = frame.sum_of::<QUOTED>(eth::LEN + ERROR)?;
    let (header, message) = icmp::packet_too_big(&ip, limit, quoted, QUOTED as u16);
    *frame.header_mut(eth::LEN + ipv6::LEN)? = message;
    *frame.header_mut(eth::LEN)? = header;
    Ok(())
}

/// Cuts the packet down to what is quoted, and makes room for `len` bytes in front of it.
#[inline(always)]
fn make_room(frame: &mut Frame, len: usize) -> Result<(), DropReason> {
    frame.resize((eth::LEN + QUOTED) as u32)?;
    frame.grow(len)?;
    frame.require(eth::LEN + len + QUOTED)
}
