//! The stages that packets pass between endpoints and the outside, in their order.

use overlay_ebpf::{
    abi::{Call, Counter, DropReason, EndpointEntry, OutsideEntry, RouterPortEntry},
    rule::{icmp::IcmpError, mtu as rule},
    wire::{
        eth::{self, Mac},
        ipv6,
    },
};

use crate::{
    exit::{self, Translated},
    frame::{Action, Frame, PASS, Transport},
    maps,
    packet::{L3, Packet},
    refusal,
    stage::{
        count, deliver, encap, float, hop, meter, mtu, outside, sample::Subject, snat,
        snat::Arrival,
    },
};

/// Sends a packet of an endpoint's out of the overlay: the way that [`super::router`] sends it, which found it routable.
#[inline(always)]
pub fn run_out(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let (from, packet) = sent(frame, subject)?;
    let translated = match packet.l3 {
        L3::Ipv4 => {
            let transport = frame.transport()?;
            translate_out(frame, &packet, &transport, &from)
        }
        L3::Ipv6 => {
            let source = packet.source(frame)?;
            exit::translate_prefix(frame, from.vni, source)
        }
        L3::Arp | L3::Other => return Err(DropReason::EtherType),
    };
    match translated {
        Ok(translated) => leave(frame, &packet, &from, translated),
        Err(reason) => Err(refuse(frame, &from, reason)),
    }
}

#[inline(always)]
fn sent(frame: &mut Frame, subject: &mut Subject) -> Result<(EndpointEntry, Packet), DropReason> {
    let from = maps::kept_endpoint().ok_or(DropReason::EndpointUnknown)?;
    subject.is_of(frame.ifindex());
    subject.is_in(from.vni);
    let eth = eth::Header::parse(frame.header(0)?);
    let packet = Packet::parse(frame, eth)?;
    Ok((from, packet))
}

#[inline(always)]
fn translate_out(
    frame: &mut Frame,
    packet: &Packet,
    transport: &Transport,
    from: &EndpointEntry,
) -> Result<Translated, DropReason> {
    let source = packet.source_ipv4(frame)?;
    if let Some(external) = maps::float(from.vni, source) {
        return float::translate_out(frame, transport, source, external);
    }
    if let Some(translated) = snat::translate_out(frame, transport, from)? {
        return Ok(translated);
    }
    if maps::with_scratch(|scratch| scratch.opened).unwrap_or(1) != 0 {
        return Err(DropReason::NatExhausted);
    }
    Err(maps::continue_with(Call::NatOpen, frame))
}

/// Tells the sender of what translation refuses (RFC 5508 REQ-8).
#[inline(always)]
fn refuse(frame: &Frame, from: &EndpointEntry, reason: DropReason) -> DropReason {
    let error = match reason {
        DropReason::NatNone => IcmpError::NatNone,
        DropReason::NatProtocol => IcmpError::NatProtocol,
        DropReason::NatExhausted => IcmpError::NatExhausted,
        reason => return reason,
    };
    refusal::refuse(frame, from, error, 0)
}

/// Sends what was translated to the uplink, or to the endpoint of this host or another that has the address.
#[inline(always)]
fn leave(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
    translated: Translated,
) -> Result<Action, DropReason> {
    let volume = count::volume(&packet.segments(frame));
    count::sent(from, volume);
    if maps::with_scratch(|scratch| scratch.is_hairpin) == Some(1) {
        maps::count_event(Counter::OutsideHairpin);
        return Err(maps::continue_with(Call::FromOutside, frame));
    }
    let uplink = maps::uplink().ok_or(DropReason::NoUplink)?;
    let destination = match packet.l3 {
        L3::Ipv4 => Some(packet.destination_ipv4(frame)?),
        _ => None,
    };
    let action = outside::send(frame, translated, &uplink, destination)?;
    meter::classify(frame, from);
    Ok(action)
}

/// Gives a flow its external port, and has the packet sent: the way that [`run_out`] sends it.
#[inline(always)]
pub fn run_open(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let (from, packet) = sent(frame, subject)?;
    if packet.l3 != L3::Ipv4 {
        return Err(DropReason::NatProtocol);
    }
    let transport = frame.transport()?;
    match snat::open(frame, &transport, &from) {
        Ok(()) => {
            maps::with_scratch(|scratch| scratch.opened = 1);
            Err(maps::continue_with(Call::ToOutside, frame))
        }
        Err(reason) => Err(refuse(frame, &from, reason)),
    }
}

/// Takes a packet from outside in: the way that [`outside::divert`] sends it, or [`run_out`].
#[inline(always)]
pub fn run_in(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let eth = eth::Header::parse(frame.header(0)?);
    let packet = Packet::parse(frame, eth)?;
    let (vni, address) = match packet.l3 {
        L3::Arp => return outside::answer_arp(frame),
        L3::Ipv4 => {
            let ip = packet.destination_ipv4(frame)?;
            let Some(entry) = maps::outside(ip) else {
                return Ok(PASS);
            };
            let transport = frame.transport()?;
            if entry.kind == OutsideEntry::FLOAT {
                subject.is_in(entry.vni);
                float::translate_in(frame, &transport, ip, entry.ip)?;
                (entry.vni, ipv6::mapped_halves(entry.ip))
            } else {
                match snat::translate_in(frame, &transport, &entry)? {
                    Some(arrival) => to(&arrival),
                    None => return Ok(PASS),
                }
            }
        }
        L3::Ipv6 => {
            let destination = packet.destination(frame)?;
            let Some(reached) = maps::reached_from_outside(destination) else {
                return Ok(PASS);
            };
            subject.is_in(reached.vni);
            let own = outside::translate_prefix(frame, &reached, destination)?;
            (reached.vni, own)
        }
        L3::Other => return Ok(PASS),
    };
    subject.is_in(vni);
    arrive(frame, &packet, subject, vni, address)
}

#[inline(always)]
fn to(arrival: &Arrival) -> (u32, [u64; 2]) {
    (arrival.vni, ipv6::mapped_halves(arrival.ip.to_ne_bytes()))
}

/// Translates an ICMP error about a flow, and sends it on as all else.
#[inline(always)]
pub fn run_error(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let eth = eth::Header::parse(frame.header(0)?);
    let packet = Packet::parse(frame, eth)?;
    if packet.l3 != L3::Ipv4 {
        return Err(DropReason::NatError);
    }
    let transport = frame.transport()?;
    if maps::with_scratch(|scratch| scratch.is_inbound) == Some(0) {
        let (from, packet) = sent(frame, subject)?;
        let translated = snat::error::translate_out(frame, &transport, &from)?;
        return leave(frame, &packet, &from, translated);
    }
    let ip = packet.destination_ipv4(frame)?;
    let Some(entry) = maps::outside(ip) else {
        return Ok(PASS);
    };
    let Some(arrival) = snat::error::translate_in(frame, &transport, &entry)? else {
        return Ok(PASS);
    };
    let (vni, address) = to(&arrival);
    subject.is_in(vni);
    arrive(frame, &packet, subject, vni, address)
}

/// Brings a packet to the endpoint that has the address, wherever it is: the gateway of its network sends it.
#[inline(always)]
fn arrive(
    frame: &mut Frame,
    packet: &Packet,
    subject: &mut Subject,
    vni: u32,
    address: [u64; 2],
) -> Result<Action, DropReason> {
    let neighbor = maps::neighbor(vni, address).ok_or(DropReason::HostUnreachable)?;
    let mac = Mac::new(neighbor.mac);
    let target = maps::fdb_used(vni, mac).ok_or(DropReason::DestinationUnknown)?;
    subject.is_of(target.interface().unwrap_or(0));
    let gateway: RouterPortEntry = maps::router_port(vni).ok_or(DropReason::NoRoute)?;
    if !hop::spend(frame, packet)? {
        return Err(DropReason::HopLimit);
    }
    let packet = Packet {
        eth: eth::Header {
            destination: mac,
            source: Mac::new(gateway.mac),
            ether_type: packet.eth.ether_type,
        },
        l3: packet.l3,
    };
    packet.eth.emit(frame.header_mut(0)?);
    maps::count_event(Counter::OutsideReceived);
    let segments = packet.segments(frame);
    if target.interface().is_some() {
        meter::received(frame, &target)?;
        count::received(&target, count::volume(&segments));
        return deliver::to_endpoint(frame, &packet, &target);
    }
    let network = maps::network(vni).ok_or(DropReason::VniUnknown)?;
    let path = maps::path_of(&target)?;
    let longest = segments.longest_packet(frame);
    if longest > rule::limit(network.mtu, path.mtu) {
        if mtu::may_fragment(frame, packet.eth.ether_type, longest) {
            return encap::send_by_device(frame, vni, &path, false, Counter::SlowSendFragmented);
        }
        return Err(DropReason::TooBig);
    }
    let flow = packet.flow(frame)?;
    encap::send(frame, vni, &packet.eth, &flow, &path, false)
}
