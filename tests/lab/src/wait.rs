//! Waiting for what takes a moment: polled, never slept for.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Far longer than anything in the lab takes, on a slow machine too: only a defect gets there.
pub const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
const INTERVAL: Duration = Duration::from_millis(10);

/// The first answer that `ask` has.
///
/// # Panics
///
/// There is none within [`WAIT_TIMEOUT`]; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(WAIT_TIMEOUT, what, ask)
}

/// Waits until `holds`.
///
/// # Panics
///
/// As [`eventually`].
#[track_caller]
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(WAIT_TIMEOUT, what, holds);
}

/// Waits until `holds`, for what takes longer than most.
///
/// # Panics
///
/// It does not within `patience`.
#[track_caller]
pub fn until_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    eventually_within(patience, what, || holds().then_some(()));
}

#[track_caller]
fn eventually_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        // Looked at first: who was kept from asking until now asks once more.
        let is_last = Instant::now() >= deadline;
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!is_last, "waited in vain: {what}");
        thread::sleep(INTERVAL);
    }
}
