//! A path that takes less than the hosts' interfaces: who sends too much is told, as by any router.
//!
//! ```text
//!   h1 10.1.0.1 --5000-- r1 --4000-- r2 --5000-- 10.2.0.1 h2
//! ```

use std::net::Ipv4Addr;

use overlay_lab::{Agent, Lab, Netns, lab::Host, traffic, until};
use serde_json::json;

const HOSTS: u32 = 5000;
const PATH: u32 = 4000;
/// What the tunnel leaves of the path.
const LIMIT: usize = 3950;

struct Fixture {
    blue: Netns,
    green: Netns,
    one: Agent,
    _two: Agent,
    _lab: Lab,
}

/// A link between two namespaces, with an address at each end.
fn link(left: &Netns, right: &Netns, name: &str, mtu: u32, [a, b]: [&str; 2]) {
    left.ip(&format!(
        "link add {name} mtu {mtu} type veth peer name {name} mtu {mtu} netns {}",
        right.name()
    ));
    for (netns, ip) in [(left, a), (right, b)] {
        netns.ip(&format!("address add {ip}/24 dev {name}"));
        netns.ip(&format!("link set {name} up"));
    }
}

fn fixture() -> Fixture {
    let lab = Lab::new();
    let [h1, r1, r2, h2] = ["h1", "r1", "r2", "h2"].map(|name| lab.netns(name));
    link(&h1, &r1, "u0", HOSTS, ["10.1.0.1", "10.1.0.254"]);
    link(&r1, &r2, "mid", PATH, ["10.9.0.1", "10.9.0.2"]);
    link(&r2, &h2, "u0", HOSTS, ["10.2.0.254", "10.2.0.1"]);
    for router in [&r1, &r2] {
        router.run("sysctl", "-qw net.ipv4.ip_forward=1");
    }
    r1.ip("route add 10.2.0.0/24 via 10.9.0.2");
    r2.ip("route add 10.1.0.0/24 via 10.9.0.1");
    h1.ip("route add default via 10.1.0.254");
    h2.ip("route add default via 10.2.0.254");
    // No cable of theirs is ever pulled.
    let switch = lab.switch("none");
    let host = |netns, ip| Host {
        netns,
        ip,
        switch: switch.clone(),
    };
    let hosts = [
        host(h1, Ipv4Addr::new(10, 1, 0, 1)),
        host(h2, Ipv4Addr::new(10, 2, 0, 1)),
    ];
    let [one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24", "fd07::3/64"]);
    blue.reaches("7.7.7.3");
    blue.reaches("fd07::3");
    Fixture {
        blue,
        green,
        one,
        _two: two,
        _lab: lab,
    }
}

/// The longest outer packet to green's host that the programs know of.
fn known(fixture: &Fixture) -> u64 {
    let rows = fixture.one.dump("vteps");
    let row = rows.iter().find(|row| {
        row["key"]["ip"] == json!(Ipv4Addr::new(10, 2, 0, 1).to_ipv6_mapped().octets())
    });
    // The map was made by this version, so its BTF names the field.
    row.unwrap()["value"]["mtu"].as_u64().unwrap()
}

/// Streams go on over a path that is narrower than its ends.
#[test]
fn streams_go_on_over_a_narrow_path() {
    let fixture = fixture();
    assert_eq!(known(&fixture), 0);
    for ip in ["7.7.7.3", "fd07::3"] {
        traffic::tcp(&fixture.blue, &fixture.green, ip, 3 << 20);
    }
    for ip in ["7.7.7.2", "fd07::2"] {
        traffic::tcp(&fixture.green, &fixture.blue, ip, 3 << 20);
    }
    assert_eq!(known(&fixture), u64::from(PATH));
}

#[test]
fn an_endpoint_is_told_how_long_its_packets_may_be() {
    let fixture = fixture();
    let fits = |ip: &str, size: usize| {
        fixture
            .blue
            .pings(ip, &format!("-c 1 -W 1 -M do -s {size}"))
    };
    for (ip, headers) in [("7.7.7.3", 28), ("fd07::3", 48)] {
        until("the sender to know", || {
            let _ = fits(ip, LIMIT - headers + 1);
            let route = fixture.blue.ip(&format!("route get {ip}"));
            route.contains(&format!("mtu {LIMIT}"))
        });
        assert!(fits(ip, LIMIT - headers), "{ip}");
    }
    assert_eq!(fixture.one.drops("too_big"), 0);
}

/// What may be fragmented arrives over the narrow path.
#[test]
fn fragments_arrive_over_the_narrow_path() {
    let fixture = fixture();
    // Without DF, longer than the path and shorter than the network's MTU; both hosts have to learn.
    until("the path to be known", || {
        fixture.blue.pings("7.7.7.3", "-c 1 -W 1 -M dont -s 4800")
    });
    assert_eq!(known(&fixture), u64::from(PATH));
    // What IPv6 sends in pieces is told like all of it: the first is lost, as at any router.
    until("the sender to know", || {
        fixture.blue.pings("fd07::3", "-c 1 -W 1 -s 4800")
    });
    traffic::udp(&fixture.blue, &fixture.green, "7.7.7.3", [60_000]);
    traffic::udp(&fixture.blue, &fixture.green, "fd07::3", [60_000]);
}
