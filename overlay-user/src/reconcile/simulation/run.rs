//! What happens to a host and its registry: at random, and judged.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Outcome,
    host::Host,
    kernel::Faults,
    names::{ADDRESSES, ME, NAMES, NETWORKS, NODES, PLACES, ip, mac, name, vtep},
    rng::Rng,
    store::{self, Inner, Store},
    wish::Wish,
};
use crate::{
    model::{
        Attachment, Endpoint, Event, FdbKey, FdbRow, FdbTarget, IfName, Miss, Name, NeighborKey,
        NeighborRow, Network, Node, Resolve, Revision, Vni, Wanted,
    },
    reconcile::{
        Handover, Observer, Pace, Parts, Reconciler, apply::Applier, cache::Limits, desired::Local,
    },
};

/// A claim of the view that was found wrong.
pub(super) struct Suspicion {
    pub(super) what: String,
    /// How far the kernel was then.
    pub(super) activity: u64,
    pub(super) since: Instant,
}

/// Everything.
pub(super) struct Simulation {
    pub(super) rng: Rng,
    pub(super) store: Store,
    pub(super) host: Host,
    agent: JoinHandle<()>,
    pub(super) observer: Observer,
    routes: mpsc::Sender<()>,
    /// What an agent has left for the next one.
    handover: Option<Handover>,
    pub(super) limits: Limits,
    pace: Pace,
    /// Whether the loop reads the registry now and then for no reason. Where it does not, the watch
    /// loses nothing either, and what the loop makes of it wrong stays wrong until there is a reason.
    has_net: bool,
    started: Instant,
    /// What happened, if anybody wants to know.
    trace: Option<Vec<String>>,
    /// What the loop tells of.
    events: broadcast::Receiver<Event>,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) violations: Vec<String>,
}

impl Simulation {
    /// A host with an agent that begins to run, and maybe rows of a previous one.
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        let rng = Rng::new(seed);
        let store = Store::new(rng.clone());
        // Sometimes the tables are too small for the desired rows.
        let capacity = if rng.of_256(40) { 8 } else { 1000 };
        let host = Host::new(rng.clone(), store.clone(), capacity);
        store.change(|inner| {
            inner.lateness = Duration::from_millis([0, 20, 100][rng.within(..3)]);
            inner.commit(|delta| {
                for last in 1..=2 {
                    let node = Node::new(name(&format!("h{last}")), vtep(last), true);
                    delta.nodes.push(node);
                }
                delta
                    .networks
                    .push(Network::new(name("n1"), Vni::try_from(1).unwrap()));
            });
        });
        let limits = Limits {
            entries: 2,
            // Longer than everything: what is wrong in the cache does not go by itself.
            idle: Duration::from_secs([20, 3600][rng.within(..2)]),
            negative_ttl: Duration::from_secs(2),
            at_once: 3,
            // Some answers take longer.
            patience: Duration::from_millis(150),
        };
        let has_net = rng.of_256(150);
        let mut pace = Pace::default();
        if !has_net {
            pace.reread = Duration::from_hours(24);
        }
        let (agent, observer, routes) = start(&store, &host, limits, pace, None);
        let events = observer.events().listen();
        let mut simulation = Self {
            rng,
            store,
            host,
            agent,
            observer,
            routes,
            handover: None,
            limits,
            pace,
            has_net,
            started: Instant::now(),
            trace: is_traced.then(Vec::new),
            events,
            suspicion: None,
            violations: Vec::new(),
        };
        for _ in 0..simulation.rng.within(..12) {
            simulation.litter();
        }
        simulation
    }

    /// Ends it, and gives the outcome.
    pub(super) async fn end(mut self) -> Outcome {
        self.hear();
        let revision = self.store.lock().state.revision;
        let view = self.observer.view().await;
        let counters = view.counters;
        drop(view);
        self.note(|| format!("revision {revision}, {counters:?}"));
        self.judge_agent();
        self.agent.abort();
        let mut violations = self.violations;
        self.host
            .with(|kernel| violations.append(&mut kernel.violations));
        Outcome {
            violations,
            trace: self.trace.unwrap_or_default(),
        }
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.is_some() {
            self.hear();
        }
        if let Some(trace) = &mut self.trace {
            let at = self.started.elapsed();
            trace.push(format!("{:>9.3} {}", at.as_secs_f32(), what()));
        }
    }

    /// Notes what the loop told of.
    fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            if let Some(trace) = &mut self.trace {
                trace.push(format!("          > {event:?}"));
            }
        }
    }

    /// Lets `count` things happen.
    pub(super) async fn live(&mut self, count: usize) {
        for _ in 0..count {
            self.step().await;
            let pause = [0, 1, 5, 50, 400, 3000][self.rng.within(..6)];
            sleep(Duration::from_millis(pause)).await;
            self.look().await;
        }
    }

    async fn step(&mut self) {
        match self.rng.within(..100) {
            0..=29 => self.change_endpoints(),
            30..=34 => self.change_nodes(),
            35..=39 => self.change_networks(),
            40..=59 => self.send_frame(),
            60..=64 => self.chase().await,
            65..=69 => self.change_reach(),
            70..=72 => self.change_faults(),
            73..=74 => self.rush().await,
            75..=80 => self.tamper(),
            81..=84 => self.litter(),
            85..=87 => {
                self.note(|| "compacted".to_owned());
                self.store.change(Inner::compact);
            }
            88 if self.rng.of_256(128) => self.lose().await,
            88 if self.rng.of_256(128) => self.set_back_in_calm().await,
            88 => drop(self.roll_back()),
            89..=91 => self.restart().await,
            92..=93 => {
                let _ = self.routes.try_send(());
            }
            94..=95 => self.settle_foreign(),
            96..=97 => self.change_objects(),
            _ => sleep(Duration::from_secs(self.rng.below(40))).await,
        }
    }

    /// The registry is read anew, and changes while it is.
    async fn rush(&mut self) {
        self.note(|| "a short absence of the registry".to_owned());
        self.store.change(|inner| inner.is_away = true);
        sleep(Duration::from_millis(10)).await;
        self.store.change(|inner| inner.is_away = false);
        for _ in 0..5 {
            sleep(Duration::from_millis(self.rng.below(30))).await;
            self.change_endpoints();
        }
    }

    fn vni(&self) -> Vni {
        let number = self.rng.within(1..=NETWORKS);
        Vni::try_from(u32::try_from(number).unwrap()).unwrap()
    }

    fn last(&self) -> u8 {
        u8::try_from(self.rng.within(1..=ADDRESSES)).unwrap()
    }

    fn place(&self) -> (Name, IfName) {
        let number = self.rng.within(1..=PLACES);
        (name(&format!("ns{number}")), "eth0".parse().unwrap())
    }

    /// Some endpoints come, go, change or move, in one commit.
    fn change_endpoints(&mut self) {
        let count = self.rng.within(1..=3);
        let wishes = (0..count).map(|_| self.wish()).collect();
        self.commit(wishes);
    }

    fn commit(&mut self, wishes: Vec<Wish>) {
        let mut touched = BTreeSet::new();
        let revision = self.store.change(|inner| {
            let mut state = inner.state.clone();
            for wish in wishes {
                wish.fulfil(&mut state, &mut touched);
            }
            inner.commit(|delta| {
                for name in &touched {
                    match state.endpoints.get(name) {
                        Some(endpoint) => delta.endpoints.push(endpoint.clone()),
                        None => delta.endpoints_removed.push(name.clone()),
                    }
                }
            })
        });
        self.note(|| format!("{touched:?} changed in {revision}"));
    }

    fn wish(&self) -> Wish {
        let named = name(&format!("e{}", self.rng.within(..NAMES)));
        if self.rng.of_256(90) {
            return Wish::Remove(named);
        }
        let mut node = name(&format!("h{}", self.rng.within(1..=NODES)));
        if self.rng.of_256(100) {
            node = name(ME);
        }
        let (netns, ifname) = self.place();
        let mut addresses = vec![ip(self.last())];
        if self.rng.of_256(60) {
            addresses.push(ip(self.last()));
            addresses.dedup();
        }
        let addresses = addresses.into_iter().map(Into::into).collect();
        Wish::Put(Endpoint {
            name: named,
            vni: self.vni(),
            mac: mac(self.last()),
            addresses,
            node,
            attachment: Some(Attachment::veth(netns, ifname)),
            generation: 0,
        })
    }

    /// Puts an endpoint onto this host; `last` tells it from others.
    pub(super) fn add_local_endpoint(&self, named: &str, last: u8) {
        self.store.change(|inner| {
            inner.commit(|delta| {
                delta.endpoints.push(Endpoint {
                    name: name(named),
                    vni: Vni::try_from(1).unwrap(),
                    mac: mac(last),
                    addresses: vec![ip(last).into()],
                    node: name(ME),
                    attachment: Some(Attachment::veth(name(named), "eth0".parse().unwrap())),
                    generation: 0,
                });
            });
        });
    }

    fn change_nodes(&mut self) {
        let last = u8::try_from(self.rng.within(1..=NODES)).unwrap();
        let named = name(&format!("h{last}"));
        let moves = self.rng.of_256(100) && last != 1;
        let removes = self.rng.of_256(80);
        self.note(|| format!("node {named} changes"));
        self.store.change(|inner| {
            let its = inner
                .state
                .endpoints
                .values()
                .filter(|endpoint| endpoint.node == named);
            let its: Vec<Name> = its.map(|endpoint| endpoint.name.clone()).collect();
            inner.commit(|delta| {
                if removes {
                    delta.nodes_removed.push(named);
                    delta.endpoints_removed = its;
                } else {
                    let vtep = vtep(if moves { last + 100 } else { last });
                    delta.nodes.push(Node::new(named, vtep, true));
                }
            });
        });
    }

    fn change_networks(&mut self) {
        let vni = self.vni();
        let resolve = [Resolve::Proactive, Resolve::OnDemand][self.rng.within(..2)];
        let mtu = [0, 1300][self.rng.within(..2)];
        let removes = self.rng.of_256(40);
        self.note(|| format!("network {vni} changes, {resolve}"));
        self.store.change(|inner| {
            let has_endpoints = inner
                .state
                .endpoints
                .values()
                .any(|endpoint| endpoint.vni == vni);
            inner.commit(|delta| {
                if removes && !has_endpoints {
                    delta.networks_removed.push(vni);
                } else {
                    delta.networks.push(Network {
                        mtu,
                        resolve,
                        ..Network::new(name(&format!("n{vni}")), vni)
                    });
                }
            });
        });
    }

    fn send_frame(&mut self) {
        let wanted = if self.rng.of_256(128) {
            Wanted::Mac(mac(self.last()))
        } else {
            Wanted::Ip(ip(self.last()))
        };
        self.ask_for(self.vni(), wanted);
    }

    fn ask_for(&mut self, vni: Vni, wanted: Wanted) {
        let miss = Miss {
            vni,
            wanted,
            ifindex: u32::try_from(10 + self.rng.within(..3)).unwrap(),
            requester_mac: mac(1),
            requester_ip: Some(ip(1)),
        };
        let found = self.host.send(miss);
        self.note(|| {
            format!(
                "frame for {}/{wanted}: {}",
                miss.vni,
                if found { "found" } else { "missed" }
            )
        });
    }

    /// An endpoint changes while a frame asks for it.
    async fn chase(&mut self) {
        let endpoints = self.store.lock().state.endpoints.clone();
        if endpoints.is_empty() {
            return;
        }
        let nth = self.rng.within(..endpoints.len());
        let Some(endpoint) = endpoints.values().nth(nth) else {
            return;
        };
        self.ask_for(endpoint.vni, Wanted::Mac(endpoint.mac));
        sleep(Duration::from_millis(self.rng.below(150))).await;
        let mut changed = endpoint.clone();
        changed.mac = mac(self.last());
        self.commit(vec![Wish::Put(changed)]);
    }

    fn change_reach(&mut self) {
        let is_away = self.rng.of_256(100);
        let (mischief, failures) = (
            self.has_net && self.rng.of_256(60),
            [0, 0, 40][self.rng.within(..3)],
        );
        self.note(|| format!("registry away: {is_away}, mischief: {mischief}"));
        self.store.change(|inner| {
            inner.is_away = is_away;
            inner.mischief = mischief;
            inner.had_mischief |= mischief;
            inner.failures = failures;
        });
    }

    fn change_faults(&mut self) {
        let often = |rng: &Rng| [0, 0, 30, 120][rng.within(..4)];
        let faults = Faults {
            hangs: false,
            held: None,
            writes: often(&self.rng),
            looks: often(&self.rng),
            ports: often(&self.rng),
            attachments: often(&self.rng),
            lateness: Duration::from_millis([0, 30][self.rng.within(..2)]),
        };
        self.note(|| format!("{faults:?}"));
        self.host.set_faults(faults);
    }

    /// Rows get lost.
    fn tamper(&mut self) {
        let rng = self.rng.clone();
        let lost = self.host.with(|kernel| {
            let lost: Vec<FdbKey> = kernel
                .tables
                .fdb
                .keys()
                .filter(|_| rng.of_256(80))
                .copied()
                .collect();
            for key in &lost {
                kernel.tables.fdb.remove(key);
            }
            kernel.tampered.extend(&lost);
            if rng.of_256(60) {
                kernel.tables.neighbors.pop_first();
                kernel.tables.vteps.pop_first();
                kernel.tables.networks.pop_last();
                kernel.tables.endpoints.pop_last();
            }
            lost.len()
        });
        self.note(|| format!("{lost} rows of the FDB lost"));
    }

    /// Rows appear that this agent never wrote: true ones, and others.
    fn litter(&mut self) {
        let key = FdbKey {
            vni: self.vni(),
            mac: mac(self.last()),
        };
        let row = FdbRow {
            target: FdbTarget::Remote {
                vtep: [10, 0, 0, self.last()].into(),
                port: 4789,
            },
            generation: [0, 100_000][self.rng.within(..2)],
            ages: self.rng.of_256(128),
        };
        let neighbor = NeighborKey {
            vni: self.vni(),
            ip: ip(self.last()),
        };
        let neighbor_row = NeighborRow {
            mac: mac(self.last()),
            generation: [0, 100_000][self.rng.within(..2)],
        };
        self.note(|| format!("litter {key:?} {row:?}"));
        self.host.with(|kernel| {
            kernel.tables.fdb.insert(key, row);
            kernel.tables.neighbors.insert(neighbor, neighbor_row);
            kernel.tampered.insert(key);
            kernel.littered.insert(neighbor);
        });
    }

    /// Gives by how many revisions.
    pub(super) fn roll_back(&mut self) -> Revision {
        let back = self.rng.below(6);
        self.store.change(|inner| {
            let to = inner.state.revision.saturating_sub(back).max(1);
            inner.roll_back(to);
        });
        self.note(|| format!("registry put back by {back} revisions"));
        back
    }

    /// The loop does not end by itself.
    pub(super) fn judge_agent(&mut self) {
        if self.agent.is_finished() {
            self.violations.push("the loop has ended".to_owned());
        }
    }

    async fn restart(&mut self) {
        self.judge_agent();
        self.note(|| "agent killed and started again".to_owned());
        self.agent.abort();
        let view = self.observer.view().await;
        if view.counters.readings > 0 {
            self.handover = Some(view.handover());
        }
        drop(view);
        let handover = self.handover.clone();
        (self.agent, self.observer, self.routes) =
            start(&self.store, &self.host, self.limits, self.pace, handover);
        self.events = self.observer.events().listen();
    }

    /// Somebody else's interface comes into one of the namespaces, or goes.
    fn settle_foreign(&mut self) {
        let place = self.place();
        self.host.with(|kernel| {
            let is_ours = kernel
                .ports
                .values()
                .any(|(_, netns, ifname)| (netns, ifname) == (&place.0, &place.1));
            if !kernel.foreign.remove(&place) && !is_ours {
                kernel.foreign.insert(place);
            }
        });
    }
}

fn start(
    store: &Store,
    host: &Host,
    limits: Limits,
    pace: Pace,
    handover: Option<Handover>,
) -> (JoinHandle<()>, Observer, mpsc::Sender<()>) {
    let (routes, changes) = mpsc::channel(1);
    let local = Local {
        node: name(ME),
        vtep: vtep(1),
        underlay_mtu: 1500,
    };
    let (reconciler, observer) = Reconciler::new(Parts {
        registry: Arc::new(store.clone()),
        applier: Applier::new(Arc::new(host.clone()), Arc::new(host.clone()), local),
        node: watch::channel(Node::new(name(ME), vtep(1), true)).1,
        kinds: store::KINDS,
        limits,
        pace,
        routes: changes,
        ports: None,
        misses: host.listen(),
    });
    let agent = tokio::spawn(async move {
        let reconciler = match handover {
            Some(handover) => reconciler.after(handover),
            None => reconciler,
        };
        let _ = reconciler.run().await;
    });
    (agent, observer, routes)
}
