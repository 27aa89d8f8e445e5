//! Limits the rate of frames that the agent is to answer, so that one that floods does not occupy it.
//!
//! An endpoint, a network and a CPU have a limit each, as for misses.

use crate::abi::Meter;

/// Length of an endpoint's window as a power of two, nanoseconds: 4.3 s.
const ENDPOINT_WINDOW: u32 = 32;

/// Length of the other windows, likewise: 537 ms.
const WINDOW: u32 = 29;

/// Frames of one endpoint in its window: 10 a second, all of which may come at once.
pub const ENDPOINT_LIMIT: u64 = 43;

/// Frames of one network's endpoints on this host in a window: some 7600 a second. A client that comes up has two.
pub const NETWORK_LIMIT: u64 = 4096;

/// Frames of one CPU in a window, some 15000 a second. What is left where many networks flood.
pub const CPU_LIMIT: u64 = 8192;

/// Whether one more frame of an endpoint may be handed over at `now`; counts it if so.
#[must_use]
#[inline(always)]
pub const fn endpoint_allows(meter: &mut Meter, now: u64) -> bool {
    allows(meter, now >> ENDPOINT_WINDOW, ENDPOINT_LIMIT)
}

/// The same for a network's or a CPU's, of `limit` in a window.
#[must_use]
#[inline(always)]
pub const fn others_allow(meter: &mut Meter, now: u64, limit: u64) -> bool {
    allows(meter, now >> WINDOW, limit)
}

#[inline(always)]
const fn allows(meter: &mut Meter, window: u64, limit: u64) -> bool {
    if meter.window != window {
        meter.window = window;
        meter.raised = 0;
    }
    if meter.raised >= limit {
        return false;
    }
    meter.raised += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_ask_ten_times_a_second() {
        let mut meter = Meter::default();
        let minute = 60_000_000_000;
        let step = 1_000_000;
        let asked = (0..minute / step).filter(|at| endpoint_allows(&mut meter, at * step));
        let asked = u64::try_from(asked.count()).unwrap();
        assert!((590..=645).contains(&asked), "{asked}");
    }

    #[test]
    fn many_endpoints_get_three_thousand_leases_a_second() {
        let second = 1_000_000_000_u64;
        let mut meter = Meter::default();
        let asked =
            (0..second / 1000).filter(|at| others_allow(&mut meter, at * 1000, NETWORK_LIMIT));
        assert!(asked.count() >= 6000);
    }

    #[test]
    fn one_network_leaves_its_cpu_as_much() {
        const { assert!(NETWORK_LIMIT * 2 <= CPU_LIMIT && ENDPOINT_LIMIT * 4 <= NETWORK_LIMIT) };
    }
}
