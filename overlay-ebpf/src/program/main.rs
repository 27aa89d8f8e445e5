//! The BPF object: its entry points. [`pipeline`] has the order of the stages.
//!
//! Every path ends in a pass, a redirect or a counted [`DropReason`].

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
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

mod exit;
mod frame;
mod maps;
mod packet;
mod ping;
mod pipeline {
    pub mod endpoint;
    pub mod outside;
    pub mod router;
    pub mod underlay;
}
mod ports;
mod probe;
mod refusal;
mod stage {
    pub mod arp;
    pub mod count;
    pub mod decap;
    pub mod deliver;
    pub mod echo;
    pub mod encap;
    pub mod fdb;
    pub mod float;
    pub mod gateway;
    pub mod group;
    pub mod hop;
    pub mod icmp_error;
    pub mod meter;
    pub mod miss;
    pub mod mtu;
    pub mod ndp;
    pub mod outside;
    pub mod pace;
    pub mod punt;
    pub mod sample;
    pub mod sender;
    pub mod slow_path;
    pub mod snat;
    pub mod source;
    pub mod vlan;
}
mod step;
mod sweep;

use aya_ebpf::{macros::classifier, programs::TcContext};
use aya_log_ebpf::debug;
use overlay_ebpf::abi::DropReason;

use frame::{Action, DROP, Frame};
use stage::{decap, outside, sample, sample::Subject};

/// TC ingress on the host side of an endpoint's interface: what the endpoint sends.
#[classifier]
#[inline(always)]
pub fn endpoint_ingress(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::endpoint::run(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// TC ingress on the underlay device: what comes out of tunnels, among all else.
#[classifier]
#[inline(always)]
pub fn underlay_ingress(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    match decap::is_ours(&mut frame) {
        Ok(true) => pipeline::underlay::run(&mut frame, &mut subject),
        Ok(false) => outside::divert(&mut frame),
        Err(reason) => Err(reason),
    }
    .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// TC ingress on the kernel's VXLAN device: what [`underlay_ingress`] left to it. All else came past that: by
/// another interface, over IPv6 or over loopback.
#[classifier]
#[inline(always)]
pub fn external_ingress(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    match maps::voucher() {
        Some(secret) if frame.is_vouched(secret) => {
            pipeline::underlay::run_unpacked(&mut frame, &mut subject)
        }
        Some(secret) if frame.is_own_echo(secret) => stage::echo::send(&mut frame),
        _ => Err(DropReason::VxlanDevice),
    }
    .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`endpoint_ingress`]: the ICMP error about a frame.
#[classifier]
#[inline(always)]
pub fn icmp_error(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::endpoint::run_icmp_error(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`endpoint_ingress`]: a probe of the agent's.
#[classifier]
#[inline(always)]
pub fn send_probe(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::endpoint::run_probe(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`endpoint_ingress`]: a packet to the gateway of its network.
#[classifier]
#[inline(always)]
pub fn route(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::router::run(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// TC ingress on the uplink, where that is not the underlay device: what comes for external addresses.
#[classifier]
#[inline(always)]
pub fn uplink_ingress(ctx: TcContext) -> Action {
    let (mut frame, subject) = (Frame::new(ctx), Subject::received());
    outside::divert(&mut frame).unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// TC egress on the underlay device and on the uplink: what departs late waits in the interface's queue.
#[classifier]
#[inline(always)]
pub fn pace(ctx: TcContext) -> Action {
    stage::pace::run(&mut Frame::new(ctx))
}

/// Continues [`route`]: a packet that leaves the overlay.
#[classifier]
#[inline(always)]
pub fn to_outside(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::outside::run_out(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`to_outside`]: a packet whose flow has no external port.
#[classifier]
#[inline(always)]
pub fn nat_open(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::outside::run_open(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`underlay_ingress`], [`uplink_ingress`] or [`to_outside`]: what is for an external address.
#[classifier]
#[inline(always)]
pub fn from_outside(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    pipeline::outside::run_in(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`to_outside`] or [`from_outside`]: an ICMP error about a flow.
#[classifier]
#[inline(always)]
pub fn nat_error(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    pipeline::outside::run_error(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Run by the agent alone, on a frame of its own that says what may go. Gives how much went, or -1.
#[classifier]
#[inline(always)]
pub fn nat_sweep(ctx: TcContext) -> Action {
    sweep::run(&mut Frame::new(ctx)).unwrap_or(-1)
}

/// Continues [`endpoint_ingress`]: a question to a DHCP server or a router.
#[classifier]
#[inline(always)]
pub fn punt(ctx: TcContext) -> Action {
    let (frame, mut subject) = (Frame::new(ctx), Subject::sent());
    pipeline::endpoint::run_punt(&frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Continues [`underlay_ingress`]: an echo or a probe.
#[classifier]
#[inline(always)]
pub fn echo(ctx: TcContext) -> Action {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    pipeline::underlay::run_echo(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, subject))
}

/// Run by the agent alone, on a frame of its own: sends it out of the interface that the frame's
/// mark names. 1: it was sent.
#[classifier]
#[inline(always)]
pub fn inject(ctx: TcContext) -> Action {
    Action::from(Frame::new(ctx).inject().is_ok())
}

/// Run by the agent alone, on a frame of its own: has it come in by the interface that the frame's mark names, as
/// long as its priority says. A tunnel packet by the VXLAN device, where [`external_ingress`] sends it on; a probe
/// by an endpoint's. 1: it was sent.
#[classifier]
#[inline(always)]
pub fn inject_echo(ctx: TcContext) -> Action {
    let sent = maps::voucher().map(|secret| Frame::new(ctx).inject_echo(secret));
    Action::from(matches!(sent, Some(Ok(()))))
}

/// Counts the drop; tells it too where the agent asked for that. The log level is a constant to
/// the verifier, which removes the call where it is off.
#[inline(always)]
fn dropped(frame: &Frame, reason: DropReason, subject: Subject) -> Action {
    sample::dropped(frame, reason, subject);
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
