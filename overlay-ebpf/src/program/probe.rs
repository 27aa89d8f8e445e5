//! Tells which flags this kernel's `bpf_skb_adjust_room` takes.
//!
//! The loader runs these programs once, on a tunnel packet of its own, and never attaches them. They return 1, or the
//! kernel's error: only `-EINVAL` means that it does not know the flag.

use aya_ebpf::{
    bindings::BPF_F_ADJ_ROOM_DECAP_L3_IPV6, cty::c_long, macros::classifier, programs::TcContext,
};

use overlay_ebpf::abi::DECAP_L4_UDP;

use crate::frame::{Action, Frame};

/// Does it grow a frame for a tunnel with an inner Ethernet header (Linux 5.13)?
#[classifier]
pub fn probe_encap(ctx: TcContext) -> Action {
    answer(Frame::new(ctx).try_to_grow())
}

/// Does it set the protocol of what was inside (Linux 6.3)?
#[classifier]
pub fn probe_decap_l3(ctx: TcContext) -> Action {
    takes(ctx, BPF_F_ADJ_ROOM_DECAP_L3_IPV6 as u64)
}

/// Does it clear the tunnel's GSO bits?
#[classifier]
pub fn probe_decap_l4(ctx: TcContext) -> Action {
    takes(ctx, DECAP_L4_UDP)
}

#[inline(always)]
fn takes(ctx: TcContext, flags: u64) -> Action {
    answer(Frame::new(ctx).try_to_shrink(0, flags))
}

#[inline(always)]
fn answer(outcome: Result<(), c_long>) -> Action {
    match outcome {
        Ok(()) => 1,
        Err(error) => error as Action,
    }
}
