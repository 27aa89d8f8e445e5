//! Ctrl-C ends the run the way a failure does: as an error that unwinds through every guard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How late an interruption may be noticed. Looking more often would show in what is measured.
pub const POLL: Duration = Duration::from_millis(100);

/// Takes SIGINT, SIGTERM and SIGHUP from now on.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("taking Ctrl-C over, so that the run can clean up after itself")
}

/// Fails once a signal has come.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted")
    }
    Ok(())
}

/// Sleeps unless a signal comes.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(POLL));
    }
}

/// Tries `ready` until it says yes; `what` names what is waited for.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let end = Instant::now() + limit;
    loop {
        check()?;
        if ready()? {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("{what}: not so after {} s", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}
