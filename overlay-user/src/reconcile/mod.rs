//! Reconciles the kernel's state with the registry's.
//!
//! A single task handles every event in turn: registry changes, misses, route changes, timers. Kernel calls
//! are awaited; registry calls run in the background and report back as completions, so a slow or absent
//! registry never stops the loop.
//!
//! The registry is read as a whole at the start, after a gap, and from time to time in case a change was
//! missed. The host's interfaces are checked every 30 s, the inside of a namespace after the kernel reports a
//! change there, and the large tables are swept now and then. The interval grows with the time that a read or
//! a sweep takes: a host with a million endpoints spends no larger share of its time on it than one with ten.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc, watch},
    time::Instant,
};

mod announce;
mod announcer;
pub mod apply;
pub mod cache;
pub mod desired;
pub mod digest;
pub mod event;
mod looks;
pub mod meter;
pub mod mirror;
mod own_node;
pub mod plan;
mod ports;
mod ports_at_work;
mod report;
mod resolve;
mod schedule;
#[cfg(test)]
mod simulation;
pub mod status;
pub mod sweep;
mod sync;
pub mod tables;
mod telling;
mod vet;
mod view;
mod wake;
pub mod watchdog;
mod withheld;
mod work;
pub(crate) mod writer;

use self::{
    apply::Applier,
    cache::{Cache, Limits},
    event::Events,
    looks::Looks,
    meter::{Cause, Meter},
    mirror::{Mirror, OnFact},
    own_node::OwnNode,
    plan::ChangeSet,
    report::Reporter,
    schedule::Schedule,
    sync::RegistrySync,
    wake::{Completion, Wake, WakeSources},
    watchdog::{Part, Watchdog},
    withheld::Adoption,
};
pub use self::{
    schedule::Pace,
    view::{Counters, Lost, View},
    withheld::Handover,
};
use crate::{
    model::{Event, KnownKind, Miss, Node, Question, Revision},
    platform::PortChange,
    registry::{Registry, RegistryError},
};

/// How often the host's interfaces, programs and small tables are looked at even if nothing went
/// wrong. The large tables are looked at no more often.
const CHECK: Duration = Duration::from_secs(30);
/// The first wait after an error; doubles.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest one.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How often the loop vouches for the next hops that it wrote.
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// For how long each time. An agent that died, or is too busy to follow the routes, is believed no
/// longer than this.
const LEASE: Duration = Duration::from_secs(3);

/// A look at the loop from outside.
#[derive(Debug, Clone)]
pub struct Observer {
    view: Arc<RwLock<View>>,
    progress: watch::Receiver<Progress>,
    events: Events,
    adoptions: mpsc::Sender<()>,
    watchdog: Arc<Watchdog>,
}

/// How far the loop is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// Grows when the registry is put back to an older state: revisions of two histories don't
    /// compare.
    history: u64,
    applied: Revision,
    /// Interfaces that were made beside the loop, or could not be.
    made: u64,
}

impl Observer {
    /// What the loop knows now.
    pub async fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().await
    }

    /// The same, unless the loop is changing it just now.
    #[must_use]
    pub fn try_view(&self) -> Option<RwLockReadGuard<'_, View>> {
        self.view.try_read().ok()
    }

    /// What happens in the loop.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// When the agent's parts last turned; those outside of the loop say it here too.
    #[must_use]
    pub fn watchdog(&self) -> &Arc<Watchdog> {
        &self.watchdog
    }

    /// Waits until the kernel is what `revision` wants, as far as it can be, or nobody can want it any
    /// more because the registry was put back to an older state. `false`: the loop has ended.
    pub async fn applied(&mut self, revision: Revision) -> bool {
        let history = self.progress.borrow().history;
        self.progress
            .wait_for(|now| now.applied >= revision || now.history != history)
            .await
            .is_ok()
    }

    /// Has the registry followed as it is now, whatever it does not have.
    pub async fn adopt(&self) {
        // A loop that has ended follows nothing.
        let _ = self.adoptions.send(()).await;
    }

    /// Waits until the loop has come further. `false`: it has ended.
    pub async fn moved(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Waits until the loop has ended.
    pub async fn ended(&mut self) {
        while self.moved().await {}
    }
}

/// What a loop is made of.
pub struct Parts {
    /// The desired state.
    pub registry: Arc<dyn Registry>,
    /// The actual one.
    pub applier: Applier,
    /// This node's record for the registry: it is put there again if somebody changes or removes
    /// it.
    pub node: watch::Receiver<Node>,
    /// The kinds of objects that are followed.
    pub kinds: &'static [KnownKind],
    /// Bounds of what is resolved on demand.
    pub limits: Limits,
    /// How often it looks for itself.
    pub pace: Pace,
    /// Tells of changes to the host's routes.
    pub routes: mpsc::Receiver<()>,
    /// Tells what happens to ports. `None`: they are looked at as often as the host.
    pub ports: Option<mpsc::Receiver<PortChange>>,
    /// Frames that find no row.
    pub misses: mpsc::Receiver<Miss>,
}

/// The loop.
pub struct Reconciler {
    registry: Arc<dyn Registry>,
    applier: Applier,
    own_node: OwnNode,
    cache: Cache,
    reader: RegistrySync,
    reporter: Reporter,
    /// Where questions go that are the agent's to answer.
    inquiries: Option<mpsc::Sender<Question>>,
    wake: WakeSources,
    looks: Looks,
    /// Only the loop writes; it lets others read while it works on the kernel.
    view: Arc<RwLock<View>>,
    progress: watch::Sender<Progress>,
    events: Events,
    meter: Arc<dyn Meter>,
    watchdog: Arc<Watchdog>,
    counters: Counters,
    /// What went wrong in this step.
    errors: Vec<String>,
    adoption: Adoption,
    schedule: Schedule,
    history: u64,
}

impl Reconciler {
    /// A loop, and the way to look at it. To be called on the runtime that runs it.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Observer) {
        let now = Instant::now();
        let node = parts.node.borrow().name.clone();
        let view = Arc::new(RwLock::new(View::new(node, parts.kinds)));
        let (publisher, progress) = watch::channel(Progress::default());
        let events = Events::default();
        let (adoptions, is_adopted) = mpsc::channel(1);
        let watchdog = Arc::new(Watchdog::new(parts.pace.check));
        let observer = Observer {
            view: Arc::clone(&view),
            progress,
            events: events.clone(),
            adoptions,
            watchdog: Arc::clone(&watchdog),
        };
        let reconciler = Self {
            registry: parts.registry,
            applier: parts.applier,
            own_node: OwnNode::new(now, parts.node),
            cache: Cache::new(parts.limits),
            reader: RegistrySync::new(now, parts.pace.reread),
            reporter: Reporter::new(now),
            inquiries: None,
            wake: WakeSources::new(
                parts.routes,
                parts.ports,
                parts.misses,
                is_adopted,
                LEASE_RENEWAL,
            ),
            looks: Looks::default(),
            view,
            progress: publisher,
            events,
            meter: Arc::new(()),
            watchdog,
            counters: Counters::default(),
            errors: Vec::new(),
            adoption: Adoption::default(),
            schedule: Schedule::new(now, parts.pace),
            history: 0,
        };
        (reconciler, observer)
    }

    /// The same loop; `meter` is told of its steps.
    #[must_use]
    pub fn measured_by(mut self, meter: Arc<dyn Meter>) -> Self {
        self.meter = meter;
        self
    }

    /// The same loop; questions that are not its own to answer go to `inquiries`.
    #[must_use]
    pub fn handing_on(mut self, inquiries: mpsc::Sender<Question>) -> Self {
        self.inquiries = Some(inquiries);
        self
    }

    /// Runs until the future is dropped. Ends with an error if the registry can't be watched at the
    /// start; later losses are waited out.
    pub async fn run(mut self) -> Result<(), RegistryError> {
        self.wake.events = Some(self.registry.watch().await?);
        self.watchdog.turned(Part::Loop);
        self.list_ports().await;
        self.recall().await;
        loop {
            let deadline = self.next_deadline();
            let wake = self.wake.next(deadline).await;
            let started = Instant::now();
            let cause = Cause::of(&wake);
            self.watchdog.doing(Some(cause.name()));
            match wake {
                Wake::Renewal => self.on_renewal().await,
                Wake::Routes => self.follow_routes().await,
                Wake::Port(change) => self.on_port_change(change).await,
                Wake::Event(Some(event)) => self.on_event(event).await,
                Wake::Event(None) => self.rewatch(started),
                Wake::Page(page) => self.on_page(page).await,
                Wake::Miss(miss) => self.on_miss(miss).await,
                Wake::Completion(done) => self.on_completion(done).await,
                Wake::Adoption => self.adopt(),
                Wake::Timer => {}
            }
            self.run_timers().await;
            let took = started.elapsed();
            self.counters.steps += 1;
            self.counters.busy += took;
            self.meter.step(cause, took, self.errors.len());
            self.publish().await;
            self.watchdog.doing(None);
            self.watchdog.turned(Part::Loop);
            self.wake.report_ended(&self.watchdog);
        }
    }

    async fn on_completion(&mut self, done: Completion) {
        match done {
            Completion::Watched(watched) => self.on_watch(watched).await,
            Completion::Read(number, reading) => self.on_reading(number, reading).await,
            Completion::Found(lookup, number, found) => self.on_found(lookup, number, found).await,
            Completion::Reported(question, reported) => self.reporter.take(question, reported),
            Completion::Looked(spec, looked) => self.on_looked(spec, looked).await,
            Completion::Made(spec, made) => self.on_made(spec, made).await,
            Completion::Removed(name, removed) => self.on_removed(name, removed).await,
            Completion::Joined(joined) => {
                self.own_node.joined();
                self.errors
                    .extend(joined.err().map(|error| error.to_string()));
            }
        }
    }

    /// When the loop has something to do by itself.
    fn next_deadline(&self) -> Instant {
        let mut next = self.reader.next();
        if self.reader.has_read() {
            next = next.min(self.schedule.next_check);
        }
        // What can't be done yet must not be waited for: the loop would turn and turn.
        let report = self.reporter.next().filter(|_| self.reader.is_settled());
        let announcement = self.applier.announcer.next();
        let others = [report, self.next_ageing(), self.looks.next(), announcement];
        others.into_iter().flatten().fold(next, Instant::min)
    }

    async fn run_timers(&mut self) {
        let now = Instant::now();
        if !self.reader.is_reading() {
            self.errors.extend(self.applier.finish_write().err());
        }
        self.ask_registry(now).await;
        if self.reader.has_read() && now >= self.schedule.next_check {
            self.check().await;
        }
        self.begin_looks(now).await;
        self.send_unfinished();
        self.announce(now).await;
        self.age(now).await;
        self.make_room().await;
        self.send_questions().await;
        self.put_node_back(now).await;
        self.report(now).await;
    }

    /// Changes the mirror and writes the rows that the change affects.
    async fn change<T>(&mut self, act: impl FnOnce(&mut Mirror, OnFact<'_>) -> T) -> T {
        let mut changes = ChangeSet::default();
        let mut view = self.view.write().await;
        let applier = &self.applier;
        let outcome = act(&mut view.mirror, &mut |mirror, fact| {
            changes.record_before(&applier.desired(mirror), fact);
        });
        let view = RwLockWriteGuard::downgrade(view);
        if !changes.is_empty() {
            self.errors
                .extend(self.applier.apply_change(&view.mirror, changes).await);
        }
        outcome
    }

    async fn follow_routes(&mut self) {
        let view = self.view.read().await;
        let followed = self.applier.follow_routes(&view.mirror).await;
        drop(view);
        self.errors.extend(followed.err());
    }
}
impl Reconciler {
    /// Tells what was done.
    async fn publish(&mut self) {
        if self.applier.take_written_flag() {
            self.reporter.note();
        }
        for error in &self.errors {
            tracing::error!("{error}");
            self.events.tell(Event::Failed {
                error: error.clone(),
            });
        }
        if !self.errors.is_empty() || self.applier.has_failed() {
            self.schedule.check_soon();
        }
        let view = Arc::clone(&self.view);
        let mut view = view.write().await;
        self.tell_of_repairs();
        self.drain_changes(&mut view);
        for error in self.errors.drain(..) {
            if !view.errors.contains(&error) {
                view.errors.push(error);
            }
        }
        self.counters.fenced = view.mirror.fenced();
        view.counters = self.counters;
        view.cached = self.cache.len();
        view.making.clone_from(&self.applier.ports_at_work.making);
        self.tell_of_withheld(&mut view);
        // Until a reading is through, its revision is not reached.
        if self.reader.is_settled() && view.withheld_since.is_none() {
            view.applied = view.mirror.revision();
        }
        let progress = Progress {
            history: self.history,
            applied: view.applied,
            made: self.applier.ports_at_work.made,
        };
        drop(view);
        self.progress
            .send_if_modified(|known| std::mem::replace(known, progress) != progress);
    }
}
