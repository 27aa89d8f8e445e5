//! Proves that a packet may leave the overlay.
//!
//! [`Translated`] can be made here alone, and the stage that sends packets out takes nothing else: a packet that nobody
//! translated can't get there.

use overlay_ebpf::abi::DropReason;

use crate::{
    frame::{Frame, Translation, Transport},
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

/// Lets a packet out as it is whose source is reached from outside by itself, in this network.
#[inline(always)]
pub fn untranslated(vni: u32, source: [u64; 2]) -> Result<Translated, DropReason> {
    match maps::reached_from_outside(source) {
        Some(its) if its == vni => Ok(Translated(())),
        _ => Err(DropReason::NatNone),
    }
}
