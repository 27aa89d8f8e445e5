//! The slow path and what else used to be lost, seen from outside.

use std::{net::UdpSocket, time::Duration};

use overlay_lab::{
    frame::{self, RawSocket},
    traffic, until,
};

use super::fabric::{BLUE, Fabric, Fixture, GREEN};

/// What says in a datagram which one is meant.
const MARKER: &[u8] = b"the one with the tag";

#[test]
fn tunnel_packets_with_a_priority_tag_are_delivered() {
    let fixture = Fixture::new(Fabric::Overlay);
    let [_, second] = &fixture.hosts;
    let receiver = fixture.blue.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // What is caught and sent again needs its checksum.
    fixture.green.run("ethtool", "-K eth0 tx off");
    let underlay = RawSocket::open(&second.netns, "u0");
    let sender = fixture
        .green
        .enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let port = receiver.local_addr().unwrap().port();
    sender.send_to(MARKER, (BLUE.ipv4, port)).unwrap();
    let packet = underlay.next(|frame| frame.ends_with(MARKER).then(|| frame.to_vec()));
    // Priority 7, no VLAN.
    underlay.send(&frame::tagged(&packet, &[0xe000]));
    for _ in 0..2 {
        let mut buffer = [0; 64];
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], MARKER);
    }
}

#[test]
fn the_counters_say_what_took_the_slow_path_and_why() {
    let fixture = Fixture::new(Fabric::Overlay);
    let counter = |agent: usize, name: &str| {
        let rows = fixture.agents[agent].dump("counters");
        let row = overlay_ebpf::abi::Counter::ALL
            .iter()
            .find(|counter| counter.name() == name)
            .unwrap();
        rows.iter()
            .filter(|entry| entry["key"] == row.number())
            .flat_map(|entry| entry["values"].as_array().unwrap().clone())
            .map(|value| value["value"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(counter(1, "slow_receive_aggregate"), 0);
    let outcome = super::kinds::segments(&fixture);
    assert!(outcome.starts_with("500 of 500"), "{outcome}");
    assert_ne!(counter(1, "slow_receive_aggregate"), 0);
    // Only the endpoint that was asked answers, to the host of the requester.
    fixture.green.run(
        "ip",
        &format!(
            "neigh replace {} lladdr 02:42:07:07:07:02 dev eth0 nud stale",
            BLUE.ipv4
        ),
    );
    traffic::tcp(&fixture.blue, &fixture.green, GREEN.ipv4, 1 << 16);
    assert_eq!(fixture.agents[0].drops("encap_failed"), 0);
    assert_eq!(fixture.agents[1].drops("decap_failed"), 0);
}

/// An address that another endpoint has is found taken.
#[test]
fn an_address_in_use_is_found_taken() {
    let fixture = Fixture::new(Fabric::Overlay);
    let detects = |ip: &str| {
        let mut arping = fixture.blue.command("arping");
        arping.args(["-D", "-q", "-c", "2", "-w", "2", "-I", "eth0", ip]);
        // 1: somebody answered.
        arping.status().unwrap().code() == Some(1)
    };
    assert!(detects(GREEN.ipv4), "an endpoint of another host");
    assert!(
        detects(super::fabric::CYAN.ipv4),
        "an endpoint of this host"
    );
    assert!(!detects(BLUE.ipv4), "its own");
    assert!(!detects("7.7.7.99"), "nobody's");
}

#[test]
fn neighbours_that_are_probed_again_and_again_stay() {
    let fixture = Fixture::new(Fabric::Overlay);
    let endpoints = [&fixture.blue, &fixture.green];
    for endpoint in endpoints {
        for family in ["ipv4", "ipv6"] {
            for (setting, value) in [
                ("base_reachable_time_ms", 300),
                ("delay_first_probe_time", 1),
                ("retrans_time_ms", 100),
            ] {
                endpoint.run(
                    "sysctl",
                    &format!("-qw net.{family}.neigh.eth0.{setting}={value}"),
                );
            }
        }
    }
    let before = fixture.agents.iter().map(|agent| agent.drops("source_ip"));
    let before: u64 = before.sum();
    for ip in [GREEN.ipv4, GREEN.ipv6] {
        // Each of its answers takes a moment; five seconds are several rounds of probes.
        let mut ping = fixture.blue.command("ping");
        ping.args(["-n", "-q", "-c", "500", "-i", "0.01", "-W", "1", ip]);
        let output = ping.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
    let after = fixture.agents.iter().map(|agent| agent.drops("source_ip"));
    assert_eq!(after.sum::<u64>(), before);
    until("entries to be there", || {
        let neighbors = fixture.blue.ip("neigh show dev eth0");
        neighbors.contains(GREEN.ipv4) && !neighbors.contains("FAILED")
    });
}

/// An XDP program that drops all; fixtures/README.md has more.
const XDP_DROP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/xdp-drop.bpf.o");

/// A native XDP program of an endpoint sees what is delivered.
#[test]
fn an_endpoints_xdp_program_sees_its_packets() {
    let fixture = Fixture::new(Fabric::Overlay);
    let senders = [&fixture.green, &fixture.cyan];
    fixture
        .blue
        .ip(&format!("link set dev eth0 xdpdrv obj {XDP_DROP} sec xdp"));
    for sender in senders {
        for ip in [BLUE.ipv4, BLUE.ipv6] {
            until("the program to see frames", || {
                !sender.pings(ip, "-c 1 -W 1")
            });
        }
    }
    fixture.blue.ip("link set dev eth0 xdpdrv off");
    for sender in senders {
        sender.reaches(BLUE.ipv4);
        sender.reaches(BLUE.ipv6);
    }
}

/// An endpoint that raised its MTU is told of the limit without an agent.
#[test]
fn a_raised_mtu_is_told_of_without_an_agent() {
    let mut fixture = Fixture::new(Fabric::Overlay);
    fixture.agents[0].kill();
    fixture.blue.ip("link set eth0 mtu 3000");
    for ip in [GREEN.ipv4, GREEN.ipv6] {
        until("the endpoint to know", || {
            let _ = fixture.blue.pings(ip, "-c 1 -W 1 -M do -s 2500");
            let route = fixture.blue.ip(&format!("route get {ip}"));
            route.contains(&format!("mtu {}", super::fabric::MTU))
        });
    }
}
