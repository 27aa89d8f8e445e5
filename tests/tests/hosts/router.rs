//! Routers: two networks on two hosts, joined by one.

use overlay_lab::{
    Agent, Netns, TwoHosts,
    traffic::{self, Stream},
    two_hosts::BOTH,
    until,
};
use serde_json::json;

/// `blue` and `lime` on the first host, `green` and `orange` on the second; lime and orange are of VNI 43.
struct Joined {
    // Fields are dropped in this order.
    fixture: TwoHosts,
    lime: Netns,
    orange: Netns,
}

impl Joined {
    fn new() -> Self {
        let fixture = TwoHosts::new("--vni 42", BOTH);
        let [one, two] = &fixture.agents;
        one.does("network create far --vni 43 --subnet 8.8.8.0/24 --subnet fd08::/64");
        let name = |short| fixture.lab.name(short);
        let lime = one.endpoint(&name("lime"), 43, &["8.8.8.2/24", "fd08::2/64"]);
        let orange = two.endpoint(&name("orange"), 43, &["8.8.8.3/24", "fd08::3/64"]);
        one.does("router create r1");
        one.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
        one.does("router attach r1 far");
        // Their agents set the default routes.
        for netns in [&fixture.blue, &fixture.green, &lime, &orange] {
            until("it has its default routes", || {
                ["", "-6 "]
                    .iter()
                    .all(|family| !netns.ip(&format!("{family}route show default")).is_empty())
            });
        }
        Self {
            fixture,
            lime,
            orange,
        }
    }

    fn agents(&mut self) -> &mut [Agent; 2] {
        &mut self.fixture.agents
    }
}

#[test]
fn endpoints_of_both_networks_reach_each_other_wherever_they_are() {
    let joined = Joined::new();
    let TwoHosts { blue, green, .. } = &joined.fixture;
    for ip in ["8.8.8.2", "8.8.8.3", "fd08::2", "fd08::3"] {
        blue.reaches(ip);
        green.reaches(ip);
    }
    for netns in [&joined.lime, &joined.orange] {
        for ip in ["7.7.7.2", "7.7.7.3", "fd07::2", "fd07::3"] {
            netns.reaches(ip);
        }
    }
    for ip in ["7.7.7.1", "8.8.8.1", "fd07::1", "fd08::1"] {
        blue.reaches(ip);
    }
    for (from, to, ip) in [
        (blue, &joined.lime, "8.8.8.2"),
        (blue, &joined.orange, "8.8.8.3"),
        (&joined.orange, blue, "fd07::2"),
    ] {
        traffic::tcp(from, to, ip, 1 << 20);
        traffic::udp(from, to, ip, [0, 1, 500, 1400]);
    }
}

#[test]
fn a_router_goes_on_while_no_agent_runs() {
    let mut joined = Joined::new();
    let stream = Stream::start(&joined.fixture.blue, &joined.orange, "8.8.8.3");
    stream.flows(50);
    joined.agents()[0].kill();
    stream.flows(200);
    joined.agents()[0].restart("");
    joined.agents()[0].await_ready();
    stream.flows(50);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "lost datagrams: {lost:?}");
}

#[test]
fn a_trace_shows_the_gateway_and_refusals_are_told() {
    let joined = Joined::new();
    let blue = &joined.fixture.blue;
    assert!(!blue.pings("8.8.8.3", "-c 1 -W 1 -t 1"));
    let told = blue
        .command("ping")
        .args(["-c", "1", "-W", "1", "-t", "1", "8.8.8.3"])
        .output();
    let told = String::from_utf8(told.unwrap().stdout).unwrap();
    assert!(
        told.contains("From 7.7.7.1") && told.contains("Time to live exceeded"),
        "{told}"
    );
    let agent = &joined.fixture.agents[0];
    agent.does("router route add r1 10.66.0.0/16 blackhole");
    for (ip, what) in [
        ("9.9.9.9", "Destination Net Unreachable"),
        ("8.8.8.200", "Destination Host Unreachable"),
        ("10.66.1.1", "Packet filtered"),
    ] {
        let told = blue
            .command("ping")
            .args(["-c", "1", "-W", "1", ip])
            .output();
        let told = String::from_utf8(told.unwrap().stdout).unwrap();
        assert!(
            told.contains("From 7.7.7.1") && told.contains(what),
            "{ip}: {told}"
        );
    }
    agent.does("router route rm r1 10.66.0.0/16");
}

#[test]
fn a_router_comes_and_goes_with_its_networks() {
    let joined = Joined::new();
    let (blue, agent) = (&joined.fixture.blue, &joined.fixture.agents[0]);
    let ports = agent.json("router show r1")["ports"].clone();
    assert_eq!(ports[0]["vni"], json!(42));
    assert_eq!(ports[1]["addresses"], json!(["8.8.8.1/24", "fd08::1/64"]));
    assert!(
        agent
            .overlay("router rm r1")
            .error(1)
            .contains("still referred to")
    );
    assert!(agent.overlay("network rm far").error(1).contains("still"));
    let error = agent
        .overlay(&format!(
            "endpoint add {} --vni 43 --ip 8.8.8.1",
            joined.fixture.lab.name("thief")
        ))
        .error(1);
    assert!(error.contains("8.8.8.1"), "{error}");
    blue.reaches("8.8.8.3");
    agent.does("router detach r1 far");
    agent.does("router detach r1 far");
    assert!(!blue.pings("8.8.8.3", "-c 1 -W 1"));
    agent.does("router attach r1 far");
    blue.reaches("8.8.8.3");
    agent.does("router detach r1 far");
    agent.does("router detach r1 42");
    agent.does("router rm r1");
    assert_eq!(agent.json("router ls"), json!([]));
    until("the maps are empty", || {
        agent.dump("routes").is_empty() && agent.dump("router_ports").is_empty()
    });
}
