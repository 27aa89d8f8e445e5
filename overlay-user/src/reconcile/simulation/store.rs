//! A registry that keeps its contract late, or breaks it where a seed says so.
//!
//! Readings and answers are true as of some moment between question and answer. Watches are late, merge
//! deltas, tell some twice, fall behind what is compacted. The store can be away, and be put back to a
//! previous state. With mischief, a watch also drops deltas and tells others in the wrong order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::rng::Rng;
use crate::{
    model::{
        Change, Delta, Endpoint, Key, Kind, KnownKind, Mac, Name, Network, Node, Object, ObjectId,
        Question, QuestionId, RejectedRows, Report, Resource, Revision, Session, Vni, Vtep, Wanted,
        ipam::Block,
    },
    registry::{Reading, Registry, RegistryError, Scope, WatchEvent},
};

/// A kind that the host knows. There are others that it does not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) name: Name,
}

impl Resource for Rule {
    const KIND: Kind = Kind::new("rule");

    fn key(&self) -> Key {
        (&self.name).into()
    }
}

pub(super) const KINDS: &[KnownKind] = &[KnownKind::of::<Rule>()];

/// Endpoints in a page: few, so that readings take several.
const PAGE: usize = 3;

/// The state as of one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) revision: Revision,
    pub(super) networks: BTreeMap<Vni, Network>,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) endpoints: BTreeMap<Name, Endpoint>,
    pub(super) objects: BTreeMap<ObjectId, Object>,
}

impl State {
    pub(super) fn owner(&self, vni: Vni, wanted: Wanted) -> Option<&Endpoint> {
        self.endpoints.values().find(|endpoint| {
            endpoint.vni == vni
                && match wanted {
                    Wanted::Mac(mac) => endpoint.mac == mac,
                    Wanted::Ip(ip) => endpoint.ips().any(|known| known == ip),
                }
        })
    }

    fn take(&mut self, delta: &Delta) {
        self.revision = delta.revision;
        for vni in &delta.networks_removed {
            self.networks.remove(vni);
        }
        for name in &delta.nodes_removed {
            self.nodes.remove(name);
        }
        for name in &delta.endpoints_removed {
            self.endpoints.remove(name);
        }
        for id in &delta.objects_removed {
            self.objects.remove(id);
        }
        let objects = delta.objects.iter();
        self.objects
            .extend(objects.map(|object| (object.id.clone(), object.clone())));
        let networks = delta.networks.iter();
        self.networks
            .extend(networks.map(|network| (network.vni, network.clone())));
        let nodes = delta.nodes.iter();
        self.nodes
            .extend(nodes.map(|node| (node.name.clone(), node.clone())));
        let endpoints = delta.endpoints.iter();
        self.endpoints
            .extend(endpoints.map(|endpoint| (endpoint.name.clone(), endpoint.clone())));
    }
}

/// All that ever was true: rows that are nothing of it were made up.
#[derive(Debug, Default)]
pub(super) struct Ever {
    /// (network, MAC, generation) -> node. A history that is put back has several.
    pub(super) macs: BTreeMap<(Vni, Mac, Revision), BTreeSet<Name>>,
    /// (network, address, MAC, generation).
    pub(super) ips: BTreeSet<(Vni, IpAddr, Mac, Revision)>,
    /// Node -> VTEPs.
    pub(super) vteps: BTreeMap<Name, BTreeSet<Vtep>>,
}

/// What the registry is, and what it does to its readers.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) ever: Ever,
    log: Vec<Delta>,
    /// Deltas up to this revision are forgotten.
    compacted: Revision,
    /// Grows when the store is put back.
    pub(super) history: u64,
    pub(super) is_away: bool,
    /// Whether watches break the contract.
    pub(super) mischief: bool,
    /// Whether there ever was: deltas may have been lost that nobody heard of.
    pub(super) had_mischief: bool,
    /// How late things are at most.
    pub(super) lateness: Duration,
    /// How often a question fails, of 256.
    pub(super) failures: u8,
    pub(super) reports: Vec<Report>,
    pub(super) questions: Vec<Question>,
    rng: Rng,
}

/// The registry.
#[derive(Clone)]
pub(super) struct Store {
    inner: Arc<Mutex<Inner>>,
    /// Rings when there may be something to tell.
    bell: watch::Sender<()>,
}

impl Store {
    pub(super) fn new(rng: Rng) -> Self {
        let inner = Inner {
            state: State::default(),
            ever: Ever::default(),
            log: Vec::new(),
            compacted: 0,
            history: 0,
            is_away: false,
            mischief: false,
            had_mischief: false,
            lateness: Duration::ZERO,
            failures: 0,
            reports: Vec::new(),
            questions: Vec::new(),
            rng,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            bell: watch::Sender::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Changes it, and tells those who watch.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.bell.send_replace(());
        outcome
    }

    /// Waits as long as the store feels like.
    async fn dawdle(&self) {
        let wait = {
            let inner = self.lock();
            inner.rng.up_to(inner.lateness)
        };
        sleep(wait).await;
    }

    /// Whether something that goes on for long breaks off.
    fn breaks(&self) -> bool {
        let inner = self.lock();
        inner.mischief && inner.rng.of_256(10)
    }

    /// Refuses if the store is away or feels like it.
    fn refuse(&self) -> Result<(), RegistryError> {
        let inner = self.lock();
        if inner.is_away || inner.rng.of_256(inner.failures) {
            return Err(RegistryError::Unavailable("the store is away".to_owned()));
        }
        Ok(())
    }
}

impl Inner {
    /// Commits what `edit` makes of the delta. Generations are its revision.
    pub(super) fn commit(&mut self, edit: impl FnOnce(&mut Delta)) -> Revision {
        let mut delta = Delta {
            revision: self.state.revision + 1,
            ..Delta::default()
        };
        edit(&mut delta);
        for endpoint in &mut delta.endpoints {
            endpoint.generation = delta.revision;
        }
        for object in &mut delta.objects {
            object.revision = delta.revision;
        }
        for endpoint in &delta.endpoints {
            let (vni, mac, generation) = (endpoint.vni, endpoint.mac, endpoint.generation);
            let nodes = self.ever.macs.entry((vni, mac, generation)).or_default();
            nodes.insert(endpoint.node.clone());
            let ips = endpoint.ips().map(|ip| (vni, ip, mac, generation));
            self.ever.ips.extend(ips);
        }
        for node in &delta.nodes {
            let vteps = self.ever.vteps.entry(node.name.clone()).or_default();
            vteps.insert(node.vtep);
        }
        self.state.take(&delta);
        self.log.push(delta);
        self.state.revision
    }

    /// Puts the store back to the state of a previous revision.
    pub(super) fn roll_back(&mut self, to: Revision) {
        let mut state = State::default();
        self.log.retain(|delta| delta.revision <= to);
        for delta in &self.log {
            state.take(delta);
        }
        self.state = state;
        self.compacted = self.compacted.min(to);
        self.history += 1;
    }

    /// Loses all endpoints, or all but a few, as a damaged store or an old backup does: no delta tells. Gives
    /// the state as it was.
    pub(super) fn lose(&mut self, kept: usize) -> State {
        let previous = self.state.clone();
        let names: Vec<Name> = previous.endpoints.keys().skip(kept).cloned().collect();
        for name in names {
            self.state.endpoints.remove(&name);
        }
        self.history += 1;
        previous
    }

    /// Has what it lost again.
    pub(super) fn restore(&mut self, state: State) {
        self.state = state;
        self.history += 1;
    }

    /// Forgets deltas: a watch that is behind can't go on.
    pub(super) fn compact(&mut self) {
        self.compacted = self.state.revision;
    }

    /// All after `since` up to `to`: the last word on each row.
    fn merged(&self, since: Revision, to: Revision) -> Delta {
        let mut put = State::default();
        let mut merged = Delta {
            revision: to,
            ..Delta::default()
        };
        let deltas = self
            .log
            .iter()
            .filter(|delta| delta.revision > since && delta.revision <= to);
        let (mut networks, mut nodes, mut endpoints, mut objects) = (
            BTreeSet::new(),
            BTreeSet::new(),
            BTreeSet::new(),
            BTreeSet::new(),
        );
        for delta in deltas {
            put.take(delta);
            networks.extend(delta.networks_removed.iter().copied());
            nodes.extend(delta.nodes_removed.iter().cloned());
            endpoints.extend(delta.endpoints_removed.iter().cloned());
            objects.extend(delta.objects_removed.iter().cloned());
        }
        networks.retain(|vni| !put.networks.contains_key(vni));
        nodes.retain(|name| !put.nodes.contains_key(name));
        endpoints.retain(|name| !put.endpoints.contains_key(name));
        objects.retain(|id| !put.objects.contains_key(id));
        merged.objects_removed = objects.into_iter().collect();
        merged.objects = put.objects.into_values().collect();
        merged.networks_removed = networks.into_iter().collect();
        merged.nodes_removed = nodes.into_iter().collect();
        merged.endpoints_removed = endpoints.into_iter().collect();
        merged.networks = put.networks.into_values().collect();
        merged.nodes = put.nodes.into_values().collect();
        merged.endpoints = put.endpoints.into_values().collect();
        merged
    }
}

/// One watch: where it is, and what it holds back.
struct Watch {
    store: Store,
    position: Revision,
    pub(super) history: u64,
    asked: usize,
    is_lost: bool,
    held_back: VecDeque<WatchEvent>,
}

impl Watch {
    async fn run(mut self, mut bell: watch::Receiver<()>, sender: mpsc::Sender<WatchEvent>) {
        loop {
            self.store.dawdle().await;
            if self.store.breaks() {
                return;
            }
            let events = self.step();
            let is_up_to_date = events.is_empty();
            for event in events {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            if is_up_to_date {
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    _ = bell.changed() => {}
                }
            }
        }
    }

    fn step(&mut self) -> Vec<WatchEvent> {
        let inner = self.store.lock();
        let mut events = Vec::new();
        if inner.is_away {
            if !std::mem::replace(&mut self.is_lost, true) {
                events.push(WatchEvent::Lost("the store is away".to_owned()));
            }
            return events;
        }
        if std::mem::take(&mut self.is_lost) {
            events.push(WatchEvent::Restored);
        }
        let now = inner.state.revision;
        if self.history != inner.history || self.position < inner.compacted {
            (self.history, self.position) = (inner.history, now);
            self.held_back.clear();
            events.push(WatchEvent::Resync);
        } else if self.position < now {
            let to = self.position + 1 + inner.rng.below(now - self.position);
            let delta = WatchEvent::Delta(inner.merged(self.position, to));
            self.position = to;
            match inner.rng.below(8) {
                0 => events.extend([delta.clone(), delta]),
                1 if inner.mischief => {}
                2 if inner.mischief => self.held_back.push_back(delta),
                _ => {
                    events.push(delta);
                    events.extend(self.held_back.drain(..));
                }
            }
        }
        if !inner.mischief {
            events.extend(self.held_back.drain(..));
        }
        let questions = inner.questions.iter().skip(self.asked);
        events.extend(questions.cloned().map(WatchEvent::Question));
        self.asked = inner.questions.len();
        events
    }
}

#[async_trait]
impl Registry for Store {
    async fn read(&self, scope: Scope) -> Result<Reading, RegistryError> {
        self.dawdle().await;
        self.refuse()?;
        let state = self.lock().state.clone();
        let is_in = |endpoint: &Endpoint| match &scope {
            Scope::All => true,
            Scope::Network(vni) => endpoint.vni == *vni,
            Scope::Resident(node) => {
                let network = state.networks.get(&endpoint.vni);
                endpoint.node == *node
                    || network
                        .is_none_or(|network| network.resolve == crate::model::Resolve::Proactive)
            }
        };
        let endpoints: Vec<Endpoint> = state
            .endpoints
            .values()
            .filter(|it| is_in(it))
            .cloned()
            .collect();
        let (sender, receiver) = mpsc::channel(1);
        let store = self.clone();
        tokio::spawn(async move {
            for page in endpoints.chunks(PAGE) {
                store.dawdle().await;
                if store.breaks() {
                    sleep(Duration::from_mins(1)).await;
                }
                let page = store.refuse().map(|()| page.to_vec());
                let is_end = page.is_err();
                if sender.send(page).await.is_err() || is_end {
                    return;
                }
            }
        });
        self.dawdle().await;
        Ok(Reading {
            revision: state.revision,
            networks: state.networks.into_values().collect(),
            nodes: state.nodes.into_values().collect(),
            objects: state.objects.into_values().collect(),
            rejected: RejectedRows::default(),
            endpoints: receiver,
        })
    }

    async fn find(&self, vni: Vni, wanted: Wanted) -> Result<Option<Endpoint>, RegistryError> {
        self.dawdle().await;
        self.refuse()?;
        let found = self.lock().state.owner(vni, wanted).cloned();
        self.dawdle().await;
        Ok(found)
    }

    async fn find_endpoint(&self, name: &Name) -> Result<Option<Endpoint>, RegistryError> {
        Ok(self.lock().state.endpoints.get(name).cloned())
    }

    async fn taken(&self, _: Vni, _: Block) -> Result<BTreeSet<IpAddr>, RegistryError> {
        Ok(BTreeSet::new())
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        Ok(self.lock().state.nodes.values().cloned().collect())
    }

    async fn objects(&self, kind: &Kind) -> Result<Vec<Object>, RegistryError> {
        let state = self.lock().state.clone();
        let objects = state.objects.into_values();
        Ok(objects.filter(|object| object.id.kind == *kind).collect())
    }

    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError> {
        let (sender, receiver) = mpsc::channel(4);
        let watch = {
            let inner = self.lock();
            Watch {
                store: self.clone(),
                position: inner.state.revision,
                history: inner.history,
                asked: inner.questions.len(),
                is_lost: false,
                held_back: VecDeque::new(),
            }
        };
        tokio::spawn(watch.run(self.bell.subscribe(), sender));
        Ok(receiver)
    }

    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError> {
        self.dawdle().await;
        self.refuse()?;
        let commit = |inner: &mut Inner| {
            inner.commit(|delta| {
                let nodes = changes.iter().filter_map(|change| match change {
                    Change::PutNode(node) => Some(node.clone()),
                    _ => None,
                });
                delta.nodes.extend(nodes);
            })
        };
        Ok(self.change(commit))
    }

    async fn heartbeat(&self, _: &Name, _: &Session) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn ask(&self, question: &Question) -> Result<(), RegistryError> {
        self.change(|inner| inner.questions.push(question.clone()));
        Ok(())
    }

    async fn publish(&self, report: &Report) -> Result<(), RegistryError> {
        self.dawdle().await;
        self.refuse()?;
        self.lock().reports.push(report.clone());
        Ok(())
    }

    async fn reports(&self, question: Option<QuestionId>) -> Result<Vec<Report>, RegistryError> {
        let reports = self.lock().reports.clone();
        Ok(reports
            .into_iter()
            .filter(|report| report.question == question)
            .collect())
    }

    fn url(&self) -> String {
        "simulated://".to_owned()
    }
}
