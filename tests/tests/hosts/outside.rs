//! The way out and the way in: two hosts, and a world outside of them.
//!
//! ```text
//!  host 1 (u1 10.0.0.1)      host 2 (u2 10.0.0.2)       world (w 10.0.0.100)
//!     blue 7.7.7.2              green 7.7.7.3            203.0.113.0/24 is on its link
//!        \________ switch ________/___________________________/
//! ```

use std::{io, net::UdpSocket};

use overlay_lab::{
    Agent, Netns, TwoHosts,
    capture::Capture,
    traffic,
    traffic::Stream,
    two_hosts::{BOTH, IPV4},
    until,
};

mod endings;
mod tools;

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

    /// With a pool of four addresses, by which blue gets out.
    fn shared() -> Self {
        let world = Self::new("");
        world.agent().does("pool create public --ip 203.0.113.8/30");
        world.share("public");
        until("blue gets out", || world.blue().pings(OUTSIDE, "-c 1 -W 1"));
        world
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

/// How many packets a host has forwarded for others.
fn forwarded(host: &Netns) -> u64 {
    /// Where the line has `ForwDatagrams`.
    const FIELD: usize = 6;
    let counters = host.run("cat", "/proc/net/snmp");
    let values = counters
        .lines()
        .filter(|line| line.starts_with("Ip:"))
        .nth(1);
    let value = values.and_then(|line| line.split_whitespace().nth(FIELD));
    value.unwrap().parse().unwrap()
}

#[test]
fn the_way_out_follows_the_hosts_routes_with_the_agent_and_without() {
    const FAR: &str = "198.51.100.1";
    let mut world = World::new("");
    world.share("host");
    world.world.ip(&format!("addr add {FAR}/32 dev lo"));
    let blue = world.blue().clone();
    until("blue gets out", || blue.pings(FAR, "-c 1 -W 1"));
    let [one, two] = world
        .fixture
        .hosts
        .each_ref()
        .map(|host| host.netns.clone());
    two.run("sysctl", "-qw net.ipv4.ip_forward=1");
    let by_the_other = || one.ip("route replace default via 10.0.0.2");
    let stream = Stream::start(&blue, &world.world, FAR);
    stream.flows(100);
    assert_eq!(forwarded(&two), 0);
    by_the_other();
    until("the other host routes", || forwarded(&two) > 0);
    one.ip("route replace default via 10.0.0.100");
    stream.flows(100);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "{lost:?}");
    // What more than a subnet and a router says is the kernel's to find.
    let before = forwarded(&two);
    one.ip(&format!("route add {FAR}/32 via 10.0.0.2"));
    until("the other host routes for one address", || {
        blue.pings(FAR, "-c 1 -W 1") && forwarded(&two) > before
    });
    one.ip(&format!("route del {FAR}/32"));
    // Without an agent, nobody vouches for what it wrote.
    world.fixture.agents[0].kill();
    let before = forwarded(&two);
    by_the_other();
    until("the kernel is asked", || {
        blue.pings(FAR, "-c 1 -W 1") && forwarded(&two) > before
    });
}

/// The source port of a datagram of an endpoint's as the world sees it.
fn external_port(world: &World, from: &Netns, own_port: u16) -> std::net::SocketAddr {
    let server = world
        .world
        .enter(|| UdpSocket::bind("0.0.0.0:5353").unwrap());
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    from.enter(|| {
        let socket = UdpSocket::bind(("0.0.0.0", own_port)).unwrap();
        socket.send_to(b"who am I", (OUTSIDE, 5353)).unwrap();
    });
    let mut text = [0; 64];
    server.recv_from(&mut text).unwrap().1
}

#[test]
fn an_endpoint_that_uses_up_its_ports_is_told_and_nothing_leaves_untranslated() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create small --ip 203.0.113.8/31 --block 64 --max-blocks 1");
    world.share("small");
    let blue = world.blue();
    until("blue gets out", || blue.pings(OUTSIDE, "-c 1 -W 1"));
    // As many as the block has ports, and one more of a port that has its mapping.
    let capture = Capture::start(&world.fixture.lab, &world.world, "u0", 65, "udp port 5353");
    let told = blue.enter(|| {
        let sockets: Vec<UdpSocket> = (20_000..20_200)
            .map(|port| {
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                socket.connect((OUTSIDE, 5353)).unwrap();
                socket
            })
            .collect();
        let errors = || {
            let errors = sockets.iter().filter_map(|it| it.take_error().unwrap());
            errors
                .filter(|it| it.kind() == io::ErrorKind::HostUnreachable)
                .count()
        };
        for socket in &sockets {
            let _ = socket.send(b"one of many");
        }
        let mut told = 0;
        until("one that was refused is told", || {
            told += errors();
            told > 0
        });
        let _ = sockets[0].take_error();
        sockets[0].send(b"the last one").unwrap();
        told
    });
    assert!(told > 0);
    for packet in capture.finish(&["ip.src", "udp.srcport"]) {
        let source = packet.all("ip.src");
        assert!(source[0].starts_with("203.0.113."), "{source:?}");
    }
    let nat = agent.json(&format!("nat ls --endpoint {}", blue.name()));
    assert_eq!(nat["blocks"][0]["used"]["udp"], serde_json::json!(64));
}

#[test]
fn a_port_keeps_its_external_one_through_the_agents_death_and_restart() {
    let mut world = World::shared();
    let before = external_port(&world, world.blue(), 4000);
    assert!(
        before.ip().to_string().starts_with("203.0.113."),
        "{before}"
    );
    let stream = Stream::start(world.blue(), &world.world, OUTSIDE);
    stream.flows(50);
    world.fixture.agents[0].kill();
    stream.flows(100);
    assert_eq!(external_port(&world, world.blue(), 4000), before);
    world.fixture.agents[0].restart("");
    world.fixture.agents[0].await_ready();
    stream.flows(100);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(external_port(&world, world.blue(), 4000), before);
    let check = world.agent().json(&format!("nat check {before}"));
    assert_eq!(check[0]["endpoint"], serde_json::json!(world.blue().name()));
}

#[test]
fn each_host_has_addresses_of_a_pool_and_one_too_many_is_told() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create one --ip 203.0.113.8");
    world.share("one");
    until("one of them gets out", || {
        let blocks = agent.json("nat ls")["blocks"].as_array().unwrap().len();
        blocks == 1
    });
    until("the other one is told of", || {
        world.fixture.agents.iter().any(|agent| {
            let nat = agent.json("nat ls");
            nat["without_block"]
                .as_array()
                .is_some_and(|it| it.len() == 1)
        })
    });
    let problems = world
        .fixture
        .agents
        .iter()
        .map(|it| it.overlay("doctor").stdout);
    assert!(
        problems
            .into_iter()
            .any(|text| text.contains("all blocks of ports are taken"))
    );
}

#[test]
fn a_host_that_goes_off_leaves_its_external_addresses_to_others() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create public --ip 203.0.113.8/31");
    world.share("public");
    until("both get out", || {
        world.blue().pings(OUTSIDE, "-c 1 -W 1") && world.green().pings(OUTSIDE, "-c 1 -W 1")
    });
    agent.does(&format!("endpoint rm {}", world.blue().name()));
    until("its address is free", || {
        agent.json("pool ls")[0]["used"] == serde_json::json!(1)
    });
    let name = world.fixture.lab.name("again");
    let again = agent.endpoint(&name, 42, &["7.7.7.9/24"]);
    again.ip("route replace default via 7.7.7.1");
    until("a new endpoint gets out", || {
        again.pings(OUTSIDE, "-c 1 -W 1")
    });
}

#[test]
fn tenants_with_the_same_addresses_leave_side_by_side() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("network create twin --vni 77 --subnet 7.7.7.0/24");
    agent.does("router create r2");
    agent.does("router attach r2 twin --ip 7.7.7.1/24");
    agent.does("router set r2 --outside host");
    let name = world.fixture.lab.name("twin");
    let twin = agent.endpoint(&name, 77, &["7.7.7.2/24"]);
    twin.ip("route replace default via 7.7.7.1");
    agent.does("pool create public --ip 203.0.113.8/29");
    world.share("public");
    agent.does(&format!("float add 203.0.113.77 --endpoint {name}"));
    let blue = world.blue();
    until("both get out", || {
        blue.pings(OUTSIDE, "-c 1 -W 1") && twin.pings(OUTSIDE, "-c 1 -W 1")
    });
    let shared = external_port(&world, blue, 4000).ip().to_string();
    // One of the pool's: the hosts take them as they come.
    assert!(shared.starts_with("203.0.113.") && shared != "203.0.113.77");
    assert_eq!(
        external_port(&world, &twin, 4000).to_string(),
        "203.0.113.77:4000"
    );
    // They meet outside alone: the one by its float, the other by its shared address.
    assert!(blue.pings("203.0.113.77", "-c 1 -W 1"));
    traffic::udp(blue, &twin, "203.0.113.77", [1, 1400]);
}

#[test]
fn a_packet_for_the_outside_is_explained_by_its_float_or_its_block() {
    let world = World::new("");
    let (agent, blue) = (world.agent(), world.blue().name().to_owned());
    let explained = || agent.overlay(&format!("explain {blue} {OUTSIDE} --proto tcp --port 443"));
    let run = explained();
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr
            .contains("has neither SNAT nor its sender a float"),
        "{run:?}"
    );
    agent.does("pool create public --ip 203.0.113.8/30");
    world.share("public");
    until("it leaves with the pool's address", || {
        explained()
            .stdout
            .contains("leaves by the uplink: tcp 203.0.113.")
    });
    let run = explained();
    assert!(run.stdout.contains("new_flows"), "{run:?}");
    agent.does(&format!("float add 203.0.113.5 --endpoint {blue}"));
    let run = explained();
    assert!(run.stdout.contains("external 203.0.113.5"), "{run:?}");
    let expected = format!("leaves by the uplink: tcp 203.0.113.5:40000 > {OUTSIDE}:443");
    assert!(run.stdout.contains(&expected), "{run:?}");
}

#[test]
fn an_endpoint_sends_from_the_ports_of_its_block_where_its_pool_says_so() {
    let world = World::new("");
    let (agent, blue) = (world.agent(), world.blue());
    agent.does("pool create public --ip 203.0.113.8/30 --block 256 --ports-in-endpoint");
    let range = || blue.run("cat", "/proc/sys/net/ipv4/ip_local_port_range");
    let before = range();
    world.share("public");
    until("its sockets get the ports of its block", || {
        range() != before
    });
    let block = &agent.json(&format!("nat ls --endpoint {}", blue.name()))["blocks"][0];
    let first = block["first_port"].as_u64().unwrap();
    let ends: Vec<u64> = range()
        .split_whitespace()
        .map(|it| it.parse().unwrap())
        .collect();
    assert_eq!(ends, [first, first + 255]);
    traffic::tcp(blue, &world.world, OUTSIDE, 1000);
    let mappings = agent.json("nat ls --mappings");
    let mut of_tcp = mappings
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["protocol"] == "tcp");
    assert!(of_tcp.all(|it| it["own_port"] == it["port"]), "{mappings}");
    world.share("none");
    until("its sockets have the ports that they had", || {
        range() == before
    });
}

#[test]
fn one_flag_gives_a_network_a_gateway_and_the_way_out() {
    let lab = overlay_lab::Lab::new();
    let switch = lab.switch("sw");
    let host = lab.host(&switch, 1);
    let world = lab.host(&switch, 100).netns;
    host.netns.ip("route add default via 10.0.0.100");
    let mut agent = Agent::start(&lab, &host, "--vni 42 --gateway 7.7.7.1/24");
    let blue = agent.endpoint(&lab.name("blue"), 42, &[]);
    until("it gets out", || blue.pings(OUTSIDE, "-c 1 -W 1"));
    blue.reaches("7.7.7.1");
    traffic::tcp(&blue, &world, OUTSIDE, 1 << 20);
    // What is there is left as it is, and what was taken away by half is there again.
    agent.kill();
    agent.restart("--vni 42 --gateway 7.7.7.9/24");
    agent.await_ready();
    let routers = agent.json("router ls");
    assert_eq!(
        routers[0]["ports"][0]["addresses"][0], "7.7.7.1/24",
        "{routers}"
    );
    blue.reaches(OUTSIDE);
}

#[test]
fn a_prefix_that_nobody_routes_is_another_one_outside() {
    let lab = overlay_lab::Lab::new();
    let switch = lab.switch("sw");
    let hosts = [lab.host(&switch, 1), lab.host(&switch, 2)];
    let world = lab.host(&switch, 100).netns;
    world.ip("addr add 2001:db8:f::100/64 dev u0 nodad");
    for (host, ip) in hosts.iter().zip(["2001:db8:f::1", "2001:db8:f::2"]) {
        host.netns.ip(&format!("addr add {ip}/64 dev u0 nodad"));
        host.netns.ip("route add default via 2001:db8:f::100");
    }
    let fixture = TwoHosts::on(lab, hosts, "--vni 42", BOTH);
    let [one, _] = &fixture.agents;
    // The prefix outside is routed to one of the hosts; the other gets what is for it in a tunnel.
    world.ip("route add 2001:db8:aa:bb::/64 via 2001:db8:f::1");
    one.does("router create r1");
    one.does("router set r1 --outside host");
    one.does("router attach r1 42 --ip fd07::1/64 --nptv6 2001:db8:aa:bb::/64");
    let outside = "2001:db8:f::100";
    for endpoint in [&fixture.blue, &fixture.green] {
        until("it gets out", || endpoint.pings(outside, "-c 1 -W 1"));
        traffic::tcp(endpoint, &world, outside, 1 << 20);
        traffic::udp(endpoint, &world, outside, [0, 1, 500, 1400]);
    }
    // Each is reached from outside too, and an error about what was sent comes back to whom it is about.
    let seen = world.enter(|| UdpSocket::bind("[::]:9000").unwrap());
    let address = fixture.blue.enter(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.send_to(b"hello", "[2001:db8:f::100]:9000").unwrap();
        socket.connect("[2001:db8:f::100]:9001").unwrap();
        socket.send(b"hello").unwrap();
        until("nobody listens there, and it hears of it", || {
            let error = socket.send(b"hello").err();
            error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        seen.recv_from(&mut [0; 9]).unwrap().1.ip()
    });
    assert!(
        address.to_string().starts_with("2001:db8:aa:bb:"),
        "{address}"
    );
    world.reaches(&address.to_string());
    let told = one.overlay(&format!("explain {} {outside}", fixture.blue.name()));
    let expected = format!("leaves by the uplink: icmp6 echo request {address} > {outside}");
    assert!(told.stdout.contains(&expected), "{told:?}");
}
