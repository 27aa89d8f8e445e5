//! Tells an endpoint by ICMP why its packet goes no further (RFC 1812 section 4.3, RFC 4443 section 2.4).

use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{Counter, DropReason, MeterKey, RouterPortEntry},
    rule::{icmp::IcmpError, miss, mtu as rule},
    wire::{
        eth::{self, EthHdr, Mac},
        icmp, icmpv6,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    frame::{Action, Frame, Header, OnStack, QUOTED, QUOTED_IPV4, QUOTED_IPV6},
    maps,
};

/// Where an error comes from: a gateway, or as if from where the packet goes to. All of it is set: the verifier refuses
/// what only a gateway has.
#[derive(Clone, Copy)]
struct Source {
    is_gateway: bool,
    /// As it lies in memory; 0: it has none.
    ipv4: u32,
    /// Likewise.
    ipv6: [u64; 2],
}

impl Source {
    const NONE: Self = Self {
        is_gateway: false,
        ipv4: 0,
        ipv6: [0; 2],
    };

    #[inline(always)]
    fn of(port: &RouterPortEntry) -> Self {
        Self {
            is_gateway: true,
            ipv4: u32::from_ne_bytes(port.ipv4),
            ipv6: ipv6::halves(port.ipv6),
        }
    }
}

/// The reason to drop a packet whose sender can't be told.
#[inline(always)]
const fn reason(error: IcmpError) -> DropReason {
    match error {
        IcmpError::TooBig => DropReason::TooBig,
        IcmpError::HopLimit => DropReason::HopLimit,
        IcmpError::NoRoute => DropReason::NoRoute,
        IcmpError::HostUnreachable => DropReason::HostUnreachable,
        IcmpError::Prohibited => DropReason::RouteProhibited,
        IcmpError::PortUnreachable => DropReason::GatewayService,
        IcmpError::NoUplink => DropReason::NoUplink,
        IcmpError::NatNone => DropReason::NatNone,
        IcmpError::NatProtocol => DropReason::NatProtocol,
        IcmpError::NatExhausted => DropReason::NatExhausted,
    }
}

/// Tells the endpoint. The error comes from the gateway that the frame was for, or else as if from where the packet
/// goes to. If it can't be told the error is the reason to drop the packet.
#[inline(always)]
pub fn tell(
    frame: &mut Frame,
    error: IcmpError,
    limit: u32,
    vni: u32,
) -> Result<Action, DropReason> {
    let reason = reason(error);
    maps::note_refusal(reason);
    let header = eth::Header::parse(frame.header(0)?);
    if header.destination.is_group() {
        return Err(reason);
    }
    let source = match maps::router_port(vni) {
        Some(port) if Mac::new(port.mac) == header.destination => Source::of(&port),
        _ => Source::NONE,
    };
    let is_ipv4 = header.ether_type == eth::IPV4;
    let is_wanted = if is_ipv4 {
        frame.require(eth::LEN + QUOTED_IPV4).is_ok() && wants_error_ipv4(frame, error)
    } else {
        frame.require(eth::LEN + QUOTED_IPV6).is_ok() && wants_error_ipv6(frame)
    };
    if !is_wanted {
        return Err(reason);
    }
    let is_long = frame.require(eth::LEN + QUOTED).is_ok();
    if error == IcmpError::TooBig && !is_long {
        return Err(reason);
    }
    let (answered, limited) = match error {
        IcmpError::TooBig => (Counter::TooBigAnswered, Counter::TooBigLimited),
        _ => (Counter::RouterAnswered, Counter::RouterLimited),
    };
    let meter = MeterKey::errors(frame.ifindex());
    let now = maps::now();
    if !maps::with_meter(meter, |meter| miss::allows(meter, now, rule::ERROR_LIMIT)) {
        maps::count_event(limited);
        return Err(reason);
    }
    let told = match (is_ipv4, is_long) {
        (true, true) => answer_ipv4::<QUOTED>(frame, error, limit, source),
        (true, false) => answer_ipv4::<QUOTED_IPV4>(frame, error, limit, source),
        (false, true) => answer_ipv6::<QUOTED>(frame, error, limit, source),
        (false, false) => answer_ipv6::<QUOTED_IPV6>(frame, error, limit, source),
    };
    told.map_err(|_| reason)?;
    *frame.header_mut(0)? = EthHdr {
        dst_addr: header.source.octets(),
        src_addr: header.destination.octets(),
        ether_type: header.ether_type,
    };
    maps::count_event(answered);
    frame.redirect_out(frame.ifindex())
}

/// Whether an error about this packet may be sent (RFC 1122 section 3.2.2, RFC 1191 section 4). Of one that is too
/// long only where it must not be cut up.
#[inline(always)]
fn wants_error_ipv4(frame: &Frame, error: IcmpError) -> bool {
    let Ok(ip) = frame.header::<Ipv4Hdr>(eth::LEN) else {
        return false;
    };
    if error == IcmpError::TooBig && !ipv4::must_not_fragment(ip) {
        return false;
    }
    if ipv4::is_fragment(ip) && !ipv4::is_first_fragment(ip) {
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
fn answer_ipv4<const LEN: usize>(
    frame: &mut Frame,
    error: IcmpError,
    limit: u32,
    source: Source,
) -> Result<(), DropReason>
where
    [u8; LEN]: Header,
{
    const ERROR: usize = ipv4::LEN + icmp::LEN;
    let ip = OnStack(*frame.header::<Ipv4Hdr>(eth::LEN)?);
    let source = if source.is_gateway {
        source.ipv4.to_ne_bytes()
    } else {
        ip.dst_addr
    };
    if u32::from_ne_bytes(source) == 0 {
        return Err(DropReason::Truncated);
    }
    make_room(frame, ERROR, LEN)?;
    let quoted = frame.sum_of::<LEN>(eth::LEN + ERROR)?;
    *frame.header_mut(eth::LEN + ipv4::LEN)? = icmp::error_ipv4(error.ipv4(), limit as u16, quoted);
    *frame.header_mut(eth::LEN)? = ipv4::error_about(&ip, source, (icmp::LEN + LEN) as u16);
    Ok(())
}

#[inline(always)]
fn answer_ipv6<const LEN: usize>(
    frame: &mut Frame,
    error: IcmpError,
    limit: u32,
    source: Source,
) -> Result<(), DropReason>
where
    [u8; LEN]: Header,
{
    const ERROR: usize = ipv6::LEN + icmp::LEN;
    let ip = OnStack(*frame.header::<Ipv6Hdr>(eth::LEN)?);
    let source = OnStack(if source.is_gateway {
        must_cast(source.ipv6)
    } else {
        ip.destination
    });
    if ipv6::is_unspecified(source.0) {
        return Err(DropReason::Truncated);
    }
    // A path takes this much of IPv6 whatever it says (RFC 8200 section 5).
    let limit = match error {
        IcmpError::TooBig => limit.max(rule::IPV6_MINIMUM),
        _ => 0,
    };
    make_room(frame, ERROR, LEN)?;
    let quoted = frame.sum_of::<LEN>(eth::LEN + ERROR)?;
    let (header, message) = icmp::error_ipv6(
        &ip,
        source.0,
        error.ipv6(),
        limit as u16,
        (quoted, LEN as u16),
    );
    *frame.header_mut(eth::LEN + ipv6::LEN)? = message;
    *frame.header_mut(eth::LEN)? = header;
    Ok(())
}

/// Cuts the packet down to the `quoted` bytes, and makes room for `len` bytes in front of it.
#[inline(always)]
fn make_room(frame: &mut Frame, len: usize, quoted: usize) -> Result<(), DropReason> {
    frame.resize((eth::LEN + quoted) as u32)?;
    frame.grow(len)?;
    frame.require(eth::LEN + len + quoted)
}
