//! Exports, imports and checks.

use std::{collections::BTreeSet, time::Duration};

use overlay_user::{
    model::{Change, Endpoint, Network, Node, Resolve},
    registry::{self, BackupError, Counts, Findings, Registry, Repair},
};
use rusqlite::Connection;

use crate::{
    etcd::{Etcd, Options},
    fixture::{
        Fixture, content, create, endpoint, furnish, name, network, newer_attachment, node,
        session, vni,
    },
    for_every_backend,
};

for_every_backend! {
    what_was_exported_is_imported_into_the_other_backend_and_back,
    an_import_into_a_registry_in_use_adds_what_is_missing_and_tells_what_differs,
    a_file_that_is_no_export_or_not_whole_is_refused,
    a_registry_that_agents_wrote_agrees_with_itself,
}

pub(crate) async fn exported(registry: &dyn Registry) -> (Vec<u8>, Counts) {
    let mut file = Vec::new();
    let counts = registry::export(registry, &mut file).await.unwrap();
    (file, counts)
}

/// As exported, but for generations and revisions, which are the registry's own.
pub(crate) async fn comparable(registry: &dyn Registry) -> overlay_user::model::Snapshot {
    let mut snapshot = content(registry.snapshot().await.unwrap());
    for endpoint in &mut snapshot.endpoints {
        endpoint.generation = 0;
    }
    for object in &mut snapshot.objects {
        object.revision = 0;
    }
    snapshot
}

async fn what_was_exported_is_imported_into_the_other_backend_and_back(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut changes: Vec<Change> = (0..1500).map(|n| create(&format!("e{n}"), n)).collect();
    changes.push(Change::CreateNetwork(Network {
        resolve: Resolve::OnDemand,
        ..network(44, &["fd00::/64"])
    }));
    changes.push(Change::PutNode(Node {
        agent: false,
        version: Some("1".to_owned()),
        ..node("vtep-10.0.0.9", "10.0.0.9")
    }));
    changes.push(Change::CreateEndpoint(Endpoint {
        vni: vni(44),
        addresses: vec!["fd00::9/64".parse().unwrap()],
        node: name("vtep-10.0.0.9"),
        attachment: None,
        ..endpoint("foreign", 9)
    }));
    changes.push(Change::CreateEndpoint(Endpoint {
        attachment: Some(newer_attachment()),
        ..endpoint("newer", 2000)
    }));
    registry.commit(&changes).await.unwrap();
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let (file, counts) = exported(&*registry).await;
    let expected = Counts {
        networks: 3,
        nodes: 3,
        endpoints: 1502,
        objects: 0,
    };
    assert_eq!(counts, expected);
    for line in file
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        serde_json::from_slice::<serde_json::Value>(line).unwrap();
    }

    let other_fixture = fixture.other();
    let other = other_fixture.open().await;
    let imported = registry::import(&*other, file.as_slice()).await.unwrap();
    assert_eq!((imported.made, imported.refused), (expected, 0));
    assert_eq!(comparable(&*other).await, comparable(&*registry).await);
    assert!(other.nodes().await.unwrap().iter().all(|node| !node.alive));
    assert_eq!(
        registry::check(&*other, false).await.unwrap(),
        Findings::default()
    );

    // Once more, and back: nothing is left to do.
    for registry in [&other, &registry] {
        let (file, _) = exported(&**registry).await;
        let again = registry::import(&*other, file.as_slice()).await.unwrap();
        assert_eq!((again.unchanged, again.refused), (expected, 0));
        assert_eq!(again.made, Counts::default());
    }
}

async fn an_import_into_a_registry_in_use_adds_what_is_missing_and_tells_what_differs(
    fixture: Fixture,
) {
    let source = Fixture::sqlite();
    let from = source.furnished().await;
    from.commit(&[create("same", 1), create("other", 2), create("taken", 3)])
        .await
        .unwrap();
    from.commit(&[create("new", 4), Change::PutNode(node("h3", "10.0.0.3"))])
        .await
        .unwrap();
    let (file, _) = exported(&*from).await;

    let registry = fixture.open_with(|s| s.quarantine = Duration::ZERO).await;
    furnish(&*registry).await;
    registry
        .commit(&[
            create("same", 1),
            create("other", 20),
            create("owner", 3),
            Change::PutNode(node("h2", "10.0.0.22")),
        ])
        .await
        .unwrap();
    let imported = registry::import(&*registry, file.as_slice()).await.unwrap();
    let made = Counts {
        networks: 0,
        nodes: 1,
        endpoints: 1,
        objects: 0,
    };
    let unchanged = Counts {
        networks: 2,
        nodes: 1,
        endpoints: 1,
        objects: 0,
    };
    assert_eq!((imported.made, imported.unchanged), (made, unchanged));
    let refusals: BTreeSet<&str> = imported.refusals.iter().map(String::as_str).collect();
    assert_eq!(
        refusals,
        BTreeSet::from([
            "node h2 (VTEP 10.0.0.2:4789) differs from the one that is there (VTEP 10.0.0.22:4789)",
            "endpoint other differs from the one that is there",
            "IP 7.7.0.3 is taken by endpoint owner (node h1): choose another or remove that one first",
        ])
    );
    assert_eq!(imported.refused, 3);
    assert!(
        registry
            .find_endpoint(&name("new"))
            .await
            .unwrap()
            .is_some()
    );
}

async fn a_file_that_is_no_export_or_not_whole_is_refused(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let source = Fixture::sqlite();
    let from = source.furnished().await;
    from.commit(&[create("blue", 2), create("green", 3)])
        .await
        .unwrap();
    let (file, _) = exported(&*from).await;
    let text = String::from_utf8(file).unwrap();
    for (bad, expected) in [
        (String::new(), "the file is not whole, it ends at line 0"),
        ("{}".to_owned(), "line 1 of the file makes no sense"),
        (
            "SQLite format 3".to_owned(),
            "line 1 of the file makes no sense",
        ),
        (
            text.replace("\"format\":1", "\"format\":2"),
            "(format 2, this binary knows 1)",
        ),
        (
            text.replace("02:42:07:07:00:03", "nonsense"),
            "line 7 of the file makes no sense",
        ),
        (
            text.lines().take(6).collect::<Vec<_>>().join("\n"),
            "it ends at line 6",
        ),
        (
            text.lines()
                .filter(|line| !line.contains("green"))
                .collect::<Vec<_>>()
                .join("\n"),
            "it ends at line 7",
        ),
    ] {
        let error: BackupError = registry::import(&*registry, bad.as_bytes())
            .await
            .unwrap_err();
        let line = error.to_string();
        assert!(line.contains(expected) && !line.contains('\n'), "{line}");
    }
    registry::import(&*registry, text.as_bytes()).await.unwrap();
    assert_eq!(comparable(&*registry).await, comparable(&*from).await);
}

async fn a_registry_that_agents_wrote_agrees_with_itself(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let many: Vec<Change> = (0..300).map(|n| create(&format!("e{n}"), n)).collect();
    registry.commit(&many).await.unwrap();
    registry
        .commit(
            &[
                remove_all(&registry.snapshot().await.unwrap().endpoints[..50]),
                vec![Change::MoveEndpoint {
                    name: name("e299"),
                    node: name("h2"),
                    attachment: None,
                }],
                vec![Change::PutNode(node("h1", "10.0.0.11"))],
                vec![Change::RemoveNetwork(vni(43))],
            ]
            .concat(),
        )
        .await
        .unwrap();
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let found = registry::check(&*registry, false).await.unwrap();
    assert_eq!(found, Findings::default());
}

fn remove_all(endpoints: &[Endpoint]) -> Vec<Change> {
    endpoints
        .iter()
        .map(|endpoint| Change::RemoveEndpoint(endpoint.name.clone()))
        .collect()
}

#[track_caller]
fn assert_found(findings: &Findings, repair: Repair, expected: &[&str]) {
    let found: BTreeSet<&str> = findings
        .findings
        .iter()
        .filter(|finding| finding.repair == repair)
        .map(|finding| finding.what.as_str())
        .collect();
    assert_eq!(found, expected.iter().copied().collect(), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_disagree_with_etcds_rows_are_found_and_mended_where_that_needs_no_decision() {
    let fixture = Fixture::Etcd(Box::new(Etcd::start(Options::default())));
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("a", 1), create("b", 2), create("c", 3)])
        .await
        .unwrap();
    let Fixture::Etcd(etcd) = &fixture else {
        unreachable!()
    };
    for words in [
        // Nobody's.
        "put /overlay/v1/claim/mac/00000042/02:42:07:07:00:99 gone",
        "put /overlay/v1/claim/ip/00000077/007.007.000.099 gone",
        "put /overlay/v1/claim/endpoint-name/gone 42",
        "put /overlay/v1/claim/on-node/h2/00000042/a x",
        "put /overlay/v1/claim/vtep/010.000.000.099 h9",
        "put /overlay/v1/quarantine/00000042/ip/007.007.000.088 old",
        // Missing.
        "del /overlay/v1/claim/ip/00000042/007.007.000.001",
        "del /overlay/v1/claim/on-node/h1/00000042/b",
        "del /overlay/v1/claim/network-name/net43",
        // To be decided.
        "put /overlay/v1/claim/mac/00000042/02:42:07:07:00:03 a",
    ] {
        etcd.does(words);
    }
    let orphans = [
        "/overlay/v1/claim/mac/00000042/02:42:07:07:00:99 is claimed by nobody",
        "/overlay/v1/claim/ip/00000077/007.007.000.099 is claimed by nobody",
        "/overlay/v1/claim/endpoint-name/gone is claimed by nobody",
        "/overlay/v1/claim/on-node/h2/00000042/a is claimed by nobody",
        "/overlay/v1/claim/vtep/010.000.000.099 is claimed by nobody",
        "/overlay/v1/quarantine/00000042/ip/007.007.000.088 is on no lease: it would never expire",
        "/overlay/v1/claim/ip/00000042/007.007.000.001 is missing, the rows want it to say \"a\"",
        "/overlay/v1/claim/on-node/h1/00000042/b is missing, the rows want it to say \"\"",
        "/overlay/v1/claim/network-name/net43 is missing, the rows want it to say \"43\"",
    ];
    let decisions =
        ["/overlay/v1/claim/mac/00000042/02:42:07:07:00:03 says \"a\", the rows say \"c\""];
    let before = content(registry.snapshot().await.unwrap());
    let found = registry::check(&*registry, false).await.unwrap();
    assert_eq!(found.count, 10);
    assert_found(&found, Repair::Possible, &orphans);
    assert_found(&found, Repair::ByHand, &decisions);
    let mended = registry::check(&*registry, true).await.unwrap();
    assert_found(&mended, Repair::Done, &orphans);
    assert_found(&mended, Repair::ByHand, &decisions);
    let left = registry::check(&*registry, true).await.unwrap();
    assert_eq!(left.count, 1);
    assert_found(&left, Repair::ByHand, &decisions);
    assert_eq!(
        content(registry.snapshot().await.unwrap()),
        before,
        "no row was touched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_disagree_in_etcd_are_found() {
    let fixture = Fixture::Etcd(Box::new(Etcd::start(Options::default())));
    let registry = fixture.furnished().await;
    registry.commit(&[create("a", 1)]).await.unwrap();
    let Fixture::Etcd(etcd) = &fixture else {
        unreachable!()
    };
    let row = |mac: &str, ip: &str, node: &str| {
        format!("{{\"mac\":\"{mac}\",\"ips\":[\"{ip}\"],\"node\":\"{node}\"}}")
    };
    for (key, value) in [
        (
            "00000042/twin",
            row("02:42:07:07:00:01", "7.7.0.7/16", "h1"),
        ),
        (
            "00000099/lost",
            row("02:42:07:07:00:08", "7.7.0.8/16", "h9"),
        ),
        (
            "00000042/outside",
            row("02:42:07:07:00:09", "9.9.9.9/16", "h1"),
        ),
    ] {
        etcd.does(&format!("put /overlay/v1/state/endpoint/{key} {value}"));
    }
    let found = registry::check(&*registry, false).await.unwrap();
    for expected in [
        "two rows claim /overlay/v1/claim/mac/00000042/02:42:07:07:00:01: a and twin",
        "endpoints a and twin have the same MAC 02:42:07:07:00:01 in VNI 42",
        "endpoint lost is in network 99, which does not exist",
        "IP 9.9.9.9 of endpoint outside is outside the subnets of network net42",
    ] {
        assert!(
            found
                .findings
                .iter()
                .any(|finding| finding.what.starts_with(expected)),
            "{expected}: {found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_was_edited_by_hand_is_found_out() {
    let fixture = Fixture::sqlite();
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("a", 1), create("b", 2)])
        .await
        .unwrap();
    let Fixture::Sqlite(folder) = &fixture else {
        unreachable!()
    };
    let file = Connection::open(folder.path().join("registry.db")).unwrap();
    file.execute_batch(
        "PRAGMA foreign_keys = off;
        DELETE FROM endpoint WHERE name = 'a';
        DELETE FROM network WHERE vni = 43;
        UPDATE endpoint SET node = 77, revision = 999 WHERE name = 'b'",
    )
    .unwrap();
    let found = registry::check(&*registry, true).await.unwrap();
    assert_found(
        &found,
        Repair::Done,
        &["1 rows of table address belong to no endpoint"],
    );
    for expected in [
        "1 endpoints on nodes that do not exist",
        "1 rows of a revision that the registry has not reached",
    ] {
        assert!(
            found
                .findings
                .iter()
                .any(|finding| finding.what == expected),
            "{expected}: {found:?}"
        );
    }
}
