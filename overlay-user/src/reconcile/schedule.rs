//! When the host is compared with the registry next.

use std::time::Duration;

use tokio::time::Instant;

use super::{CHECK, MIN_BACKOFF};

/// The share of time that is spent on sweeps of the large tables: one part in this many.
const SWEEP_SHARE: u32 = 300;

/// How often the loop looks for what it was not told of. Nothing that it is told of waits for that.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The host's interfaces, programs and small tables; the large tables no more often.
    pub check: Duration,
    /// The registry as a whole, at most.
    pub reread: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            check: CHECK,
            reread: Duration::from_mins(1),
        }
    }
}

/// Deadlines of checks of the host, sweeps of the large tables, and the ageing of the cache.
#[derive(Debug)]
pub(super) struct Schedule {
    check_interval: Duration,
    /// The wait after the next error; doubles up to [`CHECK`].
    backoff: Duration,
    pub(super) next_check: Instant,
    next_sweep: Instant,
    pub(super) next_ageing: Instant,
}

impl Schedule {
    pub(super) fn new(now: Instant, pace: Pace) -> Self {
        Self {
            check_interval: pace.check,
            backoff: MIN_BACKOFF,
            next_check: now,
            next_sweep: now + pace.check,
            next_ageing: now,
        }
    }

    /// Brings the next check forward. Never puts it off: a stream of changes would do so for ever.
    pub(super) fn check_soon(&mut self) {
        self.next_check = self.next_check.min(Instant::now() + self.backoff);
    }

    /// The host was checked: after an error it is checked again soon.
    pub(super) fn checked(&mut self, has_failed: bool) {
        let (wait, backoff) = if has_failed {
            (self.backoff, (self.backoff * 2).min(CHECK))
        } else {
            (self.check_interval, MIN_BACKOFF)
        };
        self.backoff = backoff;
        self.next_check = Instant::now() + wait;
    }

    /// Has the next check sweep the large tables too.
    pub(super) fn sweep_with_next_check(&mut self) {
        self.next_sweep = self.next_sweep.min(self.next_check);
    }

    pub(super) fn is_sweep_due(&self, now: Instant) -> bool {
        now >= self.next_sweep
    }

    /// The tables were swept from `started` to now. The longer that takes, the more rarely it is done.
    pub(super) fn swept(&mut self, started: Instant) {
        self.next_sweep = started + self.check_interval.max(started.elapsed() * SWEEP_SHARE);
    }
}
