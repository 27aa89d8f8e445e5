//! Limits the rate of misses, so that a scan does not occupy the agent.
//!
//! An endpoint, a network and a CPU have a limit each. It takes four scanning endpoints to reach a network's, and four
//! scanning networks to reach a CPU's: one tenant never uses up what others need.

use crate::abi::Meter;

/// Length of a window as a power of two, nanoseconds: 537 ms.
const WINDOW: u32 = 29;

/// Misses of one endpoint in a window: some 480 a second.
pub const ENDPOINT_LIMIT: u64 = 256;

/// Misses of one network's endpoints on this host in a window: some 1900 a second.
pub const NETWORK_LIMIT: u64 = 1024;

/// Misses of one CPU in a window, some 7600 a second. What is left where many networks scan.
pub const CPU_LIMIT: u64 = 4096;

/// Echoes of one VTEP in a window: some 240 a second.
pub const ECHO_LIMIT: u64 = 128;

/// For how long a miss that was raised rests until it is raised again, nanoseconds.
pub const REST: u64 = 1_000_000_000;

/// Whether one more miss may be raised at `now`, of `limit` in a window; counts it if so.
#[must_use]
#[inline(always)]
pub const fn allows(meter: &mut Meter, now: u64, limit: u64) -> bool {
    let window = now >> WINDOW;
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
    fn a_window_takes_so_many_and_the_next_as_many_again() {
        for limit in [ENDPOINT_LIMIT, NETWORK_LIMIT, CPU_LIMIT] {
            let mut meter = Meter::default();
            for now in [0, 1 << WINDOW] {
                for _ in 0..limit {
                    assert!(allows(&mut meter, now, limit));
                }
                assert!(!allows(&mut meter, now + (1 << WINDOW) - 1, limit));
            }
        }
    }

    #[test]
    fn one_endpoint_leaves_its_network_and_one_network_its_cpu_most_of_their_misses() {
        const { assert!(ENDPOINT_LIMIT * 4 <= NETWORK_LIMIT && NETWORK_LIMIT * 4 <= CPU_LIMIT) };
    }
}
