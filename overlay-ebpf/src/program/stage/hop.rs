//! Counts the hops of packets that are routed (RFC 1812 section 5.3.1).

use overlay_ebpf::{
    abi::DropReason,
    wire::{
        eth,
        ipv4::{self, Ipv4Hdr},
        ipv6::Ipv6Hdr,
    },
};

use crate::{
    frame::Frame,
    packet::{L3, Packet},
};

/// Whether a packet may take another hop.
#[inline(always)]
pub fn is_left(frame: &Frame, packet: &Packet) -> Result<bool, DropReason> {
    let left = match packet.l3 {
        L3::Ipv4 => frame.header::<Ipv4Hdr>(eth::LEN)?.ttl,
        L3::Ipv6 => frame.header::<Ipv6Hdr>(eth::LEN)?.hop_limit,
        L3::Arp | L3::Other => return Err(DropReason::EtherType),
    };
    Ok(left > 1)
}

/// Takes one hop off a packet that may take another. `false`: it may not.
#[inline(always)]
pub fn spend(frame: &mut Frame, packet: &Packet) -> Result<bool, DropReason> {
    if packet.l3 == L3::Ipv4 {
        let ip = frame.header_mut::<Ipv4Hdr>(eth::LEN)?;
        if ip.ttl <= 1 {
            return Ok(false);
        }
        ipv4::take_hop(ip);
        return Ok(true);
    }
    let ip = frame.header_mut::<Ipv6Hdr>(eth::LEN)?;
    let left = ip.hop_limit;
    if left <= 1 {
        return Ok(false);
    }
    let protocol = ip.next_header;
    ip.hop_limit = left - 1;
    frame.mend_sum([protocol, left], [protocol, left - 1]);
    Ok(true)
}

/// Takes one hop off.
#[inline(always)]
pub fn take(frame: &mut Frame, packet: &Packet) -> Result<(), DropReason> {
    if packet.l3 == L3::Ipv4 {
        ipv4::take_hop(frame.header_mut(eth::LEN)?);
        return Ok(());
    }
    let ip = frame.header_mut::<Ipv6Hdr>(eth::LEN)?;
    let before = [ip.next_header, ip.hop_limit];
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    let after = [ip.next_header, ip.hop_limit];
    // IPv6 has no checksum of its own that would make up for it.
    frame.mend_sum(before, after);
    Ok(())
}
