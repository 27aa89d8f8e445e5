//! Proves that a packet may leave the overlay.
//!
//! [`Translated`] can be made here alone, and the stage that sends packets out takes nothing else: a packet that nobody
//! translated can't get there.

use overlay_ebpf::{abi::DropReason, rule::nptv6};

use crate::{
    frame::{Frame, Side, Translation, Transport},
    maps,
};

/// Of a packet whose source means something outside.
pub struct Translated(());

/// Gives a packet its external source.
#[inline(always)]
pub fn translate(
    frame: &mut Frame,
    transport: &Transport,
    translation: &Translation,
) -> Result<Translated, DropReason> {
    frame.translate(transport, translation)?;
    Ok(Translated(()))
}

/// Lets an IPv6 packet out: with the prefix that its source has outside, or as it is if that is reached from there by
/// itself, in this network.
#[inline(always)]
pub fn translate_prefix(
    frame: &mut Frame,
    vni: u32,
    source: [u64; 2],
) -> Result<Translated, DropReason> {
    if let Some(prefix) = maps::prefix_outside(vni, source) {
        let external = nptv6::translate(source, &prefix).ok_or(DropReason::NatNone)?;
        frame.translate_ipv6(Side::Source, source, external)?;
        return Ok(Translated(()));
    }
    match maps::reached_from_outside(source) {
        Some(reached) if reached.vni == vni && reached.inside.is_none() => Ok(Translated(())),
        _ => Err(DropReason::NatNone),
    }
}
