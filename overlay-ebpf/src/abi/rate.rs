//! `meters` and `meter_state`: how much endpoints of this host may send and receive, and how much they have lately.

use bytemuck::{Pod, Zeroable};

use super::Traffic;

/// Value of `meters`: what the agent has for an endpoint in one direction. All zero: no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MeterEntry {
    /// Bits in a second, each frame with its Ethernet header and without a tunnel's; 0: as many as come.
    pub rate: u64,
    /// How far the departure time may stay behind the clock, nanoseconds: what an idle endpoint saves up.
    pub burst_ns: u64,
    /// Frames in a second; 0: as many as come.
    pub packet_rate: u32,
    /// A frame that departs so much too late is marked for congestion, nanoseconds.
    pub mark_ns: u32,
    /// One that departs so much too late is dropped, nanoseconds. Never 0 in an entry that the agent wrote.
    pub drop_ns: u32,
    /// `skb->priority` of what leaves by the underlay; 0: none.
    pub priority: u32,
    /// The DSCP that frames get, 0..=63, where [`MeterEntry::SETS_DSCP`]. Otherwise 0.
    pub dscp: u8,
    /// [`MeterEntry::SETS_DSCP`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

super::assert_layout!(MeterEntry, 40, {
    rate: 0, burst_ns: 8, packet_rate: 16, mark_ns: 20, drop_ns: 24, priority: 28, dscp: 32, flags: 33, reserved: 34
});

impl MeterEntry {
    /// `flags`: frames get the DSCP of this entry.
    pub const SETS_DSCP: u8 = 1;

    /// Direction: what the endpoint sends.
    pub const SENT: u32 = 0;
    /// Direction: what it receives.
    pub const RECEIVED: u32 = 1;

    /// Slots of `meters` and of `meter_state`. Endpoints with ids beyond the last have no limits.
    pub const SLOTS: u32 = Traffic::PORT_SLOTS as u32 * 2;

    /// The slot of an endpoint's id in a direction.
    #[must_use]
    #[inline(always)]
    pub const fn slot(id: u32, direction: u32) -> u32 {
        id * 2 + direction
    }
}

/// Value of `meter_state`, in the same slots: what the programs have made of it. They alone write it, but for zeros when
/// the slot's id is given out.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MeterState {
    /// When the next frame would depart by its bits.
    pub bits: MeterClock,
    /// The same by the number of frames.
    pub packets: MeterClock,
    /// Frames that were marked for congestion; an aggregate counts as its segments.
    pub marked: u64,
    /// Frames that were dropped, likewise.
    pub dropped: u64,
}

/// A departure time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MeterClock {
    /// When the next frame would depart, sixteenths of a nanosecond of `CLOCK_MONOTONIC`.
    pub next: u64,
    /// The rate that it follows from. Where the meter has another one, it starts anew: nobody owes for a rate that is no
    /// more.
    pub rate: u64,
}

super::assert_layout!(MeterState, 48, { bits: 0, packets: 16, marked: 32, dropped: 40 });
super::assert_layout!(MeterClock, 16, { next: 0, rate: 8 });
super::user_pod!(MeterEntry, MeterState);
