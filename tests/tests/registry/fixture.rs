//! A store for a test, contents for it, and a reader that checks the contract.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use overlay_user::{
    model::{
        Attachment, Change, Delta, Endpoint, Mac, Name, Network, Node, Object, ObjectId, Revision,
        Session, Snapshot, Vni, Vtep,
    },
    registry::{self, Registry, RegistryError, RegistrySettings, WatchEvent},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::mpsc::Receiver, time::timeout};

use crate::etcd::{Etcd, Options};

/// Long enough for the slowest machine; a test that needs it has failed.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A store of the test's own.
pub(crate) enum Fixture {
    Sqlite(TempDir),
    Etcd(Box<Etcd>),
}

impl Fixture {
    /// A fixture of the other backend.
    pub(crate) fn other(&self) -> Self {
        match self {
            Self::Sqlite(_) => Self::etcd(),
            Self::Etcd(_) => Self::sqlite(),
        }
    }

    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn etcd() -> Self {
        Self::Etcd(Box::new(Etcd::start(Options::default())))
    }

    pub(crate) fn settings(&self) -> RegistrySettings {
        RegistrySettings::new(match self {
            Self::Sqlite(folder) => format!("sqlite://{}/registry.db", folder.path().display()),
            Self::Etcd(etcd) => format!("etcd://{}", etcd.addresses()),
        })
    }

    pub(crate) async fn open(&self) -> Arc<dyn Registry> {
        self.open_with(|_| ()).await
    }

    pub(crate) async fn open_with(
        &self,
        change: impl FnOnce(&mut RegistrySettings),
    ) -> Arc<dyn Registry> {
        let mut settings = self.settings();
        change(&mut settings);
        registry::open(&settings).await.unwrap()
    }

    /// With networks 42 (7.7.0.0/16) and 43, nodes h1 and h2.
    pub(crate) async fn furnished(&self) -> Arc<dyn Registry> {
        let registry = self.open().await;
        furnish(&*registry).await;
        registry
    }
}

pub(crate) async fn furnish(registry: &dyn Registry) -> Revision {
    let changes = [
        Change::CreateNetwork(network(42, &["7.7.0.0/16"])),
        Change::CreateNetwork(network(43, &[])),
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::PutNode(node("h2", "10.0.0.2")),
    ];
    registry.commit(&changes).await.unwrap()
}

pub(crate) fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn network(number: u32, subnets: &[&str]) -> Network {
    Network {
        subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
        ..Network::new(name(&format!("net{number}")), vni(number))
    }
}

pub(crate) fn node(text: &str, ip: &str) -> Node {
    let vtep = Vtep {
        ip: ip.parse().unwrap(),
        port: 4789,
    };
    Node::new(name(text), vtep, true)
}

/// On h1, in VNI 42; MAC and IP made of `number`.
pub(crate) fn endpoint(text: &str, number: u16) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint {
        name: name(text),
        vni: vni(42),
        mac: Mac::try_from([2, 0x42, 7, 7, high, low]).unwrap(),
        addresses: vec![format!("7.7.{high}.{low}/16").parse().unwrap()],
        node: name("h1"),
        attachment: Some(Attachment::veth(name(text), "eth0".parse().unwrap())),
        generation: 0,
    }
}

pub(crate) fn create(text: &str, number: u16) -> Change {
    Change::CreateEndpoint(endpoint(text, number))
}

pub(crate) fn remove(text: &str) -> Change {
    Change::RemoveEndpoint(name(text))
}

pub(crate) fn session(text: &str) -> Session {
    Session::new(text.to_owned())
}

/// One order for comparisons.
pub(crate) fn sorted(mut snapshot: Snapshot) -> Snapshot {
    snapshot.networks.sort_by_key(|network| network.vni);
    snapshot.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot.objects.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot
}

/// What a snapshot holds besides its revision, which is the whole store's.
pub(crate) fn content(snapshot: Snapshot) -> Snapshot {
    let mut snapshot = sorted(snapshot);
    snapshot.revision = 0;
    for node in &mut snapshot.nodes {
        (node.last_seen, node.alive) = (None, false);
    }
    snapshot
}

/// The state as a reader has it that takes a snapshot and then what the watch delivers.
pub(crate) struct Reader {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) events: Receiver<WatchEvent>,
    pub(crate) revision: Revision,
    pub(crate) networks: BTreeMap<Vni, Network>,
    pub(crate) nodes: BTreeMap<Name, Node>,
    pub(crate) endpoints: BTreeMap<Name, Endpoint>,
    pub(crate) objects: BTreeMap<ObjectId, Object>,
    /// Of each kind so far.
    pub(crate) resyncs: usize,
    pub(crate) losses: Vec<String>,
}

impl Reader {
    pub(crate) async fn start(registry: &Arc<dyn Registry>) -> Self {
        let mut reader = Self {
            registry: Arc::clone(registry),
            events: registry.watch().await.unwrap(),
            revision: 0,
            networks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            objects: BTreeMap::new(),
            resyncs: 0,
            losses: Vec::new(),
        };
        reader.snapshot().await;
        reader
    }

    async fn snapshot(&mut self) {
        let snapshot = loop {
            match self.registry.snapshot().await {
                Ok(snapshot) => break snapshot,
                Err(error) => {
                    line(&error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        self.revision = snapshot.revision;
        self.networks = snapshot.networks.into_iter().map(|n| (n.vni, n)).collect();
        self.nodes = snapshot
            .nodes
            .into_iter()
            .map(|n| (n.name.clone(), n))
            .collect();
        self.endpoints = snapshot
            .endpoints
            .into_iter()
            .map(|e| (e.name.clone(), e))
            .collect();
        self.objects = snapshot
            .objects
            .into_iter()
            .map(|object| (object.id.clone(), object))
            .collect();
    }

    /// Takes the next event in.
    pub(crate) async fn step(&mut self) -> WatchEvent {
        let event = next(&mut self.events).await;
        match &event {
            WatchEvent::Delta(delta) => self.apply(delta.clone()),
            WatchEvent::Resync => {
                self.resyncs += 1;
                self.snapshot().await;
            }
            WatchEvent::Lost(why) => self.losses.push(why.clone()),
            _ => {}
        }
        event
    }

    fn apply(&mut self, delta: Delta) {
        if delta.revision <= self.revision {
            return;
        }
        for vni in delta.networks_removed {
            self.networks.remove(&vni);
        }
        for name in delta.nodes_removed {
            self.nodes.remove(&name);
        }
        for name in delta.endpoints_removed {
            self.endpoints.remove(&name);
        }
        for id in delta.objects_removed {
            self.objects.remove(&id);
        }
        for object in delta.objects {
            let previous = self.objects.insert(object.id.clone(), object);
            let now = previous
                .as_ref()
                .map(|previous| &self.objects[&previous.id]);
            if let (Some(previous), Some(now)) = (previous.as_ref(), now) {
                assert!(now.revision >= previous.revision, "{previous:?} {now:?}");
            }
        }
        self.revision = delta.revision;
        self.networks
            .extend(delta.networks.into_iter().map(|n| (n.vni, n)));
        self.nodes
            .extend(delta.nodes.into_iter().map(|n| (n.name.clone(), n)));
        for endpoint in delta.endpoints {
            let previous = self.endpoints.insert(endpoint.name.clone(), endpoint);
            let now = previous
                .as_ref()
                .map(|previous| &self.endpoints[&previous.name]);
            if let (Some(previous), Some(now)) = (previous.as_ref(), now) {
                assert!(
                    now.generation >= previous.generation,
                    "{previous:?} {now:?}"
                );
            }
        }
    }

    /// Follows up to a revision.
    pub(crate) async fn reach(&mut self, revision: Revision) {
        while self.revision < revision {
            self.step().await;
        }
    }

    /// As a snapshot, for comparisons.
    pub(crate) fn content(&self) -> Snapshot {
        content(Snapshot {
            revision: 0,
            networks: self.networks.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            endpoints: self.endpoints.values().cloned().collect(),
            objects: self.objects.values().cloned().collect(),
        })
    }
}

pub(crate) async fn next(events: &mut Receiver<WatchEvent>) -> WatchEvent {
    let event = timeout(EVENT_TIMEOUT, events.recv()).await;
    event
        .expect("an event should have come")
        .expect("the watch has ended")
}

/// The next event that is no delta.
pub(crate) async fn next_other(events: &mut Receiver<WatchEvent>) -> WatchEvent {
    loop {
        match next(events).await {
            WatchEvent::Delta(_) => {}
            other => return other,
        }
    }
}

/// The next delta that is not empty.
pub(crate) async fn next_delta(events: &mut Receiver<WatchEvent>) -> Delta {
    loop {
        if let WatchEvent::Delta(delta) = next(events).await
            && delta
                != (Delta {
                    revision: delta.revision,
                    ..Delta::default()
                })
        {
            return delta;
        }
    }
}

/// An error's text: one line without anything secret.
#[track_caller]
pub(crate) fn line(error: &RegistryError) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    assert!(!line.contains("secret"), "{line}");
    line
}

/// Waits until `holds`.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begin = std::time::Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < EVENT_TIMEOUT, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An attachment of a kind that this version does not know.
pub(crate) fn newer_attachment() -> Attachment {
    let value = json!({"kind": "tap", "name": "vm1", "queues": 4});
    Attachment::Unknown(value.try_into().unwrap())
}
