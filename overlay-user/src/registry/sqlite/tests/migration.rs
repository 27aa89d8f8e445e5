//! Files of earlier schemas.

use rusqlite::Connection;

use super::*;
use crate::model::{Claim, Object, ObjectId, Reference, Resolve};

/// As a binary of schema version 1 left it.
const V1: &str = concat!(
    include_str!("../migrations/0001-begin.sql"),
    "INSERT INTO network VALUES (42, 'net42', 1400, 'none', 0, 2);
    INSERT INTO subnet VALUES (42, 0, '7.7.0.0/16');
    INSERT INTO node VALUES (1, 'h1', '10.0.0.1', 4789, 1, 1785585600123, 2);
    INSERT INTO endpoint VALUES (1, 'blue', 42, '02:42:07:07:00:02', 1, 'blue', 'eth0', 3);
    INSERT INTO address VALUES (1, 0, 42, '7.7.0.2', 16);
    INSERT INTO tombstone VALUES ('endpoint', 'green', 4);
    UPDATE meta SET revision = 4;
    PRAGMA application_id = 1331055705; PRAGMA user_version = 1; PRAGMA journal_mode = wal"
);

#[tokio::test]
async fn a_file_of_version_one_keeps_all_that_it_holds() {
    let fixture = Fixture::new();
    Connection::open(fixture.path())
        .unwrap()
        .execute_batch(V1)
        .unwrap();
    let snapshot = fixture.open().snapshot().await.unwrap();
    assert_eq!(snapshot.revision, 4);
    let [network] = &snapshot.networks[..] else {
        panic!("{:?}", snapshot.networks);
    };
    assert_eq!((network.mtu, network.resolve), (1400, Resolve::Proactive));
    let [node] = &snapshot.nodes[..] else {
        panic!("{:?}", snapshot.nodes);
    };
    assert!(node.last_seen.is_some() && !node.alive);
    assert_eq!((&node.version, node.abi), (&None, None));
    let blue = Endpoint {
        generation: 3,
        ..endpoint("blue", 2)
    };
    assert_eq!(snapshot.endpoints, [blue]);
}

#[tokio::test]
async fn an_agent_of_version_one_goes_on_with_the_file_that_it_has_open() {
    let fixture = Fixture::new();
    let old = Connection::open(fixture.path()).unwrap();
    old.execute_batch(V1).unwrap();
    let registry = fixture.open();
    // The statements of that binary's commit and heartbeat.
    old.execute_batch(
        "INSERT INTO network (vni, name, mtu, flood, learning, revision) VALUES (43, 'x', 0, 'none', 0, 5);
        INSERT INTO endpoint (name, vni, mac, node, netns, ifname, revision)
            VALUES ('red', 43, '02:42:00:00:00:01', (SELECT id FROM node WHERE name = 'h1'), NULL, NULL, 5);
        UPDATE meta SET revision = 5;
        UPDATE node SET last_seen = 1785585600124 WHERE name = 'h1'",
    )
    .unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.endpoints.len()), (5, 2));
}

/// As a binary of schema version 3 left it.
const V3: &str = concat!(
    include_str!("../migrations/0001-begin.sql"),
    include_str!("../migrations/0002-cluster.sql"),
    include_str!("../migrations/0003-identity.sql"),
    "INSERT INTO network VALUES (42, 'net42', 1400, 'none', 0, 2, 'proactive');
    INSERT INTO subnet VALUES (42, 0, '7.7.0.0/16');
    INSERT INTO node (id, name, vtep_ip, vtep_port, agent, revision) VALUES (1, 'h1', '10.0.0.1', 4789, 1, 2);
    INSERT INTO endpoint VALUES (1, 'blue', 42, '02:42:07:07:00:02', 1, 'blue', 'eth0', 3);
    INSERT INTO address VALUES (1, 0, 42, '7.7.0.2', 16);
    UPDATE meta SET revision = 3, identity = '0197c1b2-6d6b-4c2e-9f33-6f2a4f2f8f11';
    PRAGMA application_id = 1331055705; PRAGMA user_version = 3; PRAGMA journal_mode = wal"
);

/// Has the gateway's address in network 42, refers to it and goes with endpoint blue.
fn gateway() -> Change {
    let claim = Claim::Ip {
        vni: vni(42),
        ip: [7, 7, 0, 1].into(),
    };
    Change::PutObject(Object {
        id: ObjectId::from_word("gateway/42").unwrap(),
        body: serde_json::Map::new(),
        claims: vec![claim],
        references: vec![
            Reference::restrict(ObjectId::of_network(vni(42))),
            Reference::cascade(ObjectId::of_endpoint(&"blue".parse().unwrap())),
        ],
        revision: 0,
    })
}

#[tokio::test]
async fn a_file_of_version_three_is_migrated_under_a_reader_and_a_writer() {
    let fixture = Fixture::new();
    let mut old = Connection::open(fixture.path()).unwrap();
    old.execute_batch(V3).unwrap();
    // In the midst of a reading.
    let reading = old.transaction().unwrap();
    let names = |connection: &Connection| -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM endpoint").unwrap();
        let rows = statement.query_map((), |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(names(&reading), ["blue"]);
    let registry = fixture.open();
    let mut events = registry.watch().await.unwrap();
    let changes = [create("green", 3), gateway()];
    let revision = registry.commit(&changes).await.unwrap();
    assert_eq!(names(&reading), ["blue"]);
    reading.commit().unwrap();
    assert_eq!(names(&old), ["blue", "green"]);
    assert_eq!(next_delta(&mut events).await.objects[0].revision, revision);
    // The statements of that binary's commit and of its watch.
    let made = "INSERT INTO endpoint (name, vni, mac, node, netns, ifname, revision)
            VALUES ('red', 42, '02:42:00:00:00:01', (SELECT id FROM node WHERE name = 'h1'), NULL, NULL, 5);
        INSERT INTO address (endpoint, position, vni, ip, prefix)
            VALUES (last_insert_rowid(), 0, 42, '7.7.0.9', 16);
        INSERT OR REPLACE INTO tombstone (kind, key, revision) VALUES ('endpoint', 'gone', 5);
        UPDATE meta SET revision = 5";
    old.execute_batch(made).unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.endpoints[0].name.as_str(), "red");
    let mut statement = old
        .prepare("SELECT kind, key FROM tombstone WHERE revision > 3")
        .unwrap();
    let kinds = statement
        .query_map((), |row| row.get::<_, String>(0))
        .unwrap();
    assert!(kinds.map(Result::unwrap).all(|kind| kind == "endpoint"));
}

#[tokio::test]
async fn an_agent_of_version_three_can_break_no_rule_of_objects() {
    let fixture = Fixture::new();
    let old = Connection::open(fixture.path()).unwrap();
    old.execute_batch(V3).unwrap();
    let registry = fixture.open();
    registry.commit(&[gateway()]).await.unwrap();
    for (sql, why) in [
        (
            "UPDATE endpoint SET revision = 9; INSERT INTO address VALUES (1, 1, 42, '7.7.0.1', 16)",
            "an object has this address",
        ),
        (
            "DELETE FROM network WHERE vni = 42",
            "an object refers to this network",
        ),
        (
            "DELETE FROM endpoint WHERE name = 'blue'",
            "an object refers to this endpoint",
        ),
    ] {
        let refused = old.execute_batch(sql).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    registry.commit(&[remove("blue")]).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.objects.len(), snapshot.endpoints.len()), (0, 0));
    old.execute_batch("DELETE FROM network WHERE vni = 42")
        .unwrap();
}
