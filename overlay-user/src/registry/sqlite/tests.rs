//! Real files in temporary folders. What is awaited is polled for, with a generous bound.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{sync::mpsc::Receiver, time::timeout};

use super::{super::QUARANTINE, *};
use crate::model::{
    Attachment, Delta, Endpoint, Mac, Network, Node, SESSION_TTL, Snapshot, Vni, Vtep,
};

mod crash;
mod files;
mod migration;
mod rules;
mod scale;
mod watching;

/// Long enough for the slowest machine; a test that needs it has failed.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

fn settings() -> RegistrySettings {
    RegistrySettings::new(String::new())
}

/// A folder of its own for every test.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("registry.db")
    }

    fn open(&self) -> Sqlite {
        Sqlite::open(&self.path(), &settings()).unwrap()
    }

    /// One that forgets soon, removed addresses at once.
    fn open_with_history(&self, history: u64) -> Sqlite {
        Sqlite::open_with(
            File::new(&self.path(), None, true),
            Limits {
                lock_wait: LOCK_WAIT,
                history,
                quarantine: Duration::ZERO,
                session_ttl: SESSION_TTL,
            },
        )
        .unwrap()
    }

    /// With networks 42 (7.7.0.0/16) and 43, nodes h1 and h2.
    async fn furnished(&self) -> Sqlite {
        let registry = self.open();
        furnish(&registry).await;
        registry
    }
}

async fn furnish(registry: &Sqlite) -> Revision {
    let changes = [
        Change::CreateNetwork(network(42, &["7.7.0.0/16"])),
        Change::CreateNetwork(network(43, &[])),
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::PutNode(node("h2", "10.0.0.2")),
    ];
    registry.commit(&changes).await.unwrap()
}

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn network(number: u32, subnets: &[&str]) -> Network {
    Network {
        subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
        ..Network::new(format!("net{number}").parse().unwrap(), vni(number))
    }
}

fn node(name: &str, ip: &str) -> Node {
    Node::new(
        name.parse().unwrap(),
        Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        },
        true,
    )
}

/// On h1, in VNI 42; MAC and IP made of `number`.
fn endpoint(name: &str, number: u16) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint {
        name: name.parse().unwrap(),
        vni: vni(42),
        mac: Mac::try_from([2, 0x42, 7, 7, high, low]).unwrap(),
        addresses: vec![format!("7.7.{high}.{low}/16").parse().unwrap()],
        node: "h1".parse().unwrap(),
        attachment: Some(Attachment::veth(
            name.parse().unwrap(),
            "eth0".parse().unwrap(),
        )),
        generation: 0,
    }
}

fn create(name: &str, number: u16) -> Change {
    Change::CreateEndpoint(endpoint(name, number))
}

fn remove(name: &str) -> Change {
    Change::RemoveEndpoint(name.parse().unwrap())
}

/// One order for comparisons.
fn sorted(mut snapshot: Snapshot) -> Snapshot {
    snapshot.networks.sort_by_key(|network| network.vni);
    snapshot.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot
}

/// A reader as the trait wants it: skips what its state has, removals go first.
fn apply(state: &mut Snapshot, delta: Delta) {
    if delta.revision <= state.revision {
        return;
    }
    let put_vnis: Vec<Vni> = delta.networks.iter().map(|network| network.vni).collect();
    let put_nodes: Vec<&Name> = delta.nodes.iter().map(|node| &node.name).collect();
    let put_endpoints: Vec<&Name> = delta
        .endpoints
        .iter()
        .map(|endpoint| &endpoint.name)
        .collect();
    state.networks.retain(|network| {
        !delta.networks_removed.contains(&network.vni) && !put_vnis.contains(&network.vni)
    });
    state.nodes.retain(|node| {
        !delta.nodes_removed.contains(&node.name) && !put_nodes.contains(&&node.name)
    });
    state.endpoints.retain(|endpoint| {
        !delta.endpoints_removed.contains(&endpoint.name)
            && !put_endpoints.contains(&&endpoint.name)
    });
    state.revision = delta.revision;
    state.networks.extend(delta.networks);
    state.nodes.extend(delta.nodes);
    state.endpoints.extend(delta.endpoints);
}

async fn next(events: &mut Receiver<WatchEvent>) -> WatchEvent {
    let event = timeout(EVENT_TIMEOUT, events.recv()).await;
    event
        .expect("an event should have come")
        .expect("the watch has ended")
}

async fn next_delta(events: &mut Receiver<WatchEvent>) -> Delta {
    match next(events).await {
        WatchEvent::Delta(delta) => delta,
        other => panic!("expected a delta, got {other:?}"),
    }
}

async fn heartbeat(registry: &Sqlite, node: &str, session: &str) -> Result<(), RegistryError> {
    let session = model::Session::new(session.to_owned());
    registry.heartbeat(&node.parse().unwrap(), &session).await
}

fn line(error: &RegistryError) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> String {
    match result {
        Err(error @ RegistryError::Unavailable(_)) => line(&error),
        other => panic!("expected Unavailable, got {other:?}"),
    }
}

#[track_caller]
fn foreign<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> String {
    match result {
        Err(error @ RegistryError::Foreign(_)) => line(&error),
        other => panic!("expected Foreign, got {other:?}"),
    }
}
