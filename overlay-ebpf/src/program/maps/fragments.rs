//! Keeps how the first fragment of a packet was translated, for the others.

use aya_ebpf::bindings::BPF_ANY;
use bytemuck::must_cast;
use overlay_ebpf::abi::{FragmentEntry, FragmentKey};

use super::{
    FRAGMENTS,
    nat::{Aligned, now_s, pair},
};

/// The translation of a packet's fragments. All of the key is as it lies in memory.
#[derive(Clone, Copy)]
pub struct FragmentsOf {
    /// The endpoint that sent it; 0: it came from outside.
    pub endpoint: u32,
    /// Its source before translation.
    pub source: u32,
    /// Its destination.
    pub destination: u32,
    /// Its identification.
    pub id: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl FragmentsOf {
    #[inline(always)]
    fn key(&self) -> Aligned<FragmentKey> {
        Aligned(must_cast([
            self.endpoint,
            self.source,
            self.destination,
            pair(self.id, u16::from(self.protocol)),
        ]))
    }

    /// What the first fragment left.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn find(&self) -> Option<FragmentEntry> {
        let key = self.key();
        // SAFETY: an element may be recycled for another key while it is read: a fragment is lost or goes astray in
        // its own network.
        let held = unsafe { FRAGMENTS.get(&key.0) }.copied()?;
        (now_s() <= held.until_s).then_some(held)
    }

    /// Leaves it for the others.
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy on the stack would not be aligned"
    )]
    pub fn note(&self, ip: u32, vni: u32) {
        /// How long the others may take, seconds.
        const PATIENCE_S: u32 = 2;
        let key = self.key();
        let entry = FragmentEntry {
            ip: ip.to_ne_bytes(),
            vni,
            until_s: now_s().wrapping_add(PATIENCE_S),
        };
        let _ = FRAGMENTS.insert(&key.0, &entry, BPF_ANY as u64);
    }
}
