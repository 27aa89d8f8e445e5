//! Large registries.

use super::*;

fn numbered(range: std::ops::Range<u32>) -> Vec<Change> {
    range
        .map(|number| {
            let [_, b, c, d] = number.to_be_bytes();
            Change::CreateEndpoint(Endpoint {
                name: format!("endpoint-{number}").parse().unwrap(),
                mac: Mac::try_from([2, 0x42, 10, b, c, d]).unwrap(),
                addresses: vec![format!("10.{b}.{c}.{d}/8").parse().unwrap()],
                ..endpoint("x", 0)
            })
        })
        .collect()
}

async fn wide(fixture: &Fixture) -> Sqlite {
    let registry = fixture.open();
    let changes = [
        Change::CreateNetwork(network(42, &["10.0.0.0/8"])),
        Change::PutNode(node("h1", "192.0.2.1")),
    ];
    registry.commit(&changes).await.unwrap();
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_endpoints_are_one_commit_and_one_delta() {
    let fixture = Fixture::new();
    let registry = wide(&fixture).await;
    let mut events = registry.watch().await.unwrap();
    let start = Instant::now();
    let revision = registry.commit(&numbered(0..10_000)).await.unwrap();
    assert!(start.elapsed() < EVENT_TIMEOUT, "{:?}", start.elapsed());
    let delta = next_delta(&mut events).await;
    assert_eq!((delta.revision, delta.endpoints.len()), (revision, 10_000));
}

#[test]
fn what_changed_is_found_by_index_and_without_sorting() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {}", read::ENDPOINTS))
        .unwrap();
    let plan: Vec<String> = statement
        .query_map([7], |row| row.get("detail"))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let plan = plan.join("\n");
    assert!(
        plan.contains("SEARCH e USING INDEX endpoint_by_revision"),
        "{plan}"
    );
    assert!(
        !plan.contains("TEMP B-TREE") && !plan.contains("SCAN"),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of a minute or so: run it with --release --nocapture"]
async fn a_million_endpoints_stay_usable() {
    let fixture = Fixture::new();
    let registry = wide(&fixture).await;
    let report = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
    for part in 0..100 {
        let changes = numbered(part * 10_000..(part + 1) * 10_000);
        let start = Instant::now();
        registry.commit(&changes).await.unwrap();
        if part % 33 == 0 {
            report(&format!("commit of 10,000 after {part}0,000"), start);
        }
    }
    let start = Instant::now();
    assert_eq!(
        registry.snapshot().await.unwrap().endpoints.len(),
        1_000_000
    );
    report("snapshot", start);

    let mut events = fixture.open().watch().await.unwrap();
    let start = Instant::now();
    registry
        .commit(&numbered(1_000_000..1_000_001))
        .await
        .unwrap();
    report("commit of one", start);
    assert_eq!(next_delta(&mut events).await.endpoints.len(), 1);
    report("commit of one until its delta", start);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of the machine: run it with --release --nocapture"]
async fn a_thousand_adds_reach_another_connection_soon() {
    let fixture = Fixture::new();
    let (here, there) = (wide(&fixture).await, fixture.open());
    let mut events = there.watch().await.unwrap();
    let (mut commits, mut deltas) = (Vec::new(), Vec::new());
    for number in 0..1000 {
        let start = Instant::now();
        here.commit(&numbered(number..number + 1)).await.unwrap();
        commits.push(start.elapsed());
        next_delta(&mut events).await;
        deltas.push(start.elapsed());
    }
    for (what, mut times) in [("commit", commits), ("commit until its delta", deltas)] {
        times.sort_unstable();
        println!("{what}: p50 {:?}, p99 {:?}", times[500], times[990]);
    }
}
