//! The way out and the way in: two hosts, and a world outside of them.
//!
//! ```text
//!  host 1 (u1 10.0.0.1)      host 2 (u2 10.0.0.2)       world (w 10.0.0.100)
//!     blue 7.7.7.2              green 7.7.7.3            203.0.113.0/24 is on its link
//!        \________ switch ________/___________________________/
//! ```

use overlay_lab::{Agent, Netns, TwoHosts, traffic, traffic::Stream, two_hosts::IPV4, until};

struct World {
    // Fields are dropped in this order.
    fixture: TwoHosts,
    world: Netns,
}

impl World {
    fn new(options: &str) -> Self {
        let lab = overlay_lab::Lab::new();
        let switch = lab.switch("sw");
        let hosts = [lab.host(&switch, 1), lab.host(&switch, 2)];
        let world = lab.host(&switch, 100).netns;
        let fixture = TwoHosts::on(lab, hosts, &format!("--vni 42 {options}"), IPV4);
        // External addresses are on the world's link.
        world.ip("route add 203.0.113.0/24 dev u0");
        for host in &fixture.hosts {
            host.netns.ip("route add default via 10.0.0.100");
        }
        let one = &fixture.agents[0];
        one.does("router create r1");
        one.does("router attach r1 42 --ip 7.7.7.1/24");
        one.does("router set r1 --outside host");
        for netns in [&fixture.blue, &fixture.green] {
            netns.ip("route replace default via 7.7.7.1");
        }
        Self { fixture, world }
    }

    fn agent(&self) -> &Agent {
        &self.fixture.agents[0]
    }

    /// Has blue's and green's network share these addresses.
    fn share(&self, snat: &str) {
        let networks = self.agent().json("network ls");
        let network = networks[0]["name"].as_str().unwrap();
        self.agent()
            .does(&format!("network set {network} --snat {snat}"));
    }

    fn blue(&self) -> &Netns {
        &self.fixture.blue
    }

    fn green(&self) -> &Netns {
        &self.fixture.green
    }
}

/// The world's address.
const OUTSIDE: &str = "10.0.0.100";

#[test]
fn a_float_reaches_its_endpoint_and_leaves_with_it() {
    let world = World::new("");
    let (agent, blue) = (world.agent(), world.blue());
    let name = blue.name().to_owned();
    agent.does(&format!("float add 203.0.113.5 --endpoint {name}"));
    world.world.reaches("203.0.113.5");
    blue.reaches(OUTSIDE);
    traffic::tcp(&world.world, blue, "203.0.113.5", 1 << 20);
    traffic::tcp(blue, &world.world, OUTSIDE, 1 << 20);
    traffic::udp(&world.world, blue, "203.0.113.5", [0, 1, 500, 1400]);
}

#[test]
fn a_float_moves_and_nothing_that_arrives_is_lost() {
    let world = World::new("");
    let agent = world.agent();
    let [blue, green] = [world.blue(), world.green()].map(|it| it.name().to_owned());
    agent.does(&format!("float add 203.0.113.5 --endpoint {blue}"));
    world.world.reaches("203.0.113.5");
    agent.does(&format!("float move 203.0.113.5 --endpoint {green}"));
    world.world.reaches("203.0.113.5");
    let listed = agent.json("float ls");
    assert_eq!(listed[0]["endpoint"], serde_json::json!(green));
    agent.does("float rm 203.0.113.5");
    until("it is nobody's", || {
        !world.world.pings("203.0.113.5", "-c 1 -W 1")
    });
}

#[test]
fn endpoints_leave_with_an_address_of_a_pool() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create public --ip 203.0.113.8/29");
    world.share("public");
    let blue = world.blue();
    until("blue gets out", || blue.pings(OUTSIDE, "-c 1 -W 1"));
    traffic::tcp(blue, &world.world, OUTSIDE, 1 << 20);
    let stream = Stream::start(blue, &world.world, OUTSIDE);
    stream.flows(100);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "{lost:?}");
    // Nobody outside reaches what nobody asked for.
    assert!(!world.world.pings("203.0.113.8", "-c 1 -W 1"));
}

#[test]
fn endpoints_leave_with_their_hosts_own_address() {
    let world = World::new("");
    let (agent, blue) = (world.agent(), world.blue());
    world.share("host");
    until("blue gets out", || blue.pings(OUTSIDE, "-c 1 -W 1"));
    traffic::tcp(blue, &world.world, OUTSIDE, 1 << 20);
    traffic::udp(blue, &world.world, OUTSIDE, [0, 1, 500, 1400]);
    // The host goes on to use it.
    agent.netns().reaches(OUTSIDE);
    world.world.reaches("10.0.0.1");
    let reserved = agent
        .netns()
        .run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports");
    assert_eq!(reserved.trim(), "49152-65535");
}
