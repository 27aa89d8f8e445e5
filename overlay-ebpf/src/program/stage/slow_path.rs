//! Leaves sound tunnel packets that the programs can't unpack to the kernel.
//!
//! The kernel reassembles fragments, and removes the tunnel's GSO bits from aggregates: `bpf_skb_adjust_room` leaves them
//! (up to Linux 6.18), and an aggregate with them can't be segmented for a socket that wants single datagrams.

use overlay_ebpf::{
    abi::{Counter, DropReason},
    rule::gro,
    wire::ipv4,
};

use crate::{
    frame::{Action, Frame},
    maps,
    packet::Packet,
};

/// Why the kernel has to unpack the tunnel packet. `None`: the programs can.
#[inline(always)]
pub fn cause(frame: &Frame, packet: &Packet) -> Option<Counter> {
    let transport = packet.protocol(frame).unwrap_or(0);
    if transport != ipv4::UDP && transport != ipv4::SCTP {
        return None;
    }
    let can_clear = transport == ipv4::UDP && maps::clears_tunnel_marks();
    let is_aggregate = frame.gso_size() != 0 && !can_clear;
    let wants_kernel = maps::with_gro_state(|state| {
        // Where no aggregate ever came, the clock is not asked.
        (is_aggregate || state.kernel_ns != 0)
            && gro::wants_kernel(state, is_aggregate, maps::now())
    });
    match wants_kernel {
        Some(true) if is_aggregate => Some(Counter::SlowReceiveAggregate),
        Some(true) => Some(Counter::SlowReceiveOrder),
        _ => None,
    }
}

/// Leaves the packet, which was found sound, to the kernel and its VXLAN device. `otherwise` is the reason to
/// drop it where there is none.
#[inline(always)]
pub fn leave(
    frame: &mut Frame,
    cause: Counter,
    otherwise: DropReason,
) -> Result<Action, DropReason> {
    maps::external().ok_or(otherwise)?;
    let secret = maps::voucher().ok_or(otherwise)?;
    maps::count_event(cause);
    Ok(frame.vouch(secret))
}
