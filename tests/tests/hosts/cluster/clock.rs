//! Clocks that jump. faketime stands between an agent and its C library: `CLOCK_REALTIME` is what a
//! file says, `CLOCK_MONOTONIC` goes on as it does when an operator or NTP sets the time.

use std::fs;

use overlay_lab::{etcd::Settings, netns::run};

use super::world::{HOSTS, World};

#[test]
fn an_agents_clock_may_jump_days_ahead_and_back() {
    let mut world = World::with(Settings::default(), "--node-grace 2s");
    let traffic = world.traffic();
    let options = format!("{} --node-grace 2s", world.options());
    let offset = world.lab.dir().join("clock");
    fs::write(&offset, "+10d").unwrap();
    world.agents[0].kill();
    world.agents[0].restart_with_clock(&options, &offset);
    world.agents[0].await_ready();
    let ahead = run("date", &["--utc", "--date", "+10 days", "+%F"]);
    assert!(
        world.agents[0].log().contains(ahead.trim()),
        "its clock is as it was"
    );
    for jump in ["+0", "+1000d", "-10d"] {
        fs::write(&offset, jump).unwrap();
        world.changes_arrive(0, &[1, 2]);
        world.changes_arrive(1, &[0, 2]);
        // Nobody takes the other for dead.
        for (teller, told) in [(0, 1), (1, 0)] {
            let nodes = world.agents[teller].json("vtep ls");
            let told = world.agents[told].instance();
            let mut node = nodes.as_array().unwrap().iter();
            let node = node.find(|node| node["node"] == told).unwrap();
            assert_eq!(node["alive"], true, "{jump}: {nodes}");
        }
        for index in 0..HOSTS {
            world.await_connected(index, true);
        }
        world.agrees();
    }
    traffic.lost_nothing();
}
