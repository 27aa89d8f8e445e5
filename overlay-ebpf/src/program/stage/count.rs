//! Counts forwarded frames for their endpoint and its network.

use overlay_ebpf::{
    abi::{EndpointEntry, FdbEntry, Traffic},
    rule::volume::Volume,
};

use crate::{frame::Segments, maps};

/// Adds a frame to what this endpoint sent.
#[inline(always)]
pub fn sent(from: &EndpointEntry, volume: Volume) {
    let add = |traffic: &mut Traffic| {
        traffic.tx_packets += volume.packets;
        traffic.tx_bytes += volume.bytes;
    };
    maps::with_traffic(from.slot, add);
    maps::with_port_traffic(from.id, add);
}

/// Adds a frame to what this endpoint of the host received.
#[inline(always)]
pub fn received(to: &FdbEntry, volume: Volume) {
    let add = |traffic: &mut Traffic| {
        traffic.rx_packets += volume.packets;
        traffic.rx_bytes += volume.bytes;
    };
    maps::with_traffic(to.slot, add);
    maps::with_port_traffic(to.id.into(), add);
}

/// How much the frame is that becomes these segments.
#[inline(always)]
pub fn volume(segments: &Segments) -> Volume {
    match segments.payload_len {
        0 => Volume::of_frame(segments.len),
        payload => Volume::of_aggregate(segments.len, segments.headers_len, payload),
    }
}
