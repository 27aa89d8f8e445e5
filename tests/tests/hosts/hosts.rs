//! Hosts come, go and change places: addresses that are leased, virtual or another host's by now, and
//! hosts that are gone for good.

use std::{fs, time::Duration};

use overlay_lab::{
    Agent, Host, Lab, Netns, TwoHosts,
    agent::FAILED,
    traffic::{self, Stream},
    two_hosts::IPV4,
    until, until_within,
};
use serde_json::Value;

/// Longer than a session and a grace time and a start take on a slow machine.
const FOLLOW_TIMEOUT: Duration = Duration::from_mins(2);
/// What every agent is told.
const OPTIONS: &str = "--vni 42 --node-grace 2s";

/// Two hosts with an agent and an endpoint each. Agents go before their lab.
fn fixture() -> TwoHosts {
    TwoHosts::new(OPTIONS, IPV4)
}

/// What `agent` says of the VTEP of `node`; null: it knows none.
fn vtep(agent: &Agent, node: &str) -> Value {
    // An agent that starts itself anew is away for a moment.
    let run = agent.overlay("-o json vtep ls");
    let vteps: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
    let known = vteps.as_array().into_iter().flatten();
    let mut its = known.filter(|vtep| vtep["node"] == *node);
    its.next().cloned().unwrap_or_default()
}

#[track_caller]
fn await_address(agent: &Agent, node: &str, address: &str) {
    let what = format!("{} to know {node} at {address}", agent.instance());
    until_within(FOLLOW_TIMEOUT, &what, || vtep(agent, node)["ip"] == address);
}

/// Waits until the agent is ready, and starts it again whenever it has ended, as a service manager does.
#[track_caller]
fn await_service(agent: &mut Agent) {
    let what = format!("{} to be ready", agent.instance());
    until_within(FOLLOW_TIMEOUT, &what, || {
        if !agent.is_running() {
            agent.restart(OPTIONS);
        }
        agent.is_ready()
    });
}

/// Takes an address off a host's underlay and gives it another.
fn change_address(host: &Host, from: &str, to: &str) {
    host.netns.ip(&format!("address del {from}/24 dev u0"));
    host.netns.ip(&format!("address add {to}/24 dev u0"));
}

#[track_caller]
fn reaches(from: &Netns, ip: &str) {
    until_within(
        FOLLOW_TIMEOUT,
        &format!("{} to reach {ip}", from.name()),
        || from.pings(ip, "-c 1 -W 1"),
    );
}

/// A dead host's address goes to a new machine, and its endpoints can be saved.
#[test]
fn a_new_machine_takes_a_dead_hosts_address() {
    let mut fixture = fixture();
    let [one, two] = &mut fixture.agents;
    two.kill();
    fixture.hosts[1].plug(false);
    let third = fixture.lab.host(&fixture.hosts[0].switch, 3);
    change_address(&third, "10.0.0.3", "10.0.0.2");
    let mut heir = Agent::spawn(&fixture.lab, &third, OPTIONS);
    await_service(&mut heir);
    await_address(one, heir.instance(), "10.0.0.2");
    let dead = two.instance().to_owned();
    assert_eq!(
        vtep(one, &dead)["ip"].as_str().unwrap().split("::").next(),
        Some("100")
    );
    let red = heir.endpoint(&fixture.lab.name("red"), 42, &["7.7.7.4/24"]);
    reaches(&red, "7.7.7.2");
    // What the dead host had is recorded still: one endpoint is saved, the other goes.
    let green = fixture.green.name();
    one.does(&format!("endpoint move {green} --netns {green}-2"));
    let saved = Netns::named(format!("{green}-2"));
    reaches(&red, "7.7.7.3");
    reaches(&saved, "7.7.7.4");
    assert_eq!(
        one.does(&format!("vtep rm {dead}")),
        format!("node {dead} removed, and with it 0 endpoints\n")
    );
    assert_eq!(vtep(one, &dead), Value::Null);
    reaches(&red, "7.7.7.3");
}

/// A dead host is removed with its endpoints; a live one is not.
#[test]
fn only_a_dead_host_is_removed() {
    let mut fixture = fixture();
    let [one, two] = &mut fixture.agents;
    let [own, dead] = [one.instance().to_owned(), two.instance().to_owned()];
    let refused = one.overlay(&format!("vtep rm {dead}")).error(FAILED);
    assert!(
        refused.contains(&dead) && refused.contains("is alive"),
        "{refused}"
    );
    let refused = one.overlay(&format!("vtep rm {own}")).error(FAILED);
    assert!(refused.contains("overlay down"), "{refused}");
    // Nobody knows it: fine, as for `endpoint rm`.
    assert_eq!(one.json("vtep rm 10.0.0.99 nobody"), Value::Array(vec![]));
    two.kill();
    let removal = "vtep rm 10.0.0.2";
    until_within(FOLLOW_TIMEOUT, "the dead host to be silent", || {
        one.overlay(removal).code == 0
    });
    assert_eq!(vtep(one, &dead), Value::Null);
    let left = fixture.lab.snapshot();
    assert_eq!((left.nodes.len(), left.endpoints.len()), (1, 1));
    one.does(removal);
    // It was not dead after all: it comes back as a host that has nothing.
    two.restart(OPTIONS);
    two.await_ready();
    await_address(one, &dead, "10.0.0.2");
    until("its previous endpoint to be gone", || {
        !fixture.green.exists()
    });
    two.endpoint(&fixture.lab.name("red"), 42, &["7.7.7.4/24"]);
    reaches(&fixture.blue, "7.7.7.4");
}

/// Two running hosts whose addresses change places follow.
#[test]
fn two_running_hosts_swap_addresses() {
    let mut fixture = fixture();
    let [first, second] = &fixture.hosts;
    let pids = fixture.agents.each_ref().map(Agent::pid);
    first.netns.ip("address del 10.0.0.1/24 dev u0");
    change_address(second, "10.0.0.2", "10.0.0.1");
    first.netns.ip("address add 10.0.0.2/24 dev u0");
    let names = fixture
        .agents
        .each_ref()
        .map(|agent| agent.instance().to_owned());
    for agent in &fixture.agents {
        until_within(FOLLOW_TIMEOUT, "the agent to have followed", || {
            agent.is_ready()
        });
    }
    await_address(&fixture.agents[0], &names[0], "10.0.0.2");
    await_address(&fixture.agents[1], &names[1], "10.0.0.1");
    reaches(&fixture.blue, "7.7.7.3");
    reaches(&fixture.green, "7.7.7.2");
    // In the same processes: no service manager was needed.
    assert!(fixture.agents.iter_mut().all(Agent::is_running));
    assert_eq!(fixture.agents.each_ref().map(Agent::pid), pids);
}

/// Two hosts that come back from a reboot with each other's address follow.
#[test]
fn two_rebooted_hosts_swap_addresses() {
    let mut fixture = fixture();
    // What a reboot leaves: the rows, and no record of an earlier agent.
    for agent in &mut fixture.agents {
        agent.kill();
        fs::remove_file(format!("/run/overlay/{}.json", agent.instance())).unwrap();
    }
    let [first, second] = &fixture.hosts;
    change_address(first, "10.0.0.1", "10.0.0.2");
    change_address(second, "10.0.0.2", "10.0.0.1");
    let names = fixture
        .agents
        .each_ref()
        .map(|agent| agent.instance().to_owned());
    // Both at once: each needs what the other has.
    for agent in &mut fixture.agents {
        agent.restart(OPTIONS);
    }
    until_within(FOLLOW_TIMEOUT, "both to be ready", || {
        for agent in &mut fixture.agents {
            if !agent.is_running() {
                agent.restart(OPTIONS);
            }
        }
        fixture.agents.iter().all(Agent::is_ready)
    });
    await_address(&fixture.agents[0], &names[0], "10.0.0.2");
    await_address(&fixture.agents[1], &names[1], "10.0.0.1");
    reaches(&fixture.blue, "7.7.7.3");
}

/// A virtual address does not become the VTEP's while a lease is renewed.
#[test]
fn a_virtual_address_is_not_taken_for_the_vteps() {
    let mut fixture = fixture();
    let host = &fixture.hosts[0].netns;
    // The virtual address outlives the other one, and is the first from then on.
    host.run("sysctl", "-q -w net.ipv4.conf.u0.promote_secondaries=1");
    host.ip("address add 10.0.0.100/24 dev u0");
    host.ip("address add 10.9.0.100/32 dev u0");
    let stream = Stream::start(&fixture.green, &fixture.blue, "7.7.7.2");
    let pid = fixture.agents[0].pid();
    for _ in 0..3 {
        stream.flows(200);
        host.ip("address del 10.0.0.1/24 dev u0");
        host.ip("address add 10.0.0.1/24 dev u0");
        stream.flows(200);
    }
    let first = host.ip("-4 -o address show dev u0 primary");
    assert!(first.contains("10.0.0.100/24"), "{first}");
    // Longer than the agent takes to look.
    stream.flows(4000);
    assert_eq!(fixture.agents[0].json("status")["vtep"], "10.0.0.1");
    assert!(fixture.agents[0].is_running() && fixture.agents[0].pid() == pid);
    // Nor at the next start.
    fixture.agents[0].kill();
    fixture.agents[0].restart(OPTIONS);
    fixture.agents[0].await_ready();
    assert_eq!(fixture.agents[0].json("status")["vtep"], "10.0.0.1");
    let (sent, lost) = stream.finish();
    assert!(lost.len() < 100, "{} of {sent} lost", lost.len());
}

/// Another leased address is followed while the agent runs.
#[test]
fn another_leased_address_is_followed() {
    let mut fixture = fixture();
    let pid = fixture.agents[0].pid();
    change_address(&fixture.hosts[0], "10.0.0.1", "10.0.0.9");
    let node = fixture.agents[0].instance().to_owned();
    await_address(&fixture.agents[1], &node, "10.0.0.9");
    reaches(&fixture.green, "7.7.7.2");
    until("the agent to be ready", || fixture.agents[0].is_ready());
    assert_eq!(fixture.agents[0].json("status")["vtep"], "10.0.0.9");
    assert!(fixture.agents[0].is_running() && fixture.agents[0].pid() == pid);
}

/// A host without an address gives up its claim, and is whole again with one.
#[test]
fn a_host_without_address_gives_up_its_claim() {
    let fixture = fixture();
    let host = &fixture.hosts[0].netns;
    let [one, two] = &fixture.agents;
    host.ip("address del 10.0.0.1/24 dev u0");
    until_within(FOLLOW_TIMEOUT, "the claim to be given up", || {
        vtep(two, one.instance())["ip"]
            .as_str()
            .unwrap()
            .starts_with("100::")
    });
    // It is known here what is wrong, and traffic on the host goes on.
    let findings = one.overlay("doctor").stdout;
    assert!(
        findings.contains("10.0.0.1 is gone from interface u0"),
        "{findings}"
    );
    let red = one.endpoint(&fixture.lab.name("red"), 42, &["7.7.7.4/24"]);
    red.reaches("7.7.7.2");
    host.ip("address add 10.0.0.1/24 dev u0");
    await_address(two, one.instance(), "10.0.0.1");
    reaches(&fixture.green, "7.7.7.2");
    reaches(&fixture.green, "7.7.7.4");
}

/// Waits until the interface of an endpoint has this MTU.
#[track_caller]
fn await_mtu(endpoint: &Netns, mtu: u32) {
    let what = format!("{} to have MTU {mtu}", endpoint.name());
    until_within(FOLLOW_TIMEOUT, &what, || {
        endpoint
            .ip("-o link show dev eth0")
            .contains(&format!(" mtu {mtu} "))
    });
}

/// Between underlays of 9000 and 1500 bytes an automatic MTU is the least.
#[test]
fn an_automatic_mtu_is_the_least() {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    hosts[0].netns.ip("link set u0 mtu 9000");
    let agents = Agent::on_each(&lab, &hosts, OPTIONS);
    let blue = agents[0].endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = agents[1].endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    await_mtu(&blue, 1450);
    await_mtu(&green, 1450);
    traffic::tcp(&blue, &green, "7.7.7.3", 9 << 20);
    traffic::tcp(&green, &blue, "7.7.7.2", 9 << 20);
    let findings = agents[1].overlay("doctor").stdout;
    let peer = format!("{} (9000)", agents[0].instance());
    assert!(findings.contains(&peer), "{findings}");
}

/// An automatic MTU follows hosts that come, change and go.
#[test]
fn an_automatic_mtu_follows_the_hosts() {
    let fixture = fixture();
    let stream = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    let narrow = fixture.lab.host(&fixture.hosts[0].switch, 3);
    narrow.netns.ip("link set u0 mtu 1400");
    let mut third = Agent::start(&fixture.lab, &narrow, OPTIONS);
    await_mtu(&fixture.blue, 1350);
    await_mtu(&fixture.green, 1350);
    assert!(fixture.blue.pings("7.7.7.3", "-c 1 -W 2 -M do -s 1322"));
    assert!(!fixture.blue.pings("7.7.7.3", "-c 1 -W 2 -M do -s 1323"));
    // While its agent runs.
    narrow.netns.ip("link set u0 mtu 1380");
    await_mtu(&fixture.blue, 1330);
    // It counts until it is known to be gone for good: MTUs do not swing with agents that come and go.
    third.kill();
    let removal = format!("vtep rm {}", third.instance());
    until_within(FOLLOW_TIMEOUT, "the third host to be silent", || {
        fixture.agents[0].overlay(&removal).code == 0
    });
    await_mtu(&fixture.blue, 1450);
    await_mtu(&fixture.green, 1450);
    assert!(fixture.blue.pings("7.7.7.3", "-c 1 -W 2 -M do -s 1422"));
    stream.flows(200);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}
