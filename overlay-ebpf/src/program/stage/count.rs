//! Counts forwarded frames for their endpoint and its network.

use overlay_ebpf::{
    abi::{EndpointEntry, FdbEntry, Traffic},
    rule::volume::Volume,
};

use crate::{frame::Segments, maps};

/// Adds a frame to what this endpoint sent.
#[inline(always)]
pub fn sent(from: &EndpointEntry, volume: Volume) {
    maps::with_traffic(from.slot, |traffic| send(traffic, volume));
    maps::with_port_traffic(from.id, |traffic| send(traffic, volume));
}

/// Adds a frame to what this endpoint of the host received.
#[inline(always)]
pub fn received(to: &FdbEntry, volume: Volume) {
    maps::with_traffic(to.slot, |traffic| receive(traffic, volume));
    maps::with_port_traffic(to.id.into(), |traffic| receive(traffic, volume));
}

/// Adds a frame to what one endpoint of the host sent and another one of its network received.
#[inline(always)]
pub fn exchanged(from: &EndpointEntry, to: &FdbEntry, volume: Volume) {
    // Both are of one network: it is looked up once.
    maps::with_traffic(from.slot, |traffic| {
        send(traffic, volume);
        receive(traffic, volume);
    });
    maps::with_port_traffic(from.id, |traffic| send(traffic, volume));
    maps::with_port_traffic(to.id.into(), |traffic| receive(traffic, volume));
}

/// How much the frame is that becomes these segments.
#[inline(always)]
pub fn volume(segments: &Segments) -> Volume {
    segments.volume()
}

#[inline(always)]
fn send(traffic: &mut Traffic, volume: Volume) {
    traffic.tx_packets += volume.packets;
    traffic.tx_bytes += volume.bytes;
}

#[inline(always)]
fn receive(traffic: &mut Traffic, volume: Volume) {
    traffic.rx_packets += volume.packets;
    traffic.rx_bytes += volume.bytes;
}
