//! Sends packets out of the overlay, and recognises those that come for its external addresses.

use overlay_ebpf::{
    abi::{Call, Counter, DropReason, OutsideEntry, UplinkEntry},
    rule::nptv6,
    wire::{
        arp::{self, ArpHdr},
        eth::{self, EthHdr, Mac},
        ipv4::Ipv4Hdr,
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{
    exit::Translated,
    frame::{Action, Frame, OnStack, PASS, Side},
    maps::{self, Reached},
};

/// Has a packet on the uplink taken in that is for an external address, by a program of its own. All else passes.
#[inline(always)]
pub fn divert(frame: &mut Frame) -> Result<Action, DropReason> {
    if is_ours(frame)? {
        return Err(maps::continue_with(Call::FromOutside, frame));
    }
    Ok(PASS)
}

#[inline(always)]
fn is_ours(frame: &mut Frame) -> Result<bool, DropReason> {
    if frame.has_vlan_tag() && frame.vlan() != 0 {
        return Ok(false);
    }
    let protocol = frame.protocol();
    if protocol == eth::ARP {
        return Ok(frame.require(eth::LEN + arp::LEN).is_ok()
            && maps::outside(frame.header::<ArpHdr>(eth::LEN)?.tpa).is_some());
    }
    if !frame.is_for_this_host() {
        return Ok(false);
    }
    if protocol == eth::IPV4 {
        return Ok(frame.require(eth::LEN + size_of::<Ipv4Hdr>()).is_ok()
            && maps::outside(frame.header::<Ipv4Hdr>(eth::LEN)?.dst_addr).is_some());
    }
    if protocol == eth::IPV6 && frame.require(eth::LEN + ipv6::LEN).is_ok() {
        let destination = ipv6::halves(frame.header::<Ipv6Hdr>(eth::LEN)?.destination);
        return Ok(maps::reached_from_outside(destination).is_some());
    }
    Ok(false)
}

/// Gives a packet from outside the prefix that its destination has in its network. Gives the address that it goes to.
#[inline(always)]
pub fn translate_prefix(
    frame: &mut Frame,
    reached: &Reached,
    destination: [u64; 2],
) -> Result<[u64; 2], DropReason> {
    let Some(prefix) = reached.inside else {
        return Ok(destination);
    };
    let own = nptv6::translate(destination, &prefix).ok_or(DropReason::HostUnreachable)?;
    frame.translate_ipv6(Side::Destination, destination, own)?;
    Ok(own)
}

/// Answers an ARP request for an external address of this host's endpoints. Others' questions and all answers pass on.
#[inline(always)]
pub fn answer_arp(frame: &mut Frame) -> Result<Action, DropReason> {
    frame.require(eth::LEN + arp::LEN)?;
    let request = OnStack(*frame.header::<ArpHdr>(eth::LEN)?);
    let Some(uplink) = maps::uplink() else {
        return Ok(PASS);
    };
    let is_here = maps::outside(request.tpa).is_some_and(|entry| is_here(&entry));
    if !arp::is_request(&request) || !is_here {
        return Ok(PASS);
    }
    *frame.header_mut(eth::LEN)? = arp::reply(&request, uplink.mac);
    *frame.header_mut(0)? = EthHdr {
        dst_addr: request.sha,
        src_addr: uplink.mac,
        ether_type: eth::ARP,
    };
    frame.redirect_out(frame.ifindex())
}

/// Whether an external address is to be answered for by this host: one that its endpoints share, or its endpoint has. The
/// kernel answers for the host's own.
#[inline(always)]
fn is_here(entry: &OutsideEntry) -> bool {
    if entry.kind != OutsideEntry::FLOAT {
        return entry.kind == OutsideEntry::SHARED;
    }
    let neighbor = maps::neighbor_ipv4(entry.vni, entry.ip);
    let target = neighbor.and_then(|it| maps::fdb(entry.vni, Mac::new(it.mac)));
    target.is_some_and(|target| target.interface().is_some())
}

/// Sends a packet out of the uplink. The kernel's neighbour table, and its routing table where the agent names no
/// router, find the way.
#[inline(always)]
pub fn send(
    frame: &mut Frame,
    _: Translated,
    uplink: &UplinkEntry,
    destination: Option<[u8; 4]>,
) -> Result<Action, DropReason> {
    maps::count_event(Counter::OutsideSent);
    let next_hop = destination.and_then(|ip| next_hop(uplink, ip));
    frame.redirect_via_neighbor(uplink.ifindex, next_hop)
}

#[inline(always)]
fn next_hop(uplink: &UplinkEntry, destination: [u8; 4]) -> Option<[u8; 4]> {
    let [router, subnet, mask, ip] =
        [uplink.next_hop, uplink.subnet, uplink.mask, destination].map(u32::from_ne_bytes);
    if mask == 0 || !maps::has_lease() {
        return None;
    }
    if ip & mask == subnet {
        Some(destination)
    } else {
        (router != 0).then_some(uplink.next_hop)
    }
}
