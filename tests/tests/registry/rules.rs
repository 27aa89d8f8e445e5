//! Constraints, references, quarantine, moves, addresses that are handed out, and what they are
//! called.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use overlay_user::{
    model::{
        Attachment, Change, Endpoint, FloodMode, Network, NetworkSettings, Node, Resolve, Revision,
        Snapshot, Wanted,
    },
    registry::{Registry, RegistryError, Scope},
};

use crate::{
    fixture::{
        Fixture, Reader, content, create, endpoint, furnish, line, name, network, newer_attachment,
        node, remove, session, sorted, vni,
    },
    for_every_backend,
};

for_every_backend! {
    a_new_registry_is_empty,
    a_snapshot_gives_back_every_field_with_the_revision_as_generation,
    what_is_taken_is_a_conflict_that_names_the_owner,
    what_is_missing_is_named_with_what_to_do,
    what_breaks_a_rule_is_refused_as_a_whole,
    tenants_may_use_the_same_addresses,
    a_network_with_endpoints_stays,
    a_network_goes_with_its_last_endpoints_in_one_commit,
    a_network_changes_what_is_named_and_keeps_the_rest,
    a_node_takes_its_endpoints_with_it,
    only_an_empty_node_is_removed_as_empty,
    a_node_that_moves_gives_its_vtep_free,
    a_commit_that_changes_nothing_gives_a_revision_that_is_reached,
    addresses_move_between_endpoints_in_one_commit,
    an_endpoint_moves_with_its_name_mac_and_addresses,
    an_endpoint_gets_other_addresses_if_nobody_else_changed_it,
    only_the_generation_that_was_named_is_removed,
    an_address_that_was_removed_is_kept_from_others_for_a_while,
    a_nodes_addresses_are_kept_from_others_too,
    without_quarantine_an_address_is_free_at_once,
    addresses_are_handed_out_in_order_and_around_what_is_taken,
    a_free_address_is_found_among_thousands,
    single_endpoints_are_found_by_name_mac_and_address,
    many_writers_never_share_a_name_or_an_address,
    large_commits_and_removals_are_carried_out_whole,
    a_reading_is_of_one_revision_whatever_is_written_meanwhile,
    a_reading_brings_what_was_asked_for,
}

pub(crate) async fn refusal(registry: &dyn Registry, changes: &[Change]) -> String {
    let before = content(registry.snapshot().await.unwrap());
    let text = line(&registry.commit(changes).await.unwrap_err());
    let after = content(registry.snapshot().await.unwrap());
    assert_eq!(after, before, "a refused commit changes nothing");
    text
}

async fn a_new_registry_is_empty(fixture: Fixture) {
    let snapshot = fixture.open().await.snapshot().await.unwrap();
    assert!(snapshot.revision >= 1);
    assert_eq!(content(snapshot), Snapshot::default());
}

async fn a_snapshot_gives_back_every_field_with_the_revision_as_generation(fixture: Fixture) {
    let registry = fixture.open().await;
    let network = Network {
        mtu: 1400,
        flood: FloodMode::Multicast("239.1.1.1".parse().unwrap()),
        learning: true,
        resolve: Resolve::OnDemand,
        ..network(42, &["7.7.0.0/16", "fd00::/64"])
    };
    let h1 = Node {
        version: Some("0.1.0".to_owned()),
        abi: Some(2),
        mtu: Some(9000),
        ..node("h1", "10.0.0.1")
    };
    let foreign = Node {
        agent: false,
        ..node("vtep-fd99--1", "fd99::1")
    };
    let bare = Endpoint {
        addresses: vec![],
        attachment: None,
        node: foreign.name.clone(),
        ..endpoint("bare", 3)
    };
    let full = Endpoint {
        addresses: ["7.7.0.9/16", "fd00::9/64", "7.7.0.2/16"]
            .map(|a| a.parse().unwrap())
            .to_vec(),
        attachment: Some(Attachment::veth(name("full"), "net.0".parse().unwrap())),
        ..endpoint("full", 2)
    };
    let newer = Endpoint {
        attachment: Some(newer_attachment()),
        ..endpoint("newer", 4)
    };
    let changes = [
        Change::CreateNetwork(network.clone()),
        Change::PutNode(h1.clone()),
        Change::PutNode(foreign.clone()),
        Change::CreateEndpoint(full.clone()),
        Change::CreateEndpoint(bare.clone()),
        Change::CreateEndpoint(newer.clone()),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    let snapshot = sorted(registry.snapshot().await.unwrap());
    assert!(snapshot.revision >= revision);
    let generation = |endpoint| Endpoint {
        generation: revision,
        ..endpoint
    };
    assert_eq!(snapshot.networks, [network]);
    assert_eq!(snapshot.nodes, [h1, foreign]);
    assert_eq!(snapshot.endpoints, [bare, full, newer].map(generation));
    drop(registry);
    let again = fixture.open().await.snapshot().await.unwrap();
    assert_eq!(content(again), content(snapshot), "after opening it again");
}

async fn what_is_taken_is_a_conflict_that_names_the_owner(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let same_mac = Endpoint {
        mac: endpoint("x", 2).mac,
        ..endpoint("green", 3)
    };
    let same_ip = Endpoint {
        addresses: endpoint("x", 2).addresses,
        ..endpoint("green", 3)
    };
    let same_name = Endpoint {
        vni: vni(43),
        ..endpoint("blue", 3)
    };
    for (change, expected) in [
        (
            create("blue", 3),
            "endpoint name blue is taken by endpoint blue (node h1)",
        ),
        (
            Change::CreateEndpoint(same_name),
            "endpoint name blue is taken by endpoint blue (node h1)",
        ),
        (
            Change::CreateEndpoint(same_mac),
            "MAC 02:42:07:07:00:02 is taken by endpoint blue (node h1)",
        ),
        (
            Change::CreateEndpoint(same_ip),
            "IP 7.7.0.2 is taken by endpoint blue (node h1)",
        ),
        (
            create("green", 2),
            "IP 7.7.0.2 is taken by endpoint blue (node h1)",
        ),
        (
            Change::CreateNetwork(network(42, &[])),
            "VNI 42 is taken by network net42",
        ),
        (
            Change::CreateNetwork(Network::new(name("net42"), vni(44))),
            "network name net42 is taken by network net42 (VNI 42)",
        ),
        (
            Change::PutNode(node("h3", "10.0.0.2")),
            "VTEP 10.0.0.2 is taken by node h2",
        ),
        (
            Change::PutNode(node("h1", "10.0.0.2")),
            "VTEP 10.0.0.2 is taken by node h2",
        ),
    ] {
        // Whether the owner was there before or comes with the same commit.
        let text = refusal(&*registry, &[create("other", 9), change.clone()]).await;
        assert_eq!(
            text,
            format!("{expected}: choose another or remove that one first")
        );
    }
    let twice = [create("x", 20), create("y", 20)];
    let text = refusal(&*registry, &twice).await;
    assert!(
        text.starts_with("IP 7.7.0.20 is taken by endpoint x (node h1)"),
        "{text}"
    );
}

async fn what_is_missing_is_named_with_what_to_do(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let no_network = Endpoint {
        vni: vni(44),
        ..endpoint("blue", 2)
    };
    let no_node = Endpoint {
        node: name("h9"),
        ..endpoint("blue", 2)
    };
    let to = |endpoint: &str, node: &str| Change::MoveEndpoint {
        name: name(endpoint),
        node: name(node),
        attachment: None,
    };
    registry.commit(&[create("red", 1)]).await.unwrap();
    for (change, expected) in [
        (
            Change::CreateEndpoint(no_network),
            "network 44 does not exist: make it with `overlay network create NAME --vni 44`",
        ),
        (
            Change::CreateEndpoint(no_node),
            "node h9 does not exist: start its agent, which registers it",
        ),
        (
            to("red", "h9"),
            "node h9 does not exist: start its agent, which registers it",
        ),
        (
            to("nobody", "h1"),
            "endpoint nobody does not exist: see `overlay endpoint ls` for those that do",
        ),
    ] {
        assert_eq!(refusal(&*registry, &[change]).await, expected);
    }
}

async fn what_breaks_a_rule_is_refused_as_a_whole(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let with = |addresses: &[&str]| {
        Change::CreateEndpoint(Endpoint {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..endpoint("blue", 2)
        })
    };
    for (change, expected) in [
        (
            with(&["10.9.9.9/16"]),
            "is outside the subnets of network net42 (7.7.0.0/16)",
        ),
        (
            with(&["7.7.0.2/16", "7.7.0.2/24"]),
            "names IP 7.7.0.2 twice",
        ),
        (
            with(&["239.1.1.1/16"]),
            "is no address that an interface can have",
        ),
        (
            with(&["::ffff:7.7.0.2/128"]),
            "is no address that an interface can have",
        ),
        (
            Change::CreateNetwork(network(50, &["7.7.7.9/24"])),
            "has host bits set: write 7.7.7.0/24",
        ),
        (
            Change::CreateNetwork(network(50, &["7.0.0.0/8", "7.7.0.0/16"])),
            "overlap: leave one out",
        ),
        (
            Change::PutNode(node("h3", "0.0.0.0")),
            "of node h3 is not allowed",
        ),
    ] {
        let text = refusal(&*registry, &[create("first", 7), change]).await;
        assert!(text.contains(expected), "{text}");
    }
}

async fn tenants_may_use_the_same_addresses(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let other_tenant = Endpoint {
        vni: vni(43),
        ..endpoint("blue43", 2)
    };
    let changes = [create("blue", 2), Change::CreateEndpoint(other_tenant)];
    registry.commit(&changes).await.unwrap();
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 2);
}

async fn a_network_with_endpoints_stays(fixture: Fixture) {
    let registry = fixture.furnished().await;
    for (number, expected) in [
        (1, "1 endpoint (e1)"),
        (2, "2 endpoints (e1, e2)"),
        (3, "3 endpoints (e1, e2, ...)"),
    ] {
        registry
            .commit(&[create(&format!("e{number}"), number)])
            .await
            .unwrap();
        let text = refusal(&*registry, &[Change::RemoveNetwork(vni(42))]).await;
        assert_eq!(
            text,
            format!(
                "network net42 (VNI 42) still has {expected}: remove them first with `overlay endpoint rm`"
            )
        );
    }
}

async fn a_network_goes_with_its_last_endpoints_in_one_commit(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("a", 1), create("b", 2)])
        .await
        .unwrap();
    let changes = [remove("a"), remove("b"), Change::RemoveNetwork(vni(42))];
    registry.commit(&changes).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.networks.len(), snapshot.endpoints.len()), (1, 0));
    // Name and VNI are free again, at once.
    registry
        .commit(&[Change::CreateNetwork(network(42, &[]))])
        .await
        .unwrap();
}

async fn a_network_changes_what_is_named_and_keeps_the_rest(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let settings = NetworkSettings {
        mtu: Some(1400),
        learning: Some(true),
        ..NetworkSettings::default()
    };
    let set = [Change::SetNetwork(vni(42), settings)];
    let before = registry.snapshot().await.unwrap();
    let revision = registry.commit(&set).await.unwrap();
    let after = registry.snapshot().await.unwrap();
    let network = |snapshot: &Snapshot| -> Network {
        let mut networks = snapshot.networks.iter();
        networks.find(|net| net.vni == vni(42)).unwrap().clone()
    };
    let expected = Network {
        mtu: 1400,
        learning: true,
        ..network(&before)
    };
    assert_eq!(network(&after), expected);
    assert_eq!(after.endpoints, before.endpoints);
    while reader.revision < revision {
        reader.step().await;
    }
    assert_eq!(reader.networks[&vni(42)], expected);
    // Once more: nothing to do.
    registry.commit(&set).await.unwrap();
    let again = content(registry.snapshot().await.unwrap());
    assert_eq!(again, content(after));
    let missing = [Change::SetNetwork(vni(99), settings)];
    let text = refusal(&*registry, &missing).await;
    assert!(text.contains("network 99 does not exist"), "{text}");
}

async fn a_node_takes_its_endpoints_with_it(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let on_h2 = Endpoint {
        node: name("h2"),
        ..endpoint("green", 3)
    };
    registry
        .commit(&[create("blue", 2), Change::CreateEndpoint(on_h2)])
        .await
        .unwrap();
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    registry
        .commit(&[Change::RemoveNode(name("h1"))])
        .await
        .unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.endpoints.len(), 1);
    assert_eq!(snapshot.endpoints[0].name, name("green"));
    // Name and VTEP are free again; the session went too.
    registry
        .commit(&[Change::PutNode(node("h3", "10.0.0.1"))])
        .await
        .unwrap();
    registry
        .heartbeat(&name("h1"), &session("two"))
        .await
        .unwrap();
}

async fn only_an_empty_node_is_removed_as_empty(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let both = ["h1", "h2"].map(|node| Change::RemoveEmptyNode(name(node)));
    registry.commit(&both).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.nodes[0].name, name("h1"));
    registry
        .commit(&[remove("blue"), Change::RemoveEmptyNode(name("h1"))])
        .await
        .unwrap();
    assert!(registry.nodes().await.unwrap().is_empty());
}

async fn a_node_that_moves_gives_its_vtep_free(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let before = registry.find_endpoint(&name("blue")).await.unwrap();
    registry
        .commit(&[
            Change::PutNode(node("h1", "10.0.0.9")),
            Change::PutNode(node("h3", "10.0.0.1")),
        ])
        .await
        .unwrap();
    let nodes = registry.nodes().await.unwrap();
    assert_eq!(nodes.len(), 3);
    let after = registry.find_endpoint(&name("blue")).await.unwrap();
    assert_eq!(after, before, "its endpoints are as they were");
}

async fn a_commit_that_changes_nothing_gives_a_revision_that_is_reached(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    // What is written beside the state, so that the store is ahead of what is watched.
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let nothing = [
        remove("nobody"),
        Change::RemoveNode(name("h9")),
        Change::RemoveNetwork(vni(99)),
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::RemoveGeneration(name("blue"), 1),
        Change::MoveEndpoint {
            name: name("blue"),
            node: name("h1"),
            attachment: Some(Attachment::veth(name("blue"), "eth0".parse().unwrap())),
        },
    ];
    let before = content(registry.snapshot().await.unwrap());
    let revision = registry.commit(&nothing).await.unwrap();
    reader.reach(revision).await;
    assert_eq!(content(registry.snapshot().await.unwrap()), before);
    assert_eq!(reader.content(), before);
    let empty = registry.commit(&[]).await.unwrap();
    reader.reach(empty).await;
}

async fn addresses_move_between_endpoints_in_one_commit(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("blue", 2), create("green", 3), create("red", 4)])
        .await
        .unwrap();
    let swap = [
        remove("blue"),
        remove("green"),
        remove("red"),
        create("blue", 3),
        create("green", 2),
        create("heir", 4),
    ];
    let revision = registry.commit(&swap).await.unwrap();
    let snapshot = sorted(registry.snapshot().await.unwrap());
    let expected = [
        endpoint("blue", 3),
        endpoint("green", 2),
        endpoint("heir", 4),
    ];
    let expected = expected.map(|endpoint| Endpoint {
        generation: revision,
        ..endpoint
    });
    assert_eq!(snapshot.endpoints, expected);
    // What was handed over is in nobody's quarantine.
    registry
        .commit(&[remove("heir"), create("heir", 4)])
        .await
        .unwrap();
}

async fn an_endpoint_moves_with_its_name_mac_and_addresses(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let first = registry.commit(&[create("blue", 2)]).await.unwrap();
    let to_h2 = Change::MoveEndpoint {
        name: name("blue"),
        node: name("h2"),
        attachment: Some(Attachment::veth(name("other"), "eth0".parse().unwrap())),
    };
    let second = registry.commit(&[to_h2]).await.unwrap();
    assert!(second > first);
    let moved = Endpoint {
        node: name("h2"),
        attachment: Some(Attachment::veth(name("other"), "eth0".parse().unwrap())),
        generation: second,
        ..endpoint("blue", 2)
    };
    reader.reach(second).await;
    assert_eq!(reader.endpoints[&name("blue")], moved);
    let found = registry
        .find(vni(42), Wanted::Mac(moved.mac))
        .await
        .unwrap();
    assert_eq!(found, Some(moved));
    // The node that it left can go without it; the one that it is on takes it along.
    registry
        .commit(&[Change::RemoveEmptyNode(name("h1"))])
        .await
        .unwrap();
    assert_eq!(registry.nodes().await.unwrap().len(), 1);
    let gone = registry
        .commit(&[Change::RemoveNode(name("h2"))])
        .await
        .unwrap();
    reader.reach(gone).await;
    assert!(reader.endpoints.is_empty() && reader.nodes.is_empty());
}

async fn an_endpoint_gets_other_addresses_if_nobody_else_changed_it(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    registry.commit(&[create("green", 9)]).await.unwrap();
    let generation = registry.commit(&[create("blue", 2)]).await.unwrap();
    let previous = endpoint("blue", 2);
    let set = |mac, addresses: &[&str], generation| Change::ReaddressEndpoint {
        name: name("blue"),
        mac,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        generation,
    };
    let kept = previous.addresses[0].to_string();
    let wanted = [kept.as_str(), "7.7.9.9/16"];
    let second = registry
        .commit(&[set(previous.mac, &wanted, generation)])
        .await
        .unwrap();
    assert!(second > generation);
    reader.reach(second).await;
    let now = &reader.endpoints[&name("blue")];
    let addresses: Vec<_> = now.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        (addresses, now.generation),
        (wanted.map(String::from).to_vec(), second)
    );
    // Fenced, checked and unique.
    let other = endpoint("green", 9);
    let taken = other.addresses[0].to_string();
    for (change, part) in [
        (
            set(previous.mac, &["7.7.9.8/16"], generation),
            "somebody else",
        ),
        (
            set(previous.mac, &[&taken], second),
            "is taken by endpoint green",
        ),
        (
            set(other.mac, &["7.7.9.9/16"], second),
            "is taken by endpoint green",
        ),
        (
            set(previous.mac, &["9.9.9.9/16"], second),
            "outside the subnets",
        ),
    ] {
        let text = refusal(&*registry, &[change]).await;
        assert!(text.contains(part), "{text}");
    }
    // What it gives up is kept free for a while, and its own again at once.
    let third = registry
        .commit(&[set(
            "02:00:00:00:00:77".parse().unwrap(),
            &["7.7.9.9/16"],
            second,
        )])
        .await
        .unwrap();
    let newcomer = Endpoint {
        addresses: vec![kept.parse().unwrap()],
        ..endpoint("red", 3)
    };
    let text = refusal(&*registry, &[Change::CreateEndpoint(newcomer)]).await;
    assert!(text.contains("was endpoint blue's"), "{text}");
    let back = [set(previous.mac, &[&kept], third)];
    registry.commit(&back).await.unwrap();
    let text = fixture_is_sound(&*registry).await;
    assert_eq!(text, "");
}

/// What a check of the registry finds.
pub(crate) async fn fixture_is_sound(registry: &dyn Registry) -> String {
    let findings = overlay_user::registry::check(registry, false)
        .await
        .unwrap();
    let all: Vec<_> = findings
        .findings
        .into_iter()
        .map(|found| found.what)
        .collect();
    all.join("; ")
}

async fn only_the_generation_that_was_named_is_removed(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let first = registry.commit(&[create("blue", 2)]).await.unwrap();
    let second = registry
        .commit(&[remove("blue"), create("blue", 2)])
        .await
        .unwrap();
    let removal = |generation| Change::RemoveGeneration(name("blue"), generation);
    registry.commit(&[removal(first)]).await.unwrap();
    let blue = registry.find_endpoint(&name("blue")).await.unwrap();
    assert_eq!(blue.unwrap().generation, second);
    registry.commit(&[removal(second)]).await.unwrap();
    assert_eq!(registry.find_endpoint(&name("blue")).await.unwrap(), None);
}

#[track_caller]
fn quarantined(result: Result<Revision, RegistryError>) -> (&'static str, Duration) {
    match result {
        Err(error @ RegistryError::Quarantined { .. }) => {
            let text = line(&error);
            assert!(
                text.contains("was endpoint blue's until a moment ago"),
                "{text}"
            );
            let RegistryError::Quarantined {
                what, for_at_most, ..
            } = error
            else {
                unreachable!()
            };
            (what, for_at_most)
        }
        other => panic!("expected a quarantine, got {other:?}"),
    }
}

async fn an_address_that_was_removed_is_kept_from_others_for_a_while(fixture: Fixture) {
    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_secs(2);
    let registry = fixture.open_with(|s| s.quarantine = LONG).await;
    furnish(&*registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    registry.commit(&[remove("blue")]).await.unwrap();

    let same_mac = Change::CreateEndpoint(Endpoint {
        mac: endpoint("x", 2).mac,
        ..endpoint("green", 3)
    });
    let before = content(registry.snapshot().await.unwrap());
    let (what, left) = quarantined(registry.commit(&[create("green", 2)]).await);
    assert_eq!(what, "IP");
    assert!(left > Duration::ZERO && left <= LONG * 3 / 2, "{left:?}");
    assert_eq!(
        quarantined(registry.commit(std::slice::from_ref(&same_mac)).await).0,
        "MAC"
    );
    assert_eq!(content(registry.snapshot().await.unwrap()), before);

    // In another network nobody minds; and whoever had it may have it back.
    let other_tenant = Endpoint {
        vni: vni(43),
        ..endpoint("blue43", 2)
    };
    registry
        .commit(&[Change::CreateEndpoint(other_tenant)])
        .await
        .unwrap();
    registry.commit(&[create("blue", 2)]).await.unwrap();
    registry.commit(&[remove("blue")]).await.unwrap();
    // Another one's quarantine may be shorter; that of the one who removed it counts.
    let other = fixture.open_with(|s| s.quarantine = Duration::ZERO).await;
    quarantined(other.commit(&[create("green", 2)]).await);

    let registry = fixture.open_with(|s| s.quarantine = SHORT).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let removed = Instant::now();
    registry.commit(&[remove("blue")]).await.unwrap();
    loop {
        match registry.commit(&[create("green", 2)]).await {
            Ok(_) => break,
            refused => quarantined(refused),
        };
        assert!(removed.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(removed.elapsed() >= SHORT, "{:?}", removed.elapsed());
}

async fn a_nodes_addresses_are_kept_from_others_too(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let again = [
        Change::RemoveNode(name("h1")),
        Change::PutNode(node("h1", "10.0.0.1")),
    ];
    registry.commit(&again).await.unwrap();
    quarantined(registry.commit(&[create("green", 2)]).await);
    registry.commit(&[create("blue", 2)]).await.unwrap();
}

async fn without_quarantine_an_address_is_free_at_once(fixture: Fixture) {
    let registry = fixture.open_with(|s| s.quarantine = Duration::ZERO).await;
    furnish(&*registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    registry.commit(&[remove("blue")]).await.unwrap();
    registry.commit(&[create("green", 2)]).await.unwrap();
}

async fn addresses_are_handed_out_in_order_and_around_what_is_taken(fixture: Fixture) {
    let registry = fixture.open().await;
    let small = network(42, &["7.7.7.0/29", "fd00::/126"]);
    registry
        .commit(&[
            Change::CreateNetwork(small.clone()),
            Change::PutNode(node("h1", "10.0.0.1")),
        ])
        .await
        .unwrap();
    let mut handed_out = Vec::new();
    while let Some(ip) = registry.next_ip(&small, &BTreeSet::new()).await.unwrap() {
        let number = u16::try_from(handed_out.len()).unwrap();
        let new = Endpoint {
            addresses: vec![ip],
            ..endpoint(&format!("e{number}"), number)
        };
        registry
            .commit(&[Change::CreateEndpoint(new)])
            .await
            .unwrap();
        handed_out.push(ip.to_string());
    }
    assert_eq!(
        handed_out,
        [
            "7.7.7.2/29",
            "7.7.7.3/29",
            "7.7.7.4/29",
            "7.7.7.5/29",
            "7.7.7.6/29",
            "fd00::2/126",
            "fd00::3/126"
        ]
    );
    // What is in quarantine is not handed out either.
    registry.commit(&[remove("e3")]).await.unwrap();
    assert_eq!(
        registry.next_ip(&small, &BTreeSet::new()).await.unwrap(),
        None
    );

    let other = network(43, &["10.0.0.0/30", "10.0.1.0/24"]);
    let refused = BTreeSet::from(["10.0.0.2".parse().unwrap(), "10.0.1.2".parse().unwrap()]);
    let free = registry.next_ip(&other, &refused).await.unwrap();
    assert_eq!(free.unwrap().to_string(), "10.0.1.3/24");
    let none = registry.next_ip(&network(44, &[]), &refused).await.unwrap();
    assert_eq!(none, None);
}

async fn a_free_address_is_found_among_thousands(fixture: Fixture) {
    let registry = fixture.furnished().await;
    // All of 7.7.0.2 to 7.7.19.255, but for one.
    let changes: Vec<Change> = (2..5120_u16)
        .filter(|number| *number != 700)
        .map(|number| create(&format!("e{number}"), number))
        .collect();
    registry.commit(&changes).await.unwrap();
    let net = network(42, &["7.7.0.0/16"]);
    let free = registry
        .next_ip(&net, &BTreeSet::new())
        .await
        .unwrap()
        .unwrap();
    assert!(
        ["7.7.2.188/16", "7.7.20.0/16"].contains(&free.to_string().as_str()),
        "{free}"
    );
    let last = network(42, &["7.7.0.0/21"]);
    let free = registry
        .next_ip(&last, &BTreeSet::new())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(free.to_string(), "7.7.2.188/21", "the only one");
}

async fn single_endpoints_are_found_by_name_mac_and_address(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let wide = Endpoint {
        vni: vni(43),
        addresses: vec!["9.9.9.9/24".parse().unwrap(), "fd00::9/64".parse().unwrap()],
        ..endpoint("wide", 7)
    };
    let revision = registry
        .commit(&[create("blue", 2), Change::CreateEndpoint(wide.clone())])
        .await
        .unwrap();
    let wide = Endpoint {
        generation: revision,
        ..wide
    };
    for wanted in [
        Wanted::Mac(wide.mac),
        Wanted::Ip("9.9.9.9".parse().unwrap()),
        Wanted::Ip("fd00::9".parse().unwrap()),
    ] {
        let found = registry.find(vni(43), wanted).await.unwrap();
        assert_eq!(found.as_ref(), Some(&wide), "{wanted}");
        assert_eq!(registry.find(vni(42), wanted).await.unwrap(), None);
    }
    let found = registry.find_endpoint(&name("wide")).await.unwrap();
    assert_eq!(found, Some(wide.clone()));
    registry.commit(&[remove("wide")]).await.unwrap();
    let gone = registry.find(vni(43), Wanted::Mac(wide.mac)).await.unwrap();
    assert_eq!(gone, None);
    assert_eq!(registry.find_endpoint(&name("wide")).await.unwrap(), None);
}

async fn many_writers_never_share_a_name_or_an_address(fixture: Fixture) {
    let reader = fixture.furnished().await;
    let mut writers = Vec::new();
    for writer in 0..8_u16 {
        // A connection of its own for each.
        let registry = fixture.open().await;
        writers.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for round in 0..25 {
                // All want the same name, or the same address, in every round.
                let wish = if round % 2 == 0 {
                    endpoint(&format!("e{round}"), 1000 * (writer + 1) + round)
                } else {
                    endpoint(&format!("e{round}-{writer}"), round)
                };
                match registry.commit(&[Change::CreateEndpoint(wish)]).await {
                    Ok(revision) => won.push((round, revision)),
                    Err(RegistryError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            won
        }));
    }
    let mut winners = BTreeMap::new();
    for writer in writers {
        for (round, revision) in writer.await.unwrap() {
            assert_eq!(winners.insert(round, revision), None, "round {round}");
        }
    }
    assert_eq!(winners.len(), 25);
    let endpoints = reader.snapshot().await.unwrap().endpoints;
    let generations: BTreeSet<Revision> = endpoints.iter().map(|e| e.generation).collect();
    assert_eq!(generations, winners.values().copied().collect());
    let macs: BTreeSet<_> = endpoints.iter().map(|e| e.mac).collect();
    assert_eq!((endpoints.len(), macs.len()), (25, 25));
}

async fn large_commits_and_removals_are_carried_out_whole(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let many: Vec<Change> = (1..=1000).map(|n| create(&format!("e{n}"), n)).collect();
    let made = registry.commit(&many).await.unwrap();
    reader.reach(made).await;
    assert_eq!(reader.endpoints.len(), 1000);

    // One that is taken at its end, and nothing of it is made.
    let mut refused: Vec<Change> = (1001..=1200).map(|n| create(&format!("e{n}"), n)).collect();
    refused.push(create("late", 500));
    refusal(&*registry, &refused).await;

    let gone = registry
        .commit(&[
            Change::RemoveNode(name("h1")),
            Change::RemoveNetwork(vni(42)),
        ])
        .await
        .unwrap();
    reader.reach(gone).await;
    assert!(reader.endpoints.is_empty());
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

async fn a_reading_is_of_one_revision_whatever_is_written_meanwhile(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let many: Vec<Change> = (0..5000).map(|n| create(&format!("e{n}"), n)).collect();
    registry.commit(&many).await.unwrap();
    let mut reading = registry.read(Scope::All).await.unwrap();
    let writer = fixture.open().await;
    writer
        .commit(&[remove("e0"), remove("e4999"), create("new", 6000)])
        .await
        .unwrap();
    let mut endpoints = BTreeSet::new();
    while let Some(page) = reading.endpoints.recv().await {
        let page = page.unwrap();
        assert!(!page.is_empty() && page.len() <= overlay_user::registry::PAGE);
        for endpoint in page {
            assert!(endpoint.generation <= reading.revision);
            assert!(endpoints.insert(endpoint.name));
        }
    }
    assert_eq!(endpoints.len(), 5000);
    assert!(endpoints.contains(&name("e0")) && !endpoints.contains(&name("new")));
    // One that nobody reads to its end keeps nobody from anything.
    drop(registry.read(Scope::All).await.unwrap());
    writer.commit(&[remove("new")]).await.unwrap();
}

async fn a_reading_brings_what_was_asked_for(fixture: Fixture) {
    let registry = fixture.open().await;
    let mut changes = vec![
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::PutNode(node("h2", "10.0.0.2")),
    ];
    for number in 1..=9 {
        let resolve = if number % 3 == 0 {
            Resolve::OnDemand
        } else {
            Resolve::Proactive
        };
        changes.push(Change::CreateNetwork(Network {
            resolve,
            ..network(number, &[])
        }));
        for node in ["h1", "h2"] {
            changes.push(Change::CreateEndpoint(Endpoint {
                vni: vni(number),
                node: name(node),
                ..endpoint(&format!("e{number}-{node}"), u16::from(node == "h2"))
            }));
        }
    }
    // The same address once in each network.
    for change in &mut changes {
        if let Change::CreateEndpoint(endpoint) = change {
            endpoint.addresses.clear();
        }
    }
    registry.commit(&changes).await.unwrap();
    let names = async |scope: Scope| {
        let mut reading = registry.read(scope).await.unwrap();
        assert_eq!((reading.networks.len(), reading.nodes.len()), (9, 2));
        let mut names = BTreeSet::new();
        while let Some(page) = reading.endpoints.recv().await {
            names.extend(page.unwrap().into_iter().map(|e| e.name.to_string()));
        }
        names
    };
    assert_eq!(names(Scope::All).await.len(), 18);
    assert_eq!(
        names(Scope::Network(vni(6))).await,
        BTreeSet::from(["e6-h1".to_owned(), "e6-h2".to_owned()])
    );
    assert!(names(Scope::Network(vni(99))).await.is_empty());
    let resident = names(Scope::Resident(name("h1"))).await;
    let expected: BTreeSet<String> = (1..=9)
        .flat_map(|number| [format!("e{number}-h1"), format!("e{number}-h2")])
        .filter(|name| !["e3-h2", "e6-h2", "e9-h2"].contains(&name.as_str()))
        .collect();
    assert_eq!(resident, expected);
}
