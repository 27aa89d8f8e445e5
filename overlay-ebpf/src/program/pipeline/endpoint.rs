//! The stages that a frame from an endpoint passes, in their order.

use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, FdbEntry, MeterKey},
    rule::{flow::Flow, mtu as rule},
    wire::eth::{self, Mac},
};

use crate::{
    maps,
    packet::{Action, Frame},
    ping,
    stage::{
        count, deliver, encap, group, miss,
        miss::Requester,
        mtu, neighbor,
        neighbor::{Answer, Discovery, Question},
        sample::Subject,
        source,
    },
};

/// Carries a frame of an endpoint on: to another one of this host, or into a tunnel.
#[inline(always)]
pub fn run(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let ifindex = frame.ifindex();
    let endpoint = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    subject.endpoint = ifindex;
    subject.vni = endpoint.vni;
    let requester = Requester {
        ifindex,
        vni: endpoint.vni,
        mac: Mac::new(endpoint.mac),
        meter: MeterKey::endpoint(ifindex),
    };
    if frame.is_marked()
        && let Some(outcome) = ping::send(frame, &endpoint, requester)
    {
        return outcome;
    }
    if frame.has_vlan_tag() {
        frame.pop_vlan()?;
    }
    let header = eth::Header::parse(frame.header(0)?);
    source::check_mac(&endpoint, &header)?;
    let discovery = if header.ether_type == eth::IPV6 {
        neighbor::discovery(frame)?
    } else {
        Discovery::No
    };
    let answer = match discovery {
        Discovery::No if header.ether_type == eth::ARP => {
            neighbor::answer_arp(frame, &endpoint, &header)?
        }
        Discovery::No => Answer::NotOurs,
        Discovery::Advertisement => {
            neighbor::check_advertisement(frame, &endpoint)?;
            Answer::NotOurs
        }
        Discovery::Solicitation => neighbor::advertise(frame, &endpoint, &header)?,
    };
    match answer {
        Answer::Sent(action) => return Ok(action),
        Answer::Unknown(Question {
            address,
            requester: requester_ip,
            otherwise,
        }) => return Err(miss::of_ip(requester, address, requester_ip, otherwise)),
        Answer::NotOurs => {}
    }
    let flow = match header.ether_type {
        eth::ARP => Flow { hash: 0, ecn: 0 },
        eth::IPV6 => {
            if header.destination.is_group() {
                return Err(group::reason(frame, header.ether_type, eth::LEN));
            }
            source::check_ipv6(frame, &endpoint, discovery != Discovery::No)?
        }
        _ if header.destination.is_group() => {
            return Err(group::reason(frame, header.ether_type, eth::LEN));
        }
        eth::IPV4 => source::check_ipv4(frame, &endpoint)?,
        _ => return Err(DropReason::EtherType),
    };
    let Some(target) = maps::fdb_used(endpoint.vni, header.destination) else {
        return Err(miss::of_mac(
            requester,
            header.destination,
            DropReason::DestinationUnknown,
        ));
    };
    let segments = frame.segments(header.ether_type);
    let longest = segments.longest_packet(frame);
    if longest > endpoint.mtu {
        return mtu::refuse(frame, &header, endpoint.mtu);
    }
    let volume = count::volume_of(&segments);
    let action = if let Some(ifindex) = target.interface() {
        count::received(target.slot, volume);
        deliver::from_endpoint(frame, &target, ifindex)
    } else {
        to_vtep(frame, &endpoint, &header, &flow, &target, longest)
    }?;
    count::sent(endpoint.slot, volume);
    Ok(action)
}

/// Into a tunnel, unless the packet, or the longest of an aggregate's, is more than the path takes.
#[inline(always)]
fn to_vtep(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
    flow: &Flow,
    target: &FdbEntry,
    longest: u32,
) -> Result<Action, DropReason> {
    let vni = endpoint.vni;
    let path = maps::path_of(target)?;
    if header.ether_type == eth::ARP {
        return encap::send_by_device(frame, vni, &path, Counter::SlowSendArp);
    }
    let limit = rule::limit(endpoint.mtu, path.mtu);
    if longest <= limit {
        encap::send(frame, vni, header, flow, &path)
    } else if mtu::may_fragment(frame, header.ether_type, longest) {
        encap::send_by_device(frame, vni, &path, Counter::SlowSendFragmented)
    } else {
        mtu::refuse(frame, header, limit)
    }
}
