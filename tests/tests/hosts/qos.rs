//! Limits of endpoints: rates on one host and across hosts, with and without an agent, and who has which.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use overlay_lab::{Agent, Netns, TwoHosts, traffic::Stream, two_hosts::BOTH, until};
use serde_json::{Value, json};

/// What a datagram of the floods has, and its headers: Ethernet, IPv4, UDP.
const PAYLOAD: usize = 1000;
const HEADERS: usize = 14 + 20 + 8;

/// Datagrams from one endpoint to another, as many as go, until it is dropped.
struct Flood<'a> {
    stop: &'a AtomicBool,
    _receiver: UdpSocket,
}

impl<'a> Flood<'a> {
    fn start<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        stop: &'a AtomicBool,
        (from, to, ip): (&Netns, &Netns, &str),
        payload: usize,
    ) -> Self
    where
        'a: 'scope,
    {
        let receiver = to.enter(|| UdpSocket::bind((ip, 0)).unwrap());
        let sender = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    // A queue that is full refuses some: there are more.
                    let _ = sender.send(&[0x5a; 1400][..payload]);
                }
                // Some hundred megabits a second: both sides and the agents need their time.
                thread::sleep(Duration::from_micros(500));
            }
        });
        Self {
            stop,
            _receiver: receiver,
        }
    }
}

impl Drop for Flood<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn received(agent: &Agent, endpoint: &Netns) -> u64 {
    let shown = agent.json(&format!("endpoint show {}", endpoint.name()));
    shown["traffic"]["received"]["bytes"].as_u64().unwrap()
}

/// Megabits a second that an endpoint receives, for three seconds, of a flood that has used up what was saved.
fn rate(agent: &Agent, endpoint: &Netns) -> f64 {
    const WINDOW: Duration = Duration::from_secs(3);
    let (before, begun) = (received(agent, endpoint), Instant::now());
    thread::sleep(WINDOW);
    let (after, elapsed) = (received(agent, endpoint), begun.elapsed());
    let bits = u32::try_from((after - before) * 8).unwrap();
    f64::from(bits) / elapsed.as_secs_f64() / 1e6
}

fn settles(what: &str, agent: &Agent, endpoint: &Netns, megabits: f64) {
    // What was saved up goes first.
    thread::sleep(Duration::from_millis(600));
    let rate = rate(agent, endpoint);
    assert!((rate / megabits - 1.0).abs() < 0.03, "{what}: {rate}");
}

/// The name of the network that the fixture has made.
fn network(agent: &Agent) -> String {
    agent.json("network ls")[0]["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn qos_of(agent: &Agent, endpoint: &Netns) -> Value {
    agent.json(&format!("endpoint show {}", endpoint.name()))["qos"].clone()
}

#[test]
fn an_endpoint_sends_and_receives_no_more_than_its_limits_wherever_the_other_is() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let [one, two] = &fixture.agents;
    let (blue, green) = (&fixture.blue, &fixture.green);
    let lime = one.endpoint(&fixture.lab.name("lime"), 42, &["7.7.7.4/24"]);
    one.does("qos create out --egress 20mbit");
    one.does("qos create in --ingress 10mbit");
    // Any host may say so.
    two.does(&format!("endpoint set {} --qos out", blue.name()));
    until("the limit is there", || qos_of(one, blue) != Value::Null);
    for (to, agent, ip) in [(green, two, "7.7.7.3"), (&lime, one, "7.7.7.4")] {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _flood = Flood::start(scope, &stop, (blue, to, ip), PAYLOAD);
            settles("sent", agent, to, 20.0);
        });
    }
    let counts = &qos_of(one, blue)["counts"];
    assert!(
        counts["sent"]["dropped"].as_u64().unwrap() > 1000,
        "{counts}"
    );
    assert!(one.drops("rate") > 1000);

    one.does(&format!("endpoint set {} --qos none", blue.name()));
    one.does(&format!("endpoint set {} --qos in", lime.name()));
    one.does(&format!("endpoint set {} --qos in", green.name()));
    until("the limit is there", || qos_of(two, green) != Value::Null);
    for (to, agent, ip) in [(green, two, "7.7.7.3"), (&lime, one, "7.7.7.4")] {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _flood = Flood::start(scope, &stop, (blue, to, ip), PAYLOAD);
            settles("received", agent, to, 10.0);
        });
        let drops = agent.json(&format!("endpoint show {}", to.name()))["drops"].clone();
        assert!(
            drops["received"]["rate"].as_u64().unwrap() > 1000,
            "{drops}"
        );
    }
}

#[test]
fn limits_go_on_while_no_agent_runs_and_follow_changes() {
    let mut fixture = TwoHosts::new("--vni 42", BOTH);
    let name = fixture.blue.name().to_owned();
    fixture.agents[0].does("qos create q --egress 20mbit");
    fixture.agents[0].does(&format!("endpoint set {name} --qos q"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = (&fixture.blue, &fixture.green, "7.7.7.3");
        let _flood = Flood::start(scope, &stop, ends, PAYLOAD);
        let [one, two] = &mut fixture.agents;
        settles("at first", two, &fixture.green, 20.0);
        one.kill();
        settles("without an agent", two, &fixture.green, 20.0);
        // Another host changes it meanwhile.
        two.does("qos set q --egress 10mbit");
        settles("as it was", two, &fixture.green, 20.0);
        one.restart("");
        one.await_ready();
        settles("with a new agent", two, &fixture.green, 10.0);
        two.does("qos set q --egress 30mbit");
        settles("faster", two, &fixture.green, 30.0);
        one.does(&format!("endpoint set {name} --qos none"));
        two.does("qos rm q");
        until("nothing is held back", || rate(two, &fixture.green) > 60.0);
    });
}

#[test]
fn limits_that_nobody_reaches_come_change_and_go_without_a_lost_packet() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let one = &fixture.agents[0];
    let stream = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    stream.flows(20);
    one.does(
        "qos create q --egress 100mbit --ingress 100mbit --pps 100000 --dscp af21 --priority 3",
    );
    let network = network(one);
    one.does(&format!("network set {network} --qos q"));
    stream.flows(20);
    one.does("qos set q --egress 10gbit --ingress none --pps none");
    stream.flows(20);
    one.does("qos set q --egress 50mbit --burst 64kb --dscp ef");
    stream.flows(20);
    one.does(&format!("network set {network} --qos none"));
    stream.flows(20);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "lost datagrams: {lost:?}");
}

#[test]
fn the_flood_of_a_limited_endpoint_takes_nothing_from_its_neighbours() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let one = &fixture.agents[0];
    let lime = one.endpoint(&fixture.lab.name("lime"), 42, &["7.7.7.4/24"]);
    one.does("qos create q --egress 1mbit");
    one.does(&format!("endpoint set {} --qos q", lime.name()));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = (&lime, &fixture.green, "7.7.7.3");
        let _flood = Flood::start(scope, &stop, ends, 1);
        let stream = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
        stream.flows(300);
        let (_, lost) = stream.finish();
        assert!(lost.is_empty(), "lost datagrams: {lost:?}");
    });
    let dropped = &qos_of(one, &lime)["counts"]["sent"]["dropped"];
    assert!(dropped.as_u64().unwrap() > 1000, "{dropped}");
    const { assert!(PAYLOAD + HEADERS < 1450) };
}

#[test]
fn an_endpoints_own_limits_come_before_its_networks() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let [one, two] = &fixture.agents;
    let (blue, green) = (fixture.blue.name(), fixture.green.name());
    one.does("qos create gold --egress 1gbit --ingress 1gbit");
    one.does("qos create slow --egress 10mbit");
    let network = network(one);
    one.does(&format!("network set {network} --qos slow"));
    let own = format!("endpoint set {blue} --qos gold");
    one.does(&own);
    one.does(&own);
    let qos = qos_of(one, &fixture.blue);
    assert_eq!(
        (&qos["name"], &qos["of_network"]),
        (&json!("gold"), &json!(false))
    );
    assert_eq!(qos["egress"], json!(1_000_000_000));
    until("the other host has followed", || {
        let qos = qos_of(two, &fixture.green);
        qos["name"] == "slow" && qos["of_network"] == true
    });
    let late = fixture.lab.name("late");
    one.does(&format!(
        "endpoint add {late} --vni 42 --ip 7.7.7.9/24 --qos gold"
    ));
    assert_eq!(
        one.json(&format!("endpoint show {late}"))["qos"]["name"],
        "gold"
    );
    assert_eq!(one.json("network ls")[0]["qos"], "slow");
    let shown = one.json("qos show gold");
    let mut users = vec![blue.to_owned(), late.clone()];
    users.sort_unstable();
    assert_eq!(shown["endpoints"], json!(users));
    assert_eq!(one.json("qos show slow")["networks"], json!([42]));

    let error = one.overlay("qos rm gold").error(1);
    assert!(error.contains("is in use by endpoint"), "{error}");
    for line in [
        format!("endpoint set {green} --qos nope"),
        format!("network set {network} --qos nope"),
        "endpoint add x --vni 42 --ip 7.7.7.10/24 --qos nope".to_owned(),
    ] {
        let error = one.overlay(&line).error(1);
        assert!(error.contains("there is no qos nope"), "{line}: {error}");
    }
    let error = one.overlay("qos create gold --egress 2gbit").error(1);
    assert!(error.contains("with other limits"), "{error}");

    one.does(&format!("endpoint set {blue} --qos none"));
    assert_eq!(qos_of(one, &fixture.blue)["name"], "slow");
    one.does(&format!("endpoint rm {late}"));
    one.does("qos rm gold");
    one.does("qos rm gold");
    one.does(&format!("network set {network} --qos none"));
    one.does("qos rm slow");
    assert_eq!(one.json("qos ls"), json!([]));
    assert_eq!(qos_of(one, &fixture.blue), Value::Null);
}
