//! What must hold: always, and once all faults are over.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    kernel::{Faults, Kernel, place_of},
    names::{self, ME, vtep},
    run::{Simulation, Suspicion},
    store::State,
};
use crate::{
    model::{
        Digest, Endpoint, FdbKey, FdbRow, FdbTarget, Installed, Miss, Name, NeighborKey,
        NeighborRow, NetworkRow, Question, QuestionId, Resolve, Subject, Tables, Vtep, VtepPath,
        VtepRow,
    },
    reconcile::digest::Survey,
};

/// Longer than all periodic looks, retries and lifetimes: by then everything is right.
const CALM: Duration = Duration::from_secs(400);

/// Longer than any single step of the loop.
const STEP: Duration = Duration::from_millis(300);

/// The registry's state as this host is to have it, computed in the simplest way.
struct Oracle<'a> {
    state: &'a State,
    kernel: &'a Kernel,
}

impl Oracle<'_> {
    fn is_local(endpoint: &Endpoint) -> bool {
        endpoint.node.as_str() == ME
    }

    /// Whether the endpoint can be made here: no other has its namespace and interface.
    fn can_stand(&self, endpoint: &Endpoint) -> bool {
        let place = endpoint.attachment.as_ref().and_then(place_of);
        Self::is_local(endpoint) && place.is_some_and(|place| !self.kernel.foreign.contains(&place))
    }

    fn interfaces(&self) -> BTreeMap<Name, u32> {
        let ports = self.kernel.ports.iter();
        ports
            .map(|(name, (ifindex, ..))| (name.clone(), *ifindex))
            .collect()
    }

    fn is_on_demand(&self, endpoint: &Endpoint) -> bool {
        self.state.networks[&endpoint.vni].resolve == Resolve::OnDemand
    }

    fn fdb_row(&self, endpoint: &Endpoint) -> Option<FdbRow> {
        let target = if Self::is_local(endpoint) {
            let (ifindex, ..) = self.kernel.ports.get(&endpoint.name)?;
            FdbTarget::Local {
                ifindex: *ifindex,
                is_queued: false,
                is_metered: false,
            }
        } else {
            let vtep = self.state.nodes[&endpoint.node].vtep;
            if vtep.is_discard() {
                return None;
            }
            FdbTarget::Remote {
                vtep: vtep.ip,
                port: vtep.port,
            }
        };
        Some(FdbRow {
            target,
            generation: endpoint.generation,
            ages: self.is_on_demand(endpoint) && !Self::is_local(endpoint),
        })
    }
}

impl Simulation {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// What must hold at every moment.
    pub(super) async fn look(&mut self) {
        let found = self
            .host
            .with(|kernel| std::mem::take(&mut kernel.violations));
        self.violations.extend(found);
        self.judge_agent();
        self.judge_applied().await;
        let view = self.observer.view().await;
        if view.cached > self.limits.entries {
            let held = view.cached;
            self.violations
                .push(format!("{held} endpoints are held at once"));
        }
        let suspicion = self.host.with(|kernel| {
            for (name, ifindex) in view.ready() {
                let port = kernel.ports.get(name).map(|(ifindex, ..)| *ifindex);
                if port != Some(ifindex) {
                    return Some(format!("{name} is said to be ready and has no interface"));
                }
                if !kernel.attached.contains(&ifindex) {
                    return Some(format!("{name} is said to be ready and has no program"));
                }
                if !kernel.up.contains(&ifindex) {
                    return Some(format!("{name} is said to be ready and is down"));
                }
                if !kernel.open.contains(&ifindex) {
                    return Some(format!("{name} is said to be ready and can't send"));
                }
                let Some(known) = view.mirror.endpoint(name) else {
                    return Some(format!("{name} is said to be ready and is not known"));
                };
                let key = FdbKey {
                    vni: known.vni(),
                    mac: known.mac(),
                };
                // Where a delta was lost, a newer endpoint may have its MAC.
                let owner = view.mirror.by_mac(key.vni, key.mac);
                let is_its = owner.is_some_and(|owner| owner.name() == name);
                let has_row = kernel.tables.fdb.contains_key(&key);
                if is_its && !has_row && !kernel.tampered.contains(&key) {
                    return Some(format!("{name} is said to be ready and has no row"));
                }
            }
            None
        });
        drop(view);
        let Some(what) = suspicion else {
            self.suspicion = None;
            return;
        };
        // In the middle of a change, view and kernel may differ: it counts if nothing moves any more.
        let activity = self.host.with(|kernel| kernel.activity);
        let now = Instant::now();
        let is_known = |known: &Suspicion| (known.activity, &known.what) == (activity, &what);
        match self.suspicion.take().filter(is_known) {
            Some(known) if known.since + STEP < now => self.violation(what),
            known => {
                self.suspicion = known.or(Some(Suspicion {
                    activity,
                    what,
                    since: now,
                }));
            }
        }
    }

    /// What is said to be applied is known, where the registry tells all that happens.
    async fn judge_applied(&mut self) {
        let view = self.observer.view().await;
        let inner = self.store.lock();
        if inner.had_mischief || inner.history != 0 || view.applied != inner.state.revision {
            return;
        }
        let state = &inner.state;
        let resident = state.endpoints.values().filter(|endpoint| {
            let network = &state.networks[&endpoint.vni];
            Oracle::is_local(endpoint) || network.resolve == Resolve::Proactive
        });
        let unknown = resident.filter(|endpoint| {
            let known = view.mirror.endpoint(&endpoint.name);
            known.is_none_or(|known| known.generation() != endpoint.generation)
        });
        let revision = view.applied;
        self.violations.extend(unknown.map(|endpoint| {
            let known = view.mirror.endpoint(&endpoint.name);
            let known = known.map(|known| known.generation());
            format!("{revision} is said to be applied, and {endpoint:?} is known as of {known:?}")
        }));
    }

    /// All faults end; then everything must become right.
    pub(super) async fn judge(&mut self) {
        self.store.change(|inner| {
            inner.is_away = false;
            inner.mischief = false;
            inner.failures = 0;
            inner.lateness = Duration::from_millis(20);
        });
        self.host.set_faults(Faults::default());
        self.host.set_capacity(1000);
        self.note(|| "calm".to_owned());
        sleep(CALM).await;
        // The administrator who put the registry back wants it so.
        if self.observer.view().await.withheld_since.is_some() {
            self.note(|| "adopted".to_owned());
            self.observer.adopt().await;
            sleep(CALM).await;
        }
        self.look().await;
        self.judge_host();
        self.judge_view().await;
        self.judge_objects().await;
        self.judge_reports().await;
        self.judge_resolution().await;
    }

    fn judge_host(&mut self) {
        let state = self.store.lock().state.clone();
        let mut wrong = Vec::new();
        self.host.with(|kernel| {
            let oracle = Oracle {
                state: &state,
                kernel,
            };
            let wanted = state
                .endpoints
                .values()
                .filter(|endpoint| oracle.can_stand(endpoint));
            let wanted: Vec<_> = wanted.map(|endpoint| &endpoint.name).collect();
            let interfaces = oracle.interfaces();
            let there: Vec<_> = interfaces.keys().collect();
            if wanted != there {
                wrong.push(format!("interfaces {there:?} instead of {wanted:?}"));
            }
            let ifindexes = interfaces.values().copied().collect();
            if kernel.attached != ifindexes || !kernel.is_underlay_attached {
                wrong.push(format!(
                    "programs at {:?} instead of {ifindexes:?}",
                    kernel.attached
                ));
            }
            if kernel.up != ifindexes {
                wrong.push(format!("up are {:?} instead of {ifindexes:?}", kernel.up));
            }
            if kernel.open != ifindexes {
                wrong.push(format!(
                    "able to send are {:?} instead of {ifindexes:?}",
                    kernel.open
                ));
            }
            if kernel.lease.is_none_or(|until| until <= Instant::now()) {
                wrong.push("the lease has run out".to_owned());
            }
            let networks: BTreeMap<_, _> = state
                .networks
                .values()
                .map(|network| {
                    let row = NetworkRow {
                        mtu: if network.mtu == 0 { 1450 } else { network.mtu },
                        on_demand: network.resolve == Resolve::OnDemand,
                    };
                    (network.vni, row)
                })
                .collect();
            if kernel.tables.networks != networks {
                wrong.push(format!(
                    "networks {:?} instead of {networks:?}",
                    kernel.tables.networks
                ));
            }
            let others = state.nodes.values().filter(|node| node.name.as_str() != ME);
            let vteps: BTreeMap<_, _> = others
                .map(|node| node.vtep)
                .filter(|vtep| !vtep.is_discard())
                .map(|Vtep { ip, port }| {
                    let row = VtepRow {
                        port,
                        path: VtepPath {
                            next_hop: Some(ip.ip()),
                            mtu: None,
                        },
                    };
                    (ip, row)
                })
                .collect();
            if kernel.tables.vteps != vteps {
                wrong.push(format!(
                    "VTEPs {:?} instead of {vteps:?}",
                    kernel.tables.vteps
                ));
            }
            wrong.extend(judge_rows(&oracle));
            let endpoints: Vec<_> = kernel.tables.endpoints.keys().collect();
            if endpoints.len() != interfaces.len() {
                wrong.push(format!("rows of endpoints at {endpoints:?}"));
            }
            for (name, ifindex) in &interfaces {
                let Some(wanted) = state.endpoints.get(name) else {
                    continue;
                };
                let row = kernel.tables.endpoints.get(ifindex);
                if row
                    .is_none_or(|row| (row.mac, row.generation) != (wanted.mac, wanted.generation))
                {
                    wrong.push(format!("row {row:?} of endpoint {wanted:?}"));
                }
            }
        });
        self.violations.extend(wrong);
    }

    async fn judge_view(&mut self) {
        let state = self.store.lock().state.clone();
        let view = self.observer.view().await;
        let mut wrong = Vec::new();
        if (view.applied, view.mirror.revision()) != (state.revision, state.revision) {
            wrong.push(format!(
                "applied {} instead of {}",
                view.applied, state.revision
            ));
        }
        if view.lost.is_some() || !view.errors.is_empty() {
            wrong.push(format!("still wrong: {:?} {:?}", view.lost, view.errors));
        }
        self.host.with(|kernel| {
            let oracle = Oracle {
                state: &state,
                kernel,
            };
            let ready = oracle.interfaces();
            let said = view.ready().map(|(name, ifindex)| (name.clone(), ifindex));
            let said: BTreeMap<Name, u32> = said.collect();
            if said != ready {
                wrong.push(format!("ready {said:?} instead of {ready:?}"));
            }
            let failed = state
                .endpoints
                .values()
                .filter(|endpoint| Oracle::is_local(endpoint) && !oracle.can_stand(endpoint));
            let failed: Vec<_> = failed.map(|endpoint| &endpoint.name).collect();
            let said: Vec<_> = view.failures().map(|(name, _)| name).collect();
            if said != failed {
                wrong.push(format!("failed {said:?} instead of {failed:?}"));
            }
        });
        drop(view);
        let me = state.nodes.get(&names::name(ME));
        if me.is_none_or(|me| me.vtep != vtep(1)) {
            wrong.push("this node is not in the registry".to_owned());
        }
        self.violations.extend(wrong);
    }

    /// What was told must be what is there: without being asked, and asked.
    async fn judge_reports(&mut self) {
        let question = Question {
            id: QuestionId::random(),
            subject: Subject::Networks,
            revision: self.store.lock().state.revision,
            inquiry: None,
        };
        let id = question.id;
        self.store.change(|inner| inner.questions.push(question));
        sleep(Duration::from_secs(5)).await;
        let installed = self.host.with(|kernel| digests(kernel));
        let reports = self.store.lock().reports.clone();
        for asked in [Some(id), None] {
            let last = reports.iter().rfind(|report| report.question == asked);
            let told = last
                .map(|report| report.digests.clone())
                .unwrap_or_default();
            if told != installed {
                self.violation(format!("told {told:?} ({asked:?}) and has {installed:?}"));
            }
        }
    }

    /// Every address of an on-demand network is found where it is, and none that nobody has.
    async fn judge_resolution(&mut self) {
        let state = self.store.lock().state.clone();
        let networks = state.networks.values();
        for network in networks.filter(|network| network.resolve == Resolve::OnDemand) {
            for wanted in names::addresses() {
                let miss = Miss {
                    vni: network.vni,
                    wanted,
                    ifindex: 10,
                    requester_mac: names::mac(1),
                    requester_ip: None,
                };
                self.host.send(miss);
                sleep(Duration::from_secs(1)).await;
                let owner = state.owner(network.vni, wanted);
                let (can_stand, wrong) = self.host.with(|kernel| {
                    let oracle = Oracle {
                        state: &state,
                        kernel,
                    };
                    let can_stand = owner
                        .is_some_and(|owner| !Oracle::is_local(owner) || oracle.can_stand(owner));
                    (can_stand, judge_rows(&oracle))
                });
                if self.host.send(miss) != can_stand {
                    self.violation(format!("{wanted} of {}: {owner:?}", network.vni));
                }
                self.violations.extend(wrong);
            }
        }
        let held = self.observer.view().await.cached;
        let at_most = self.limits.entries;
        if held > at_most {
            self.violation(format!(
                "{held} endpoints are held instead of {at_most} at most"
            ));
        }
    }
}

/// Rows that differ from the desired ones. Those of cached endpoints may be there or not.
fn judge_rows(oracle: &Oracle<'_>) -> Vec<String> {
    let Tables { fdb, neighbors, .. } = &oracle.kernel.tables;
    let (mut wanted_fdb, mut wanted_neighbors) = (BTreeMap::new(), BTreeMap::new());
    for endpoint in oracle.state.endpoints.values() {
        let Some(row) = oracle.fdb_row(endpoint) else {
            continue;
        };
        let (vni, mac, generation) = (endpoint.vni, endpoint.mac, endpoint.generation);
        let key = FdbKey { vni, mac };
        let is_there = !row.ages || fdb.contains_key(&key);
        wanted_fdb.extend(is_there.then_some((key, row)));
        for ip in endpoint.ips() {
            let key = NeighborKey { vni, ip };
            let is_there = !row.ages || neighbors.contains_key(&key);
            wanted_neighbors.extend(is_there.then_some((key, NeighborRow { mac, generation })));
        }
    }
    let mut wrong = difference("FDB", fdb, &wanted_fdb);
    wrong.extend(difference("neighbours", neighbors, &wanted_neighbors));
    wrong
}

fn difference<K: Ord + std::fmt::Debug, R: PartialEq + std::fmt::Debug>(
    table: &str,
    actual: &BTreeMap<K, R>,
    wanted: &BTreeMap<K, R>,
) -> Vec<String> {
    let keys = actual.keys().chain(wanted.keys());
    let mut wrong: Vec<_> = keys
        .filter(|key| actual.get(key) != wanted.get(key))
        .map(|key| {
            format!(
                "{table}: {key:?} is {:?} instead of {:?}",
                actual.get(key),
                wanted.get(key)
            )
        })
        .collect();
    wrong.dedup();
    wrong
}

/// The digests of what the kernel holds.
fn digests(kernel: &Kernel) -> Vec<Digest> {
    let mut survey = Survey::new(&Subject::Networks);
    for (key, row) in &kernel.tables.fdb {
        let vtep = match row.target {
            FdbTarget::Local { .. } => vtep(1),
            FdbTarget::Remote { vtep, port } => Vtep { ip: vtep, port },
        };
        survey.see(Installed::Fdb {
            key: *key,
            vtep,
            generation: row.generation,
        });
    }
    for (key, row) in &kernel.tables.neighbors {
        survey.see(Installed::Neighbor {
            key: *key,
            mac: row.mac,
            generation: row.generation,
        });
    }
    survey.answer().0
}
