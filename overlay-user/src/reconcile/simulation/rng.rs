//! Chance that repeats itself: what a seed gives follows from the seed and nothing else.

use std::{
    ops::RangeBounds,
    sync::{Arc, Mutex},
    time::Duration,
};

/// The random numbers of one simulation, for all that take part in it.
#[derive(Clone)]
pub(super) struct Rng(Arc<Mutex<fastrand::Rng>>);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.0.lock().unwrap().u64(..end)
    }

    /// A number of a range.
    pub(super) fn within(&self, range: impl RangeBounds<usize>) -> usize {
        self.0.lock().unwrap().usize(range)
    }

    /// True so often, of 256.
    pub(super) fn of_256(&self, often: u8) -> bool {
        self.0.lock().unwrap().u8(..) < often
    }

    /// A time of at most `longest`, often none.
    pub(super) fn up_to(&self, longest: Duration) -> Duration {
        if longest.is_zero() || self.of_256(100) {
            return Duration::ZERO;
        }
        let longest = u64::try_from(longest.as_millis()).unwrap();
        Duration::from_millis(self.below(longest + 1))
    }
}
