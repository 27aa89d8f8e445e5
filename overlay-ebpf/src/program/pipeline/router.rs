//! The stages that a packet to a gateway passes, in their order.

use bytemuck::Zeroable as _;
use overlay_ebpf::{
    abi::{Call, Counter, DropReason, Edition, EndpointEntry, FdbEntry, Hop, RouteEntry},
    rule::{icmp::IcmpError, mtu as rule, route},
    wire::eth::{self, Mac},
};

use super::endpoint;
use crate::{
    frame::{Action, Frame},
    maps,
    packet::Packet,
    refusal,
    stage::{count, deliver, gateway, hop, meter, miss, miss::Requester, mtu, sample::Subject},
    step::Question,
};

/// Routes a packet of an endpoint's: the way that [`gateway::divert`] sends it. Its source was found sound before.
///
/// The sender's host does all of it; the receiver's sees a frame of its own network (asymmetric routing).
#[inline(always)]
pub fn run(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let from = maps::kept_endpoint().ok_or(DropReason::EndpointUnknown)?;
    subject.is_of(frame.ifindex());
    subject.is_in(from.vni);
    let eth = eth::Header::parse(frame.header(0)?);
    let packet = Packet::parse(frame, eth)?;
    let destination = packet.destination(frame)?;
    let hop = match maps::known_hop(from.vni, destination) {
        Some(hop) => hop,
        None => match find(frame, &packet, &from, destination)? {
            Step::Next(hop) => hop,
            Step::Done(action) => return Ok(action),
        },
    };
    frame.reread_bounds();
    if !hop::is_left(frame, &packet)? {
        return Err(refusal::refuse(frame, &from, IcmpError::HopLimit, 0));
    }
    frame.reread_bounds();
    if hop.kind == Hop::INSIDE {
        forward(frame, &packet, &from, &hop, subject)
    } else {
        Err(leave(frame, &packet, &from, &hop))
    }
}

/// What a route makes of a packet.
enum Step {
    /// It goes on.
    Next(Hop),
    /// It was answered.
    Done(Action),
}

/// Looks up where a packet goes on, which is remembered.
#[inline(always)]
fn find(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
    destination: [u64; 2],
) -> Result<Step, DropReason> {
    let edition = maps::edition().unwrap_or(Edition::NONE);
    let port = maps::router_port(from.vni).ok_or(DropReason::DestinationUnknown)?;
    let refuse = |error| Err(refusal::refuse(frame, from, error, 0));
    let Some(route) = maps::route(port.router, destination) else {
        return refuse(IcmpError::NoRoute);
    };
    let next = match route.kind {
        RouteEntry::LOCAL => return gateway::answer(frame, packet, from).map(Step::Done),
        _ if !route::is_routable(destination) => return refuse(IcmpError::NoRoute),
        RouteEntry::CONNECTED => destination,
        RouteEntry::VIA => maps::next_hop_of(&route),
        RouteEntry::OUTSIDE => [0; 2],
        _ => return refuse(IcmpError::Prohibited),
    };
    let mut hop = Hop {
        destination,
        edition,
        from_vni: from.vni,
        ..Hop::zeroed()
    };
    if route.kind == RouteEntry::OUTSIDE {
        hop.kind = if maps::is_external(destination) {
            Hop::EXTERNAL
        } else {
            Hop::OUTSIDE
        };
        maps::remember_hop(&hop);
        return Ok(Step::Next(hop));
    }
    if !hop::is_left(frame, packet)? {
        return refuse(IcmpError::HopLimit);
    }
    let Some(neighbor) = maps::neighbor(route.vni, next) else {
        return Err(no_neighbor(frame, from, route.vni, next));
    };
    let Some(target) = maps::fdb_used(route.vni, Mac::new(neighbor.mac)) else {
        let requester = Requester::of_endpoint(frame.ifindex(), from).in_network(route.vni);
        return Err(miss::of_mac(
            requester,
            Mac::new(neighbor.mac),
            DropReason::DestinationUnknown,
        ));
    };
    let network = maps::network(route.vni).ok_or(DropReason::VniUnknown)?;
    hop.kind = Hop::INSIDE;
    hop.vni = route.vni;
    hop.mac = neighbor.mac;
    hop.mtu = network.mtu;
    hop.target = target;
    // The use of what ages is noted by each packet.
    if target.flags & FdbEntry::AGES == 0 {
        maps::remember_hop(&hop);
    }
    Ok(Step::Next(hop))
}

/// Sends a packet on to an endpoint.
#[inline(always)]
fn forward(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
    hop: &Hop,
    subject: &mut Subject,
) -> Result<Action, DropReason> {
    let segments = packet.segments(frame);
    let longest = segments.longest_packet(frame);
    mtu::check(frame, from, longest, rule::limit(hop.mtu, 0))?;
    hop::take(frame, packet)?;
    let packet = Packet {
        eth: eth::Header {
            destination: Mac::new(hop.mac),
            source: packet.eth.destination,
            ether_type: packet.eth.ether_type,
        },
        l3: packet.l3,
    };
    packet.eth.emit(frame.header_mut(0)?);
    maps::count_event(Counter::RouterForwarded);
    let volume = count::volume(&segments);
    if let Some(ifindex) = hop.target.interface() {
        meter::received(frame, &hop.target).inspect_err(|_| {
            subject.is_in(hop.vni);
            subject.is_for(ifindex);
        })?;
        let action = deliver::from_endpoint(frame, &hop.target, ifindex)?;
        count::sent(from, volume);
        count::received(&hop.target, volume);
        return Ok(action);
    }
    let way = endpoint::Way {
        vni: hop.vni,
        mtu: hop.mtu,
        target: &hop.target,
    };
    let action = endpoint::to_vtep(frame, &packet, from, &way, longest)?;
    count::sent(from, volume);
    Ok(action)
}

/// Has a packet sent out of the overlay, by a program of its own.
#[inline(always)]
fn leave(frame: &mut Frame, packet: &Packet, from: &EndpointEntry, hop: &Hop) -> DropReason {
    let longest = packet.segments(frame).longest_packet(frame);
    let Some(uplink) = maps::uplink() else {
        return refusal::refuse(frame, from, IcmpError::NoUplink, 0);
    };
    if let Err(reason) = mtu::check(frame, from, longest, uplink.mtu) {
        return reason;
    }
    if let Err(reason) = hop::take(frame, packet) {
        return reason;
    }
    maps::with_scratch(|scratch| {
        scratch.opened = 0;
        scratch.is_hairpin = u32::from(hop.kind == Hop::EXTERNAL);
    });
    maps::continue_with(Call::ToOutside, frame)
}

/// No endpoint of the network is known to have the address: the agent is told of it where it may find one, the sender
/// otherwise.
#[inline(always)]
fn no_neighbor(frame: &Frame, from: &EndpointEntry, vni: u32, address: [u64; 2]) -> DropReason {
    let question = Question {
        address,
        requester: [0; 2],
        otherwise: DropReason::HostUnreachable,
    };
    let requester = Requester::of_endpoint(frame.ifindex(), from).in_network(vni);
    match miss::of_ip(requester, question) {
        DropReason::HostUnreachable => refusal::refuse(frame, from, IcmpError::HostUnreachable, 0),
        reason => reason,
    }
}
