//! The cache of on-demand networks: held endpoints and pending lookups. Pure: time is passed in.
//!
//! An address is in one of four states: *unknown*; *pending*, with one lookup however many frames wait for it;
//! *negative*, for a limited time; or *held*, until no frame has used it for a while or another endpoint needs its
//! place. A delta about a pending or negative address answers it at once.
//!
//! Every limit is shared fairly between the networks: a network with many lookups queues behind itself, and takes
//! no place that another network holds.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{
    Delta, Endpoint, Mac, Miss, Name, Revision, Vni, Wanted,
    fair::{FairMap, FairQueue, has_room},
};

/// Questions that wait for their turn, at most; those of one network as [`has_room`] says. What finds
/// no place among them is asked for again by its next frame, a second later.
const WAITING: usize = 4096;

/// Frames that get an answer of their own when their question is answered.
const ASKERS: usize = 16;

/// Endpoints whose changes are remembered before those are forgotten that no question is older than.
const CHANGES: usize = 4096;

/// Bounds of what is held and asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many endpoints are held at most.
    pub entries: usize,
    /// After how long without a frame one goes.
    pub idle: Duration,
    /// How long "nobody has it" is believed.
    pub negative_ttl: Duration,
    /// How many questions are put to the registry at the same time; of one network half as many.
    pub at_once: usize,
    /// How long an answer is waited for.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 65_536,
            idle: Duration::from_mins(5),
            negative_ttl: Duration::from_secs(5),
            at_once: 128,
            patience: Duration::from_secs(2),
        }
    }
}

/// An address that is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lookup {
    /// The network.
    pub vni: Vni,
    /// The address.
    pub wanted: Wanted,
}

/// A question on its way, or waiting for its turn.
#[derive(Debug, Clone)]
pub struct PendingLookup {
    /// `None`: it waits.
    number: Option<u64>,
    /// The mirror's revision when it was sent.
    pub asked: Revision,
    /// When the first frame asked.
    pub since: Instant,
    /// The frames that wait for the answer; none: it revalidates an old row.
    pub requesters: Vec<Miss>,
}

/// What becomes of a frame that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// There will be an answer.
    Pending,
    /// It was answered: nobody has it, which is believed for so long.
    Negative(Duration),
    /// Too many questions wait already.
    QueueFull,
}

/// How many questions the registry has to answer, in all and of each network.
#[derive(Debug, Default)]
struct Lookups {
    all: usize,
    of: BTreeMap<Vni, usize>,
}

impl Lookups {
    fn has_room(&self, at_once: usize, vni: Vni) -> bool {
        has_room(at_once, self.all, self.of.get(&vni).copied().unwrap_or(0))
    }

    fn begin(&mut self, vni: Vni) {
        self.all += 1;
        *self.of.entry(vni).or_default() += 1;
    }

    fn end(&mut self, vni: Vni) {
        self.all -= 1;
        if let Entry::Occupied(mut own) = self.of.entry(vni) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// The state of all addresses that are not simply unknown.
#[derive(Debug)]
pub struct Cache {
    limits: Limits,
    /// When each endpoint that is held was last seen to be used.
    used: FairMap<Name, Instant>,
    /// Until when an address is believed to be nobody's.
    negative: FairMap<Lookup, Instant>,
    pending: BTreeMap<Lookup, PendingLookup>,
    /// Those that wait for their turn, with frames that wait for them.
    interactive: FairQueue<Lookup>,
    /// Those that nobody waits for.
    background: FairQueue<Lookup>,
    /// Those of them that got no answer, until [`Self::retry`].
    failed: BTreeSet<Lookup>,
    in_flight: Lookups,
    sent: u64,
    /// The endpoints that deltas spoke of since the oldest question was sent, and the last revision of
    /// what each was before.
    previous: BTreeMap<Name, Revision>,
}

impl Cache {
    /// Nothing is held.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: FairMap::default(),
            negative: FairMap::default(),
            pending: BTreeMap::new(),
            interactive: FairQueue::new(WAITING),
            background: FairQueue::new(usize::MAX),
            failed: BTreeSet::new(),
            in_flight: Lookups::default(),
            sent: 0,
            previous: BTreeMap::new(),
        }
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many endpoints are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// How many more may be held.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limits.entries.saturating_sub(self.len())
    }

    /// A frame asks for an address that nobody is known to have.
    pub fn ask(&mut self, lookup: Lookup, requester: Miss, now: Instant) -> Asked {
        match self.negative.get(&lookup) {
            Some((_, until)) if until > now => return Asked::Negative(until - now),
            Some(_) => self.clear_negative(lookup),
            None => {}
        }
        if let Some(pending) = self.pending.get_mut(&lookup) {
            let is_same = |other: &Miss| {
                (other.ifindex, other.requester_ip) == (requester.ifindex, requester.requester_ip)
            };
            if pending.number.is_none() && pending.requesters.is_empty() {
                self.interactive.force(lookup.vni, lookup);
            }
            if pending.requesters.len() < ASKERS && !pending.requesters.iter().any(is_same) {
                pending.requesters.push(requester);
            }
            return Asked::Pending;
        }
        if !self.interactive.push(lookup.vni, lookup) {
            return Asked::QueueFull;
        }
        self.pending
            .insert(lookup, PendingLookup::new(now, vec![requester]));
        Asked::Pending
    }

    /// Queues a background revalidation of an old row. An answer that is on
    /// its way already does not count.
    pub fn revisit(&mut self, lookup: Lookup, now: Instant) {
        match self.pending.entry(lookup) {
            Entry::Vacant(place) => {
                place.insert(PendingLookup::new(now, Vec::new()));
                self.background.force(lookup.vni, lookup);
            }
            Entry::Occupied(_) => self.mark_degraded(lookup),
        }
    }

    /// Invalidates the answer that is pending or was given.
    pub fn mark_degraded(&mut self, lookup: Lookup) {
        self.clear_negative(lookup);
        if let Some(pending) = self.pending.get_mut(&lookup)
            && pending.number.take().is_some()
        {
            let is_urgent = !pending.requesters.is_empty();
            let queue = if is_urgent {
                &mut self.interactive
            } else {
                &mut self.background
            };
            queue.force(lookup.vni, lookup);
        }
    }

    /// There was no answer, and no frame will ask again: [`Self::retry`] does.
    pub fn fail(&mut self, lookup: Lookup) {
        self.failed.insert(lookup);
    }

    /// Asks again what got no answer and no frame asks for.
    pub fn retry(&mut self, now: Instant) {
        for lookup in std::mem::take(&mut self.failed) {
            self.revisit(lookup, now);
        }
    }

    /// The next question to send, with its number. `revision` is the mirror's.
    pub fn send(&mut self, revision: Revision) -> Option<(Lookup, u64)> {
        if self.in_flight.all == 0 {
            self.previous.clear();
        }
        loop {
            let has_room = |vni| self.in_flight.has_room(self.limits.at_once, vni);
            let lookup = self
                .interactive
                .pop_of(has_room)
                .or_else(|| self.background.pop_of(has_room))?;
            // A delta may have answered it, or it waits in both queues.
            let Some(pending) = self
                .pending
                .get_mut(&lookup)
                .filter(|pending| pending.number.is_none())
            else {
                continue;
            };
            self.sent += 1;
            self.in_flight.begin(lookup.vni);
            pending.number = Some(self.sent);
            pending.asked = revision;
            return Some((lookup, self.sent));
        }
    }

    /// The answer to a question has come, or will not. `None`: a delta was faster.
    pub fn complete(&mut self, lookup: Lookup, number: u64) -> Option<PendingLookup> {
        self.in_flight.end(lookup.vni);
        let is_it = |pending: &&PendingLookup| pending.number == Some(number);
        self.pending.get(&lookup).filter(is_it)?;
        self.pending.remove(&lookup)
    }

    /// Whether what a question found was changed or removed since the question was sent. The watch
    /// passes over what nobody holds: the answer alone does not show it.
    #[must_use]
    pub fn is_outdated(&self, pending: &PendingLookup, found: &Endpoint) -> bool {
        let previous = self.previous.get(&found.name);
        previous.is_some_and(|previous| *previous >= pending.asked.max(found.generation))
    }

    /// Invalidates the answer: asks again.
    pub fn ask_again(&mut self, lookup: Lookup, pending: PendingLookup) {
        let pending = PendingLookup {
            number: None,
            ..pending
        };
        self.pending.insert(lookup, pending);
        self.interactive.force(lookup.vni, lookup);
    }

    /// Nobody has the address: believed from now on for as long as the limits say.
    pub fn insert_negative(&mut self, lookup: Lookup, now: Instant) {
        let until = now + self.limits.negative_ttl;
        self.negative.insert(lookup, lookup.vni, until);
        if self.negative.len() > self.limits.entries
            && let Some((_, first)) = self.negative.first_of_largest()
        {
            self.clear_negative(*first);
        }
    }

    /// Looks at what a delta says. Gives the endpoints of which an address is asked for, or believed to be
    /// nobody's, with those addresses.
    pub fn observe(&mut self, delta: &Delta) -> BTreeMap<Name, Vec<Lookup>> {
        if self.in_flight.all > 0 {
            let removed = delta.endpoints_removed.iter();
            self.previous
                .extend(removed.map(|name| (name.clone(), delta.revision)));
            let changed = delta.endpoints.iter().map(|endpoint| {
                let previous = endpoint.generation.saturating_sub(1);
                (endpoint.name.clone(), previous)
            });
            self.previous.extend(changed);
            if self.previous.len() > CHANGES {
                let sent = self
                    .pending
                    .values()
                    .filter(|pending| pending.number.is_some());
                let oldest = sent
                    .map(|pending| pending.asked)
                    .min()
                    .unwrap_or(Revision::MAX);
                self.previous.retain(|_, previous| *previous >= oldest);
            }
        }
        let mut answered = BTreeMap::new();
        for endpoint in &delta.endpoints {
            let lookups: Vec<Lookup> = Lookup::all(endpoint)
                .filter(|lookup| {
                    self.pending.contains_key(lookup) || self.negative.get(lookup).is_some()
                })
                .collect();
            if !lookups.is_empty() {
                answered.insert(endpoint.name.clone(), lookups);
            }
        }
        answered
    }

    /// A delta has answered it. Gives the frames that wait for that.
    pub fn answered(&mut self, lookup: Lookup) -> Vec<Miss> {
        self.clear_negative(lookup);
        let pending = self.pending.remove(&lookup);
        pending
            .map(|pending| pending.requesters)
            .unwrap_or_default()
    }

    /// Holds an endpoint of a network from now on. One that is held already is not used by that.
    pub fn insert(&mut self, name: &Name, vni: Vni, now: Instant) {
        let used = self.used.get(name).map_or(now, |(_, used)| used);
        self.used.insert(name.clone(), vni, used);
    }

    /// An endpoint that is held was last used at this moment.
    pub fn use_at(&mut self, name: &Name, at: Instant) {
        if let Some((vni, _)) = self.used.get(name) {
            self.used.insert(name.clone(), vni, at);
        }
    }

    /// Holds an endpoint no more.
    pub fn remove(&mut self, name: &Name) {
        self.used.remove(name);
    }

    /// The registry is back at an older state: nothing that it said counts.
    pub fn clear(&mut self) {
        self.used = FairMap::default();
        self.negative = FairMap::default();
        self.previous.clear();
        for lookup in self.pending.keys().copied().collect::<Vec<_>>() {
            self.mark_degraded(lookup);
        }
    }

    /// The endpoint that was not seen to be used for the longest time, and since when.
    #[must_use]
    pub fn oldest(&self) -> Option<(Instant, &Name)> {
        self.used.first()
    }

    /// The same among those of the network that has most: it goes where a place is needed.
    #[must_use]
    pub fn oldest_of_largest(&self) -> Option<(Instant, &Name)> {
        self.used.first_of_largest()
    }

    /// Every endpoint that is held.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        self.used.keys().cloned().collect()
    }

    /// Whether there is nothing that time alone changes.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.used.is_empty() && self.negative.is_empty() && self.failed.is_empty()
    }

    /// Whether an endpoint is held.
    #[must_use]
    pub fn holds(&self, name: &Name) -> bool {
        self.used.get(name).is_some()
    }

    /// Forgets which addresses were believed to be nobody's up to now.
    pub fn expire(&mut self, now: Instant) {
        while let Some((until, lookup)) = self.negative.first()
            && until <= now
        {
            self.clear_negative(*lookup);
        }
    }

    /// The address is unknown again.
    fn clear_negative(&mut self, lookup: Lookup) {
        self.negative.remove(&lookup);
    }
}

impl Lookup {
    /// Every one that an endpoint answers.
    pub fn all(endpoint: &Endpoint) -> impl Iterator<Item = Self> + '_ {
        Self::of_addresses(endpoint.vni, endpoint.mac, endpoint.ips())
    }

    /// One for each address.
    pub(super) fn of_addresses(
        vni: Vni,
        mac: Mac,
        ips: impl Iterator<Item = IpAddr>,
    ) -> impl Iterator<Item = Self> {
        std::iter::once(Wanted::Mac(mac))
            .chain(ips.map(Wanted::Ip))
            .map(move |wanted| Self { vni, wanted })
    }
}

impl PendingLookup {
    fn new(since: Instant, requesters: Vec<Miss>) -> Self {
        Self {
            number: None,
            asked: 0,
            since,
            requesters,
        }
    }
}

#[cfg(test)]
mod tests;
