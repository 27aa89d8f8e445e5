//! Drops frames to groups, which no network floods. The reason tells loss from noise.

use overlay_ebpf::{
    abi::DropReason,
    wire::{
        arp::{self, ArpHdr},
        eth, icmpv6,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::frame::Frame;

/// Drops a frame to a group.
#[inline(always)]
pub fn refuse(frame: &mut Frame, eth: &eth::Header) -> Result<(), DropReason> {
    if eth.destination.is_group() {
        Err(reason(frame, eth, DropReason::Multicast))
    } else {
        Ok(())
    }
}

/// The reason to drop a frame: that it is noise, or `otherwise`.
#[inline(always)]
pub fn reason(frame: &mut Frame, eth: &eth::Header, otherwise: DropReason) -> DropReason {
    let offset = frame.inner() + eth::LEN;
    let noise = match eth.ether_type {
        _ if !eth.destination.is_group() => None,
        eth::IPV4 => noise_ipv4(frame, offset),
        eth::IPV6 => noise_ipv6(frame, offset),
        eth::ARP => noise_arp(frame, offset),
        _ => None,
    };
    noise.unwrap_or(otherwise)
}

/// The packet may not lie in linear memory yet.
#[inline(always)]
fn noise_ipv4(frame: &Frame, offset: usize) -> Option<DropReason> {
    let protocol = offset + core::mem::offset_of!(Ipv4Hdr, proto);
    let is_igmp = frame.load::<u8>(protocol) == Ok(ipv4::IGMP);
    is_igmp.then_some(DropReason::MulticastMembership)
}

#[inline(always)]
fn noise_ipv6(frame: &mut Frame, offset: usize) -> Option<DropReason> {
    frame.require(offset + ipv6::LEN).ok()?;
    let ip = frame.header::<Ipv6Hdr>(offset).ok()?;
    let is_unspecified = ipv6::is_unspecified(ip.source);
    let (mut next, mut message) = (ip.next_header, offset + ipv6::LEN);
    // MLD comes behind a router alert (RFC 3810 section 5).
    if next == ipv6::HOP_BY_HOP {
        let [following, len] = frame.load::<[u8; 2]>(message).ok()?;
        next = following;
        message += (len as usize + 1) * 8;
    }
    if next != ipv6::ICMPV6 {
        return None;
    }
    let kind = frame.load::<u8>(message).ok()?;
    if icmpv6::is_membership(kind) {
        Some(DropReason::MulticastMembership)
    } else if icmpv6::is_router_solicitation(kind) {
        Some(DropReason::RouterSolicitation)
    } else if icmpv6::is_advertisement(kind) {
        Some(DropReason::NdUnsolicited)
    } else if icmpv6::is_solicitation(kind) && is_unspecified {
        Some(DropReason::NdDetection)
    } else {
        None
    }
}

/// A probe, or an announcement.
#[inline(always)]
fn noise_arp(frame: &mut Frame, offset: usize) -> Option<DropReason> {
    frame.require(offset + arp::LEN).ok()?;
    let packet = frame.header::<ArpHdr>(offset).ok()?;
    let sender = u32::from_ne_bytes(packet.spa);
    let is_noise = (arp::is_request(packet) || arp::is_reply(packet))
        && (sender == 0 || sender == u32::from_ne_bytes(packet.tpa));
    is_noise.then_some(DropReason::ArpGratuitous)
}
