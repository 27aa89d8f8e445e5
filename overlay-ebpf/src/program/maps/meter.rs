//! Limits of endpoints, and the departure times that programs on all CPUs agree on.

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use overlay_ebpf::abi::{Counter, MeterEntry, MeterState, Table};

use super::{COUNTERS, atomic, trace};

#[btf_map(name = "meters")]
static METERS: Array<MeterEntry, { MeterEntry::SLOTS as usize }> = Array::new();

#[btf_map(name = "meter_state")]
static METER_STATE: Array<MeterState, { MeterEntry::SLOTS as usize }> = Array::new();

/// The limit in a slot. `None`: there is no such slot.
#[inline(always)]
pub fn meter(slot: u32) -> Option<MeterEntry> {
    let found = METERS.get(slot);
    trace::looked(Table::Meters, &raw const slot, found);
    found.copied()
}

/// Counts so much of something on this CPU.
#[inline(always)]
pub fn add_to_counter(counter: Counter, count: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter.number()) {
        // SAFETY: the slot is this CPU's own, as in `count_drop`.
        unsafe { *counter += count };
    }
}

/// What came of a limit, for all CPUs.
pub struct MeterProgress {
    /// When the next frame would depart by its bits.
    pub bits: Clock,
    /// The same by the number of frames.
    pub packets: Clock,
    marked: SharedU64,
    dropped: SharedU64,
}

/// What came of the limit in a slot.
#[inline(always)]
pub fn meter_progress(slot: u32) -> Option<MeterProgress> {
    let state = METER_STATE.get_ptr_mut(slot)?;
    // SAFETY: the fields lie in a value of an array, which the kernel aligns to eight bytes.
    unsafe {
        Some(MeterProgress {
            bits: Clock {
                next: SharedU64::new(&raw mut (*state).bits.next),
                rate: SharedU64::new(&raw mut (*state).bits.rate),
            },
            packets: Clock {
                next: SharedU64::new(&raw mut (*state).packets.next),
                rate: SharedU64::new(&raw mut (*state).packets.rate),
            },
            marked: SharedU64::new(&raw mut (*state).marked),
            dropped: SharedU64::new(&raw mut (*state).dropped),
        })
    }
}

impl MeterProgress {
    /// Counts frames that were marked.
    #[inline(always)]
    pub fn count_marked(&self, packets: u64) {
        self.marked.add(packets);
    }

    /// Counts frames that were dropped.
    #[inline(always)]
    pub fn count_dropped(&self, packets: u64) {
        self.dropped.add(packets);
    }
}

/// A number of a slot, which programs on all CPUs change.
#[derive(Clone, Copy)]
struct SharedU64(*mut u64);

impl SharedU64 {
    /// The number at this place.
    ///
    /// # Safety
    ///
    /// It is in a value of an array, and aligned to eight bytes.
    #[inline(always)]
    const unsafe fn new(at: *mut u64) -> Self {
        Self(at)
    }

    #[inline(always)]
    fn load(self) -> u64 {
        // SAFETY: the place is as `new` asks for. Eight aligned bytes are read at once.
        unsafe { ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    fn store(self, value: u64) {
        // SAFETY: as for `load`.
        unsafe { ptr::write_volatile(self.0, value) };
    }

    #[inline(always)]
    fn add(self, more: u64) {
        // SAFETY: as for `load`.
        unsafe { atomic::add(self.0, more) };
    }

    /// Makes it `to` if it is `from`; whether it was.
    #[inline(always)]
    fn exchange(self, from: u64, to: u64) -> bool {
        // SAFETY: as for `load`.
        unsafe { atomic::exchange(self.0, from, to) }
    }
}

/// A departure time.
#[derive(Clone, Copy)]
pub struct Clock {
    next: SharedU64,
    rate: SharedU64,
}

impl Clock {
    /// When the next frame departs: now, where the rate is another one since the last.
    #[inline(always)]
    pub fn next(self, rate: u64, now: u64) -> u64 {
        let held = self.rate.load();
        if held != rate && self.rate.exchange(held, rate) {
            self.next.store(now);
        }
        self.next.load()
    }

    /// A frame that departs at `start` takes the line for so long; `seen` is what [`Self::next`] gave. Nothing is lost
    /// that another CPU charges meanwhile: who comes second adds to what the first has written, which took the time
    /// into account already.
    #[inline(always)]
    pub fn advance(self, seen: u64, start: u64, cost: u64) {
        if !self.next.exchange(seen, start.wrapping_add(cost)) {
            self.next.add(cost);
        }
    }
}
