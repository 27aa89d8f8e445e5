//! What a frame adds to its network's traffic.

use overlay_ebpf::{
    rule::volume::Volume,
    wire::{
        eth,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
        tcp::TcpHdr,
        udp,
    },
};

use crate::{maps, packet::Frame};

/// Adds a frame to what the endpoints of the network with this slot sent.
#[inline(always)]
pub fn sent(slot: u16, volume: Volume) {
    maps::with_traffic(slot, |traffic| {
        traffic.tx_packets += volume.packets;
        traffic.tx_bytes += volume.bytes;
    });
}

/// Adds a frame to what they received.
#[inline(always)]
pub fn received(slot: u16, volume: Volume) {
    maps::with_traffic(slot, |traffic| {
        traffic.rx_packets += volume.packets;
        traffic.rx_bytes += volume.bytes;
    });
}

/// How much the frame is, whose Ethernet header says `protocol`.
#[inline(always)]
pub fn volume(frame: &Frame, protocol: u16) -> Volume {
    match frame.gso_size() {
        0 => Volume::of_frame(frame.len()),
        segment => Volume::of_aggregate(frame.len(), headers_len(frame, protocol), segment),
    }
}

/// Bytes of an aggregate's headers, which each of its segments has. Aggregates are of TCP or UDP.
#[inline(always)]
fn headers_len(frame: &Frame, protocol: u16) -> u32 {
    let (transport, offset) = if protocol == eth::IPV6 {
        let ip = frame.header::<Ipv6Hdr>(eth::LEN);
        (ip.map_or(0, |ip| ip.next_header), eth::LEN + ipv6::LEN)
    } else {
        let ip = frame.header::<Ipv4Hdr>(eth::LEN);
        (ip.map_or(0, |ip| ip.proto), eth::LEN + ipv4::LEN)
    };
    let len = if transport == ipv4::TCP {
        let tcp = frame.header::<TcpHdr>(offset);
        tcp.map_or(0, |tcp| u32::from(tcp.doff()) * 4)
    } else {
        udp::LEN as u32
    };
    offset as u32 + len
}
