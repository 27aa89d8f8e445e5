//! How many misses one CPU may raise: whoever scans a network must not keep the agent from others.

use crate::abi::Meter;

/// Length of a window as a power of two, nanoseconds: 537 ms.
const WINDOW: u32 = 29;

/// Misses in a window, which makes some 1900 a second.
const MOST: u64 = 1024;

/// For how long a miss that was raised rests until it is raised again, nanoseconds.
pub const REST: u64 = 1_000_000_000;

/// Whether one more miss may be raised at `now`; counts it if so.
#[must_use]
#[inline(always)]
pub const fn admits(meter: &mut Meter, now: u64) -> bool {
    let window = now >> WINDOW;
    if meter.window != window {
        meter.window = window;
        meter.raised = 0;
    }
    if meter.raised >= MOST {
        return false;
    }
    meter.raised += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_so_many_and_the_next_as_many_again() {
        let mut meter = Meter::default();
        for now in [0, 1 << WINDOW] {
            for _ in 0..MOST {
                assert!(admits(&mut meter, now));
            }
            assert!(!admits(&mut meter, now + (1 << WINDOW) - 1));
        }
    }
}
