//! Counts forwarded frames for their network.

use overlay_ebpf::rule::volume::Volume;

use crate::{frame::Segments, maps};

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

/// How much the frame is that becomes these segments.
#[inline(always)]
pub fn volume(segments: &Segments) -> Volume {
    match segments.payload_len {
        0 => Volume::of_frame(segments.len),
        payload => Volume::of_aggregate(segments.len, segments.headers_len, payload),
    }
}
