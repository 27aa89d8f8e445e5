//! The stages that a frame from an endpoint passes, in their order.

use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, FdbEntry},
    rule::{icmp::IcmpError, mtu as rule},
    wire::eth,
};

use crate::{
    frame::{Action, Frame},
    maps,
    packet::{L3, Packet},
    ping,
    stage::{
        arp, count, deliver, encap, gateway, group, icmp_error, meter, miss, miss::Requester, mtu,
        ndp, punt, sample::Subject, source, vlan,
    },
    step::Step,
};

/// Runs a stage. The way ends here unless the next one follows. Of a question the agent is told in the name of the
/// requester in front: only here two stages meet.
macro_rules! step {
    ($requester:expr, $stage:expr) => {
        match $stage? {
            Step::Next => {}
            Step::Done(action) => return Ok(action),
            Step::Ask(question) => return Err(miss::of_ip($requester, question)),
        }
    };
}

/// Carries a frame of an endpoint on: to another one of this host, or into a tunnel.
#[inline(always)]
pub fn run(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let ifindex = frame.ifindex();
    let from = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    subject.is_of(ifindex);
    subject.is_in(from.vni);
    let requester = Requester::of_endpoint(ifindex, &from);
    ping::divert(frame)?;
    vlan::untag(frame)?;
    let eth = eth::Header::parse(frame.header(0)?);
    let packet = Packet::parse(frame, eth)?;
    source::check_mac(&packet, &from)?;
    step!(requester, arp::answer(frame, &packet, &from));
    step!(requester, ndp::answer(frame, &packet, &from));
    punt::divert(frame, &packet, &from)?;
    source::check_ip(frame, &packet, &from)
        .map_err(|reason| group::reason(frame, &packet.eth, reason))?;
    group::refuse(frame, &packet.eth)?;
    packet.check_protocol()?;
    meter::sent(frame, &from)?;
    gateway::divert(frame, &packet, &from)?;
    let Some(target) = maps::fdb_used(from.vni, packet.eth.destination) else {
        gateway::divert_unknown(frame, &packet, &from)?;
        let otherwise = DropReason::DestinationUnknown;
        return Err(miss::of_mac(requester, packet.eth.destination, otherwise));
    };
    let segments = packet.segments(frame);
    let longest = segments.longest_packet(frame);
    mtu::check(frame, &from, longest, from.mtu)?;
    let volume = count::volume(&segments);
    if let Some(ifindex) = target.interface() {
        meter::received(frame, &target).inspect_err(|_| subject.is_for(ifindex))?;
        let action = deliver::from_endpoint(frame, &target, ifindex)?;
        count::exchanged(&from, &target, volume);
        return Ok(action);
    }
    let way = Way {
        vni: from.vni,
        mtu: from.mtu,
        target: &target,
    };
    let action = to_vtep(frame, &packet, &from, &way, longest)?;
    count::sent(&from, volume);
    Ok(action)
}

/// The network that a frame goes on in, and where to.
pub struct Way<'a> {
    /// The network.
    pub vni: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// The receiver's entry in the FDB.
    pub target: &'a FdbEntry,
}

/// Into a tunnel, unless the packet, or the longest of an aggregate's, is more than the path takes.
#[inline(always)]
pub fn to_vtep(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
    way: &Way<'_>,
    longest: u32,
) -> Result<Action, DropReason> {
    let action = encapsulate(frame, packet, from, way, longest)?;
    meter::classify(frame, from);
    Ok(action)
}

#[inline(always)]
fn encapsulate(
    frame: &mut Frame,
    packet: &Packet,
    from: &EndpointEntry,
    way: &Way<'_>,
    longest: u32,
) -> Result<Action, DropReason> {
    let (path, shows_dscp) = (maps::path_of(way.target)?, from.is_metered());
    if packet.l3 == L3::Arp {
        return encap::send_by_device(frame, way.vni, &path, shows_dscp, Counter::SlowSendArp);
    }
    let limit = rule::limit(way.mtu, path.mtu);
    if longest > limit && mtu::may_fragment(frame, packet.eth.ether_type, longest) {
        let cause = Counter::SlowSendFragmented;
        return encap::send_by_device(frame, way.vni, &path, shows_dscp, cause);
    }
    mtu::check(frame, from, longest, limit)?;
    let flow = packet.flow(frame)?;
    encap::send(frame, way.vni, &packet.eth, &flow, &path, shows_dscp)
}

/// Answers a frame by the ICMP error about it: the way that [`crate::refusal`] sends it.
#[inline(always)]
pub fn run_icmp_error(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    subject.is_of(frame.ifindex());
    let told = maps::with_scratch(|scratch| (scratch.error, scratch.limit, scratch.vni));
    let (error, limit, vni) = told.ok_or(DropReason::TooBig)?;
    subject.is_in(vni);
    icmp_error::tell(frame, IcmpError::of_number(error), limit, vni)
}

/// Sends a probe of the agent's: the way that [`ping::divert`] sends it.
#[inline(always)]
pub fn run_probe(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let ifindex = frame.ifindex();
    let from = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    subject.is_of(ifindex);
    subject.is_in(from.vni);
    ping::send(frame, &from, Requester::of_endpoint(ifindex, &from))
}

/// Hands the agent a frame that it is to answer: the way that [`punt::divert`] sends it.
#[inline(always)]
pub fn run_punt(frame: &Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let ifindex = frame.ifindex();
    let from = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    subject.is_of(ifindex);
    subject.is_in(from.vni);
    punt::hand_over(frame, ifindex, &from)
}
