//! Endpoints reach each other: every protocol, every size, on one host and across.

use overlay_lab::{Agent, Lab, Netns, traffic, until};

const MTU: usize = 1450;
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// More than 8 MiB, and no multiple of any packet's size.
const BYTES: u64 = (9 << 20) + 12_345;

struct Fixture {
    blue: Netns,
    red: Netns,
    green: Netns,
    one: Agent,
    two: Agent,
    // The last to go.
    _lab: Lab,
}

/// `blue` (.2) and `red` (.4) on the first host, `green` (.3) on the second.
fn fixture() -> Fixture {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42");
    let two = Agent::start(&lab, &two, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let red = one.endpoint(&lab.name("red"), 42, &["7.7.7.4/24", "fd07::4/64"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24", "fd07::3/64"]);
    for ip in ["7.7.7.3", "fd07::3", "7.7.7.4", "fd07::4"] {
        blue.reaches(ip);
    }
    for ip in ["7.7.7.2", "fd07::2"] {
        green.reaches(ip);
    }
    Fixture {
        blue,
        red,
        green,
        one,
        two,
        _lab: lab,
    }
}

fn all_sizes(headers: usize) -> std::ops::RangeInclusive<usize> {
    0..=MTU - headers
}

#[test]
fn tcp_carries_every_byte_both_ways_across_hosts() {
    let fixture = fixture();
    for ip in ["7.7.7.3", "fd07::3"] {
        traffic::tcp(&fixture.blue, &fixture.green, ip, BYTES);
    }
    traffic::tcp(&fixture.green, &fixture.blue, "7.7.7.2", BYTES);
}

#[test]
fn tcp_carries_every_byte_both_ways_on_one_host() {
    let fixture = fixture();
    for ip in ["7.7.7.4", "fd07::4"] {
        traffic::tcp(&fixture.blue, &fixture.red, ip, BYTES);
    }
}

/// TCP carries every byte without segmentation offload on the underlay.
#[test]
fn tcp_works_without_offloads_on_the_underlay() {
    let fixture = fixture();
    for agent in [&fixture.one, &fixture.two] {
        agent.netns().run(
            "ethtool",
            "-K u0 tso off gso off tx-udp_tnl-segmentation off",
        );
    }
    traffic::tcp(&fixture.blue, &fixture.green, "7.7.7.3", BYTES);
    for agent in [&fixture.one, &fixture.two] {
        agent.netns().run("ethtool", "-K u0 gro on");
    }
    for ip in ["7.7.7.3", "fd07::3"] {
        traffic::tcp(&fixture.blue, &fixture.green, ip, BYTES);
    }
}

/// A stream's segments are aggregated behind the tunnel where the underlay does not.
#[test]
fn segments_are_aggregated_behind_the_tunnel() {
    let fixture = fixture();
    for agent in [&fixture.one, &fixture.two] {
        agent.netns().run(
            "ethtool",
            "-K u0 tso off gso off tx-udp_tnl-segmentation off gro off",
        );
    }
    for ip in ["7.7.7.3", "fd07::3"] {
        let before = tcp_packets_received(&fixture.green);
        traffic::tcp(&fixture.blue, &fixture.green, ip, BYTES);
        let received = tcp_packets_received(&fixture.green) - before;
        // Acknowledgements of what goes back among them.
        let segments = BYTES / MTU as u64;
        assert!(
            received < segments / 2,
            "{ip}: {received} packets for {segments} segments"
        );
    }
}

/// What the namespace's TCP counts: an aggregate is one (`TcpInSegs` counts packets handed up).
fn tcp_packets_received(netns: &Netns) -> u64 {
    let counters = netns.run("nstat", "-asz TcpInSegs");
    let count = counters.lines().last().unwrap().split_whitespace().nth(1);
    count.unwrap().parse().unwrap()
}

/// UDP datagrams of every size up to the MTU come and go across hosts.
#[test]
fn udp_of_every_size_crosses_hosts() {
    let fixture = fixture();
    traffic::udp(
        &fixture.blue,
        &fixture.green,
        "7.7.7.3",
        all_sizes(HEADERS_V4),
    );
    traffic::udp(
        &fixture.green,
        &fixture.blue,
        "fd07::2",
        all_sizes(HEADERS_V6),
    );
}

/// UDP datagrams of every size up to the MTU come and go on one host.
#[test]
fn udp_of_every_size_stays_on_one_host() {
    let fixture = fixture();
    traffic::udp(
        &fixture.blue,
        &fixture.red,
        "7.7.7.4",
        all_sizes(HEADERS_V4),
    );
    traffic::udp(
        &fixture.red,
        &fixture.blue,
        "fd07::2",
        all_sizes(HEADERS_V6),
    );
}

/// Datagrams that the sender fragments are put together again.
#[test]
fn fragmented_datagrams_are_reassembled() {
    let fixture = fixture();
    traffic::udp(
        &fixture.blue,
        &fixture.green,
        "7.7.7.3",
        [MTU, 3000, 20_000, 65_000],
    );
    traffic::udp(
        &fixture.blue,
        &fixture.green,
        "fd07::3",
        [MTU, 3000, 20_000, 65_000],
    );
}

/// Packets of the MTU pass unfragmented; the sender of longer ones is told.
#[test]
fn the_mtu_is_used_in_full_and_told() {
    let Fixture { one, blue, .. } = &fixture();
    for (ip, headers) in [
        ("7.7.7.3", HEADERS_V4),
        ("fd07::3", HEADERS_V6),
        ("7.7.7.4", HEADERS_V4),
    ] {
        assert!(
            blue.pings(ip, &format!("-c 3 -W 2 -M do -s {}", MTU - headers)),
            "{ip}"
        );
    }
    // The endpoint's owner may set what he likes inside. The veth itself lets four bytes more pass
    // than its MTU, for a VLAN tag.
    for ip in ["7.7.7.3", "7.7.7.4"] {
        let answered = || {
            let status = one.json("status");
            let counters = &status["datapath"]["counters"];
            counters["too_big_answered"].as_u64().unwrap()
        };
        let before = answered();
        blue.ip("route flush cache");
        // The agent puts the MTU back as soon as it is told, maybe before the ping.
        until(&format!("a packet to {ip} is too big"), || {
            blue.ip("link set eth0 mtu 1500");
            let longer = format!("-c 1 -W 1 -M do -s {}", MTU + 1 - HEADERS_V4);
            assert!(!blue.pings(ip, &longer), "{ip}");
            answered() > before
        });
    }
    assert!(!blue.pings("7.7.7.3", "-c 1 -W 1 -M do -s 1472"));
}

/// An endpoint reaches its neighbours on its own host while the underlay is cut.
#[test]
fn neighbours_of_a_host_need_no_underlay() {
    let lab = Lab::new();
    let [host, _other] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    one.endpoint(&lab.name("red"), 42, &["7.7.7.4/24"]);
    host.plug(false);
    blue.reaches("7.7.7.4");
}

/// What is not a tunnel's passes the underlay untouched.
#[test]
fn other_traffic_of_the_underlay_is_untouched() {
    let lab = Lab::new();
    let hosts: [_; 2] = lab.hosts();
    let [one, _two] = [0, 1].map(|index| Agent::start(&lab, &hosts[index], "--vni 42"));
    let [first, second] = [0, 1].map(|index| &hosts[index].netns);
    let before = one.json("drops");
    assert!(first.pings("10.0.0.2", "-c 3 -W 2 -M do -s 1472"));
    assert!(first.pings("10.0.0.2", "-c 1 -W 2 -s 8000"), "fragments");
    traffic::tcp(first, second, "10.0.0.2", BYTES);
    traffic::udp(second, first, "10.0.0.1", [0, 1, 100, 1472, 1473, 20_000]);
    for (ip, port) in [("10.0.0.1", 4788), ("10.0.0.1", 4790), ("10.0.0.1", 8472)] {
        let _server = traffic::Echo::on_port(first, ip, port, Some("here"));
        assert_eq!(
            traffic::ask(second, ip, port).as_deref(),
            Some("here"),
            "{ip}:{port}"
        );
    }
    first.ip("address add fd10::1/64 dev u0 nodad");
    second.ip("address add fd10::2/64 dev u0 nodad");
    second.reaches("fd10::1");
    assert_eq!(one.json("drops"), before);
}
