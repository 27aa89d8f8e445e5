//! The lab's faults are what they say: etcd alone, without agents.

use std::time::{Duration, Instant};

use overlay_lab::{
    Cluster, Lab,
    etcd::{MEMBERS, Settings},
    eventually, until,
};

fn put(cluster: &Cluster, members: &[usize]) -> bool {
    cluster.etcdctl(members, "put key value").code == 0
}

#[test]
fn a_member_that_is_killed_cut_off_or_frozen_takes_no_part_until_it_is_back() {
    let lab = Lab::new();
    let mut cluster = Cluster::start(&lab, &[]);
    for round in 0..3 {
        let leader = cluster.leader();
        let other = (leader + 1) % MEMBERS;
        let netns = cluster.members()[leader].netns().clone();
        let mut frozen = None;
        match round {
            0 => cluster.member(leader).kill(),
            1 => cluster.plug(&netns, false),
            _ => frozen = Some(cluster.members()[leader].stop()),
        }
        cluster.leader_after(leader);
        until("the others take writes", || put(&cluster, &[other]));
        assert!(!put(&cluster, &[leader]));
        match round {
            0 => cluster.restart_all(),
            1 => cluster.plug(&netns, true),
            _ => drop(frozen.take()),
        }
        cluster.await_healthy();
    }
}

#[test]
fn a_cluster_that_is_split_serves_where_its_majority_is() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let cluster = Cluster::start(&lab, std::slice::from_ref(&host));
    let leader = cluster.leader();
    let minority = cluster.members()[leader].netns();
    cluster.split_off(&[minority, &host.netns]);
    cluster.leader_after(leader);
    let side = |last: u8| host.netns.pings(&format!("10.9.0.{last}"), "-c 1 -W 1");
    for (index, last) in (0..MEMBERS).zip(1..) {
        assert_eq!(side(last), index == leader);
    }
    assert!(!put(&cluster, &[leader]));
    for netns in [minority, &host.netns] {
        cluster.plug(netns, true);
    }
    cluster.await_healthy();
    assert!((1..=3).all(side));
}

#[test]
fn a_store_that_reached_its_quota_refuses_writes_until_it_is_mended() {
    let lab = Lab::new();
    let settings = Settings {
        quota: 2 << 20,
        ..Settings::default()
    };
    let cluster = Cluster::with(&lab, &[], settings);
    assert!(put(&cluster, &[0]));
    cluster.fill();
    assert!(!put(&cluster, &[0]));
    cluster.mend_full();
    until("it takes writes again", || put(&cluster, &[0]));
    let run = cluster.etcdctl(&[0], "get key --rev 2");
    assert!(run.stderr.contains("compacted"), "{run:?}");
}

#[test]
fn a_member_without_disk_space_ends_and_comes_back_once_there_is_some() {
    let lab = Lab::new();
    let mut cluster = Cluster::start(&lab, &[]);
    let full = cluster.members()[0].full_disk();
    let value = "0".repeat(100_000);
    eventually("the member ends", || {
        cluster.etcdctl(&[1, 2], &format!("put key {value}"));
        (!cluster.member(0).is_running()).then_some(())
    });
    // It may have been the leader.
    eventually("the others elect a leader", || {
        put(&cluster, &[1, 2]).then_some(())
    });
    drop(full);
    cluster.restart_all();
    until("it takes writes", || put(&cluster, &[0]));
}

#[test]
fn a_slow_disk_shows_in_every_commit_until_it_is_fast_again() {
    let lab = Lab::new();
    let cluster = Cluster::start(&lab, &[]);
    // A leader that is held up for too long is another one's follower: no answer is a slow one.
    let took = || {
        let begun = Instant::now();
        put(&cluster, &[0, 1, 2]).then(|| begun.elapsed())
    };
    let usually = eventually("a commit", took);
    let delay = Duration::from_millis(200);
    let slow: Vec<_> = cluster
        .members()
        .iter()
        .map(|member| member.slow_disk(delay))
        .collect();
    until("commits are slow", || {
        took().is_none_or(|took| took >= delay)
    });
    drop(slow);
    until("commits are fast again", || {
        took().is_some_and(|took| took < usually + delay)
    });
}

#[test]
fn a_cluster_with_certificates_and_passwords_lets_nobody_in_without_them() {
    let lab = Lab::new();
    let settings = Settings {
        tls: true,
        auth: true,
        ..Settings::default()
    };
    let cluster = Cluster::with(&lab, &[], settings);
    let allowed = cluster.etcdctl(&[0, 1, 2], "put /overlay/key value");
    assert_eq!(allowed.code, 0, "{allowed:?}");
    let refused = cluster.etcdctl(&[0], "put /another/key value");
    assert!(refused.stderr.contains("permission denied"), "{refused:?}");
    let member = &cluster.members()[0];
    let mut anonymous = member.netns().command("etcdctl");
    anonymous.args(["--command-timeout", "1s", "--insecure-skip-tls-verify"]);
    anonymous.args(["--endpoints", &format!("https://{}", member.address())]);
    let status = anonymous.args(["get", "/overlay/key"]).output().unwrap();
    assert!(!status.status.success());
    for words in ["--etcd-ca", "--etcd-cert", "--etcd-password-file"] {
        assert!(cluster.options().contains(words));
    }
}
