//! When the host is compared with the registry next.

use std::time::Duration;

use tokio::time::Instant;

use super::{CHECK, MAX_BACKOFF, MIN_BACKOFF};

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
    /// The wait after the next error.
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
            (self.backoff, (self.backoff * 2).min(MAX_BACKOFF))
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PACE: Pace = Pace {
        check: Duration::from_secs(30),
        reread: Duration::from_mins(1),
    };

    fn until_next_check(schedule: &Schedule) -> Duration {
        schedule.next_check - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn each_error_doubles_the_wait_up_to_the_longest_and_a_success_ends_that() {
        let mut schedule = Schedule::new(Instant::now(), PACE);
        let mut wait = MIN_BACKOFF;
        while wait < MAX_BACKOFF {
            schedule.checked(true);
            assert_eq!(until_next_check(&schedule), wait);
            wait *= 2;
        }
        schedule.checked(true);
        assert_eq!(until_next_check(&schedule), MAX_BACKOFF);
        schedule.checked(false);
        assert_eq!(until_next_check(&schedule), PACE.check);
        schedule.checked(true);
        assert_eq!(until_next_check(&schedule), MIN_BACKOFF);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_bring_the_next_check_forward_once() {
        let mut schedule = Schedule::new(Instant::now(), PACE);
        schedule.checked(false);
        schedule.check_soon();
        advance(MIN_BACKOFF / 2).await;
        schedule.check_soon();
        assert_eq!(until_next_check(&schedule), MIN_BACKOFF / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn sweeps_take_a_small_share_of_the_time_however_long_they_are() {
        for (took, rest) in [(0, 30), (1, 300), (10, 3000)] {
            let mut schedule = Schedule::new(Instant::now(), PACE);
            let started = Instant::now();
            advance(Duration::from_secs(took)).await;
            schedule.swept(started);
            let next = started + Duration::from_secs(rest);
            assert!(!schedule.is_sweep_due(next - Duration::from_millis(1)));
            assert!(schedule.is_sweep_due(next));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_is_asked_for_comes_with_the_next_check() {
        let mut schedule = Schedule::new(Instant::now(), PACE);
        schedule.swept(Instant::now());
        schedule.check_soon();
        schedule.sweep_with_next_check();
        assert!(schedule.is_sweep_due(schedule.next_check));
    }
}
