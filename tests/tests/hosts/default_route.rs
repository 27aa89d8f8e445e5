//! Default routes in the namespaces that agents make, by the gateways of their networks.

use overlay_lab::{Agent, Lab, Netns, TwoHosts, two_hosts::BOTH, until};
use serde_json::Value;

/// The gateways of the default routes of each family, in the order in which the kernel takes them, and who set them.
fn defaults(netns: &Netns) -> [Vec<(String, String)>; 2] {
    ["", "-6 "].map(|family| {
        let routes = netns.ip(&format!("{family}-j route show default"));
        let routes: Vec<Value> = serde_json::from_str(&routes).unwrap();
        let text = |route: &Value, key: &str| route[key].as_str().unwrap_or_default().to_owned();
        let routes = routes.iter();
        routes
            .map(|route| (text(route, "gateway"), text(route, "protocol")))
            .collect()
    })
}

/// Those that an agent sets.
fn ours(ipv4: &str, ipv6: &str) -> [Vec<(String, String)>; 2] {
    [ipv4, ipv6].map(|gateway| vec![(gateway.to_owned(), "79".to_owned())])
}

#[track_caller]
fn comes(netns: &Netns, what: &str, expected: &[Vec<(String, String)>; 2]) {
    until(&format!("{what}: {:?}", defaults(netns)), || {
        defaults(netns) == *expected
    });
}

const NONE: [Vec<(String, String)>; 2] = [Vec::new(), Vec::new()];

#[test]
fn a_network_that_is_attached_gives_its_namespaces_a_default_route_and_takes_it_back() {
    let mut fixture = TwoHosts::new("--vni 42", BOTH);
    let first = ours("7.7.7.1", "fd07::1");
    let agent = &fixture.agents[0];
    agent.does("router create r1");
    agent.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
    // This host has followed when the verb is done.
    assert_eq!(defaults(&fixture.blue), first);
    comes(&fixture.green, "the other host follows", &first);
    // One that comes later has them when it is there.
    let late = agent.endpoint(&fixture.lab.name("late"), 42, &["7.7.7.4/24", "fd07::4/64"]);
    assert_eq!(defaults(&late), first);
    let only4 = agent.endpoint(&fixture.lab.name("only4"), 42, &["7.7.7.5/24"]);
    assert_eq!(defaults(&only4), [first[0].clone(), Vec::new()]);
    let narrow = agent.endpoint(
        &fixture.lab.name("narrow"),
        42,
        &["7.7.7.6/32", "fd07::6/128"],
    );
    assert_eq!(defaults(&narrow), first);
    narrow.reaches("7.7.7.1");
    narrow.reaches("fd07::1");

    fixture.agents[1].kill();
    let agent = &fixture.agents[0];
    agent.does("router detach r1 42");
    assert_eq!(defaults(&fixture.blue), NONE);
    agent.does("router attach r1 42 --ip 7.7.7.254/24 --ip fd07::fe/64");
    let second = ours("7.7.7.254", "fd07::fe");
    assert_eq!(defaults(&fixture.blue), second);
    assert_eq!(defaults(&fixture.green), first, "nobody is there to follow");
    fixture.agents[1].restart("--vni 42");
    comes(&fixture.green, "the restarted agent follows", &second);
    fixture.agents[0].does("router detach r1 42");
    comes(&fixture.green, "the other host follows", &NONE);
}

#[test]
fn a_default_route_survives_its_agent_and_comes_back_with_it() {
    let mut fixture = TwoHosts::new("--vni 42", BOTH);
    let agent = &fixture.agents[0];
    agent.does("router create r1");
    agent.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
    let expected = ours("7.7.7.1", "fd07::1");
    fixture.agents[0].kill();
    assert_eq!(defaults(&fixture.blue), expected);
    fixture.blue.ip("route del default");
    fixture.agents[0].restart("--vni 42");
    comes(&fixture.blue, "what was missing comes back", &expected);
    fixture.agents[0].kill();
    fixture.agents[1].does("router detach r1 42");
    fixture.agents[0].restart("--vni 42");
    comes(&fixture.blue, "the restarted agent follows", &NONE);
}

#[test]
fn a_default_route_of_somebody_elses_is_left_alone() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let (agent, blue) = (&fixture.agents[0], &fixture.blue);
    blue.ip("route add default via 7.7.7.9");
    blue.ip("-6 route add default via fd07::9 metric 30000");
    let others = defaults(blue);
    agent.does("router create r1");
    agent.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
    assert_eq!(defaults(blue), others);
    agent.does("router detach r1 42");
    assert_eq!(defaults(blue), others);
    // Where there is none any more, a change brings ours; and one that comes later goes before it.
    blue.ip("route del default");
    blue.ip("-6 route del default");
    agent.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
    assert_eq!(defaults(blue), ours("7.7.7.1", "fd07::1"));
    blue.ip("route add default via 7.7.7.9");
    assert_eq!(defaults(blue)[0][0].0, "7.7.7.9");
    agent.does("router detach r1 42");
    let left = defaults(blue);
    assert_eq!(left[0].len(), 1);
    assert_eq!(left[0][0].0, "7.7.7.9");
}

#[test]
fn a_namespace_that_somebody_else_made_gets_no_default_route() {
    let lab = Lab::new();
    let hosts: [_; 1] = lab.hosts();
    let agent = Agent::start(&lab, &hosts[0], "--vni 42");
    agent.does("router create r1");
    agent.does("router attach r1 42 --ip 7.7.7.1/24 --ip fd07::1/64");
    let theirs = lab.netns("theirs");
    let (name, netns) = (lab.name("web"), theirs.name());
    agent.does(&format!(
        "endpoint add {name} --vni 42 --ip 7.7.7.2/24 --ip fd07::2/64 --netns {netns}"
    ));
    theirs.reaches("7.7.7.1");
    assert_eq!(defaults(&theirs), NONE);
}

#[test]
fn a_namespace_with_two_endpoints_has_the_other_gateway_when_one_goes() {
    let lab = Lab::new();
    let hosts: [_; 1] = lab.hosts();
    let agent = Agent::start(&lab, &hosts[0], "--vni 42 --vni 43");
    agent.does("router create r1");
    agent.does("router attach r1 42 --ip 7.7.7.1/24");
    agent.does("router attach r1 43 --ip 8.8.8.1/24");
    let web = agent.endpoint(&lab.name("web"), 42, &["7.7.7.2/24"]);
    let second = lab.name("second");
    agent.does(&format!(
        "endpoint add {second} --vni 43 --ip 8.8.8.2/24 --netns {} --ifname eth1",
        web.name()
    ));
    let gateways = |netns: &Netns| -> Vec<String> {
        let [routes, _] = defaults(netns);
        routes.into_iter().map(|(gateway, _)| gateway).collect()
    };
    assert_eq!(gateways(&web), ["7.7.7.1", "8.8.8.1"]);
    agent.does("router detach r1 42");
    assert_eq!(gateways(&web), ["8.8.8.1"]);
}
