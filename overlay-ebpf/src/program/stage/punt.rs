//! Hands the agent what an endpoint asks DHCP servers and routers, where its network answers that itself.
//!
//! Clients ask before they have an address, from none or from one that no registry knows. So this comes before the IP source
//! is looked at.

use overlay_ebpf::{
    abi::{Call, Counter, DropReason, EndpointEntry, MeterKey, Punt},
    rule::punt::{self as rule, CPU_LIMIT, NETWORK_LIMIT},
    wire::{dhcp, eth, icmpv6, ipv4, ipv6},
};

use crate::{
    frame::{Action, DROP, Frame},
    maps,
    packet::{L3, Packet},
};

/// Continues with `punt` where the frame asks a server. `DhcpServer`: it answers as one. Nothing is looked at where
/// the network leaves DHCP to its endpoints.
#[inline(always)]
pub fn divert(frame: &Frame, packet: &Packet, from: &EndpointEntry) -> Result<(), DropReason> {
    if from.flags & EndpointEntry::DHCP == 0 {
        return Ok(());
    }
    match said_by(frame, packet)? {
        dhcp::Role::Client => Err(maps::continue_with(Call::Punt, frame)),
        dhcp::Role::Server => Err(DropReason::DhcpServer),
        dhcp::Role::None => Ok(()),
    }
}

/// Who would send such a packet. A server's is one also behind options and in a fragment that others follow: its receiver
/// takes it.
#[inline(always)]
fn said_by(frame: &Frame, packet: &Packet) -> Result<dhcp::Role, DropReason> {
    let protocol = packet.protocol(frame)?;
    let at = frame.inner() + eth::LEN;
    match packet.l3 {
        L3::Ipv4 if protocol == ipv4::UDP => {
            let Some(len) = packet.first_header_len(frame)? else {
                return Ok(dhcp::Role::None);
            };
            Ok(dhcp::role_v4(frame.load(at + len)?))
        }
        L3::Ipv6 if protocol == ipv6::UDP => Ok(dhcp::role_v6(frame.load(at + ipv6::LEN)?)),
        L3::Ipv6 if icmpv6::is_router_solicitation(packet.icmp_type(frame)?) => {
            Ok(dhcp::Role::Client)
        }
        _ => Ok(dhcp::Role::None),
    }
}

/// Copies the frame to the agent, unless its endpoint, its network or this CPU has had its share.
#[inline(always)]
pub fn hand_over(frame: &Frame, ifindex: u32, from: &EndpointEntry) -> Result<Action, DropReason> {
    if !is_allowed(ifindex, from.vni) {
        maps::count_event(Counter::PuntsLimited);
        return Err(DropReason::PuntLimited);
    }
    if frame.len() > Punt::LONGEST as u32 {
        return Err(DropReason::PuntTooLong);
    }
    if !maps::punt(frame, ifindex, from) {
        maps::count_event(Counter::PuntsLost);
        return Err(DropReason::PuntLost);
    }
    maps::count_event(Counter::PuntsRaised);
    Ok(DROP)
}

/// The endpoint's own limit comes first: who floods is stopped before anybody beside it.
#[inline(always)]
fn is_allowed(ifindex: u32, vni: u32) -> bool {
    let now = maps::now();
    let own = MeterKey::punts(ifindex);
    if !maps::with_meter(own, |meter| rule::endpoint_allows(meter, now)) {
        return false;
    }
    let network = MeterKey::network_punts(vni);
    maps::with_meter(network, |meter| {
        rule::others_allow(meter, now, NETWORK_LIMIT)
    }) && maps::with_cpu_punts(|meter| rule::others_allow(meter, now, CPU_LIMIT)).unwrap_or(false)
}
