//! How long the loop's steps take, for whoever measures it.

use std::time::Duration;

use super::wake::{Completion, Wake};

/// What a step of the loop was for. Chores that are due are done in any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The registry told of a change, or of being lost or restored.
    Change,
    /// A page of a reading of the registry.
    Reading,
    /// A frame found no row.
    Miss,
    /// The registry answered whose an address is.
    Lookup,
    /// The host's routes changed, or are vouched for anew.
    Routes,
    /// Something was due.
    Timer,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Change,
        Self::Reading,
        Self::Miss,
        Self::Lookup,
        Self::Routes,
        Self::Timer,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Reading => "reading",
            Self::Miss => "miss",
            Self::Lookup => "lookup",
            Self::Routes => "routes",
            Self::Timer => "chore",
        }
    }

    pub(super) fn of(wake: &Wake) -> Self {
        match wake {
            Wake::Event(_) | Wake::Adoption => Self::Change,
            Wake::Page(_) | Wake::Completion(Completion::Read(..)) => Self::Reading,
            Wake::Miss(_) => Self::Miss,
            Wake::Completion(Completion::Found(..)) => Self::Lookup,
            Wake::Routes | Wake::Renewal => Self::Routes,
            Wake::Port(_) | Wake::Timer | Wake::Completion(_) => Self::Timer,
        }
    }
}

/// Is told of each step once it is done.
pub trait Meter: Send + Sync + 'static {
    /// A step took this long, and so many things in it went wrong.
    fn step(&self, cause: Cause, took: Duration, errors: usize);
}

/// Measures nothing.
impl Meter for () {
    fn step(&self, _: Cause, _: Duration, _: usize) {}
}
