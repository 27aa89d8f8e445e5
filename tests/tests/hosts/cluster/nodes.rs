//! Nodes that die, and two that claim one name.

use overlay_lab::{Agent, agent::FAILED, until_within};

use super::fixture::{Fixture, HOSTS, RECOVERY};

/// The state of an endpoint as the agent at `index` tells it.
fn state(fixture: &Fixture, index: usize, endpoint: usize) -> String {
    let name = fixture.endpoints[endpoint].name();
    let shown = fixture.agents[index].json(&format!("endpoint show {name}"));
    shown["state"].as_str().unwrap().to_owned()
}

/// A dead node's endpoints are down after the grace time, and come back with it.
#[test]
fn endpoints_of_a_dead_node_go_down_and_come_back() {
    let mut fixture = Fixture::with(
        overlay_lab::etcd::ClusterSettings::default(),
        "--node-grace 2s",
    );
    let traffic = fixture.traffic();
    let options = format!("{} --node-grace 2s", fixture.options());
    fixture.agents[0].kill();
    for index in 1..HOSTS {
        until_within(RECOVERY, "its endpoint is down", || {
            state(&fixture, index, 0) == "down"
        });
        // Only the agent is gone: what its endpoints were sent, they still get.
        assert!(fixture.has(index, "7.7.7.1"));
    }
    traffic.flows();
    fixture.agents[0].restart(&options);
    fixture.agents[0].await_ready();
    for index in 1..HOSTS {
        until_within(RECOVERY, "its endpoint is back", || {
            state(&fixture, index, 0) == "remote"
        });
    }
    fixture.agrees();
    traffic.lost_nothing();
}

/// A second host with a node's name is refused, and the first one goes on.
#[test]
fn a_second_host_of_the_same_name_is_refused() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    let taken = fixture.agents[0].instance();
    let fourth = fixture.another_host();
    let mut intruder = Agent::spawn(
        &fixture.lab,
        &fourth,
        &format!("{} --node {taken}", fixture.options()),
    );
    assert_eq!(intruder.exit_code(), FAILED);
    let log = intruder.log();
    let line = log.lines().last().unwrap_or_default();
    assert!(line.contains(taken) && line.contains("--node"), "{log}");
    fixture.changes_arrive(0, &[1, 2]);
    fixture.agrees();
    traffic.lost_nothing();
}

/// A host may take over the name of one that is gone for good.
#[test]
fn the_name_of_a_removed_host_may_be_reused() {
    let mut fixture = Fixture::new();
    let taken = fixture.agents[0].instance().to_owned();
    fixture.agents[0].kill();
    fixture.hosts[0].plug(false);
    let fourth = fixture.another_host();
    let options = format!("{} --node {taken}", fixture.options());
    let mut heir = Agent::spawn(&fixture.lab, &fourth, &options);
    until_within(
        RECOVERY,
        "the name is free once the session has ended",
        || {
            if !heir.is_running() {
                heir.restart(&options);
            }
            heir.is_ready()
        },
    );
    let nodes = fixture.agents[1].json("vtep ls");
    let heirs = nodes.as_array().unwrap().iter();
    let vteps: Vec<_> = heirs
        .filter(|node| node["node"] == *taken)
        .map(|node| node["ip"].clone())
        .collect();
    assert_eq!(vteps, [fourth.ip.to_string()], "{nodes}");
}
