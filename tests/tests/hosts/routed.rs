//! Hosts in different subnets: the next hop is the kernel's business, and it changes.
//!
//! ```text
//!   h1 10.1.0.1 --- left --- r1 (.253) --- right --- 10.2.0.1 h2
//!                     \ ---- r2 (.254) ---- /
//! ```

use std::net::Ipv4Addr;

use overlay_lab::{
    Agent, Lab, Netns, Switch, TwoHosts,
    lab::Host,
    traffic::{self, Stream},
    two_hosts::BOTH,
    until,
};
use serde_json::json;

struct Fixture {
    blue: Netns,
    green: Netns,
    agents: [Agent; 2],
    hosts: [Host; 2],
    routers: [Netns; 2],
    _lab: Lab,
}

fn router(lab: &Lab, name: &str, last: u8, [left, right]: [&Switch; 2]) -> Netns {
    let router = lab.netns(name);
    left.connect(&router, "l0");
    right.connect(&router, "r0");
    router.ip(&format!("address add 10.1.0.{last}/24 dev l0"));
    router.ip(&format!("address add 10.2.0.{last}/24 dev r0"));
    router.run(
        "sysctl",
        "-q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0",
    );
    router
}

fn host(lab: &Lab, name: &str, ip: [u8; 4], switch: &Switch) -> Host {
    let netns = lab.netns(name);
    switch.connect(&netns, "u0");
    let host = Host {
        ip: Ipv4Addr::from(ip),
        netns,
        switch: switch.clone(),
    };
    host.netns.ip(&format!("address add {}/24 dev u0", host.ip));
    host
}

fn fixture() -> Fixture {
    let lab = Lab::new();
    let switches = ["left", "right"].map(|name| lab.switch(name));
    let routers = [("r1", 253), ("r2", 254)]
        .map(|(name, last)| router(&lab, name, last, switches.each_ref()));
    let hosts = [
        host(&lab, "h1", [10, 1, 0, 1], &switches[0]),
        host(&lab, "h2", [10, 2, 0, 1], &switches[1]),
    ];
    route(&hosts, 253);
    let TwoHosts {
        agents,
        blue,
        green,
        hosts,
        lab,
    } = TwoHosts::on(lab, hosts, "--vni 42", BOTH);
    Fixture {
        blue,
        green,
        agents,
        hosts,
        routers,
        _lab: lab,
    }
}

/// Makes the router with this last octet the next hop of both.
fn route([left, right]: &[Host; 2], last: u8) {
    left.netns
        .ip(&format!("route replace default via 10.1.0.{last} dev u0"));
    right
        .netns
        .ip(&format!("route replace default via 10.2.0.{last} dev u0"));
}

#[test]
fn payloads_cross_a_router() {
    let fixture = fixture();
    traffic::tcp(&fixture.blue, &fixture.green, "7.7.7.3", 9 << 20);
    traffic::tcp(&fixture.green, &fixture.blue, "fd07::2", 9 << 20);
    traffic::udp(&fixture.blue, &fixture.green, "7.7.7.3", [0, 1, 1000, 1422]);
    assert!(fixture.blue.pings("7.7.7.3", "-c 1 -W 2 -M do -s 1422"));
}

/// A next hop that nobody has resolved is resolved by the first packet.
#[test]
fn the_first_packet_resolves_the_next_hop() {
    let Fixture { blue, hosts, .. } = &fixture();
    for host in hosts {
        host.netns.ip("neigh flush dev u0");
        assert!(!host.netns.ip("neigh show dev u0").contains("lladdr"));
    }
    assert!(blue.pings("7.7.7.3", "-c 1 -W 3"));
    assert!(
        hosts[0]
            .netns
            .ip("neigh show 10.1.0.253 dev u0")
            .contains("lladdr")
    );
}

#[test]
fn a_next_hop_with_a_new_mac_is_found_again() {
    let Fixture {
        blue,
        routers: [router, _],
        hosts,
        ..
    } = &fixture();
    router.ip("link set l0 down");
    router.ip("link set l0 address 02:00:00:00:ff:01");
    router.ip("link set l0 up");
    hosts[0].netns.ip("neigh flush dev u0");
    assert!(blue.pings("7.7.7.3", "-c 1 -W 3"));
}

/// Changes the route while packets flow, then takes the previous router away. Nothing gets lost.
fn moves_to_another_router(fixture: &Fixture) {
    let [previous, new] = &fixture.routers;
    // What a router forwards to h2, with a little ARP.
    let forwarded = |router: &Netns| router.counter("r0", "tx_packets");
    let stream = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    stream.flows(1000);
    let before = forwarded(new);
    route(&fixture.hosts, 254);
    until("the previous router to have nothing to do", || {
        let so_far = forwarded(previous);
        stream.flows(200);
        forwarded(previous) < so_far + 20
    });
    assert!(forwarded(new) >= before + 200);
    for device in ["l0", "r0"] {
        previous.ip(&format!("link set {device} down"));
    }
    stream.flows(1000);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

/// A route that changes takes the tunnels with it and loses nothing.
#[test]
fn a_changed_route_takes_the_tunnels_along() {
    moves_to_another_router(&fixture());
}

/// A route that changes while no agent runs takes the tunnels with it too.
#[test]
fn a_route_changed_without_agents_is_followed() {
    let mut fixture = fixture();
    for agent in &mut fixture.agents {
        agent.kill();
    }
    moves_to_another_router(&fixture);
}

/// Waits until the first host's row of the second one has this router; `None`: the kernel is asked for
/// each packet.
#[track_caller]
fn leads_through(fixture: &Fixture, router: Option<[u8; 4]>) {
    let vtep = json!({"ip": fixture.hosts[1].ip.to_ipv6_mapped().octets()});
    let mapped = |router| Ipv4Addr::from(router).to_ipv6_mapped().octets();
    let expected = json!(router.map_or([0; 16], mapped));
    until(&format!("the next hop to be {router:?}"), || {
        let rows = fixture.agents[0].dump("vteps");
        let row = rows.iter().find(|row| row["key"] == vtep);
        row.is_some_and(|row| row["value"]["next_hop"] == expected)
    });
}

/// Makes the default routes of both hosts such that the kernel tells the id of a nexthop object and
/// nothing else (`nexthop_compat_mode=0`). The objects are at first router 253.
fn route_by_objects(hosts: &[Host; 2]) {
    for (host, left) in hosts.iter().zip(1..) {
        let run = |words: &str| host.netns.ip(words);
        host.netns
            .run("sysctl", "-q -w net.ipv4.nexthop_compat_mode=0");
        run(&format!("nexthop add id 1 via 10.{left}.0.253 dev u0"));
        run(&format!("nexthop add id 2 via 10.{left}.0.254 dev u0"));
        run("nexthop add id 10 group 1");
        run("route replace default nhid 10");
    }
}

/// The kernel looks up a route whose nexthop object names no router.
#[test]
fn a_nexthop_object_without_router_is_looked_up() {
    let fixture = fixture();
    route_by_objects(&fixture.hosts);
    leads_through(&fixture, None);
    fixture.blue.reaches("7.7.7.3");
    // Only the object changes, and no route with it.
    for host in &fixture.hosts {
        host.netns.ip("nexthop replace id 10 group 2");
    }
    for device in ["l0", "r0"] {
        fixture.routers[0].ip(&format!("link set {device} down"));
    }
    fixture.blue.reaches("7.7.7.3");
    fixture.green.reaches("fd07::2");
    // A single one, in the kernel's other mode: it tells what the object is.
    for host in &fixture.hosts {
        host.netns
            .run("sysctl", "-q -w net.ipv4.nexthop_compat_mode=1");
        host.netns.ip("route replace default nhid 2");
    }
    leads_through(&fixture, Some([10, 1, 0, 254]));
    fixture.blue.reaches("7.7.7.3");
}

#[test]
fn a_next_hop_that_only_a_rule_leads_to_is_found() {
    let fixture = fixture();
    for (host, left) in fixture.hosts.iter().zip(1..) {
        host.netns.ip(&format!(
            "route add default via 10.{left}.0.254 dev u0 table 77"
        ));
        host.netns
            .ip("rule add to 10.0.0.0/8 table 77 priority 100");
        host.netns
            .ip("rule add to 10.0.0.0/8 unreachable priority 200");
    }
    leads_through(&fixture, Some([10, 1, 0, 254]));
    fixture.blue.reaches("7.7.7.3");
}

/// Several paths are left to the kernel, and an unreachable route sends nothing.
#[test]
fn multipath_and_unreachable_are_the_kernels() {
    let fixture = fixture();
    let [left, _] = &fixture.hosts;
    left.netns
        .ip("route replace default nexthop via 10.1.0.253 dev u0 nexthop via 10.1.0.254 dev u0");
    leads_through(&fixture, None);
    fixture.blue.reaches("7.7.7.3");
    left.netns.ip("route replace unreachable default");
    until("the refusal to be followed", || {
        !fixture.blue.pings("7.7.7.3", "-c 1 -W 1")
    });
    route(&fixture.hosts, 253);
    fixture.blue.reaches("7.7.7.3");
}
