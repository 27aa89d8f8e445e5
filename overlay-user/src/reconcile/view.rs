//! The loop's state as other parts of the agent see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{mirror::Mirror, status::PortState};
use crate::model::{EndpointState, KnownKind, Name, Revision, RowId};

/// A registry that is out of reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Why, in a line.
    pub reason: String,
    /// When it was noticed. What the agent knows is at least this old.
    pub since: Instant,
    /// A store is in reach, and is not the one that is followed.
    pub is_foreign: bool,
}

/// What the loop knows, for whoever asks.
#[derive(Debug)]
pub struct View {
    /// The registry's state.
    pub mirror: Mirror,
    /// The endpoints of this host, as far as something became of them.
    pub endpoints: BTreeMap<Name, PortState>,
    /// Those that are being made in the background.
    pub making: BTreeSet<Name>,
    /// Why the registry is out of reach; `None`: it is in reach.
    pub lost: Option<Lost>,
    /// Since when endpoints are held that the registry has left out; `None`: there are none.
    pub withheld_since: Option<Instant>,
    /// Rows of the registry that are not followed, and why: what the host had in their places is held.
    pub rejected: BTreeMap<RowId, String>,
    /// The last revision that was carried over to the kernel as far as it can be; 0: none yet.
    pub applied: Revision,
    /// What could not be done since the last look at the whole; empty: the kernel is what the
    /// registry wants.
    pub errors: Vec<String>,
    /// What the loop has counted.
    pub counters: Counters,
    /// How many endpoints of on-demand networks are held.
    pub cached: usize,
}

/// What the loop counts; all but the gauges since the agent's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that found no row and were heard of.
    pub misses: u64,
    /// Addresses that the registry knew.
    pub resolved: u64,
    /// Addresses that it knew nobody to have.
    pub unresolved: u64,
    /// Questions that it answered too late.
    pub timeouts: u64,
    /// Questions that it answered with an error.
    pub failed_lookups: u64,
    /// Frames whose question found no place among those that wait.
    pub overflows: u64,
    /// Endpoints that went out of the cache because nobody talked to them.
    pub idle: u64,
    /// Endpoints that went out of the cache because others needed their place.
    pub evicted: u64,
    /// Endpoints that came to another node.
    pub moves: u64,
    /// Addresses that came to another MAC, and whose neighbours here were told.
    pub announced: u64,
    /// Endpoints that came later than a newer word on them.
    pub fenced: u64,
    /// Deltas that came in the wrong order.
    pub disordered: u64,
    /// Readings of the registry.
    pub readings: u64,
    /// Rows that were missing or wrong in the kernel's tables, apart from those never written.
    pub mended: u64,
    /// Rows that nobody wanted.
    pub swept: u64,
    /// How often the loop had something to do.
    pub steps: u64,
    /// How long that took in all.
    pub busy: Duration,
    /// Gauge: how long the last reading took until its rows were in.
    pub last_reading: Duration,
    /// Gauge: how long the last look through the large tables took.
    pub last_sweep: Duration,
}

impl View {
    pub(super) fn new(node: Name, kinds: &'static [KnownKind]) -> Self {
        Self {
            mirror: Mirror::with_kinds(node, kinds),
            endpoints: BTreeMap::new(),
            making: BTreeSet::new(),
            lost: None,
            withheld_since: None,
            rejected: BTreeMap::new(),
            applied: 0,
            errors: Vec::new(),
            counters: Counters::default(),
            cached: 0,
        }
    }

    /// What became of an endpoint that the registry has on this node.
    #[must_use]
    pub fn state_of(&self, endpoint: &Name) -> EndpointState {
        let known = self.mirror.endpoint(endpoint);
        if known.is_some_and(|known| !known.is_local()) {
            return EndpointState::Remote;
        }
        match self.endpoints.get(endpoint) {
            Some(PortState::Ready { .. }) => EndpointState::Ready,
            Some(PortState::Degraded { .. } | PortState::Failed { .. }) => EndpointState::Failed,
            None => EndpointState::Pending,
        }
    }

    /// The host side's index of an endpoint that is ready.
    #[must_use]
    pub fn ifindex(&self, endpoint: &Name) -> Option<u32> {
        match self.endpoints.get(endpoint)? {
            PortState::Ready { ifindex } => Some(*ifindex),
            _ => None,
        }
    }

    /// The host side's index of an endpoint that has an interface, whatever it lacks beside.
    #[must_use]
    pub fn interface(&self, endpoint: &Name) -> Option<u32> {
        match self.endpoints.get(endpoint)? {
            PortState::Ready { ifindex } | PortState::Degraded { ifindex, .. } => Some(*ifindex),
            PortState::Failed { .. } => None,
        }
    }

    /// The endpoints that are ready, and the host side's index of each.
    pub fn ready(&self) -> impl Iterator<Item = (&Name, u32)> {
        let names = self.endpoints.keys();
        names.filter_map(|name| Some((name, self.ifindex(name)?)))
    }

    /// Why an endpoint of this node is not ready, in a line.
    #[must_use]
    pub fn failure(&self, endpoint: &Name) -> Option<&str> {
        self.endpoints.get(endpoint)?.reason()
    }

    /// The endpoints of this node that are not ready, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&Name, &str)> {
        let endpoints = self.endpoints.iter();
        endpoints.filter_map(|(name, state)| Some((name, state.reason()?)))
    }

    /// How old what the agent knows is at least: for how long the registry has been out of reach.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        self.lost
            .as_ref()
            .map_or(Duration::ZERO, |lost| lost.since.elapsed())
    }

    /// The registry is out of reach; `true`: it was in reach before.
    pub(super) fn lose(&mut self, reason: String, is_foreign: bool) -> bool {
        let is_new = self
            .lost
            .as_ref()
            .is_none_or(|lost| lost.is_foreign != is_foreign);
        let since = self
            .lost
            .as_ref()
            .map_or_else(Instant::now, |lost| lost.since);
        self.lost = Some(Lost {
            reason,
            since,
            is_foreign,
        });
        is_new
    }
}
