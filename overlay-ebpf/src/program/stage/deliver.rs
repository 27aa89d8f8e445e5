//! Delivers frames to an endpoint of this host.

use overlay_ebpf::{
    abi::{Counter, DropReason, FdbEntry},
    rule::gro,
    wire::tcp::TcpHdr,
};

use crate::{
    frame::{Action, Frame},
    maps,
    packet::{L3, Packet},
};

/// Hands over what another endpoint of this host sent.
#[inline(always)]
pub fn from_endpoint(
    frame: &mut Frame,
    target: &FdbEntry,
    ifindex: u32,
) -> Result<Action, DropReason> {
    if target.is_queued() {
        to_endpoint_queued(frame, ifindex)
    } else {
        frame.redirect_to_peer(ifindex)
    }
}

/// Hands over what the kernel has unpacked: it classifies the frame anew.
#[inline(always)]
pub fn to_endpoint_queued(frame: &Frame, ifindex: u32) -> Result<Action, DropReason> {
    maps::count_event(Counter::SlowQueue);
    frame.redirect_out(ifindex)
}

/// Delivers the frame to an endpoint. The fast path (`redirect_peer`) needs a correct `skb->protocol`. If it still
/// names the outer packet, the frame goes through the veth's queue, which reclassifies it and runs GRO.
#[inline(always)]
pub fn to_endpoint(
    frame: &mut Frame,
    packet: &Packet,
    target: &FdbEntry,
) -> Result<Action, DropReason> {
    let is_ip = matches!(packet.l3, L3::Ipv4 | L3::Ipv6);
    let is_fresh = is_ip && frame.protocol() == packet.eth.ether_type;
    if is_fresh && !target.is_queued() && !wants_gro(frame, packet) {
        frame.redirect_to_peer(target.target)
    } else {
        to_endpoint_queued(frame, target.target)
    }
}

/// Whether the packet should go through GRO.
#[inline(always)]
fn wants_gro(frame: &Frame, packet: &Packet) -> bool {
    tcp_packet(frame, packet)
        .and_then(|tcp| maps::with_gro_state(|state| gro::wants_gro(state, tcp, maps::now())))
        .unwrap_or(false)
}

/// What the choice of the way wants to know; `None`: no TCP, or not in its usual place.
#[inline(always)]
fn tcp_packet(frame: &Frame, packet: &Packet) -> Option<gro::Packet> {
    let tcp = frame.inner() + packet.plain_tcp(frame)?;
    Some(gro::Packet {
        len: frame.len(),
        is_aggregate: frame.gso_size() != 0,
        pushes: frame.header::<TcpHdr>(tcp).ok()?.psh() != 0,
    })
}
