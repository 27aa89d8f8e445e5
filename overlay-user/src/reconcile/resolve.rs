//! Resolves on demand: misses, lookup results, and eviction.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    Reconciler,
    cache::{Asked, Lookup},
    mirror::{EndpointRef, Mirror},
    wake::{Answer, Completion},
};
use crate::model::{Endpoint, Event, FdbKey, FdbRow, Miss, Name, Revision, Wanted};

/// How often it is looked for endpoints that nobody talks to.
const AGEING: Duration = Duration::from_secs(1);
/// How many are looked at each time.
const AGED_AT_ONCE: usize = 512;
/// Of how many endpoints it is looked up when they were used, to find the one that was used least.
const CANDIDATES: usize = 32;

/// What the maps' counts of seconds are off by at most.
const SECOND: Duration = Duration::from_secs(1);

impl Lookup {
    fn of(miss: &Miss) -> Self {
        Self {
            vni: miss.vni,
            wanted: miss.wanted,
        }
    }

    /// Every one that an endpoint of the mirror answers, unless a newer one does.
    pub(super) fn all_of(known: EndpointRef<'_>) -> impl Iterator<Item = Self> {
        Self::of_addresses(known.vni(), known.mac(), known.ips())
    }

    pub(super) fn owner<'a>(&self, mirror: &'a Mirror) -> Option<EndpointRef<'a>> {
        match self.wanted {
            Wanted::Mac(mac) => mirror.by_mac(self.vni, mac),
            Wanted::Ip(ip) => mirror.by_ip(self.vni, ip),
        }
    }
}

impl Reconciler {
    pub(super) async fn on_miss(&mut self, miss: Miss) {
        let (lookup, now) = (Lookup::of(&miss), Instant::now());
        self.counters.misses += 1;
        let view = self.view.read().await;
        if self.events.is_heard() {
            let requester = self.applier.host.endpoints.at(miss.ifindex);
            self.events.tell(Event::Miss {
                vni: miss.vni,
                wanted: miss.wanted,
                asker: requester.cloned(),
            });
        }
        let is_on_demand = view.mirror.is_on_demand(miss.vni);
        let owner = lookup.owner(&view.mirror);
        let is_held = owner.is_some();
        if let Some(known) = owner {
            // The miss is older than the rows, or the maps have lost them.
            let rewritten = self.applier.rewrite(&view.mirror, std::iter::once(known));
            self.errors.extend(rewritten.err());
        }
        drop(view);
        if is_held {
            self.reply(lookup, &[miss]).await;
        } else if is_on_demand {
            match self.cache.ask(lookup, miss, now) {
                Asked::Pending => {}
                Asked::Negative(left) => self.set_negative(lookup, Some(left)),
                Asked::QueueFull => self.counters.overflows += 1,
            }
        }
    }

    /// Sends the questions whose turn it is.
    pub(super) async fn send_questions(&mut self) {
        let revision = self.view.read().await.mirror.revision();
        let patience = self.cache.limits().patience;
        while let Some((lookup, number)) = self.cache.send(revision) {
            let registry = Arc::clone(&self.registry);
            self.wake.spawn_request(async move {
                let found = registry.find(lookup.vni, lookup.wanted);
                Completion::Found(lookup, number, timeout(patience, found).await.ok())
            });
        }
    }

    pub(super) async fn on_found(&mut self, lookup: Lookup, number: u64, answer: Answer) {
        let Some(pending) = self.cache.complete(lookup, number) else {
            return;
        };
        let Lookup { vni, wanted } = lookup;
        let found = match answer {
            Some(Ok(found)) => found,
            failure => {
                let reason = if let Some(Err(error)) = failure {
                    self.counters.failed_lookups += 1;
                    error.to_string()
                } else {
                    self.counters.timeouts += 1;
                    "the registry does not answer".to_owned()
                };
                let is_held = lookup.owner(&self.view.read().await.mirror).is_some();
                if is_held || pending.requesters.is_empty() {
                    self.cache.fail(lookup);
                }
                tracing::debug!(%vni, %wanted, reason, "lookup failed");
                self.events.tell(Event::Unresolved {
                    vni,
                    wanted,
                    error: Some(reason),
                });
                return;
            }
        };
        if found
            .as_ref()
            .is_some_and(|found| self.cache.is_outdated(&pending, found))
        {
            return self.cache.ask_again(lookup, pending);
        }
        if !self.view.read().await.mirror.is_on_demand(vni) {
            return;
        }
        let is_of_old = pending.requesters.is_empty();
        self.evict_stale_owner(
            lookup,
            found.as_ref().map(|found| &found.name),
            pending.asked,
        )
        .await;
        // The watch brings this node's own, and they have rows once they are ready: not old ones.
        let is_own = |found: &Endpoint| found.node == self.own_node.name;
        let Some(found) = found.filter(|found| !(is_of_old && is_own(found))) else {
            if is_of_old {
                self.applier.orphaned.insert(lookup);
                self.schedule.sweep_with_next_check();
            } else {
                self.counters.unresolved += 1;
                self.cache.insert_negative(lookup, Instant::now());
                self.set_negative(lookup, Some(self.cache.limits().negative_ttl));
                self.events.tell(Event::Unresolved {
                    vni,
                    wanted,
                    error: None,
                });
            }
            return;
        };
        if is_own(&found) {
            return;
        }
        let (endpoint, node) = (found.name.clone(), found.node.clone());
        let moved = self
            .change(|mirror, on_fact| mirror.answer(found, pending.asked, on_fact))
            .await;
        self.tell_of_moves(moved.into_iter().collect());
        self.track_cached(std::slice::from_ref(&endpoint)).await;
        self.reply(lookup, &pending.requesters).await;
        if is_of_old {
            // The books count its rows twice: when they were found, and now.
            self.schedule.sweep_with_next_check();
        } else {
            self.counters.resolved += 1;
            self.events.tell(Event::Resolved {
                vni,
                wanted,
                endpoint,
                node,
                took_us: u64::try_from(pending.since.elapsed().as_micros()).unwrap_or(u64::MAX),
            });
        }
    }

    /// Answers frames that ask for an address, if its rows are in.
    pub(super) async fn reply(&mut self, lookup: Lookup, requesters: &[Miss]) {
        self.errors.extend(self.applier.finish_write().err());
        let view = self.view.read().await;
        let Some(owner) = lookup.owner(&view.mirror) else {
            return;
        };
        let (vni, mac) = (owner.vni(), owner.mac());
        let row = self
            .applier
            .desired(&view.mirror)
            .row::<FdbRow>(FdbKey { vni, mac });
        drop(view);
        if row.is_none() {
            return;
        }
        self.set_negative(lookup, None);
        let asks = |miss: &&Miss| matches!(miss.wanted, Wanted::Ip(_));
        for miss in requesters.iter().filter(asks) {
            let answered = self
                .applier
                .writer
                .on_datapath(|datapath| datapath.answer(miss, mac));
            if let Err(error) = answered {
                tracing::debug!(%error, "no answer sent: the next question finds the row");
            }
        }
    }

    /// The registry says whose an address is: others that are held for it, and that it did not speak of
    /// since it was asked, have it no more.
    async fn evict_stale_owner(&mut self, lookup: Lookup, keeper: Option<&Name>, asked: Revision) {
        loop {
            let view = self.view.read().await;
            // A registry that is not followed says of nobody that he is gone.
            if view.mirror.is_doubting() || !view.mirror.withheld().is_empty() {
                return;
            }
            let owner = lookup.owner(&view.mirror).filter(|owner| {
                Some(owner.name()) != keeper && !owner.is_proactive() && owner.generation() <= asked
            });
            let Some(name) = owner.map(|owner| owner.name().clone()) else {
                return;
            };
            drop(view);
            self.cache.remove(&name);
            self.change(|mirror, on_fact| mirror.remove(&name, on_fact))
                .await;
        }
    }

    fn set_negative(&mut self, lookup: Lookup, nobody_for: Option<Duration>) {
        let Lookup { vni, wanted } = lookup;
        let told = self
            .applier
            .writer
            .on_datapath(|datapath| datapath.set_negative(vni, wanted, nobody_for));
        if let Err(error) = told {
            tracing::debug!(%error, %vni, %wanted, "its next frame asks again in a second");
        }
    }

    /// When endpoints that nobody talks to are looked for next.
    pub(super) fn next_ageing(&self) -> Option<Instant> {
        (!self.cache.is_quiet()).then_some(self.schedule.next_ageing)
    }

    /// Lets those go that nobody has talked to for a while.
    pub(super) async fn age(&mut self, now: Instant) {
        if self.cache.is_quiet() || now < self.schedule.next_ageing {
            return;
        }
        self.schedule.next_ageing = now + AGEING;
        self.cache.expire(now);
        if self.view.read().await.lost.is_none() {
            self.cache.retry(now);
        }
        let idle = self.cache.limits().idle;
        for _ in 0..AGED_AT_ONCE {
            match self.cache.oldest() {
                Some((used, name)) if used + idle <= now => {
                    let name = name.clone();
                    let last = self.last_use(&name, now).await;
                    match last {
                        Some(at) if at + idle > now => self.cache.use_at(&name, at),
                        _ => self.drop_cached(&name, true).await,
                    }
                }
                _ => return,
            }
        }
    }
}

impl Reconciler {
    /// Keeps the cache within its bounds, and lets cached endpoints go for rows that a full map refused.
    pub(super) async fn make_room(&mut self) {
        self.evict(self.cache.len().saturating_sub(self.cache.limits().entries))
            .await;
        let Some(refused) = self.applier.writer.overflow() else {
            return;
        };
        self.evict(refused).await;
        let view = self.view.read().await;
        let written = self.applier.retry_overflow(&view.mirror);
        drop(view);
        self.errors.extend(written.err());
    }

    async fn evict(&mut self, count: usize) {
        for _ in 0..count {
            let Some(name) = self.least_used().await else {
                return;
            };
            self.drop_cached(&name, false).await;
        }
    }

    /// The endpoint of the network with most of them that was used least lately: of many in lively
    /// use, one of those.
    async fn least_used(&mut self) -> Option<Name> {
        let now = Instant::now();
        for _ in 0..CANDIDATES {
            let (used, name) = self.cache.oldest_of_largest()?;
            let name = name.clone();
            match self.last_use(&name, now).await {
                // The maps count whole seconds: it was used up to one before that. An endpoint that has just
                // come, and that a frame waits for, is used now.
                Some(at) if at > used + SECOND => self.cache.use_at(&name, at - SECOND),
                _ => return Some(name),
            }
        }
        self.cache.oldest_of_largest().map(|(_, name)| name.clone())
    }

    /// When a frame last went to an endpoint; `None`: the maps have no row of it.
    async fn last_use(&mut self, name: &Name, now: Instant) -> Option<Instant> {
        let view = self.view.read().await;
        let known = view.mirror.endpoint(name)?;
        let (vni, mac) = (known.vni(), known.mac());
        drop(view);
        let key = FdbKey { vni, mac };
        match self
            .applier
            .writer
            .on_datapath(|datapath| datapath.used(&key))
        {
            Ok(ago) => now.checked_sub(ago?),
            Err(error) => {
                tracing::debug!(%error, endpoint = %name, "taken for used");
                Some(now)
            }
        }
    }

    async fn drop_cached(&mut self, name: &Name, idle: bool) {
        self.cache.remove(name);
        let view = self.view.read().await;
        let Some(vni) = view.mirror.endpoint(name).map(|known| known.vni()) else {
            return;
        };
        drop(view);
        self.change(|mirror, on_fact| mirror.remove(name, on_fact))
            .await;
        if idle {
            self.counters.idle += 1;
        } else {
            self.counters.evicted += 1;
        }
        self.events.tell(Event::Evict {
            endpoint: name.clone(),
            vni,
            idle,
        });
    }
}
