//! What becomes of etcd, and of the way to it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use overlay_user::{
    model::Change,
    registry::{self, Registry, RegistryError, RegistrySettings, Scope, WatchEvent},
};

use crate::{
    etcd::{Etcd, Options},
    fixture::{
        Reader, content, create, furnish, line, name, next, next_other, remove, session, until,
    },
    proxy::Proxy,
};

async fn open(addresses: &str) -> Arc<dyn Registry> {
    registry::open(&RegistrySettings::new(format!("etcd://{addresses}")))
        .await
        .unwrap()
}

/// Commits until it goes; what it says until then.
async fn persist(registry: &dyn Registry, changes: &[Change]) -> Vec<String> {
    let mut said = Vec::new();
    let begin = Instant::now();
    loop {
        match registry.commit(changes).await {
            Ok(_) => return said,
            Err(error @ RegistryError::Unavailable(_)) => said.push(line(&error)),
            Err(error) => panic!("{error}"),
        }
        assert!(begin.elapsed() < crate::fixture::EVENT_TIMEOUT, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_is_one_line_soon() {
    let begin = Instant::now();
    let nowhere = RegistrySettings::new("etcd://127.0.0.1:9,127.0.0.1:10".to_owned());
    let error = registry::open(&nowhere).await.err().expect("there is none");
    assert!(begin.elapsed() < Duration::from_secs(10));
    let text = line(&error);
    assert!(
        text.starts_with("registry etcd://127.0.0.1:9,127.0.0.1:10 is out of reach (127.0.0.1:9: ")
            && text.contains("127.0.0.1:10: ")
            && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_session_outlive_a_restart_of_etcd() {
    let mut etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let mut reader = Reader::start(&registry).await;
    registry.commit(&[create("before", 1)]).await.unwrap();
    etcd.kill_member(0);
    let error = registry.commit(&[create("away", 2)]).await.unwrap_err();
    assert!(line(&error).contains("is out of reach"), "{error}");
    loop {
        if let WatchEvent::Lost(why) = reader.step().await {
            assert!(why.contains("out of reach"), "{why}");
            break;
        }
    }
    etcd.start_member(0);
    persist(&*registry, &[create("after", 3)]).await;
    loop {
        if reader.step().await == WatchEvent::Restored {
            break;
        }
    }
    let last = registry.commit(&[remove("before")]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(reader.resyncs, 0, "it goes on where it was");
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    assert!(
        registry
            .nodes()
            .await
            .unwrap()
            .iter()
            .any(|node| node.alive)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_cut_off_goes_on_where_it_was() {
    let etcd = Etcd::start(Options::default());
    let direct = open(&etcd.addresses()).await;
    furnish(&*direct).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let behind = open(proxy.address()).await;
    let mut reader = Reader::start(&behind).await;
    for (round, cut) in [Proxy::cut, Proxy::stall].into_iter().enumerate() {
        cut(&proxy);
        let round = u16::try_from(round).unwrap();
        direct
            .commit(&[create(&format!("e{round}"), round + 1)])
            .await
            .unwrap();
        loop {
            if matches!(reader.step().await, WatchEvent::Lost(_)) {
                break;
            }
        }
        let last = direct
            .commit(&[create(&format!("x{round}"), round + 11)])
            .await
            .unwrap();
        proxy.mend();
        reader.reach(last).await;
        assert_eq!(reader.losses.len(), usize::from(round) + 1);
    }
    assert_eq!(reader.resyncs, 0);
    assert_eq!(reader.content(), content(direct.snapshot().await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_away_over_a_compaction_must_resync() {
    let etcd = Etcd::start(Options::default());
    let direct = open(&etcd.addresses()).await;
    furnish(&*direct).await;
    direct
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let proxy = Proxy::start(etcd.address(0)).await;
    let behind = open(proxy.address()).await;
    let mut reader = Reader::start(&behind).await;
    proxy.cut();
    direct
        .commit(&[create("a", 1), create("b", 2)])
        .await
        .unwrap();
    direct.commit(&[remove("a")]).await.unwrap();
    direct
        .heartbeat(&name("h2"), &session("two"))
        .await
        .unwrap();
    etcd.compact();
    proxy.mend();
    while reader.resyncs == 0 {
        reader.step().await;
    }
    // The node that lives by now is reported too.
    assert_eq!(
        next_other(&mut reader.events).await,
        WatchEvent::Alive(name("h2"))
    );
    let last = direct.commit(&[create("c", 3)]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(reader.resyncs, 1, "and from there on by deltas");
    assert_eq!(reader.content(), content(direct.snapshot().await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_over_a_way_that_fails_are_carried_out_once_or_not_at_all() {
    let etcd = Etcd::start(Options::default());
    let direct = open(&etcd.addresses()).await;
    furnish(&*direct).await;
    let proxy = Proxy::start(etcd.address(0)).await;
    let behind = open(proxy.address()).await;
    let mut acknowledged = BTreeSet::new();
    let mut attempted = BTreeSet::new();
    let (least, most) = (Duration::from_secs(8), Duration::from_mins(2));
    let begun = Instant::now();
    let enough = AtomicBool::new(false);
    let breaking = async {
        let mut us = 3000;
        while !enough.load(Ordering::Relaxed) {
            // At ever other moments of a commit's way, which a slow machine takes longer for.
            let longest = 40_000 * (1 + begun.elapsed().as_secs() / least.as_secs());
            us = (us * 5 / 3 + 700) % longest;
            let pause = Duration::from_micros(us);
            tokio::time::sleep(pause).await;
            proxy.cut();
            tokio::time::sleep(pause / 3).await;
            proxy.mend();
        }
    };
    let committing = async {
        for number in 1.. {
            let new = format!("e{number}");
            attempted.insert(new.clone());
            match behind.commit(&[create(&new, number)]).await {
                Ok(_) => assert!(acknowledged.insert(new)),
                Err(RegistryError::Unavailable(_)) => {}
                // Never: it would be a conflict with itself.
                Err(error) => panic!("{error}"),
            }
            let elapsed = begun.elapsed();
            if elapsed >= most || (elapsed >= least && acknowledged.len() > 10) {
                return enough.store(true, Ordering::Relaxed);
            }
        }
    };
    tokio::join!(breaking, committing);
    let made: BTreeSet<String> = direct
        .snapshot()
        .await
        .unwrap()
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint.name.to_string())
        .collect();
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    assert!(made.is_superset(&acknowledged) && attempted.is_superset(&made));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_dies_or_freezes_is_left_for_another() {
    let mut etcd = Etcd::start(Options {
        members: 3,
        ..Options::default()
    });
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    let mut reader = Reader::start(&registry).await;
    for round in 0..3_u16 {
        let leader = etcd.leader();
        etcd.kill_member(leader);
        let begin = Instant::now();
        persist(&*registry, &[create(&format!("e{round}"), round + 1)]).await;
        let last = registry
            .commit(&[create(&format!("x{round}"), round + 11)])
            .await
            .unwrap();
        reader.reach(last).await;
        assert!(
            begin.elapsed() < Duration::from_mins(1),
            "{:?}",
            begin.elapsed()
        );
        etcd.start_member(leader);
        etcd.await_healthy();
    }
    // One that keeps its connections and answers nobody.
    let leader = etcd.leader();
    etcd.freeze(leader, true);
    persist(&*registry, &[create("frozen", 50)]).await;
    let last = registry.commit(&[remove("frozen")]).await.unwrap();
    reader.reach(last).await;
    etcd.freeze(leader, false);
    etcd.await_healthy();
    assert_eq!(reader.resyncs, 0);
    // Without a majority there is no leader, and then nothing is read either: it could be old.
    etcd.kill_member(0);
    etcd.kill_member(1);
    until("reading ends", || async {
        match registry.snapshot().await {
            Ok(_) => false,
            Err(error) => line(&error).contains("is out of reach"),
        }
    })
    .await;
    while reader.losses.is_empty() {
        reader.step().await;
    }
    etcd.start_member(0);
    etcd.start_member(1);
    persist(&*registry, &[create("healed", 99)]).await;
    let last = registry.commit(&[remove("healed")]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_says_so_and_is_read_on() {
    let etcd = Etcd::start(Options {
        quota: 4 << 20,
        ..Options::default()
    });
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    let mut events = registry.watch().await.unwrap();
    let value = "0".repeat(100_000);
    for number in 0.. {
        let run = etcd.etcdctl(&format!("put /ballast/{number} {value}"));
        if run.stderr.contains("database space exceeded") {
            break;
        }
        registry
            .heartbeat(&name("h1"), &session("one"))
            .await
            .unwrap();
    }
    for change in [create("green", 3), remove("blue")] {
        let error = registry.commit(&[change]).await.unwrap_err();
        assert!(
            line(&error).ends_with(
                "is full: etcd has reached its quota; compact and defragment it or raise --quota-backend-bytes, then `etcdctl alarm disarm`"
            ),
            "{error}"
        );
    }
    assert_eq!(registry.snapshot().await.unwrap().endpoints.len(), 1);
    // A live node stays alive.
    registry
        .heartbeat(&name("h1"), &session("one"))
        .await
        .unwrap();
    assert!(events.try_recv().is_err());

    etcd.does("del --prefix /ballast/");
    etcd.compact();
    etcd.does("defrag");
    etcd.does("alarm disarm");
    registry.commit(&[remove("blue")]).await.unwrap();
    assert!(matches!(next(&mut events).await, WatchEvent::Delta(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_lease_was_lost_is_claimed_anew() {
    let etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    let h1 = name("h1");
    let mut events = registry.watch().await.unwrap();
    registry.heartbeat(&h1, &session("one")).await.unwrap();
    assert_eq!(next_other(&mut events).await, WatchEvent::Alive(h1.clone()));
    let leases = etcd.does("lease list");
    for lease in leases.lines().filter(|line| !line.contains(' ')) {
        etcd.does(&format!("lease revoke {lease}"));
    }
    assert_eq!(
        next_other(&mut events).await,
        WatchEvent::Silent(h1.clone())
    );
    registry.heartbeat(&h1, &session("one")).await.unwrap();
    assert_eq!(next_other(&mut events).await, WatchEvent::Alive(h1.clone()));
    // Removed by somebody with etcdctl: the lease alone says nothing.
    etcd.does("del /overlay/v1/state/alive/h1");
    assert_eq!(
        next_other(&mut events).await,
        WatchEvent::Silent(h1.clone())
    );
    registry.heartbeat(&h1, &session("one")).await.unwrap();
    assert_eq!(next_other(&mut events).await, WatchEvent::Alive(h1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_to_an_earlier_state_means_resync() {
    let mut etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    registry.commit(&[create("kept", 1)]).await.unwrap();
    etcd.kill_member(0);
    let (data, backup) = (etcd.data(0), etcd.folder().join("backup"));
    copy(&data, &backup);
    etcd.start_member(0);
    etcd.await_healthy();
    let mut reader = Reader::start(&registry).await;
    for number in 2..20 {
        registry
            .commit(&[create(&format!("lost{number}"), number)])
            .await
            .unwrap();
    }
    let last = registry.commit(&[remove("kept")]).await.unwrap();
    reader.reach(last).await;

    etcd.kill_member(0);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    etcd.start_member(0);
    etcd.await_healthy();
    while reader.resyncs == 0 {
        reader.step().await;
    }
    assert!(reader.revision < last);
    assert_eq!(reader.endpoints.len(), 1);
    let next = registry.commit(&[create("new", 30)]).await.unwrap();
    reader.reach(next).await;
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_agent_wrote_is_left_out_and_named() {
    let etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    let mut reader = Reader::start(&registry).await;
    let key = "/overlay/v1/state/endpoint/00000042/odd";
    etcd.does(&format!("put {key} {{}}"));
    etcd.does("put /overlay/v1/state/network/00000044 nonsense");
    etcd.does("put /overlay/v1/state/node/h9 {}");
    let mut reading = registry.read(Scope::All).await.unwrap();
    while let Some(page) = reading.endpoints.recv().await {
        page.unwrap();
    }
    assert_eq!((reading.networks.len(), reading.nodes.len()), (2, 2));
    let mut rows: Vec<String> = reading
        .rejected
        .take()
        .iter()
        .map(|it| it.row.to_string())
        .collect();
    rows.sort();
    assert_eq!(rows, ["endpoint odd", "network 44", "node h9"]);
    let found = registry::check(&*registry, false).await.unwrap();
    assert!(
        found.findings.iter().any(|it| it.what.contains(key)),
        "{found:?}"
    );
    // The watch goes on, and names them too.
    let last = registry.commit(&[create("green", 4)]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(reader.resyncs, 0);
    registry.commit(&[remove("green")]).await.unwrap();
    for key in [
        key,
        "/overlay/v1/state/network/00000044",
        "/overlay/v1/state/node/h9",
    ] {
        etcd.does(&format!("del {key}"));
    }
    let last = registry.commit(&[create("blue", 2)]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
    // What a later version may add is left alone.
    etcd.does("put /overlay/v1/state/policy/00000042 {}");
    let last = registry.commit(&[remove("blue")]).await.unwrap();
    reader.reach(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_is_not_ours_is_refused() {
    let etcd = Etcd::start(Options::default());
    let url = RegistrySettings::new(format!("etcd://{}", etcd.addresses()));
    drop(registry::open(&url).await.unwrap());
    etcd.does("put /overlay/layout 2");
    let error = registry::open(&url).await.err().expect("it is newer");
    assert!(
        line(&error).ends_with("has layout 2, this binary knows 1: use a binary that fits"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_on_an_empty_data_directory_is_not_followed_until_the_right_data_is_back() {
    let mut etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    let identity = registry.identity().expect("it was made");
    furnish(&*registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let mut reader = Reader::start(&registry).await;
    etcd.kill_member(0);
    let (data, backup) = (etcd.data(0), etcd.folder().join("backup"));
    fs::rename(&data, &backup).unwrap();
    etcd.start_member(0);
    etcd.await_healthy();
    let why = loop {
        match reader.step().await {
            WatchEvent::Foreign(why) => break why,
            WatchEvent::Resync => panic!("an empty store is followed"),
            _ => {}
        }
    };
    assert!(
        why.contains("has no identity") && why.contains("overlay registry adopt"),
        "{why}"
    );
    let refused = [
        registry.snapshot().await.err(),
        registry.nodes().await.err(),
        registry.find_endpoint(&name("blue")).await.err(),
        registry.commit(&[create("green", 3)]).await.err(),
        registry.commit(&[remove("blue")]).await.err(),
        registry.heartbeat(&name("h1"), &session("one")).await.err(),
    ];
    for refusal in refused {
        assert!(
            matches!(refusal, Some(RegistryError::Foreign(_))),
            "{refusal:?}"
        );
    }
    // Nothing was written into it, not by who opens it with an expectation either.
    let expecting = RegistrySettings {
        identity: Some(identity),
        ..RegistrySettings::new(format!("etcd://{}", etcd.addresses()))
    };
    let opened = registry::open(&expecting).await.err();
    assert!(
        matches!(opened, Some(RegistryError::Foreign(_))),
        "{opened:?}"
    );
    assert_eq!(etcd.does("get --prefix --keys-only /overlay/").trim(), "");

    etcd.kill_member(0);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&backup, &data).unwrap();
    etcd.start_member(0);
    etcd.await_healthy();
    while reader.step().await != WatchEvent::Restored {}
    registry::open(&expecting).await.unwrap();
    let last = registry.commit(&[create("green", 3)]).await.unwrap();
    reader.reach(last).await;
    assert_eq!(reader.endpoints.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_deletes_everything_in_etcd_takes_the_identity_along_and_is_not_followed() {
    let etcd = Etcd::start(Options::default());
    let registry = open(&etcd.addresses()).await;
    furnish(&*registry).await;
    registry.commit(&[create("blue", 2)]).await.unwrap();
    let mut reader = Reader::start(&registry).await;
    let key = "/overlay/v1/state/identity";
    let identity = etcd.does(&format!("get --print-value-only {key}"));
    etcd.does("del --prefix /overlay/");
    while !matches!(reader.step().await, WatchEvent::Foreign(_)) {}
    assert_eq!(reader.endpoints.len(), 1, "no removal was handed over");
    // Another registry that took its place is no better.
    etcd.does(&format!("put {key} 00000000-0000-4000-8000-000000000000"));
    loop {
        if let WatchEvent::Foreign(why) = reader.step().await {
            assert!(
                why.contains("00000000-0000-4000-8000-000000000000"),
                "{why}"
            );
            break;
        }
    }
    etcd.does(&format!("put {key} {}", identity.trim()));
    while reader.step().await != WatchEvent::Restored {}
}
