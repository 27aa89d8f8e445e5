//! Members that are killed, cut off or hang.

use std::time::Duration;

use overlay_lab::{etcd::MEMBERS, until};

use super::world::{HOSTS, World};

#[test]
fn a_leader_that_is_killed_costs_no_packet_and_no_change() {
    let mut world = World::new();
    let traffic = world.traffic();
    // Whoever leads: each of them in the end, and agents of all hosts are connected to it.
    for round in 0..MEMBERS {
        let leader = world.cluster.leader();
        world.cluster.member(leader).kill();
        traffic.flows();
        world.changes_arrive(round % HOSTS, &[(round + 1) % HOSTS, (round + 2) % HOSTS]);
        world.cluster.restart_all();
        world.agrees();
    }
    traffic.lost_nothing();
}

#[test]
fn each_member_may_be_cut_off_in_turn() {
    let world = World::new();
    let traffic = world.traffic();
    for member in world.cluster.members() {
        world.cluster.plug(member.netns(), false);
        world.changes_arrive(0, &[1, 2]);
        world.cluster.plug(member.netns(), true);
        world.cluster.await_healthy();
        world.agrees();
    }
    traffic.lost_nothing();
}

#[test]
fn a_leader_that_answers_nobody_is_left_for_another() {
    let world = World::new();
    let traffic = world.traffic();
    let leader = world.cluster.leader();
    let frozen = world.cluster.members()[leader].stop();
    world.changes_arrive(1, &[0, 2]);
    drop(frozen);
    world.cluster.await_healthy();
    world.agrees();
    traffic.lost_nothing();
}

#[test]
fn without_any_member_the_data_path_goes_on_and_local_changes_are_refused() {
    let mut world = World::new();
    let traffic = world.traffic();
    world.cluster.kill_all();
    for index in 0..HOSTS {
        world.await_connected(index, false);
    }
    let stale = || world.agents[0].json("status")["registry"]["stale_for_s"].as_f64();
    let before = stale().unwrap();
    until("staleness grows", || stale().unwrap() > before + 1.0);
    world.refuses_changes(0);
    let line = world.agents[0].overlay(&format!("endpoint rm {}", world.endpoints[0].name()));
    assert!(line.error(1).contains("registry"), "{line:?}");
    traffic.flows();
    world.cluster.restart_all();
    for index in 0..HOSTS {
        world.await_connected(index, true);
    }
    world.changes_arrive(2, &[0, 1]);
    world.agrees();
    traffic.lost_nothing();
}

#[test]
fn an_agent_may_be_killed_and_started_while_etcd_is_away() {
    let mut world = World::new();
    let traffic = world.traffic();
    let options = world.options();
    world.cluster.kill_all();
    world.agents[0].kill();
    world.agents[0].restart(&options);
    traffic.flows();
    world.cluster.restart_all();
    world.agents[0].await_ready();
    world.changes_arrive(0, &[1, 2]);
    world.agrees();
    traffic.lost_nothing();
}

#[test]
fn slow_disks_slow_changes_down_and_lose_none() {
    let world = World::new();
    let traffic = world.traffic();
    let slow: Vec<_> = world
        .cluster
        .members()
        .iter()
        .map(|member| member.slow_disk(Duration::from_millis(300)))
        .collect();
    for index in 0..HOSTS {
        world.changes_arrive(index, &[(index + 1) % HOSTS, (index + 2) % HOSTS]);
    }
    drop(slow);
    world.cluster.await_healthy();
    world.agrees();
    traffic.lost_nothing();
}
