//! `edition` and `hops`: where a router sent packets for an address before, for as long as no row says otherwise.

use bytemuck::{Pod, Zeroable};

use super::FdbEntry;

/// The values of `edition`.
#[derive(Debug)]
pub struct Edition;

impl Edition {
    /// What no agent has written yet. Nothing is remembered by it.
    pub const NONE: u64 = 0;

    /// Whether the agent writes rows: nothing is remembered meanwhile, and nothing of before is believed.
    #[must_use]
    #[inline(always)]
    pub const fn is_open(edition: u64) -> bool {
        !edition.is_multiple_of(2) || edition == Self::NONE
    }

    /// The edition that rows are written in.
    #[must_use]
    pub const fn opened(edition: u64) -> u64 {
        edition | 1
    }

    /// The edition that they belong to once they are written.
    #[must_use]
    pub const fn closed(edition: u64) -> u64 {
        Self::opened(edition).wrapping_add(1)
    }
}

/// Value of `hops`, which the programs keep for themselves: what they found out about an address, each CPU by itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Hop {
    /// The address: IPv6, or IPv4 mapped into it, as two numbers as they lie in memory.
    pub destination: [u64; 2],
    /// The value of `edition` that all of it belongs to; 0: the slot is empty.
    pub edition: u64,
    /// Where packets go, unless it is outside.
    pub target: FdbEntry,
    /// The network that they come from: its router's routes decide.
    pub from_vni: u32,
    /// The network that they go on in, unless it is outside.
    pub vni: u32,
    /// That network's MTU, bytes.
    pub mtu: u32,
    /// The MAC that they are for, order of the wire.
    pub mac: [u8; 6],
    /// [`Hop::INSIDE`], [`Hop::OUTSIDE`] or [`Hop::EXTERNAL`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

super::assert_layout!(Hop, 72, {
    destination: 0, edition: 16, target: 24, from_vni: 48, vni: 52, mtu: 56, mac: 60, kind: 66, reserved: 67
});

impl Hop {
    /// `kind`: to an endpoint.
    pub const INSIDE: u8 = 1;
    /// `kind`: out of the overlay.
    pub const OUTSIDE: u8 = 2;
    /// `kind`: to an external address, which is an endpoint's too.
    pub const EXTERNAL: u8 = 3;

    /// How many slots a CPU has: a power of two.
    pub const SLOTS: u32 = 1024;

    /// The slot of an address. Another address of the same slot takes its place.
    #[must_use]
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a slot's number has as many bits as are left of the product"
    )]
    pub const fn slot(from_vni: u32, [high, low]: [u64; 2]) -> u32 {
        /// The golden ratio's: its product has the bits of all of the factor in front.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (high ^ low ^ from_vni as u64).wrapping_mul(SPREAD);
        (mixed >> (u64::BITS - Self::SLOTS.trailing_zeros())) as u32
    }
}
