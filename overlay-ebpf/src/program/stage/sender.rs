//! Checks that a tunnel's frame matches its VTEP, and claims only its sender's addresses.
//!
//! In an on-demand network the maps may not hold the sender. Its IP packets are then delivered while the agent looks the
//! sender up, so that no contact begins with a lost packet. Frames that would change a neighbour table are dropped until
//! the agent has the answer.

use core::mem::offset_of;

use overlay_ebpf::{
    abi::{DropReason, NetworkEntry},
    rule::sender as rule,
    wire::{
        arp::{self, ArpHdr},
        eth,
        icmpv6::{self, Claim, Solicitation},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    frame::{Frame, OnStack},
    maps,
    packet::{L3, Packet},
};

/// How much is known of a frame's sender.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The endpoint with the source MAC is behind the VTEP that the frame came from.
    Proven,
    /// The maps don't hold the source MAC, and the agent is to look for it.
    Unknown,
}

/// The inner frame's source MAC is behind the VTEP that sent it. That VTEP is one of the registry
/// then: the FDB names no others. A gateway's MAC is behind each of them: the sender's host routes.
#[inline(always)]
pub fn check_mac(vni: u32, vtep_ip: [u8; 4], inner: &eth::Header) -> Result<Origin, DropReason> {
    let entry = maps::fdb(vni, inner.source);
    if entry.is_some_and(|entry| rule::is_behind(&entry, vtep_ip)) {
        return Ok(Origin::Proven);
    }
    if maps::vtep(vtep_ip).is_none() {
        return Err(DropReason::VtepUnknown);
    }
    if entry.is_none() && maps::is_gateway(vni, inner.source) {
        return Ok(Origin::Proven);
    }
    let network = maps::network(vni).ok_or(DropReason::VniUnknown)?;
    if entry.is_some() || inner.source.is_group() || network.flags & NetworkEntry::ON_DEMAND == 0 {
        return Err(DropReason::SourceVtep);
    }
    Ok(Origin::Unknown)
}

/// What the inner packet says about addresses is its sender's to say.
#[inline(always)]
pub fn check_addresses(
    frame: &mut Frame,
    vni: u32,
    packet: &Packet,
    origin: Origin,
) -> Result<(), DropReason> {
    match packet.l3 {
        L3::Ipv4 => Ok(()),
        L3::Ipv6 => check_ipv6(frame, vni, packet, origin),
        _ if origin == Origin::Unknown => Err(DropReason::Resolving),
        L3::Arp => check_arp(frame, vni, packet),
        L3::Other => Ok(()),
    }
}

/// An ARP packet speaks of the address and the MAC of its sender.
#[inline(always)]
fn check_arp(frame: &mut Frame, vni: u32, packet: &Packet) -> Result<(), DropReason> {
    let offset = frame.inner() + eth::LEN;
    frame.require(offset + arp::LEN)?;
    let message = frame.header::<ArpHdr>(offset)?;
    if !arp::is_request(message) && !arp::is_reply(message) {
        return Err(DropReason::ArpMalformed);
    }
    if eth::Mac::new(message.sha) != packet.eth.source {
        return Err(DropReason::SourceMac);
    }
    match maps::neighbor_ipv4(vni, message.spa) {
        Some(neighbor) if eth::Mac::new(neighbor.mac) == packet.eth.source => Ok(()),
        _ => Err(DropReason::SourceIp),
    }
}

/// A neighbour discovery message speaks of its sender's address alone.
#[inline(always)]
fn check_ipv6(
    frame: &mut Frame,
    vni: u32,
    packet: &Packet,
    origin: Origin,
) -> Result<(), DropReason> {
    let offset = frame.inner() + eth::LEN;
    if packet.has_mapped(frame)? {
        return Err(DropReason::Ipv4Mapped);
    }
    if packet.may_hide_discovery(frame)? {
        frame.check_extensions(offset, packet.protocol(frame)?)?;
    }
    let claim = icmpv6::claim(packet.icmp_type(frame)?);
    match claim {
        Claim::Nothing => return Ok(()),
        Claim::Others => return Err(DropReason::NdForged),
        Claim::Sender | Claim::Target if origin == Origin::Unknown => {
            return Err(DropReason::Resolving);
        }
        Claim::Sender | Claim::Target => {}
    }
    let at = if claim == Claim::Sender {
        offset_of!(Ipv6Hdr, source)
    } else {
        // An advertisement has its target where a solicitation has it.
        ipv6::LEN + offset_of!(Solicitation, target)
    };
    // A copy: taken out of the packet in place, the bytes would lie unaligned on the stack.
    let mut address = OnStack([0; 16]);
    frame.load_into(offset + at, &mut address.0)?;
    let OnStack(address) = address;
    // Neighbours probe each other from these (RFC 4861 section 7.2.2), and nobody registers them.
    if ipv6::is_link_local_of(address, packet.eth.source.octets()) {
        return Ok(());
    }
    match maps::neighbor_ipv6(vni, address) {
        Some(neighbor) if eth::Mac::new(neighbor.mac) == packet.eth.source => Ok(()),
        _ => Err(DropReason::SourceIp),
    }
}
