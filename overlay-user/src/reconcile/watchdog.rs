//! Notices parts of the agent that have stopped turning.
//!
//! A part says each time that it has done its work. Whoever asks compares the times on a thread of its
//! own, so a part that hangs, in a system call for example, need not take part in finding that out.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a part may take for one turn. A step of the loop takes microseconds, one that looks at a
/// million rows some seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// A part of the agent that has to go on turning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The control loop: ends a step, at least once a second.
    Loop,
    /// The regular look at the host's interfaces, programs and small tables.
    Host,
    /// Vouches for the next hops, once a second.
    Lease,
    /// Hears of the host's routes from the kernel.
    Routes,
    /// Hears of frames that find no row from the programs.
    Misses,
    /// Looks at the underlay interface.
    Underlay,
    /// Keeps the devices that serve the tunnels.
    Devices,
    /// The registry answers, if only that it can't.
    Registry,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Loop,
        Self::Host,
        Self::Lease,
        Self::Routes,
        Self::Misses,
        Self::Underlay,
        Self::Devices,
        Self::Registry,
    ];

    /// Its name in `status` and in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Host => "host",
            Self::Lease => "lease",
            Self::Routes => "routes",
            Self::Misses => "misses",
            Self::Underlay => "underlay",
            Self::Devices => "devices",
            Self::Registry => "registry",
        }
    }

    /// Whether a new agent may do better. A registry that says nothing says nothing to that either.
    #[must_use]
    pub fn is_own(self) -> bool {
        self != Self::Registry
    }
}

/// What is known of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has nothing to do yet.
    NotBegun,
    /// It turned then.
    Turned(Instant),
    /// It will never turn again.
    Ended(Instant),
}

/// A part that has not turned for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// Which one.
    pub part: Part,
    /// For how long it has not.
    pub since: Duration,
    /// What the loop is doing, where it is the loop.
    pub doing: Option<&'static str>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, seconds) = (self.part.name(), self.since.as_secs());
        write!(f, "the agent's part {part} has not turned for {seconds} s")?;
        match self.doing {
            Some(doing) => write!(f, " (in a step for: {doing})"),
            None => Ok(()),
        }
    }
}

/// When each part last turned.
#[derive(Debug)]
pub struct Watchdog {
    /// Between two looks at the host.
    look: Duration,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    parts: [State; Part::ALL.len()],
    doing: Option<&'static str>,
}

impl Watchdog {
    /// Nothing has begun. The host is looked at every `look`.
    #[must_use]
    pub fn new(look: Duration) -> Self {
        Self {
            look,
            turns: Mutex::new(Turns {
                parts: [State::NotBegun; Part::ALL.len()],
                doing: None,
            }),
        }
    }

    /// A part has done its work; the first time begins the watch over it.
    pub fn turned(&self, part: Part) {
        self.set(part, State::Turned(Instant::now()));
    }

    /// A part will not turn again.
    pub fn ended(&self, part: Part) {
        if !matches!(self.state(part), State::Ended(_)) {
            self.set(part, State::Ended(Instant::now()));
        }
    }

    /// The loop begins something. `None`: it waits.
    pub fn doing(&self, what: Option<&'static str>) {
        self.turns().doing = what;
    }

    /// The parts that have not turned for too long.
    #[must_use]
    pub fn stalled(&self) -> Vec<Stalled> {
        let (now, turns) = (Instant::now(), self.turns());
        let stalled = |(part, state): (Part, &State)| {
            let (since, limit) = match state {
                State::NotBegun => return None,
                State::Turned(at) => (now.duration_since(*at), self.limit(part)),
                State::Ended(at) => (now.duration_since(*at), Duration::ZERO),
            };
            (since >= limit).then(|| Stalled {
                part,
                since,
                doing: turns.doing.filter(|_| part == Part::Loop),
            })
        };
        Part::ALL
            .into_iter()
            .zip(&turns.parts)
            .filter_map(stalled)
            .collect()
    }

    fn limit(&self, part: Part) -> Duration {
        match part {
            Part::Host => self.look * 2 + LIMIT,
            _ => LIMIT,
        }
    }

    fn state(&self, part: Part) -> State {
        let mut states = Part::ALL.into_iter().zip(self.turns().parts);
        let known = states.find(|(other, _)| *other == part);
        known.map_or(State::NotBegun, |(_, state)| state)
    }

    fn set(&self, part: Part, state: State) {
        let mut turns = self.turns();
        let mut states = Part::ALL.into_iter().zip(&mut turns.parts);
        if let Some((_, known)) = states.find(|(other, _)| *other == part) {
            *known = state;
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Each change is a single step: a panic elsewhere leaves nothing half done.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(30);

    fn parts(watchdog: &Watchdog) -> Vec<Part> {
        let stalled = watchdog.stalled();
        stalled.iter().map(|stalled| stalled.part).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_stalled_once_it_has_begun_and_not_turned_for_too_long() {
        let watchdog = Watchdog::new(LOOK);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(parts(&watchdog), []);
        watchdog.turned(Part::Loop);
        watchdog.turned(Part::Host);
        watchdog.doing(Some("change"));
        tokio::time::advance(LIMIT).await;
        let expected = Stalled {
            part: Part::Loop,
            since: LIMIT,
            doing: Some("change"),
        };
        assert_eq!(watchdog.stalled(), [expected]);
        assert_eq!(
            expected.to_string(),
            "the agent's part loop has not turned for 30 s (in a step for: change)"
        );
        watchdog.turned(Part::Loop);
        assert_eq!(parts(&watchdog), []);
        // Two looks at the host may be so far apart.
        tokio::time::advance(LOOK * 2).await;
        watchdog.turned(Part::Loop);
        assert_eq!(parts(&watchdog), [Part::Host]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_has_ended_is_stalled_from_then_on() {
        let watchdog = Watchdog::new(LOOK);
        watchdog.ended(Part::Routes);
        tokio::time::advance(Duration::from_secs(7)).await;
        watchdog.ended(Part::Routes);
        let stalled = watchdog.stalled();
        assert_eq!(stalled.len(), 1);
        assert_eq!(stalled[0].since, Duration::from_secs(7));
    }

    #[test]
    fn names_are_one_for_each_part() {
        let names: std::collections::BTreeSet<_> = Part::ALL.map(Part::name).into();
        assert_eq!(names.len(), Part::ALL.len());
    }
}
