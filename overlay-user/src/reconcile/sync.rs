//! Keeps the mirror in step with the registry: a watch, and reads.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{Reconciler, cache::Lookup, mirror::Move, vet, wake::Completion};
use crate::{
    model::{
        Delta, Endpoint, Event, Name, RegistryChange, Rejected, RejectedRows, Revision, RowId, Vni,
    },
    registry::{Reading, RegistryError, Scope, WatchEvent},
};

/// The share of time that is spent on reading the registry for no reason: one part in this many. Every
/// agent does it, and one registry serves them all.
const REREAD_SHARE: u32 = 1000;
/// The first wait after a failure; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long the next part of a reading is waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How many endpoints are looked at in one go for whether a reading had them.
pub(super) const CHUNK: usize = 50_000;

/// A reading that was asked for.
#[derive(Debug)]
struct ReadInFlight {
    number: u64,
    /// `None`: all that this host holds whatever its endpoints talk to.
    network: Option<Vni>,
    started: Instant,
    /// When its last part came.
    heard: Instant,
    /// Its revision, once it has come.
    revision: Option<Revision>,
    endpoints: u64,
    /// Rows that its backend could not read so far.
    unreadable: RejectedRows,
    /// All that are not followed.
    rejected: Vec<Rejected>,
}

/// When the registry is watched and read, and how far that is.
#[derive(Debug)]
pub(super) struct RegistrySync {
    wants_whole: bool,
    /// Whether deltas may have been missed that no reading has made up for.
    has_gap: bool,
    /// Networks that were on demand until now.
    networks: BTreeSet<Vni>,
    in_flight: Option<ReadInFlight>,
    asked: u64,
    /// When all is read even if nothing seems to be missed; `None`: it was never read. And how long after
    /// the last time at least.
    routine: Option<Instant>,
    reread: Duration,
    not_before: Instant,
    retry: Duration,
    /// When the watch is begun again, if it has ended.
    watch_at: Option<Instant>,
    /// Whether the watch said that the registry is out of reach.
    is_lost: bool,
    /// The revision of this watch's last delta.
    last_delta: Revision,
    /// What was withheld when all was last read because most of that was back.
    withheld: u64,
}

impl RegistrySync {
    pub(super) fn new(now: Instant, reread: Duration) -> Self {
        Self {
            wants_whole: true,
            has_gap: true,
            networks: BTreeSet::new(),
            in_flight: None,
            asked: 0,
            routine: None,
            reread,
            not_before: now,
            retry: MIN_BACKOFF,
            watch_at: None,
            is_lost: false,
            last_delta: 0,
            withheld: 0,
        }
    }

    /// Whether the registry was read as a whole.
    pub(super) fn has_read(&self) -> bool {
        self.routine.is_some()
    }

    /// Whether a reading has come and is not yet through.
    pub(super) fn is_reading(&self) -> bool {
        let reading = self.in_flight.as_ref();
        reading.is_some_and(|reading| reading.revision.is_some())
    }

    /// Whether all is known up to the mirror's revision: what is installed can be spoken of.
    pub(super) fn is_settled(&self) -> bool {
        let reading = self.in_flight.as_ref();
        let is_whole = reading.is_none_or(|reading| reading.network.is_none());
        !self.has_gap && self.networks.is_empty() && is_whole && !self.is_reading()
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Instant {
        let reading = match &self.in_flight {
            Some(reading) => reading.heard + READ_TIMEOUT,
            None if self.wants_whole || !self.networks.is_empty() => self.not_before,
            None => self.not_before.max(self.routine.unwrap_or(self.not_before)),
        };
        self.watch_at.map_or(reading, |at| at.min(reading))
    }

    /// Most of what was withheld is back, one by one: only a reading can tell whether the rest is. Once for
    /// each change of it.
    pub(super) fn verify_withheld(&mut self, version: u64) {
        if self.in_flight.is_none() && std::mem::replace(&mut self.withheld, version) != version {
            self.wants_whole = true;
        }
    }

    /// Something may have been missed: what is under way does not have it.
    fn start_over(&mut self) {
        self.in_flight = None;
        self.wants_whole = true;
        self.has_gap = true;
        self.last_delta = 0;
    }

    fn postpone(&mut self, now: Instant) {
        self.not_before = now + self.retry;
        self.retry = (self.retry * 2).min(MAX_BACKOFF);
    }
}

impl Reconciler {
    pub(super) async fn on_event(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Delta(delta) => self.on_delta(delta).await,
            WatchEvent::Resync => self.start_over(),
            WatchEvent::Lost(reason) => {
                self.reader.is_lost = true;
                self.lose(RegistryError::Unavailable(reason)).await;
            }
            WatchEvent::Foreign(reason) => {
                self.reader.is_lost = true;
                self.lose(RegistryError::Foreign(reason)).await;
            }
            WatchEvent::Restored => {
                self.reader.is_lost = false;
                self.start_over();
            }
            WatchEvent::Alive(node) => self.events.tell(RegistryChange::NodeAlive { node }),
            WatchEvent::Silent(node) => self.events.tell(RegistryChange::NodeSilent { node }),
            WatchEvent::Question(question) if question.inquiry.is_some() => {
                // One that finds no place is not answered, as if it had come too late.
                if let Some(inquiries) = &self.inquiries {
                    let _ = inquiries.try_send(question);
                }
            }
            WatchEvent::Question(question) => self.reporter.ask(question, Instant::now()),
        }
    }

    pub(super) fn start_over(&mut self) {
        self.reader.start_over();
        self.wake.pages = None;
    }

    async fn lose(&mut self, error: RegistryError) {
        let is_foreign = matches!(error, RegistryError::Foreign(_));
        let reason = error.to_string();
        if self.view.write().await.lose(reason.clone(), is_foreign) {
            tracing::warn!(%reason, "registry lost: the datapath goes on as it is");
            self.events.tell(RegistryChange::Lost { reason });
        }
    }

    /// The registry has answered.
    async fn regain(&mut self) {
        if !self.reader.is_lost && self.view.write().await.lost.take().is_some() {
            tracing::info!("registry restored");
            self.events.tell(RegistryChange::Restored);
        }
    }

    /// A watch ends only with its backend's task: begin another.
    pub(super) fn rewatch(&mut self, now: Instant) {
        self.reader.watch_at = Some(now);
    }

    pub(super) async fn on_watch(
        &mut self,
        watch: Result<mpsc::Receiver<WatchEvent>, RegistryError>,
    ) {
        match watch {
            Ok(events) => {
                self.wake.events = Some(events);
                self.reader.is_lost = false;
                self.start_over();
            }
            Err(error) => {
                self.lose(error).await;
                self.reader.watch_at = Some(Instant::now() + MAX_BACKOFF);
            }
        }
    }

    /// Begins what is due: a watch, a reading.
    pub(super) async fn ask_registry(&mut self, now: Instant) {
        if self.reader.watch_at.is_some_and(|at| at <= now) {
            self.reader.watch_at = None;
            let registry = Arc::clone(&self.registry);
            self.wake
                .spawn_request(async move { Completion::Watched(registry.watch().await) });
        }
        if let Some(reading) = &self.reader.in_flight {
            if now >= reading.heard + READ_TIMEOUT {
                let silent = format!("it sends nothing more for {} s", READ_TIMEOUT.as_secs());
                self.fail_reading(RegistryError::Unavailable(silent)).await;
            }
            return;
        }
        if now < self.reader.next() {
            return;
        }
        let reader = &mut self.reader;
        let is_whole = std::mem::take(&mut reader.wants_whole) || reader.networks.is_empty();
        let network = if is_whole {
            None
        } else {
            reader.networks.pop_first()
        };
        reader.asked += 1;
        let number = reader.asked;
        reader.in_flight = Some(ReadInFlight {
            number,
            network,
            started: now,
            heard: now,
            revision: None,
            endpoints: 0,
            unreadable: RejectedRows::default(),
            rejected: Vec::new(),
        });
        self.view.write().await.mirror.expect_reading();
        let scope = network.map_or_else(
            || Scope::Resident(self.own_node.name.clone()),
            Scope::Network,
        );
        let registry = Arc::clone(&self.registry);
        self.wake
            .spawn_request(async move { Completion::Read(number, registry.read(scope).await) });
    }

    pub(super) async fn on_reading(
        &mut self,
        number: u64,
        reading: Result<Reading, RegistryError>,
    ) {
        let own = self.own_node();
        let in_flight = self.reader.in_flight.as_mut();
        let Some(in_flight) = in_flight.filter(|in_flight| in_flight.number == number) else {
            return;
        };
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => return self.fail_reading(error).await,
        };
        let is_whole = in_flight.network.is_none();
        if !is_whole {
            let mut view = self.view.write().await;
            if !view.mirror.begin_reading_of_network(reading.revision) {
                drop(view);
                let put_back = "it was put back to an older state: reading all of it".to_owned();
                self.reader.wants_whole = true;
                return self
                    .fail_reading(RegistryError::Unavailable(put_back))
                    .await;
            }
        }
        in_flight.heard = Instant::now();
        in_flight.revision = Some(reading.revision);
        let (mut networks, mut nodes) = (reading.networks, reading.nodes);
        let mut objects = reading.objects;
        let mut rejected = reading.rejected.take();
        let kinds = self.view.read().await.mirror.kinds();
        vet::objects(&mut objects, kinds, &mut rejected);
        vet::networks(&mut networks, &mut rejected);
        vet::nodes(&mut nodes, &own, &mut rejected);
        in_flight.unreadable = reading.rejected;
        in_flight.rejected.clone_from(&rejected);
        self.wake.pages = Some(reading.endpoints);
        self.regain().await;
        let before = self.on_demand_networks().await;
        let revision = reading.revision;
        let is_same_history = self
            .change(|mirror, on_fact| {
                let is_same_history =
                    !is_whole || mirror.begin_reading(revision, networks, nodes, on_fact);
                if is_whole {
                    mirror.read_objects(objects, on_fact);
                }
                for rejected in &rejected {
                    mirror.hold(&rejected.row);
                }
                is_same_history
            })
            .await;
        if !is_same_history {
            tracing::warn!(revision, "the registry was put back to an older state");
            self.history += 1;
            // Deltas that came before it were taken for old ones.
            self.reader.wants_whole = true;
            self.reader.has_gap = true;
        }
        self.follow_modes(&before).await;
    }

    /// Takes some of a reading's endpoints in. `None`: that was all of them.
    pub(super) async fn on_page(&mut self, page: Option<Result<Vec<Endpoint>, RegistryError>>) {
        let mut page = match page {
            Some(Ok(page)) => page,
            Some(Err(error)) => return self.fail_reading(error).await,
            None => return self.end_reading().await,
        };
        if let Some(reading) = &mut self.reader.in_flight {
            reading.heard = Instant::now();
            reading.endpoints += page.len() as u64;
        }
        let view = self.view.read().await;
        let mut rejected = Vec::new();
        let network = |endpoint: &Endpoint| view.mirror.read_network(endpoint.vni);
        vet::endpoints(&mut page, network, &mut rejected);
        // A network may have become on-demand since the reading was asked for.
        let cached = page.iter().filter(|endpoint| {
            view.mirror.is_on_demand(endpoint.vni) || self.cache.holds(&endpoint.name)
        });
        let cached: Vec<Name> = cached.map(|endpoint| endpoint.name.clone()).collect();
        drop(view);
        let moves = self
            .change(|mirror, on_fact| mirror.read(page, on_fact))
            .await;
        self.tell_of_moves(moves);
        self.track_cached(&cached).await;
        if let Some(reading) = &mut self.reader.in_flight {
            reading.rejected.extend(rejected);
        }
    }

    async fn end_reading(&mut self) {
        let Some(mut reading) = self.reader.in_flight.take() else {
            return;
        };
        reading.rejected.extend(reading.unreadable.take());
        self.hold_rejected(reading.rejected, reading.network.is_none())
            .await;
        let network = reading.network;
        let before = self.on_demand_networks().await;
        match network {
            Some(_) => self.forget_unread(network).await,
            None => self.end_whole_reading().await,
        }
        self.follow_modes(&before).await;
        let took = reading.started.elapsed();
        self.counters.readings += 1;
        self.counters.last_reading = took;
        self.events.tell(RegistryChange::Read {
            revision: reading.revision.unwrap_or_default(),
            endpoints: reading.endpoints,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        self.reader.retry = MIN_BACKOFF;
        if network.is_none() {
            self.applier.writer.is_filling = false;
            self.reader.has_gap = self.reader.wants_whole;
            let pause = self.reader.reread.max(took * REREAD_SHARE);
            self.reader.routine = Some(Instant::now() + pause);
        }
    }

    /// Believes what was read, or holds what it does not have.
    async fn end_whole_reading(&mut self) {
        let released = self.view.write().await.mirror.release_unexpected();
        self.track_cached(&released).await;
        if self.is_suspicious().await {
            let mut position = 0;
            while !self
                .change(|mirror, on_fact| mirror.withhold(&mut position, CHUNK, on_fact))
                .await
            {}
            return;
        }
        if self.view.read().await.mirror.is_doubting() {
            self.cache.clear();
        }
        while let Some(moves) = self
            .change(|mirror, on_fact| mirror.believe(CHUNK, on_fact))
            .await
        {
            self.tell_of_moves(moves);
        }
        self.forget_unread(None).await;
        self.adoption.is_asked_for = false;
        self.forget_guests().await;
        self.revisit_cached().await;
    }

    /// Ends a reading, of one network or of the whole: what it did not have goes.
    async fn forget_unread(&mut self, network: Option<Vni>) {
        let mut position = 0;
        while !self
            .change(|mirror, on_fact| mirror.end_reading(&mut position, CHUNK, network, on_fact))
            .await
        {}
    }

    /// After the first reading that is believed: who was removed since the last agent of this boot is nobody's
    /// guest any more. After a reboot nothing is known that the registry could be held against.
    async fn forget_guests(&mut self) {
        if !std::mem::take(&mut self.applier.readings.has_older) {
            return;
        }
        let view = self.view.read().await;
        let local = view
            .mirror
            .local_endpoints()
            .map(|known| known.name().clone());
        let unreadable = view.rejected.keys().filter_map(|row| match row {
            RowId::Endpoint(name) => Some(name.clone()),
            _ => None,
        });
        let stay = local.chain(unreadable).collect();
        drop(view);
        if let Err(error) = self.applier.platform.forget_guests_but(&stay).await {
            tracing::warn!(%error, "whose namespaces were used is remembered for longer");
        }
    }

    async fn fail_reading(&mut self, error: RegistryError) {
        self.wake.pages = None;
        self.view.write().await.mirror.abandon_reading();
        let reading = self.reader.in_flight.take();
        if let Some(vni) = reading.as_ref().and_then(|reading| reading.network) {
            self.reader.networks.insert(vni);
        } else {
            self.reader.wants_whole = true;
            // The mirror has its revision, and deltas up to there will count for old.
            let has_begun = reading.is_some_and(|reading| reading.revision.is_some());
            self.reader.has_gap |= has_begun;
        }
        self.reader.postpone(Instant::now());
        self.lose(match error {
            error @ RegistryError::Foreign(_) => error,
            error => RegistryError::Unavailable(format!("the registry can't be read: {error}")),
        })
        .await;
    }

    async fn on_delta(&mut self, mut delta: Delta) {
        if delta.revision < self.reader.last_delta {
            tracing::warn!(
                revision = delta.revision,
                "a delta came late: reading all anew"
            );
            self.counters.disordered += 1;
            return self.start_over();
        }
        self.reader.last_delta = delta.revision;
        self.vet(&mut delta).await;
        let mut answered = self.cache.observe(&delta);
        if delta.revision <= self.view.read().await.mirror.revision() {
            // A reading was faster. It says nothing of what is asked for or held on demand, and the
            // answers may be older.
            for lookup in std::mem::take(&mut answered).into_values().flatten() {
                self.cache.mark_degraded(lookup);
            }
            self.revisit(delta.named_endpoints()).await;
        }
        // Senders that talked to its address remember another MAC, and ask for neither.
        let misremembered = delta
            .endpoints
            .iter()
            .filter(|endpoint| self.applier.is_misremembered(endpoint));
        let admitted = misremembered.map(|endpoint| &endpoint.name);
        let admitted: BTreeSet<Name> = admitted.chain(answered.keys()).cloned().collect();
        let named: Vec<Name> = delta.named_endpoints().cloned().collect();
        let has_networks = !(delta.networks.is_empty() && delta.networks_removed.is_empty());
        let before = if has_networks {
            self.on_demand_networks().await
        } else {
            BTreeSet::new()
        };
        self.log_nodes(&delta).await;
        let moves = self
            .change(|mirror, on_fact| mirror.apply(delta, &admitted, on_fact))
            .await;
        self.tell_of_moves(moves);
        self.track_cached(&named).await;
        if has_networks {
            self.follow_modes(&before).await;
        }
        for lookup in answered.into_values().flatten() {
            let askers = self.cache.answered(lookup);
            self.reply(lookup, &askers).await;
        }
    }

    pub(super) fn tell_of_moves(&mut self, moves: Vec<Move>) {
        self.counters.moves += moves.len() as u64;
        for moved in moves {
            self.events.tell(Event::Move {
                endpoint: moved.endpoint,
                vni: moved.vni,
                from: moved.from,
                to: moved.to,
                generation: moved.generation,
            });
        }
    }

    async fn on_demand_networks(&mut self) -> BTreeSet<Vni> {
        let view = self.view.read().await;
        let networks = view.mirror.networks().map(|network| network.vni);
        networks
            .filter(|vni| view.mirror.is_on_demand(*vni))
            .collect()
    }

    /// Takes the consequences of networks that were `before` on demand and are not, and the other way
    /// round: what was held for good is cached from now on, what was cached is read whole.
    async fn follow_modes(&mut self, before: &BTreeSet<Vni>) {
        let after = self.on_demand_networks().await;
        if after == *before {
            return;
        }
        let view = self.view.read().await;
        let now = Instant::now();
        for known in view.mirror.endpoints() {
            let vni = known.vni();
            if after.contains(&vni) && !before.contains(&vni) && !known.is_proactive() {
                self.cache.insert(known.name(), vni, now);
            } else if before.contains(&vni) && !after.contains(&vni) {
                self.cache.remove(known.name());
            }
        }
        let proactive = before.difference(&after).copied();
        let is_there = |vni: &Vni| view.mirror.network(*vni).is_some();
        self.reader.networks.extend(proactive.filter(is_there));
    }

    /// Holds those of these endpoints in the cache that belong there, and no others of them.
    pub(super) async fn track_cached(&mut self, names: &[Name]) {
        let (view, now) = (self.view.read().await, Instant::now());
        for name in names {
            match view.mirror.endpoint(name) {
                Some(known) if !known.is_proactive() => self.cache.insert(name, known.vni(), now),
                _ => self.cache.remove(name),
            }
        }
    }

    /// What was asked for before may have changed unheard of.
    async fn revisit_cached(&mut self) {
        let names = self.cache.names();
        self.revisit(names.iter()).await;
    }

    /// Asks again about those of these endpoints that are held on demand.
    async fn revisit(&mut self, names: impl Iterator<Item = &Name>) {
        let (view, now) = (self.view.read().await, Instant::now());
        for name in names
            .filter(|name| self.cache.holds(name))
            .collect::<Vec<_>>()
        {
            let known = view.mirror.endpoint(name);
            let lookups = known.into_iter().flat_map(Lookup::all_of);
            // An address that a newer endpoint has tells nothing of this one.
            let its = lookups.filter(|lookup| {
                let owner = lookup.owner(&view.mirror);
                owner.is_some_and(|owner| owner.name() == name)
            });
            for lookup in its.take(1) {
                self.cache.revisit(lookup, now);
            }
        }
    }
}
