//! The datapath goes on without its agent, and through the change to another one.

use overlay_lab::{
    TwoHosts,
    netns::Netns,
    traffic::{self, Flow, Stream},
    two_hosts::BOTH,
};

fn fixture() -> TwoHosts {
    TwoHosts::new("--vni 42", BOTH)
}

/// Kills and starts each agent with `options` while packets flow both ways, and counts them.
fn loses_nothing(options: &[&str]) {
    let mut fixture = fixture();
    let there = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    let back = Stream::start(&fixture.green, &fixture.blue, "fd07::2");
    let flow = Flow::start(&fixture.blue, &fixture.green, "fd07::3");
    for options in options {
        for agent in &mut fixture.agents {
            agent.kill();
            there.flows(1000);
            back.flows(1000);
            flow.flows(1 << 20);
            agent.restart(options);
            agent.await_ready();
            flow.flows(1 << 20);
        }
    }
    there.flows(1000);
    back.flows(1000);
    for stream in [there, back] {
        let (sent, lost) = stream.finish();
        assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
        assert!(sent >= 3000, "{sent}");
    }
    assert!(flow.finish() > 4 << 20);
}

/// Killing and starting the agents under traffic loses no packet.
#[test]
fn restarts_under_traffic_lose_no_packet() {
    loses_nothing(&["--vni 42", "--vni 42"]);
}

/// Starting agents with other settings under traffic loses no packet.
#[test]
fn other_settings_under_traffic_lose_no_packet() {
    loses_nothing(&[
        "--vni 42 --fdb-entries 2048 --neighbor-entries 4096",
        "--vni 42,43 --fdb-entries 1000000 --neighbor-entries 1000000 --strict-reserved",
    ]);
}

/// An agent with another underlay interface leaves the previous one.
#[test]
fn an_agent_leaves_its_previous_interface() {
    let mut fixture = fixture();
    for (agent, own, other) in [(0, "10.1.0.1/24", 1), (1, "10.1.0.2/24", 0)] {
        let (here, there) = (fixture.agents[agent].netns(), fixture.agents[other].netns());
        if agent == 0 {
            here.ip(&format!(
                "link add u1 type veth peer name u1 netns {}",
                there.name()
            ));
        }
        here.ip(&format!("address add {own} dev u1"));
        here.ip("link set u1 up");
    }
    for agent in &mut fixture.agents {
        agent.kill();
        agent.restart("--iface u1");
    }
    for agent in &fixture.agents {
        agent.await_ready();
    }
    // Each is ready by what it knows; the other's new address may be on its way yet.
    fixture.blue.reaches("7.7.7.3");
    traffic::tcp(&fixture.blue, &fixture.green, "7.7.7.3", 1 << 20);
}

/// An agent that is asked to stop leaves the datapath working.
#[test]
fn a_stopped_agent_leaves_the_datapath_working() {
    let mut fixture = fixture();
    let pid = fixture.agents[0].pid();
    fixture.agents[0]
        .netns()
        .run("kill", &format!("-TERM {pid}"));
    fixture.agents[0].wait();
    assert!(fixture.blue.pings("7.7.7.3", "-c 5 -W 2"));
    traffic::tcp(&fixture.green, &fixture.blue, "7.7.7.2", 1 << 20);
    fixture.agents[0].restart("");
    fixture.agents[0].await_ready();
    assert!(fixture.blue.pings("7.7.7.3", "-c 5 -W 2"));
}

/// A packet that is too long is answered by a tail call, also without the agent and after it is back.
#[test]
fn tail_calls_outlive_the_agent() {
    let mut fixture = fixture();
    let learns = |blue: &Netns| {
        blue.run("ip", "route flush cache");
        blue.run("ip", "link set eth0 mtu 1500");
        assert!(!blue.pings("7.7.7.3", "-c 1 -W 1 -M do -s 1440"));
        let route = blue.run("ip", "route get 7.7.7.3");
        assert!(route.contains("mtu 1450"), "{route}");
    };
    fixture.agents[0].kill();
    learns(&fixture.blue);
    fixture.agents[0].restart("");
    fixture.agents[0].await_ready();
    learns(&fixture.blue);
    assert!(fixture.blue.pings("7.7.7.3", "-c 1 -W 2 -M do -s 1400"));
}

/// What changed while an agent was away is made up for.
#[test]
fn changes_during_an_absence_are_made_up_for() {
    let mut fixture = fixture();
    let [one, two] = &mut fixture.agents;
    one.kill();
    let name = fixture.lab.name("late");
    two.endpoint(&name, 42, &["7.7.7.9/24"]);
    two.does(&format!("endpoint rm {}", fixture.green.name()));
    two.does("network create more --vni 44 --subnet 10.44.0.0/24");
    one.restart("");
    one.await_ready();
    assert!(fixture.blue.pings("7.7.7.9", "-c 1 -W 2"));
    assert!(!fixture.blue.pings("7.7.7.3", "-c 1 -W 1"));
    assert_eq!(one.json("endpoint ls").as_array().unwrap().len(), 2);
}

#[test]
fn counters_of_drops_survive_a_restart() {
    let mut fixture = fixture();
    let one = &mut fixture.agents[0];
    assert!(!fixture.blue.pings("7.7.7.77", "-c 1 -W 1"));
    let before = one.drops("neighbor_unknown");
    assert!(before > 0);
    one.kill();
    one.restart("");
    one.await_ready();
    assert!(one.drops("neighbor_unknown") >= before);
}
