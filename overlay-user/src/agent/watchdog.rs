//! Keeps systemd's watchdog quiet while the agent's parts turn, and logs one that hangs.
//!
//! It does so on a thread of its own: a runtime whose threads all hang in the kernel is one of the
//! things that it has to notice.

use std::{collections::BTreeMap, io, sync::Arc, thread, time::Duration};

use sd_notify::NotifyState;

use crate::reconcile::watchdog::{Stalled, Watchdog};

/// How often the parts are looked at, at least.
const LOOK: Duration = Duration::from_secs(5);

/// Begins to watch, for as long as the process lives.
pub(super) fn start(watchdog: Arc<Watchdog>) -> io::Result<()> {
    let look = interval(sd_notify::watchdog_enabled());
    let watch = move || {
        let mut reported = Reported::default();
        loop {
            thread::sleep(look);
            let stalled = watchdog.stalled();
            reported.tell(&stalled);
            if may_go_on(&stalled) {
                // Without a service manager there is nobody to tell.
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
        }
    };
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(watch)
        .map(drop)
}

/// Several times within `WatchdogSec=`, so that a late one does no harm.
fn interval(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(LOOK, |period| (period / 4).min(LOOK))
}

/// Whether a new agent would do no better.
fn may_go_on(stalled: &[Stalled]) -> bool {
    !stalled.iter().any(|stalled| stalled.part.is_own())
}

/// The parts that the log has been told of.
#[derive(Default)]
struct Reported(BTreeMap<&'static str, Stalled>);

impl Reported {
    fn tell(&mut self, stalled: &[Stalled]) {
        let now: BTreeMap<_, _> = stalled.iter().map(|one| (one.part.name(), *one)).collect();
        for (part, stalled) in &now {
            if !self.0.contains_key(part) {
                tracing::error!("{stalled}");
            }
        }
        for part in self.0.keys().filter(|part| !now.contains_key(**part)) {
            tracing::info!(part, "turns again");
        }
        self.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::watchdog::Part;

    #[test]
    fn systemd_hears_of_the_agent_several_times_within_its_limit() {
        for (limit, expected) in [
            (None, LOOK),
            (Some(Duration::from_mins(2)), LOOK),
            (Some(Duration::from_secs(2)), Duration::from_millis(500)),
        ] {
            assert_eq!(interval(limit), expected);
        }
    }

    #[test]
    fn an_agent_is_not_started_anew_because_its_registry_says_nothing() {
        let stalled = |part| Stalled {
            part,
            since: Duration::from_mins(1),
            doing: None,
        };
        assert!(may_go_on(&[]));
        assert!(may_go_on(&[stalled(Part::Registry)]));
        assert!(!may_go_on(&[stalled(Part::Registry), stalled(Part::Loop)]));
    }
}
