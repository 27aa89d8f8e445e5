//! Clocks that jump. faketime stands between an agent and its C library: `CLOCK_REALTIME` is what a
//! file says, `CLOCK_MONOTONIC` goes on as it does when an operator or NTP sets the time.

use std::fs;

use overlay_lab::{etcd::ClusterSettings, netns::run};

use super::fixture::{Fixture, HOSTS};

#[test]
fn an_agents_clock_may_jump_days_ahead_and_back() {
    let mut fixture = Fixture::with(ClusterSettings::default(), "--node-grace 2s");
    let traffic = fixture.traffic();
    let options = format!("{} --node-grace 2s", fixture.options());
    let offset = fixture.lab.dir().join("clock");
    fs::write(&offset, "+10d").unwrap();
    fixture.agents[0].kill();
    fixture.agents[0].restart_with_clock(&options, &offset);
    fixture.agents[0].await_ready();
    let ahead = run("date", &["--utc", "--date", "+10 days", "+%F"]);
    assert!(
        fixture.agents[0].log().contains(ahead.trim()),
        "its clock is as it was"
    );
    for jump in ["+0", "+1000d", "-10d"] {
        fs::write(&offset, jump).unwrap();
        fixture.changes_arrive(0, &[1, 2]);
        fixture.changes_arrive(1, &[0, 2]);
        // Nobody takes the other for dead.
        for (teller, told) in [(0, 1), (1, 0)] {
            let nodes = fixture.agents[teller].json("vtep ls");
            let told = fixture.agents[told].instance();
            let mut node = nodes.as_array().unwrap().iter();
            let node = node.find(|node| node["node"] == told).unwrap();
            assert_eq!(node["alive"], true, "{jump}: {nodes}");
        }
        for index in 0..HOSTS {
            fixture.await_connected(index, true);
        }
        fixture.agrees();
    }
    traffic.lost_nothing();
}
