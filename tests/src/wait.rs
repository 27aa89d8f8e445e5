//! Waiting for what takes a moment: polled, never slept for.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Far longer than anything in the lab takes: only a defect gets there.
pub const PATIENCE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(10);

/// The first answer that `ask` has.
///
/// # Panics
///
/// There is none within [`PATIENCE`]; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(INTERVAL);
    }
}

/// Waits until `holds`.
///
/// # Panics
///
/// As [`eventually`].
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}
