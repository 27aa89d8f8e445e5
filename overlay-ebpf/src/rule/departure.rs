//! Virtual departure times: when a frame would leave if its endpoint had a line of this rate to itself.
//!
//! One number is all that a limit needs, whatever the rate: a frame departs when the one before it has, or now, and
//! takes the line for as long as its bits need. Nothing waits: how late a frame is says what becomes of it.
//!
//! Times are in sixteenths of a nanosecond: 60 bytes at 400 Gb/s take 19 of these. They last for 36 years of
//! `CLOCK_MONOTONIC`.

use crate::abi::MeterEntry;

/// Sixteenths of a nanosecond in a nanosecond.
const TICKS: u64 = 16;
/// The same in a second.
const SECOND: u64 = 1_000_000_000 * TICKS;

/// Most bytes that a frame is charged for: far more than an aggregate of 65,535 segments has.
const MOST_BYTES: u64 = 1 << 25;

/// The longest that a frame takes, 208 days: so many can be added up as there are CPUs.
const LONGEST: u64 = 1 << 58;

/// A moment of `CLOCK_MONOTONIC`, given in nanoseconds, as departure times count.
#[must_use]
#[inline(always)]
pub const fn ticks(ns: u64) -> u64 {
    ns.saturating_mul(TICKS)
}

/// How long so many bytes take at a rate in bits per second. 0: the rate is not limited.
#[must_use]
#[inline(always)]
pub const fn cost(bytes: u64, rate: u64) -> u64 {
    let bytes = if bytes < MOST_BYTES {
        bytes
    } else {
        MOST_BYTES
    };
    share(bytes * 8, rate)
}

/// How long so many frames take at a rate in frames per second. 0: the rate is not limited.
#[must_use]
#[inline(always)]
pub const fn packet_cost(packets: u64, rate: u64) -> u64 {
    let packets = if packets < MOST_BYTES {
        packets
    } else {
        MOST_BYTES
    };
    share(packets, rate)
}

/// So many parts of a second, to the nearest.
#[inline(always)]
const fn share(parts: u64, of: u64) -> u64 {
    if of == 0 {
        return 0;
    }
    // Parts are at most 2^28 and a second has less than 2^34: a sum of 2^62 and 2^63 at most.
    let share = (parts * SECOND + of / 2) / of;
    if share < LONGEST { share } else { LONGEST }
}

/// When a frame would depart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// The moment.
    pub start: u64,
    /// How long after now that is; 0: at once.
    pub late: u64,
}

impl Departure {
    /// Of what nothing limits.
    pub const AT_ONCE: Self = Self { start: 0, late: 0 };
}

/// When a frame departs of an endpoint whose next one was to depart at `next`. Idle time is saved up to the meter's burst.
#[must_use]
#[inline(always)]
pub const fn departure(next: u64, now: u64, meter: &MeterEntry) -> Departure {
    let earliest = now.saturating_sub(ticks(meter.burst_ns));
    let start = if next > earliest { next } else { earliest };
    Departure {
        start,
        late: start.saturating_sub(now),
    }
}

/// When a frame leaves the host that departs by both, nanoseconds; 0: at once.
#[must_use]
#[inline(always)]
pub const fn departs_ns(by_bits: &Departure, by_packets: &Departure) -> u64 {
    let later = if by_bits.late > by_packets.late {
        by_bits
    } else {
        by_packets
    };
    if later.late == 0 {
        0
    } else {
        later.start / TICKS
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It passes with a mark for congestion, if it can carry one.
    Mark,
    /// It is dropped.
    Drop,
}

/// What becomes of a frame that departs so late.
#[must_use]
#[inline(always)]
pub const fn verdict(late: u64, meter: &MeterEntry) -> Verdict {
    if late > ticks(meter.drop_ns as u64) {
        Verdict::Drop
    } else if late > ticks(meter.mark_ns as u64) {
        Verdict::Mark
    } else {
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn meter(rate: u64) -> MeterEntry {
        MeterEntry {
            rate,
            burst_ns: 10 * MS,
            mark_ns: 5_000_000,
            drop_ns: 50_000_000,
            ..MeterEntry::default()
        }
    }

    /// Sends frames of `len` bytes, `gap` nanoseconds apart, for so long; gives the bytes that pass.
    fn passes(meter: &MeterEntry, len: u64, gap: u64, for_ns: u64) -> u64 {
        let (mut next, mut bytes, begin) = (0, 0, 1_000_000 * MS);
        let mut now = begin;
        while now < begin + for_ns {
            let it = departure(next, ticks(now), meter);
            if verdict(it.late, meter) != Verdict::Drop {
                next = it.start + cost(len, meter.rate);
                bytes += len;
            }
            now += gap;
        }
        bytes
    }

    #[test]
    fn what_passes_is_the_rate_and_the_burst() {
        for (rate, len, gap) in [
            (10_000_000, 1514, 10_000),
            (10_000_000, 60, 10_000),
            (1_000_000_000, 1514, 1_000),
            (1_000_000_000, 65_000, 50_000),
        ] {
            let bits = passes(&meter(rate), len, gap, 1_000 * MS) * 8;
            // A second, the 10 ms of burst, the 50 ms until frames are too late, and the last frame.
            let expected = rate + rate * 60 / 1000;
            let slack = expected / 1000 + len * 8;
            assert!(bits.abs_diff(expected) <= slack, "{rate}: {bits}");
        }
    }

    #[test]
    fn short_frames_cost_what_they_are_at_any_rate() {
        for (bytes, rate, ns) in [(60, 400_000_000_000, 1.2), (1514, 10_000_000_000, 1211.2)] {
            #[expect(clippy::cast_precision_loss, reason = "a few digits are enough")]
            let cost = cost(bytes, rate) as f64 / 16.0;
            assert!((cost / ns - 1.0).abs() < 0.02, "{cost} {ns}");
        }
        assert_eq!(cost(1, 1), ticks(8_000_000_000));
        assert_eq!(cost(1500, 0), 0);
        assert_eq!(packet_cost(3, 1000), ticks(3 * MS));
    }

    #[test]
    fn an_aggregate_passes_as_a_whole_and_is_paid_for_in_full() {
        let meter = meter(10_000);
        let now = ticks(1_000_000 * MS);
        let first = departure(0, now, &meter);
        assert_eq!(verdict(first.late, &meter), Verdict::Pass);
        let next = first.start + cost(64_000, meter.rate);
        // 51.2 seconds, less what was saved up.
        let later = |ms| departure(next, now + ticks(ms * MS), &meter).late;
        assert_eq!(verdict(later(51_000), &meter), Verdict::Drop);
        assert_eq!(verdict(later(51_145), &meter), Verdict::Mark);
        assert_eq!(verdict(later(51_190), &meter), Verdict::Pass);
    }

    #[test]
    fn nothing_overflows_where_all_cpus_charge_at_once() {
        let meter = meter(1);
        let now = ticks(1_000_000 * MS);
        let mut next = departure(0, now, &meter).start;
        for _ in 0..60 {
            next = next.checked_add(cost(u64::MAX, meter.rate)).unwrap();
        }
        assert_eq!(
            verdict(departure(next, now, &meter).late, &meter),
            Verdict::Drop
        );
    }

    proptest! {
        #[test]
        fn nothing_overflows(
            bytes: u64,
            rate: u64,
            packet_rate: u64,
            next: u64,
            now: u64,
            burst_ns: u64,
            drop_ns: u32,
        ) {
            let meter = MeterEntry { rate, burst_ns, drop_ns, ..MeterEntry::default() };
            let it = departure(next, now, &meter);
            let _ = verdict(it.late, &meter);
            prop_assert_eq!(it.late, it.start.saturating_sub(now));
            let _ = (cost(bytes, rate), packet_cost(bytes, packet_rate));
        }

        #[test]
        fn more_bytes_and_lower_rates_never_cost_less(bytes in 0..MOST_BYTES, rate in 1..u64::MAX) {
            prop_assert!(cost(bytes + 1, rate) >= cost(bytes, rate));
            prop_assert!(cost(bytes, rate) >= cost(bytes, rate.saturating_add(1)));
        }

        #[test]
        fn frames_of_any_length_depart_in_their_order(
            lens in prop::collection::vec(1_u64..100_000, 1..64),
            rate in 1_000_u64..400_000_000_000,
        ) {
            let meter = meter(rate);
            let (mut next, now) = (0, ticks(1_000_000 * MS));
            for len in lens {
                let it = departure(next, now, &meter);
                prop_assert!(it.start >= next);
                next = it.start + cost(len, rate);
            }
        }
    }
}
