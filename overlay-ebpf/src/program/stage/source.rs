//! Checks that an endpoint sends with its own MAC and addresses.

use overlay_ebpf::{
    abi::{DropReason, EndpointEntry},
    rule::source,
    wire::{eth::Mac, icmpv6, ipv6},
};

use crate::{
    frame::{Frame, OnStack},
    maps,
    packet::{L3, Packet},
};

/// The MAC is the endpoint's.
#[inline(always)]
pub fn check_mac(packet: &Packet, from: &EndpointEntry) -> Result<(), DropReason> {
    if packet.eth.source == Mac::new(from.mac) {
        Ok(())
    } else {
        Err(DropReason::SourceMac)
    }
}

/// The IP source is the endpoint's. To a group it may be none: so hosts speak that have no address yet.
#[inline(always)]
pub fn check_ip(frame: &Frame, packet: &Packet, from: &EndpointEntry) -> Result<(), DropReason> {
    let is_group = packet.eth.destination.is_group();
    let is_own = match packet.l3 {
        L3::Ipv4 => {
            let ip = packet.source_ipv4(frame)?;
            owns_ipv4(from, ip) || (is_group && u32::from_ne_bytes(ip) == 0)
        }
        L3::Ipv6 if packet.has_mapped(frame)? => return Err(DropReason::Ipv4Mapped),
        L3::Ipv6 => owns_ipv6(frame, packet, from, is_group)?,
        L3::Arp | L3::Other => true,
    };
    if is_own {
        Ok(())
    } else {
        Err(DropReason::SourceIp)
    }
}

/// Whether the address is the endpoint's: its first one, or one that the neighbour table knows.
#[inline(always)]
fn owns_ipv4(from: &EndpointEntry, ip: [u8; 4]) -> bool {
    source::is_first_ipv4(from, ip) || source::is_own(from, maps::neighbor_ipv4(from.vni, ip))
}

/// The same for IPv6. In neighbour discovery, and to groups, it may be the link-local one of the endpoint's MAC too.
#[inline(always)]
fn owns_ipv6(
    frame: &Frame,
    packet: &Packet,
    from: &EndpointEntry,
    is_group: bool,
) -> Result<bool, DropReason> {
    let OnStack(ip) = packet.source_ipv6(frame)?;
    if source::is_first_ipv6(from, ip) || (is_group && ipv6::is_unspecified(ip)) {
        return Ok(true);
    }
    if ipv6::is_link_local_of(ip, from.mac) && (is_group || is_discovery(frame, packet)?) {
        return Ok(true);
    }
    Ok(source::is_own(from, maps::neighbor_ipv6(from.vni, ip)))
}

#[inline(always)]
fn is_discovery(frame: &Frame, packet: &Packet) -> Result<bool, DropReason> {
    let kind = packet.icmp_type(frame)?;
    Ok(icmpv6::is_solicitation(kind) || icmpv6::is_advertisement(kind))
}
