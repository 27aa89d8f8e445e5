//! Watches: what comes, when, and what happens when the file goes away.

use std::fs;

use proptest::prelude::*;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_another_connection_arrives_well_within_two_seconds() {
    let fixture = Fixture::new();
    let (here, there) = (fixture.furnished().await, fixture.open());
    let mut events = there.watch().await.unwrap();
    let start = Instant::now();
    let revision = here.commit(&[create("blue", 2)]).await.unwrap();
    let delta = next_delta(&mut events).await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let expected = Delta {
        revision,
        endpoints: vec![Endpoint {
            generation: revision,
            ..endpoint("blue", 2)
        }],
        ..Delta::default()
    };
    assert_eq!(delta, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_is_heard_by_another_process_without_polling() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let (ours, theirs) = (
        CommitNotifier::new(&fixture.path()),
        CommitNotifier::new(&fixture.path()),
    );
    theirs.listen();
    let mut rings = theirs.subscribe();
    ours.notify();
    timeout(EVENT_TIMEOUT, rings.changed())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_bell_was_never_rung_arrives_all_the_same() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let mut events = registry.watch().await.unwrap();
    let limits = Limits {
        lock_wait: LOCK_WAIT,
        history: HISTORY,
        quarantine: QUARANTINE,
        session_ttl: SESSION_TTL,
    };
    Connection::open(&registry.file, limits)
        .unwrap()
        .with(|connection, limits| commit::commit(connection, &[create("blue", 2)], limits))
        .unwrap();
    assert_eq!(next_delta(&mut events).await.endpoints.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_at_the_present_and_hears_its_own_process() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("old", 1)]).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    heartbeat(&registry, "h1", "s1").await.unwrap();
    assert_eq!(
        next(&mut events).await,
        WatchEvent::Alive("h1".parse().unwrap())
    );
    heartbeat(&registry, "h1", "s1").await.unwrap();
    registry.commit(&[remove("nobody")]).await.unwrap();
    registry.commit(&[create("new", 2)]).await.unwrap();
    let delta = next_delta(&mut events).await;
    let names: Vec<&str> = delta.endpoints.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["new"]);
    assert!(
        delta.nodes.is_empty(),
        "a heartbeat is no change of the node"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_arrive_and_what_was_made_again_is_only_among_the_put_ones() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("blue", 2), create("green", 3)])
        .await
        .unwrap();
    let mut events = registry.watch().await.unwrap();
    let changes = [
        Change::RemoveNode("h2".parse().unwrap()),
        Change::RemoveNetwork(vni(43)),
        remove("blue"),
        remove("green"),
        create("green", 4),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    let expected = Delta {
        revision,
        networks_removed: vec![vni(43)],
        nodes_removed: vec!["h2".parse().unwrap()],
        endpoints: vec![Endpoint {
            generation: revision,
            ..endpoint("green", 4)
        }],
        endpoints_removed: vec!["blue".parse().unwrap()],
        ..Delta::default()
    };
    assert_eq!(next_delta(&mut events).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_announces_its_endpoints_too() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    registry
        .commit(&[Change::RemoveNode("h1".parse().unwrap())])
        .await
        .unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.endpoints_removed, ["blue".parse().unwrap()]);
    assert_eq!(delta.nodes_removed, ["h1".parse().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_gets_merged_deltas_and_misses_nothing() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let mut events = registry.watch().await.unwrap();
    let mut state = registry.snapshot().await.unwrap();
    for number in 0..200 {
        registry
            .commit(&[create(&format!("e{number}"), number)])
            .await
            .unwrap();
    }
    let expected = sorted(registry.snapshot().await.unwrap());
    let mut count = 0;
    while state.revision < expected.revision {
        apply(&mut state, next_delta(&mut events).await);
        count += 1;
    }
    assert_eq!(sorted(state), expected);
    assert!(count < 100, "{count} deltas for 200 commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_older_than_the_tombstones_must_resync() {
    let fixture = Fixture::new();
    let registry = fixture.open_with_history(5);
    furnish(&registry).await;
    let limits = Limits {
        lock_wait: LOCK_WAIT,
        history: 5,
        quarantine: QUARANTINE,
        session_ttl: SESSION_TTL,
    };
    let mut connection = Connection::open(&registry.file, limits).unwrap();
    let old = follow::Position::now(&mut connection).unwrap();
    for number in 0..10 {
        let name = format!("e{number}");
        registry.commit(&[create(&name, number)]).await.unwrap();
        registry.commit(&[remove(&name)]).await.unwrap();
    }
    let mut events = follow::start(connection.share(), old, Arc::clone(&registry.commits));
    assert_eq!(next(&mut events).await, WatchEvent::Resync);
    // From there it goes on with deltas.
    let revision = registry.commit(&[create("green", 99)]).await.unwrap();
    assert_eq!(next_delta(&mut events).await.revision, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_out_of_reach_is_lost_and_restored_and_no_change_is_missed() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let mut events = registry.watch().await.unwrap();
    let away = fixture.folder.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    let WatchEvent::Foreign(text) = next(&mut events).await else {
        panic!("the file is gone");
    };
    assert!(text.contains("is gone: put it back"), "{text}");

    fs::rename(&away, fixture.path()).unwrap();
    assert_eq!(next(&mut events).await, WatchEvent::Restored);
    let revision = registry.commit(&[create("blue", 2)]).await.unwrap();
    assert_eq!(next_delta(&mut events).await.revision, revision);
}

/// Puts a copy of `from` into the registry's place, and the previous's -wal and -shm away.
fn replace(fixture: &Fixture, from: &Path) {
    for suffix in ["-wal", "-shm"] {
        // A damaged file's last connection may have left them or not.
        let _ = fs::remove_file(format!("{}{suffix}", fixture.path().display()));
    }
    // Across file systems a rename would fail.
    let beside = fixture.folder.path().join("new");
    fs::copy(from, &beside).unwrap();
    fs::rename(&beside, fixture.path()).unwrap();
}

/// A backup of the registry as it is, beside it.
fn backup(fixture: &Fixture) -> PathBuf {
    let file = fixture.folder.path().join("backup.db");
    let source = rusqlite::Connection::open(fixture.path()).unwrap();
    let target = file.to_str().unwrap();
    source.execute("VACUUM INTO ?1", [target]).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_put_back_means_resync() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let mut events = registry.watch().await.unwrap();
    replace(&fixture, &backup(&fixture));

    let mut seen = Vec::new();
    while seen.last() != Some(&WatchEvent::Resync) {
        seen.push(next(&mut events).await);
    }
    // The look may come between the removal and the rename.
    let lost = seen.len() - 2;
    assert!(lost > 0, "{seen:?}");
    assert_eq!(seen[lost..], [WatchEvent::Restored, WatchEvent::Resync]);
    let revision = registry.commit(&[create("blue", 2)]).await.unwrap();
    assert_eq!(next_delta(&mut events).await.revision, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_registry_in_the_files_place_is_not_followed_until_the_right_one_is_back() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let backup = backup(&fixture);
    let mut events = registry.watch().await.unwrap();

    let other = Fixture::new();
    drop(other.furnished().await);
    replace(&fixture, &other.path());
    let is_foreign = |event: &WatchEvent| matches!(event, WatchEvent::Foreign(text) if text.contains("not the one that this host follows"));
    while !is_foreign(&next(&mut events).await) {}
    let refused = foreign(registry.commit(&[create("green", 3)]).await);
    assert!(refused.contains("overlay registry adopt"), "{refused}");
    foreign(registry.snapshot().await);
    foreign(registry.nodes().await);
    foreign(registry.find_endpoint(&"blue".parse().unwrap()).await);
    foreign(heartbeat(&registry, "h1", "s1").await);
    // Opened anew by an agent that knows which registry it follows.
    let settings = RegistrySettings {
        identity: registry.identity(),
        ..settings()
    };
    foreign(Sqlite::open(&fixture.path(), &settings));

    replace(&fixture, &backup);
    while next(&mut events).await != WatchEvent::Resync {}
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 1);
    assert_eq!(other.open().snapshot().await.unwrap().endpoints.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_moment_of_a_copy_is_taken_for_the_registry() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let many: Vec<Change> = (0..500).map(|n| create(&format!("e{n}"), n)).collect();
    registry.commit(&many).await.unwrap();
    let whole = fs::read(backup(&fixture)).unwrap();
    let mut events = registry.watch().await.unwrap();
    for _ in 0..3 {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", fixture.path().display()));
        }
        for length in [0, 100, 4096, 8192, whole.len() / 2, whole.len() - 4096] {
            fs::write(fixture.path(), &whole[..length]).unwrap();
            for attempt in 0..2 {
                let read = registry.snapshot().await;
                assert!(read.is_err(), "{length} bytes, try {attempt}: {read:?}");
                registry.commit(&[remove("e1")]).await.unwrap_err();
            }
        }
        fs::write(fixture.path(), &whole).unwrap();
        assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 500);
    }
    // Whatever the watch was told: no removal.
    registry.commit(&[create("last", 999)]).await.unwrap();
    loop {
        match next(&mut events).await {
            WatchEvent::Delta(delta)
                if delta.endpoints.iter().any(|e| e.name.as_str() == "last") =>
            {
                break;
            }
            WatchEvent::Delta(delta) => assert_eq!(delta.endpoints_removed, []),
            // It came after the commit.
            WatchEvent::Resync if registry.snapshot().await.unwrap().endpoints.len() == 501 => {
                break;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overwritten_or_cut_off_in_place_is_noticed_before_the_next_commit() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let many: Vec<Change> = (0..500).map(|n| create(&format!("e{n}"), n)).collect();
    registry.commit(&many).await.unwrap();
    let backup = backup(&fixture);
    replace(&fixture, &backup);
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 500);
    let mut number = 1000;
    for damage in ["garbage", "truncated", "emptied"] {
        let mut bytes = fs::read(&backup).unwrap();
        match damage {
            "garbage" => bytes.fill(0xa5),
            "truncated" => bytes.truncate(bytes.len() / 2),
            _ => bytes.clear(),
        }
        // In place: the inode stays.
        fs::write(fixture.path(), &bytes).unwrap();
        let start = Instant::now();
        while registry.commit(&[create("late", number)]).await.is_ok() {
            registry.commit(&[remove("late")]).await.unwrap();
            number += 1;
            assert!(start.elapsed() < EVENT_TIMEOUT, "{damage} is not noticed");
        }
        registry.snapshot().await.unwrap_err();
        replace(&fixture, &backup);
        let snapshot = registry.snapshot().await.unwrap();
        assert_eq!(snapshot.endpoints.len(), 500, "{damage}");
        registry
            .commit(&[create("after", 999), remove("after")])
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_older_than_the_watch_means_resync() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    let restored = rusqlite::Connection::open(fixture.path()).unwrap();
    restored
        .execute_batch("DELETE FROM endpoint; UPDATE meta SET revision = 2")
        .unwrap();
    assert_eq!(next(&mut events).await, WatchEvent::Resync);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_receiver_ends_its_task() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    drop(registry.watch().await.unwrap());
    let start = Instant::now();
    while Arc::strong_count(&registry.commits) > 1 {
        assert!(start.elapsed() < EVENT_TIMEOUT, "the task goes on");
        tokio::task::yield_now().await;
    }
}

/// What one of several writers does next; names and numbers overlap so that they get into each
/// other's way.
#[derive(Debug, Clone)]
enum Step {
    Create(u8, u8),
    Remove(u8),
    MoveNode(u8),
    ReplaceNode,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, 0..8_u8).prop_map(|(name, number)| Step::Create(name, number)),
        3 => (0..6_u8).prop_map(Step::Remove),
        1 => (10..20_u8).prop_map(Step::MoveNode),
        1 => Just(Step::ReplaceNode),
    ];
    prop::collection::vec(step, 1..25)
}

fn changes(step: &Step) -> Vec<Change> {
    let name = |name: u8| format!("e{name}");
    match step {
        Step::Create(endpoint, number) => vec![create(&name(*endpoint), u16::from(*number))],
        Step::Remove(endpoint) => vec![remove(&name(*endpoint))],
        Step::MoveNode(ip) => vec![Change::PutNode(node("h1", &format!("10.0.0.{ip}")))],
        Step::ReplaceNode => vec![
            Change::RemoveNode("h1".parse().unwrap()),
            Change::PutNode(node("h1", "10.0.0.1")),
        ],
    }
}

async fn snapshot_and_watch_agree(writers: Vec<Vec<Step>>, history: u64) {
    let fixture = Fixture::new();
    let reader = fixture.open_with_history(history);
    furnish(&reader).await;
    let mut events = reader.watch().await.unwrap();
    let tasks: Vec<_> = writers
        .into_iter()
        .map(|steps| {
            let registry = fixture.open_with_history(history);
            tokio::spawn(async move {
                for step in &steps {
                    match registry.commit(&changes(step)).await {
                        Ok(_) | Err(RegistryError::Conflict { .. }) => {}
                        Err(other) => panic!("{step:?}: {other}"),
                    }
                }
            })
        })
        .collect();
    let mut state = reader.snapshot().await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    let expected = sorted(reader.snapshot().await.unwrap());
    while state.revision < expected.revision {
        match next(&mut events).await {
            WatchEvent::Delta(delta) => apply(&mut state, delta),
            WatchEvent::Resync => state = reader.snapshot().await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sorted(state), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn snapshot_and_watch_have_no_gap_under_concurrent_commits(
        writers in prop::collection::vec(steps(), 1..4),
        history in 2..200_u64,
    ) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(snapshot_and_watch_agree(writers, history));
    }
}
