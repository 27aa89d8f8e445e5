//! Constraints, references, no-ops and what they are called.

use super::*;
use crate::model::FloodMode;

async fn refusal(registry: &Sqlite, changes: &[Change]) -> String {
    let before = registry.snapshot().await.unwrap();
    let text = line(&registry.commit(changes).await.unwrap_err());
    assert_eq!(
        registry.snapshot().await.unwrap(),
        before,
        "a refused commit changes nothing"
    );
    text
}

#[tokio::test]
async fn a_new_registry_is_empty_at_revision_one() {
    let snapshot = Fixture::new().open().snapshot().await.unwrap();
    assert_eq!(
        snapshot,
        Snapshot {
            revision: 1,
            ..Snapshot::default()
        }
    );
}

#[tokio::test]
async fn a_snapshot_gives_back_every_field_with_the_revision_as_generation() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    let network = Network {
        mtu: 1400,
        flood: FloodMode::Multicast("239.1.1.1".parse().unwrap()),
        learning: true,
        ..network(42, &["7.7.0.0/16", "fd00::/64"])
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
        attachment: Some(Attachment::veth(
            "full".parse().unwrap(),
            "net.0".parse().unwrap(),
        )),
        ..endpoint("full", 2)
    };
    let changes = [
        Change::CreateNetwork(network.clone()),
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::PutNode(foreign.clone()),
        Change::CreateEndpoint(full.clone()),
        Change::CreateEndpoint(bare.clone()),
    ];
    assert_eq!(registry.commit(&changes).await.unwrap(), 2);

    let expected = Snapshot {
        revision: 2,
        networks: vec![network],
        nodes: vec![node("h1", "10.0.0.1"), foreign],
        endpoints: vec![
            Endpoint {
                generation: 2,
                ..full
            },
            Endpoint {
                generation: 2,
                ..bare
            },
        ],
        objects: Vec::new(),
    };
    assert_eq!(registry.snapshot().await.unwrap(), expected);
    drop(registry);
    assert_eq!(
        fixture.open().snapshot().await.unwrap(),
        expected,
        "after opening it again"
    );
}

#[tokio::test]
async fn what_is_taken_is_a_conflict_that_names_the_owner() {
    let fixture = Fixture::new();
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
    for (change, expected) in [
        (
            create("blue", 3),
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
            Change::CreateNetwork(network(42, &[])),
            "VNI 42 is taken by network net42",
        ),
        (
            Change::CreateNetwork(Network::new("net42".parse().unwrap(), vni(44))),
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
        let text = refusal(&registry, &[create("other", 9), change]).await;
        assert_eq!(
            text,
            format!("{expected}: choose another or remove that one first")
        );
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let no_network = Endpoint {
        vni: vni(44),
        ..endpoint("blue", 2)
    };
    let no_node = Endpoint {
        node: "h9".parse().unwrap(),
        ..endpoint("blue", 2)
    };
    for (endpoint, expected) in [
        (
            no_network,
            "network 44 does not exist: make it with `overlay network create NAME --vni 44`",
        ),
        (
            no_node,
            "node h9 does not exist: start its agent, which registers it",
        ),
    ] {
        let text = refusal(&registry, &[Change::CreateEndpoint(endpoint)]).await;
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn tenants_may_use_the_same_addresses() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let other_tenant = Endpoint {
        vni: vni(43),
        ..endpoint("blue43", 2)
    };
    let changes = [create("blue", 2), Change::CreateEndpoint(other_tenant)];
    registry.commit(&changes).await.unwrap();
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 2);
}

#[tokio::test]
async fn addresses_that_break_the_rules_are_refused() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    for (addresses, expected) in [
        (
            &["10.9.9.9/16"][..],
            "IP 10.9.9.9 of endpoint blue is outside the subnets of network net42 (7.7.0.0/16): choose an address inside",
        ),
        (
            &["7.7.0.2/16", "7.7.0.2/24"],
            "endpoint blue names IP 7.7.0.2 twice: leave one out",
        ),
        (
            &["239.1.1.1/16"],
            "IP 239.1.1.1 of endpoint blue is no address that an interface can have: choose another",
        ),
        (
            &["::ffff:7.7.0.2/128"],
            "IP ::ffff:7.7.0.2 of endpoint blue is no address that an interface can have: choose another",
        ),
    ] {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let endpoint = Endpoint {
            addresses,
            ..endpoint("blue", 2)
        };
        let text = refusal(&registry, &[Change::CreateEndpoint(endpoint)]).await;
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn subnets_with_host_bits_or_overlaps_are_refused() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    for (subnets, expected) in [
        (
            &["7.7.7.1/24"][..],
            "subnet 7.7.7.1/24 of network net42 has host bits set: write 7.7.7.0/24",
        ),
        (
            &["7.7.7.0/24", "7.7.0.0/16"],
            "subnets 7.7.7.0/24 and 7.7.0.0/16 of network net42 overlap: leave one out",
        ),
    ] {
        let text = refusal(&registry, &[Change::CreateNetwork(network(42, subnets))]).await;
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn a_network_with_endpoints_stays() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let remove_network = [Change::RemoveNetwork(vni(42))];
    for (name, number, expected) in [
        ("blue", 2, "1 endpoint (blue)"),
        ("green", 3, "2 endpoints (blue, green)"),
        ("red", 4, "3 endpoints (blue, green, ...)"),
    ] {
        registry.commit(&[create(name, number)]).await.unwrap();
        assert_eq!(
            refusal(&registry, &remove_network).await,
            format!(
                "network net42 (VNI 42) still has {expected}: remove them first with `overlay endpoint rm`"
            )
        );
    }
    let all = [
        remove("blue"),
        remove("green"),
        remove("red"),
        remove_network[0].clone(),
    ];
    registry.commit(&all).await.unwrap();
    assert_eq!(
        registry.snapshot().await.unwrap().networks,
        [network(43, &[])]
    );
}

#[tokio::test]
async fn a_node_takes_its_endpoints_with_it() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let on_h2 = Endpoint {
        node: "h2".parse().unwrap(),
        ..endpoint("red", 4)
    };
    let changes = [
        create("blue", 2),
        create("green", 3),
        Change::CreateEndpoint(on_h2),
    ];
    registry.commit(&changes).await.unwrap();
    registry
        .commit(&[Change::RemoveNode("h1".parse().unwrap())])
        .await
        .unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes, [node("h2", "10.0.0.2")]);
    assert_eq!(snapshot.endpoints.len(), 1);
    // Their addresses are free again.
    let moved = Endpoint {
        node: "h2".parse().unwrap(),
        ..endpoint("blue", 2)
    };
    registry
        .commit(&[Change::CreateEndpoint(moved)])
        .await
        .unwrap();
}

#[tokio::test]
async fn only_an_empty_node_is_removed_as_empty() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let empty = ["h1", "h2", "h3"].map(|name| Change::RemoveEmptyNode(name.parse().unwrap()));
    registry.commit(&empty).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.nodes, [node("h1", "10.0.0.1")]);
    assert_eq!(snapshot.endpoints.len(), 1);
}

#[tokio::test]
async fn commits_that_change_nothing_keep_the_revision() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let before = registry.snapshot().await.unwrap();
    let noops = [
        Change::PutNode(node("h1", "10.0.0.1")),
        Change::RemoveNode("h9".parse().unwrap()),
        Change::RemoveEmptyNode("h9".parse().unwrap()),
        Change::RemoveNetwork(vni(99)),
        remove("nobody"),
    ];
    for noop in &noops {
        let revision = registry.commit(std::slice::from_ref(noop)).await.unwrap();
        assert_eq!(revision, before.revision, "{noop:?}");
    }
    assert_eq!(registry.commit(&noops).await.unwrap(), before.revision);
    assert_eq!(registry.commit(&[]).await.unwrap(), before.revision);
    assert_eq!(registry.snapshot().await.unwrap(), before);
}

#[tokio::test]
async fn a_node_that_moves_is_updated() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let moved = node("h1", "10.0.0.9");
    let revision = registry
        .commit(&[Change::PutNode(moved.clone())])
        .await
        .unwrap();
    let snapshot = sorted(registry.snapshot().await.unwrap());
    assert_eq!(snapshot.revision, revision);
    assert_eq!(snapshot.nodes, [moved, node("h2", "10.0.0.2")]);
    assert_eq!(snapshot.endpoints.len(), 1, "its endpoints stay");
}

#[tokio::test]
async fn a_node_without_a_usable_vtep_is_refused() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    for ip in ["0.0.0.0", "239.1.1.1", "::", "ff02::1"] {
        let text = refusal(&registry, &[Change::PutNode(node("h1", ip))]).await;
        assert!(text.contains("of node h1 is not allowed"), "{text}");
    }
}

#[tokio::test]
async fn a_heartbeat_changes_last_seen_and_no_revision() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let before = registry.snapshot().await.unwrap();
    heartbeat(&registry, "h1", "s1").await.unwrap();
    let after = registry.snapshot().await.unwrap();
    assert_eq!(after.revision, before.revision);
    let seen = after
        .nodes
        .iter()
        .find(|node| node.name.as_str() == "h1")
        .unwrap()
        .last_seen;
    let age = std::time::SystemTime::now()
        .duration_since(seen.unwrap())
        .unwrap();
    assert!(age < EVENT_TIMEOUT);

    // Registering again keeps it.
    registry
        .commit(&[Change::PutNode(node("h1", "10.0.0.9"))])
        .await
        .unwrap();
    let after = registry.snapshot().await.unwrap();
    assert!(after.nodes.iter().any(|node| node.last_seen == seen));
}

#[tokio::test]
async fn a_session_that_lives_keeps_its_node() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    // The claim comes before the node itself.
    heartbeat(&registry, "h1", "one").await.unwrap();
    let before = heartbeat(&registry, "h1", "two").await.unwrap_err();
    assert_eq!(
        line(&before),
        "node name h1 is taken by another host, whose agent is alive: choose another or remove that one first"
    );
    furnish(&registry).await;
    let after = heartbeat(&registry, "h1", "two").await.unwrap_err();
    assert!(line(&after).contains("(VTEP 10.0.0.1)"), "{after}");
    heartbeat(&registry, "h1", "one").await.unwrap();
    heartbeat(&registry, "h2", "two").await.unwrap();
    let nodes = registry.nodes().await.unwrap();
    assert!(nodes.iter().all(|node| node.alive));

    // Its last word is too old, or from before a reboot: then the node is free.
    for ending in ["seen = seen - 15001", "boot = 'an earlier one'"] {
        let file = rusqlite::Connection::open(fixture.path()).unwrap();
        file.execute_batch(&format!("UPDATE session SET {ending} WHERE node = 'h1'"))
            .unwrap();
        let nodes = registry.nodes().await.unwrap();
        let alive: Vec<bool> = nodes.iter().map(|node| node.alive).collect();
        assert_eq!(alive, [false, true], "{ending}");
        heartbeat(&registry, "h1", "two").await.unwrap();
        heartbeat(&registry, "h1", "one").await.unwrap_err();
    }
}

#[tokio::test]
async fn addresses_move_between_endpoints_in_one_commit() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("blue", 2), create("green", 3)])
        .await
        .unwrap();
    let swap = [
        remove("blue"),
        remove("green"),
        create("blue", 3),
        create("green", 2),
    ];
    let revision = registry.commit(&swap).await.unwrap();
    let snapshot = sorted(registry.snapshot().await.unwrap());
    let expected = [endpoint("blue", 3), endpoint("green", 2)].map(|endpoint| Endpoint {
        generation: revision,
        ..endpoint
    });
    assert_eq!(snapshot.endpoints, expected);
}

#[tokio::test]
async fn an_arpd_import_is_accepted_and_its_repetition_is_no_revision() {
    use crate::integration::arpd::{Folder, plan};

    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let mut folder = Folder {
        arp: [file("7.7.0.9", "02:42:07:07:00:09")].into(),
        fdb: [
            file("02:42:07:07:00:09", "10.0.0.9"),
            file("02:42:07:07:00:0a", "10.0.0.9"),
        ]
        .into(),
        ..Folder::default()
    };
    let before = registry.snapshot().await.unwrap();
    let first = plan(&folder, vni(42), 4789, &before).unwrap();
    let revision = registry.commit(&first.changes).await.unwrap();
    assert_eq!(revision, before.revision + 1);

    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.nodes.len(), snapshot.endpoints.len()), (3, 3));
    let again = plan(&folder, vni(42), 4789, &snapshot).unwrap();
    assert_eq!(registry.commit(&again.changes).await.unwrap(), revision);

    folder.arp.clear();
    folder.fdb.clear();
    let emptied = plan(&folder, vni(42), 4789, &snapshot).unwrap();
    registry.commit(&emptied.changes).await.unwrap();
    let after = registry.snapshot().await.unwrap();
    assert_eq!(
        (after.nodes, after.endpoints),
        (before.nodes, before.endpoints)
    );
}
