//! Schedules the looks at this node's ports: soon after the kernel reports a change, and rarely otherwise.
//!
//! Looks run in the background, so the loop waits for no namespace. The port of an owner who changes it again and
//! again is looked at less and less often; other ports are not affected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{LEASE, Reconciler, wake::Completion, watchdog::Part};
use crate::{
    datapath::Datapath,
    model::{Attachment, Event, Name},
    platform::{PlatformError, Port as Looked, PortChange, PortSpec},
};

/// From a change to the look: what is changed together is seen together.
const SETTLING: Duration = Duration::from_millis(50);
/// From a port's first look to the next: something may have been changed before the kernel was listened
/// to.
const FIRST: Duration = Duration::from_secs(1);
/// The pause after a look; doubles up to [`MAX_PAUSE`] with every [`STREAK`] that follow each other
/// within [`CALM`].
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(5);
const STREAK: u32 = 8;
/// How often a port is looked at of which nothing was heard, at least.
const ROUTINE: Duration = Duration::from_mins(10);
/// How many looks are under way at most.
const AT_ONCE: usize = 8;

/// A port's looks.
#[derive(Debug)]
struct Port {
    due: Instant,
    /// When it was looked at.
    last: Option<Instant>,
    /// How often, without any rest.
    streak: u32,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    InFlight,
    /// Under way, and something was heard of since it began.
    Outdated,
}

/// The looks of all ports.
#[derive(Debug, Default)]
pub(super) struct Looks {
    ports: BTreeMap<Name, Port>,
    /// Those that wait, by when they are due.
    queue: BTreeSet<(Instant, Name)>,
    in_flight: usize,
    /// Interfaces that had lost their programs a second ago. Those that can't be helped wait for the next
    /// look at the host.
    detached: BTreeSet<u32>,
}

impl Looks {
    /// The endpoint has a port.
    pub(super) fn insert(&mut self, endpoint: &Name, now: Instant) {
        if !self.ports.contains_key(endpoint) {
            self.wait(endpoint.clone(), now + FIRST, None, 0);
        }
    }

    /// It has none any more, or none that can be looked at.
    pub(super) fn remove(&mut self, endpoint: &Name) {
        if let Some(port) = self.ports.remove(endpoint) {
            self.queue.remove(&(port.due, endpoint.clone()));
        }
    }

    /// Something was heard of its port.
    pub(super) fn note(&mut self, endpoint: &Name, now: Instant) {
        let Some(port) = self.ports.get_mut(endpoint) else {
            return;
        };
        if port.progress != Progress::Waiting {
            port.progress = Progress::Outdated;
            return;
        }
        let earliest = port.last.map_or(now, |last| last + pause(port.streak));
        let due = earliest.max(now + SETTLING);
        if due < port.due {
            let (last, streak) = (port.last, port.streak);
            self.queue.remove(&(port.due, endpoint.clone()));
            self.wait(endpoint.clone(), due, last, streak);
        }
    }

    /// Something was heard of all.
    pub(super) fn note_all(&mut self, now: Instant) {
        let all: Vec<Name> = self.ports.keys().cloned().collect();
        for endpoint in &all {
            self.note(endpoint, now);
        }
    }

    /// When the next one is due. `None`: there is none, or enough are under way.
    pub(super) fn next(&self) -> Option<Instant> {
        let (due, _) = self.queue.first()?;
        (self.in_flight < AT_ONCE).then_some(*due)
    }

    /// Begins a look that is due: whose.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Name> {
        self.next().filter(|due| *due <= now)?;
        let (_, endpoint) = self.queue.pop_first()?;
        if let Some(port) = self.ports.get_mut(&endpoint) {
            port.progress = Progress::InFlight;
        }
        self.in_flight += 1;
        Some(endpoint)
    }

    /// The look is done.
    pub(super) fn end(&mut self, endpoint: &Name, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(port) = self.ports.get(endpoint) else {
            return;
        };
        // It went, and came again meanwhile.
        if port.progress == Progress::Waiting {
            return;
        }
        let is_calm = port.last.is_none_or(|last| now > last + CALM);
        let streak = if is_calm {
            0
        } else {
            port.streak.saturating_add(1)
        };
        let wait = if port.progress == Progress::Outdated {
            pause(streak)
        } else {
            ROUTINE
        };
        self.wait(endpoint.clone(), now + wait, Some(now), streak);
    }

    fn wait(&mut self, endpoint: Name, due: Instant, last: Option<Instant>, streak: u32) {
        self.queue.insert((due, endpoint.clone()));
        let port = Port {
            due,
            last,
            streak,
            progress: Progress::Waiting,
        };
        self.ports.insert(endpoint, port);
    }
}

fn pause(streak: u32) -> Duration {
    let doublings = (streak / STREAK).min(MAX_PAUSE.as_millis().ilog2());
    MIN_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE)
}

impl Reconciler {
    /// Learns what a previous agent left on this host, before anything is compared with it.
    pub(super) async fn list_ports(&mut self) {
        let view = self.view.read().await;
        let listed = self.applier.list_ports(&view.mirror).await;
        drop(view);
        self.errors.extend(listed.err());
    }

    /// Looks at the whole host; at its large tables too if they are in doubt, or due.
    pub(super) async fn check(&mut self) {
        self.watchdog.doing(Some("a look at the host"));
        let view = self.view.read().await;
        let mut errors = self.applier.check(&view.mirror).await;
        let started = Instant::now();
        if !self.wake.hears_ports() {
            self.looks.note_all(started);
        }
        let is_due = self.applier.writer.needs_sweep || self.schedule.is_sweep_due(started);
        if is_due && self.applier.readings.has_ports {
            self.watchdog.turned(Part::Loop);
            self.watchdog.doing(Some("a look through the large tables"));
            let swept = self.applier.sweep(&view.mirror, self.cache.room());
            self.counters.last_sweep = started.elapsed();
            self.schedule.swept(started);
            self.reporter.note();
            if swept.put + swept.removed > 0 {
                tracing::info!(put = swept.put, removed = swept.removed, "tables mended");
                self.counters.mended += swept.put;
                self.counters.swept += swept.removed;
                self.events.tell(Event::Mended {
                    put: swept.put,
                    removed: swept.removed,
                });
            }
            for lookup in swept.unknown {
                self.cache.revisit(lookup, started);
            }
            errors.extend(swept.error);
        }
        drop(view);
        let has_failed = !errors.is_empty() || self.applier.has_failed();
        self.view.write().await.errors.clear();
        self.errors.extend(errors);
        self.schedule.checked(has_failed);
        self.watchdog.turned(Part::Host);
    }

    /// Does what can't wait for [`Self::check`], each second.
    pub(super) async fn on_renewal(&mut self) {
        self.renew_lease().await;
        self.look_for_programs().await;
    }

    async fn renew_lease(&mut self) {
        if !self.wake.knows_routes() {
            return;
        }
        // The lease says that the next hops are up to date.
        if self.wake.drain_routes() {
            self.follow_routes().await;
        }
        match self.applier.renew_lease(LEASE) {
            Ok(()) => self.watchdog.turned(Part::Lease),
            Err(error) => tracing::error!(%error, "the kernel looks for each packet's next hop"),
        }
    }

    /// Looks at the whole host at once where an interface has lost its program: what comes in there passes
    /// to the host's own stack.
    async fn look_for_programs(&mut self) {
        if !self.reader.has_read() {
            return;
        }
        match self.applier.writer.on_datapath(Datapath::detached) {
            Ok(detached) if detached == self.looks.detached => {}
            Ok(detached) if detached.is_empty() => self.looks.detached = detached,
            Ok(detached) => {
                self.looks.detached.clone_from(&detached);
                tracing::warn!(?detached, "interfaces have lost their programs");
                self.applier.writer.datapath.recheck_attachments();
                self.check().await;
                self.tell_of_programs(&detached);
            }
            // The next look at the host asks again, and tells.
            Err(error) => tracing::debug!(%error, "it is not known whether programs are attached"),
        }
    }

    /// Tells which of these interfaces have their programs again.
    fn tell_of_programs(&mut self, detached: &BTreeSet<u32>) {
        for ifindex in detached {
            if self.applier.writer.datapath.is_attached(*ifindex) == Some(true) {
                let what = format!("the program of interface {ifindex} was taken off");
                let endpoint = self.applier.host.endpoints.at(*ifindex).cloned();
                self.applier.note_repair(endpoint, what);
            }
        }
    }

    /// Somebody changed a port, or a namespace that ports are in or wait for.
    pub(super) async fn on_port_change(&mut self, change: PortChange) {
        let now = Instant::now();
        match change {
            PortChange::Endpoint(endpoint) => self.looks.note(&endpoint, now),
            PortChange::Netns(netns) => {
                let view = self.view.read().await;
                for known in view.mirror.local_endpoints() {
                    if known.attachment().and_then(Attachment::netns) == Some(&netns) {
                        self.looks.note(known.name(), now);
                    }
                }
            }
            PortChange::All => self.looks.note_all(now),
        }
    }

    /// Begins the looks that are due.
    pub(super) async fn begin_looks(&mut self, now: Instant) {
        while let Some(endpoint) = self.looks.begin(now) {
            let view = self.view.read().await;
            let spec = self.applier.local().port_spec(&view.mirror, &endpoint);
            drop(view);
            let Some(Ok(spec)) = spec else {
                self.looks.end(&endpoint, now);
                continue;
            };
            let platform = Arc::clone(&self.applier.platform);
            self.wake.spawn_request(async move {
                let looked = platform.refresh_port(&spec).await;
                Completion::Looked(spec, looked)
            });
        }
    }

    pub(super) async fn on_looked(
        &mut self,
        spec: PortSpec,
        looked: Result<Option<Looked>, PlatformError>,
    ) {
        self.looks.end(&spec.endpoint, Instant::now());
        let view = self.view.read().await;
        let errors = self.applier.on_look(&view.mirror, spec, looked).await;
        drop(view);
        self.errors.extend(errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// Looks of "blue" alone, the first of which is over.
    fn looks(now: Instant) -> Looks {
        let mut looks = Looks::default();
        looks.insert(&name("blue"), now);
        assert_eq!(looks.begin(now + FIRST), Some(name("blue")));
        looks.end(&name("blue"), now + FIRST);
        looks
    }

    #[test]
    fn a_change_is_looked_at_within_a_second_and_nothing_else_for_long() {
        let now = Instant::now();
        let mut looks = looks(now);
        let later = now + CALM * 2;
        assert!(looks.next().unwrap() > later);
        looks.note(&name("blue"), later);
        looks.note(&name("green"), later);
        assert!(looks.next().unwrap() <= later + Duration::from_millis(500));
        let due = looks.next().unwrap();
        assert_eq!(looks.begin(due), Some(name("blue")));
        assert_eq!(looks.begin(due), None);
    }

    #[test]
    fn what_changes_again_and_again_is_looked_at_less_and_less_often() {
        let start = Instant::now();
        let (mut looks, mut now) = (looks(start), start + FIRST);
        let mut count = 0;
        while now < start + Duration::from_mins(2) {
            looks.note(&name("blue"), now);
            now = looks.next().unwrap();
            looks.begin(now);
            looks.end(&name("blue"), now);
            count += 1;
        }
        assert!((30..80).contains(&count), "{count} looks");
        // Once it rests, it is like any other again.
        now += CALM * 2;
        looks.note(&name("blue"), now);
        let due = looks.next().unwrap();
        assert!(due <= now + MIN_PAUSE);
    }

    #[test]
    fn a_change_during_a_look_makes_another_one() {
        let now = Instant::now();
        let mut looks = looks(now);
        let later = now + CALM * 2;
        looks.note(&name("blue"), later);
        let due = looks.next().unwrap();
        looks.begin(due);
        looks.note(&name("blue"), due);
        assert_eq!(looks.next(), None);
        looks.end(&name("blue"), due);
        assert!(looks.next().unwrap() <= due + MAX_PAUSE);
    }

    #[test]
    fn so_many_looks_are_under_way_and_no_more() {
        let now = Instant::now();
        let mut looks = Looks::default();
        let names: Vec<Name> = (0..=AT_ONCE)
            .map(|number| name(&format!("e{number}")))
            .collect();
        for name in &names {
            looks.insert(name, now);
        }
        let later = now + FIRST;
        let begun: Vec<Name> = std::iter::from_fn(|| looks.begin(later)).collect();
        assert_eq!((begun.len(), looks.next()), (AT_ONCE, None));
        // Also one that went meanwhile makes room.
        looks.remove(&begun[0]);
        looks.end(&begun[0], later);
        assert!(looks.begin(later).is_some());
    }
}
