//! Files of earlier schemas.

use rusqlite::Connection;

use super::*;
use crate::model::Resolve;

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
    let bed = Bed::new();
    Connection::open(bed.path())
        .unwrap()
        .execute_batch(V1)
        .unwrap();
    let snapshot = bed.open().snapshot().await.unwrap();
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
    let bed = Bed::new();
    let old = Connection::open(bed.path()).unwrap();
    old.execute_batch(V1).unwrap();
    let registry = bed.open();
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
