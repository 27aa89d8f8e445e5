//! Remembers where a router sent packets for an address: one look instead of four, while the rows stay what they are.
//!
//! Each CPU has slots of its own, so nothing here is shared. The agent opens the edition before it writes rows and closes
//! it behind them, so a hop is never older than the rows; one that dies between the two leaves the edition open.

use overlay_ebpf::abi::{Edition, Hop};

use super::{EDITION, HOPS};

/// Where packets of a network for the address went before. `None`: it is to be looked up.
#[inline(always)]
pub fn known_hop(from_vni: u32, destination: [u64; 2]) -> Option<Hop> {
    let edition = edition()?;
    let hop = HOPS.get_ptr(Hop::slot(from_vni, destination))?;
    // SAFETY: the verifier knows the pointer and its size; the slot is this CPU's.
    let hop = unsafe { *hop };
    let is_known =
        hop.edition == edition && hop.from_vni == from_vni && hop.destination == destination;
    is_known.then_some(hop)
}

/// Remembers a hop that was found by rows of the edition that it names.
#[inline(always)]
pub fn remember_hop(hop: &Hop) {
    if hop.edition == Edition::NONE {
        return;
    }
    if let Some(slot) = HOPS.get_ptr_mut(Hop::slot(hop.from_vni, hop.destination)) {
        // SAFETY: as in `known_hop`.
        unsafe { *slot = *hop };
    }
}

/// The edition of the rows, to be asked for before they are looked up. `None`: nothing can be remembered now.
#[inline(always)]
pub fn edition() -> Option<u64> {
    if cfg!(feature = "trace") {
        // Each look-up is to be told of.
        return None;
    }
    EDITION
        .get(0)
        .copied()
        .filter(|edition| !Edition::is_open(*edition))
}
