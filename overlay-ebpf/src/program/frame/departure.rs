//! Carries a frame's departure time from the hook where it comes in to the one where it leaves.
//!
//! A redirect clears the kernel's own time stamp (`skb_clear_tstamp` in net/core/filter.c), so the time travels in `cb`, which
//! nobody writes between the two hooks of a redirect. The kernel uses the same bytes for other things in packets of other
//! ways: a random number in front tells ours.

use core::ptr;

use aya_ebpf::helpers::bpf_skb_set_tstamp;

use super::Frame;

/// `BPF_SKB_TSTAMP_DELIVERY_MONO` of `linux/bpf.h`: the time is one of `CLOCK_MONOTONIC`. Bindings have it under a name that
/// changes.
const DELIVERY_MONO: u32 = 1;

impl Frame {
    /// Leaves word of when the frame is to leave, nanoseconds of `CLOCK_MONOTONIC`.
    #[inline(always)]
    pub fn leave_departure(&mut self, secret: u32, departure_ns: u64) {
        let words = [secret, departure_ns as u32, (departure_ns >> 32) as u32];
        for (index, word) in words.into_iter().enumerate() {
            self.set_word(index, word);
        }
    }

    /// Takes what [`Self::leave_departure`] left. `None`: it left nothing.
    #[inline(always)]
    pub fn take_departure(&mut self, secret: u32) -> Option<u64> {
        if self.word(0) != secret {
            return None;
        }
        self.set_word(0, 0);
        Some(u64::from(self.word(1)) | u64::from(self.word(2)) << 32)
    }

    /// Volatile, here and below: the verifier wants each word by itself.
    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        // SAFETY: the context is valid for the whole program; the verifier checks the index.
        unsafe { ptr::read_volatile((&raw const (*self.skb()).cb).cast::<u32>().add(index)) }
    }

    #[inline(always)]
    fn set_word(&mut self, index: usize, word: u32) {
        // SAFETY: as above; the verifier allows these stores.
        unsafe { ptr::write_volatile((&raw mut (*self.skb()).cb).cast::<u32>().add(index), word) };
    }

    /// Has a queue that looks at departure times hold the frame until then, nanoseconds of `CLOCK_MONOTONIC`.
    #[inline(always)]
    pub fn depart_at(&mut self, departure_ns: u64) {
        // SAFETY: the context is valid for the whole program. A frame of another protocol than IP leaves at once.
        unsafe { bpf_skb_set_tstamp(self.skb(), departure_ns, DELIVERY_MONO) };
    }
}
