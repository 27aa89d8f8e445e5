//! The BPF object: entry points, and the order of the stages.
//!
//! Every path ends in a pass, a redirect or a counted [`DropReason`].

#![no_std]
#![no_main]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_lossless,
    reason = "helpers take each number in a width of their own; all are constants or frame lengths"
)]
#![allow(
    clippy::inline_always,
    reason = "a call costs a stack frame and the verifier's knowledge of packet bounds"
)]
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "the entry points' macro makes functions without docs; nothing here has another user"
)]

mod maps;
mod packet;
mod probe;
mod stage {
    pub mod count;
    pub mod decap;
    pub mod deliver;
    pub mod encap;
    pub mod miss;
    pub mod neighbor;
    pub mod sender;
    pub mod source;
}

use aya_ebpf::{macros::classifier, programs::TcContext};
use aya_log_ebpf::debug;
use overlay_ebpf::{
    abi::{DropReason, MeterKey},
    wire::eth::{self, Mac},
};

use packet::{DROP, Frame, PASS, Verdict};
use stage::{
    count, decap, deliver, encap, miss, miss::Asker, neighbor, neighbor::Question, sender,
    sender::Origin, source,
};

/// TC ingress on the host side of an endpoint's interface: what the endpoint sends.
#[classifier]
pub fn endpoint_ingress(ctx: TcContext) -> Verdict {
    let mut frame = Frame::new(ctx);
    from_endpoint(&mut frame).unwrap_or_else(|reason| dropped(&frame, reason))
}

/// TC ingress on the underlay device: what comes out of tunnels, among all else.
#[classifier]
pub fn underlay_ingress(ctx: TcContext) -> Verdict {
    let mut frame = Frame::new(ctx);
    match decap::is_ours(&mut frame) {
        Ok(true) => from_tunnel(&mut frame),
        Ok(false) => Ok(PASS),
        Err(reason) => Err(reason),
    }
    .unwrap_or_else(|reason| dropped(&frame, reason))
}

/// TC ingress on the kernel's VXLAN device, which is there for its port alone. What it takes in came
/// past [`underlay_ingress`]: by another interface, over IPv6 or over loopback.
#[classifier]
pub fn external_ingress(ctx: TcContext) -> Verdict {
    dropped(&Frame::new(ctx), DropReason::VxlanDevice)
}

/// Run by the agent alone, on a frame of its own: sends it out of the interface that the frame's
/// mark names. 1: it was sent.
#[classifier]
pub fn inject(ctx: TcContext) -> Verdict {
    Verdict::from(Frame::new(ctx).inject().is_ok())
}

#[inline(always)]
fn from_endpoint(frame: &mut Frame) -> Result<Verdict, DropReason> {
    let ifindex = frame.ifindex();
    let endpoint = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    let asker = Asker {
        ifindex,
        vni: endpoint.vni,
        mac: Mac::new(endpoint.mac),
        meter: MeterKey::endpoint(ifindex),
    };
    let miss_of = |question: Question| {
        miss::of_ip(asker, question.address, question.asker, question.otherwise)
    };
    if frame.has_vlan_tag() {
        frame.pop_vlan()?;
    }
    let header = eth::Header::parse(frame.header(0)?);
    source::check_mac(&endpoint, &header)?;
    let flow = match header.ether_type {
        eth::ARP => return neighbor::answer_arp(frame, &endpoint, &header, miss_of),
        eth::IPV6 if neighbor::is_solicitation(frame)? => {
            return neighbor::advertise(frame, &endpoint, &header, miss_of);
        }
        _ if header.destination.is_group() => return Err(DropReason::Multicast),
        eth::IPV4 => source::check_ipv4(frame, &endpoint)?,
        eth::IPV6 => source::check_ipv6(frame, &endpoint)?,
        _ => return Err(DropReason::EtherType),
    };
    let Some(target) = maps::fdb_used(endpoint.vni, header.destination) else {
        return Err(miss::of_mac(
            asker,
            header.destination,
            DropReason::DestinationUnknown,
        ));
    };
    encap::check_mtu(frame, &endpoint, &flow)?;
    let volume = count::volume(frame, header.ether_type);
    let verdict = if target.ifindex != 0 {
        count::received(target.slot, volume);
        frame.redirect_to_peer(target.ifindex)
    } else {
        encap::send(frame, endpoint.vni, &header, &flow, &target)
    }?;
    count::sent(endpoint.slot, volume);
    Ok(verdict)
}

#[inline(always)]
fn from_tunnel(frame: &mut Frame) -> Result<Verdict, DropReason> {
    let tunnel = decap::parse(frame)?;
    let (vni, inner) = (tunnel.vni, &tunnel.inner);
    let asker = Asker {
        ifindex: frame.ifindex(),
        vni,
        mac: inner.source,
        meter: MeterKey::tunnel(vni),
    };
    let origin = sender::check_mac(vni, tunnel.sender, inner)?;
    let target = deliver::local_entry(vni, inner)?;
    // Asked for last: a frame that goes nowhere is not worth the agent's work.
    if origin == Origin::Unknown {
        miss::seek_mac(asker, inner.source, DropReason::SourceVtep)?;
    }
    sender::check_addresses(frame, vni, inner, origin)?;
    let protocol = decap::unpack(frame, &tunnel)?;
    count::received(target.slot, count::volume(frame, protocol));
    deliver::to_endpoint(frame, target.ifindex, protocol)
}

/// Counts the drop; tells it too where the agent asked for that. The log level is a constant to
/// the verifier, which removes the call where it is off.
#[inline(always)]
fn dropped(frame: &Frame, reason: DropReason) -> Verdict {
    maps::count(reason);
    debug!(
        frame,
        "drop reason {} ifindex {}",
        reason.number(),
        frame.ifindex()
    );
    DROP
}

/// A panic would be a defect that the verifier has to see: a loop without an end is refused.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_redirect_neigh` and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
