//! The echoes that this host's programs have seen lately.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use crate::model::{Echo, EchoKind};

/// How many are remembered: those of a minute where a thousand hosts try each other.
const MOST: usize = 8192;

/// The last ones.
#[derive(Default)]
pub(super) struct Sightings {
    seen: Mutex<VecDeque<Echo>>,
    changed: Notify,
}

impl Sightings {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Echo>> {
        // Each change is a whole one.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one.
    pub(super) fn note(&self, echo: Echo) {
        let mut seen = self.lock();
        if seen.len() == MOST {
            seen.pop_front();
        }
        seen.push_back(echo);
        drop(seen);
        self.changed.notify_waiters();
    }

    /// All of the echo with this id, in the order in which they were seen.
    pub(super) fn of(&self, id: u64) -> Vec<Echo> {
        let seen = self.lock();
        seen.iter().filter(|echo| echo.id == id).copied().collect()
    }

    /// When the echo came back. `None`: it was dropped here, or did not within `patience`.
    pub(super) async fn back(&self, id: u64, patience: Duration) -> Option<Duration> {
        let coming = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // From here on nothing that is noted is missed.
                changed.as_mut().enable();
                for echo in self.of(id) {
                    match echo.kind {
                        EchoKind::Ours => return Some(echo.at),
                        EchoKind::Dropped(_) => return None,
                        EchoKind::Theirs | EchoKind::Left => {}
                    }
                }
                changed.await;
            }
        };
        timeout(patience, coming).await.ok().flatten()
    }
}

/// Numbers that nobody can guess.
#[derive(Default)]
pub(super) struct Ids {
    keys: RandomState,
    count: u64,
}

impl Ids {
    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.keys.hash_one(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(id: u64, kind: EchoKind) -> Echo {
        Echo {
            id,
            vtep: [10, 0, 0, 2].into(),
            kind,
            len: 128,
            at: Duration::from_millis(id),
        }
    }

    #[tokio::test]
    async fn an_echo_is_waited_for_until_it_is_back_or_was_dropped() {
        let sightings = Sightings::default();
        let patience = Duration::from_mins(1);
        let noting = async {
            sightings.note(echo(7, EchoKind::Left));
            tokio::task::yield_now().await;
            sightings.note(echo(8, EchoKind::Ours));
            sightings.note(echo(7, EchoKind::Ours));
        };
        let (back, ()) = tokio::join!(sightings.back(7, patience), noting);
        assert_eq!(back, Some(Duration::from_millis(7)));
        assert_eq!(sightings.of(7).len(), 2);
        sightings.note(echo(9, EchoKind::Dropped("too_big")));
        assert_eq!(sightings.back(9, patience).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_longer_than_that() {
        let sightings = Sightings::default();
        assert_eq!(sightings.back(7, Duration::from_secs(1)).await, None);
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let sightings = Sightings::default();
        for id in 0..=u64::try_from(MOST).unwrap() {
            sightings.note(echo(id, EchoKind::Theirs));
        }
        assert!(sightings.of(0).is_empty());
        assert_eq!(sightings.of(1).len(), 1);
    }
}
