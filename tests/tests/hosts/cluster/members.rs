//! Members that are killed, cut off or hang.

use std::time::Duration;

use overlay_lab::{etcd::MEMBERS, until};

use super::fixture::{Fixture, HOSTS};

/// A leader that is killed costs no packet and no change.
#[test]
fn a_killed_leader_costs_nothing() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    // Whoever leads: each of them in the end, and agents of all hosts are connected to it.
    for round in 0..MEMBERS {
        let leader = fixture.cluster.leader();
        fixture.cluster.member(leader).kill();
        traffic.flows();
        fixture.changes_arrive(round % HOSTS, &[(round + 1) % HOSTS, (round + 2) % HOSTS]);
        fixture.cluster.restart_all();
        fixture.agrees();
    }
    traffic.lost_nothing();
}

#[test]
fn each_member_may_be_cut_off_in_turn() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    for member in fixture.cluster.members() {
        fixture.cluster.plug(member.netns(), false);
        fixture.changes_arrive(0, &[1, 2]);
        fixture.cluster.plug(member.netns(), true);
        fixture.cluster.await_healthy();
        fixture.agrees();
    }
    traffic.lost_nothing();
}

#[test]
fn a_leader_that_answers_nobody_is_left_for_another() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    let leader = fixture.cluster.leader();
    let frozen = fixture.cluster.members()[leader].stop();
    fixture.changes_arrive(1, &[0, 2]);
    drop(frozen);
    fixture.cluster.await_healthy();
    fixture.agrees();
    traffic.lost_nothing();
}

/// Without any member the data path goes on, and local changes are refused.
#[test]
fn without_any_member_the_data_path_goes_on() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    fixture.cluster.kill_all();
    for index in 0..HOSTS {
        fixture.await_connected(index, false);
    }
    let stale = || fixture.agents[0].json("status")["registry"]["stale_for_s"].as_f64();
    let before = stale().unwrap();
    until("staleness grows", || stale().unwrap() > before + 1.0);
    fixture.refuses_changes(0);
    let line = fixture.agents[0].overlay(&format!("endpoint rm {}", fixture.endpoints[0].name()));
    assert!(line.error(1).contains("registry"), "{line:?}");
    traffic.flows();
    fixture.cluster.restart_all();
    for index in 0..HOSTS {
        fixture.await_connected(index, true);
    }
    fixture.changes_arrive(2, &[0, 1]);
    fixture.agrees();
    traffic.lost_nothing();
}

/// An agent may be killed and started while etcd is away.
#[test]
fn agents_may_restart_while_etcd_is_away() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    let options = fixture.options();
    fixture.cluster.kill_all();
    fixture.agents[0].kill();
    fixture.agents[0].restart(&options);
    traffic.flows();
    fixture.cluster.restart_all();
    fixture.agents[0].await_ready();
    fixture.changes_arrive(0, &[1, 2]);
    fixture.agrees();
    traffic.lost_nothing();
}

#[test]
fn slow_disks_slow_changes_down_and_lose_none() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    let slow: Vec<_> = fixture
        .cluster
        .members()
        .iter()
        .map(|member| member.slow_disk(Duration::from_millis(300)))
        .collect();
    for index in 0..HOSTS {
        fixture.changes_arrive(index, &[(index + 1) % HOSTS, (index + 2) % HOSTS]);
    }
    drop(slow);
    fixture.cluster.await_healthy();
    fixture.agrees();
    traffic.lost_nothing();
}
