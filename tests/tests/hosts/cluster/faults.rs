//! The lab's faults are what they say: etcd alone, without agents.

use std::time::{Duration, Instant};

use overlay_lab::{
    Cluster, Lab,
    etcd::{ClusterSettings, MEMBERS},
    eventually, until,
};

fn put(cluster: &Cluster, members: &[usize]) -> bool {
    cluster.etcdctl(members, "put key value").code == 0
}

/// A member that is killed, cut off or frozen takes no part meanwhile.
#[test]
fn a_member_out_of_reach_takes_no_part() {
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

/// A cluster that is split serves where its majority is.
#[test]
fn a_split_cluster_serves_at_its_majority() {
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

/// A store that reached its quota refuses writes until it is repaired.
#[test]
fn a_store_at_its_quota_refuses_writes() {
    let lab = Lab::new();
    let settings = ClusterSettings {
        quota: 2 << 20,
        ..ClusterSettings::default()
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

/// A member without disk space ends, and comes back once there is some.
#[test]
fn a_member_without_disk_space_comes_back() {
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

/// A slow disk shows in every commit until it is fast again.
#[test]
fn a_slow_disk_shows_in_every_commit() {
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

/// A cluster with certificates and passwords lets nobody in without them.
#[test]
fn a_secure_cluster_lets_nobody_in() {
    let lab = Lab::new();
    let settings = ClusterSettings {
        tls: true,
        auth: true,
        ..ClusterSettings::default()
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
