//! Nodes whose hosts are gone, and hosts whose addresses change places.

use std::{net::IpAddr, time::Duration};

use overlay_user::{
    model::{Change, Node},
    registry::{Registry, RegistryError, WatchEvent},
};

use crate::{
    fixture::{Fixture, create, line, name, next_delta, next_other, node, session},
    for_every_backend,
};

for_every_backend! {
    a_silent_node_is_removed_with_its_endpoints_and_one_that_lives_is_refused,
    a_silent_nodes_address_goes_to_another_in_one_commit_and_its_endpoints_stay,
    a_living_node_keeps_its_address,
    two_nodes_exchange_their_addresses_once_each_has_given_up_its_own,
}

const SHORT: Duration = Duration::from_secs(4);

fn remove(text: &str) -> Change {
    Change::RemoveSilentNode(name(text))
}

/// The nodes' addresses by name; `None`: without one.
async fn addresses(registry: &dyn Registry) -> Vec<(String, Option<IpAddr>)> {
    let mut nodes = registry.nodes().await.unwrap();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let address = |node: &Node| (!node.vtep.is_discard()).then_some(node.vtep.ip.ip());
    nodes
        .iter()
        .map(|node| (node.name.to_string(), address(node)))
        .collect()
}

fn placed(node: &str, ip: &str) -> (String, Option<IpAddr>) {
    (node.to_owned(), Some(ip.parse().unwrap()))
}

async fn a_silent_node_is_removed_with_its_endpoints_and_one_that_lives_is_refused(
    fixture: Fixture,
) {
    let registry = fixture
        .open_with(|settings| settings.session_ttl = SHORT)
        .await;
    crate::fixture::furnish(&*registry).await;
    registry
        .commit(&[create("blue", 2), create("green", 3)])
        .await
        .unwrap();
    let h1 = name("h1");
    let mut events = registry.watch().await.unwrap();
    registry.heartbeat(&h1, &session("one")).await.unwrap();
    let error = registry.commit(&[remove("h1")]).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused(_)), "{error}");
    let text = line(&error);
    assert!(
        text.contains("node h1 (VTEP 10.0.0.1:4789) is alive"),
        "{text}"
    );
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 2);
    // Once it is silent.
    while next_other(&mut events).await != WatchEvent::Silent(h1.clone()) {}
    registry.commit(&[remove("h1")]).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes.len(), 1);
    assert!(snapshot.endpoints.is_empty());
    // The rule for removed addresses counts here too.
    let stolen = Change::CreateEndpoint(overlay_user::model::Endpoint {
        node: name("h2"),
        ..crate::fixture::endpoint("red", 2)
    });
    let error = registry.commit(&[stolen]).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Quarantined { .. }),
        "{error}"
    );
    // A second time is fine, and one that never had a session goes at once.
    registry
        .commit(&[remove("h1"), remove("h2")])
        .await
        .unwrap();
    assert!(registry.nodes().await.unwrap().is_empty());
}

async fn a_silent_nodes_address_goes_to_another_in_one_commit_and_its_endpoints_stay(
    fixture: Fixture,
) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    let takeover = [
        Change::ReleaseVtep(name("h1")),
        Change::PutNode(node("h9", "10.0.0.1")),
    ];
    registry.commit(&takeover).await.unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.nodes.len(), 2, "{delta:?}");
    let now = addresses(&*registry).await;
    let lost = ("h1".to_owned(), None);
    assert_eq!(
        now,
        [lost, placed("h2", "10.0.0.2"), placed("h9", "10.0.0.1")]
    );
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.endpoints[0].node, name("h1"));
    // It comes back with another address, and is whole again.
    registry
        .commit(&[Change::PutNode(node("h1", "10.0.0.7"))])
        .await
        .unwrap();
    assert_eq!(addresses(&*registry).await[0], placed("h1", "10.0.0.7"));
    assert!(registry.audit(false).await.unwrap().findings.is_empty());
    // Twice in a row, and one that is not there.
    for _ in 0..2 {
        registry
            .commit(&[
                Change::ReleaseVtep(name("h1")),
                Change::ReleaseVtep(name("nobody")),
            ])
            .await
            .unwrap();
    }
    assert_eq!(addresses(&*registry).await[0].1, None);
}

async fn a_living_node_keeps_its_address(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let takeover = [
        Change::ReleaseVtep(name("h1")),
        Change::PutNode(node("h9", "10.0.0.1")),
    ];
    let error = registry.commit(&takeover).await.unwrap_err();
    assert!(line(&error).contains("node h1 (VTEP 10.0.0.1:4789) is alive"));
    let now = addresses(&*registry).await;
    assert_eq!(now, [placed("h1", "10.0.0.1"), placed("h2", "10.0.0.2")]);
}

async fn two_nodes_exchange_their_addresses_once_each_has_given_up_its_own(fixture: Fixture) {
    let registry = fixture.furnished().await;
    for (host, text) in [("h1", "one"), ("h2", "two")] {
        registry
            .heartbeat(&name(host), &session(text))
            .await
            .unwrap();
    }
    let put = |node: Node| [Change::PutNode(node)];
    let error = registry
        .commit(&put(node("h1", "10.0.0.2")))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Conflict { .. }), "{error}");
    for given_up in ["h1", "h2"] {
        let without = node(given_up, "10.0.0.1").without_address();
        registry.commit(&put(without)).await.unwrap();
    }
    registry.commit(&put(node("h1", "10.0.0.2"))).await.unwrap();
    registry.commit(&put(node("h2", "10.0.0.1"))).await.unwrap();
    let now = addresses(&*registry).await;
    assert_eq!(now, [placed("h1", "10.0.0.2"), placed("h2", "10.0.0.1")]);
    assert!(registry.audit(false).await.unwrap().findings.is_empty());
}
