//! What becomes of flows and external addresses when something ends: a host, an agent, the registry, a float's endpoint.

use std::{
    collections::BTreeSet,
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use overlay_lab::{netns, traffic::Stream, until};
use serde_json::json;

use super::{OUTSIDE, World, external_port};

const PORT: u16 = 7000;

/// The numbers that get to a namespace's port until a while after the last.
fn numbers(socket: &UdpSocket, is_over: &AtomicBool) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    let mut datagram = [0; 4];
    while let Some(len) = socket.recv(&mut datagram).ok().or_else(|| {
        let is_over = is_over.load(Ordering::Relaxed);
        (!is_over).then_some(0)
    }) {
        if len == datagram.len() {
            numbers.insert(u32::from_le_bytes(datagram));
        }
    }
    numbers
}

#[test]
fn a_float_moves_under_a_stream_and_no_packet_of_it_is_lost() {
    let world = World::new("");
    let agent = world.agent();
    let [blue, green] = [world.blue(), world.green()].map(|it| it.name().to_owned());
    agent.does(&format!("float add 203.0.113.5 --endpoint {blue}"));
    world.world.reaches("203.0.113.5");
    let sockets = [world.blue(), world.green()].map(|netns| {
        let socket = netns.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
        let limit = Some(Duration::from_millis(300));
        socket.set_read_timeout(limit).unwrap();
        socket
    });
    let sender = world.world.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let is_over = AtomicBool::new(false);
    let (sent, [at_blue, at_green]) = thread::scope(|scope| {
        let sinks = sockets
            .each_ref()
            .map(|socket| scope.spawn(|| numbers(socket, &is_over)));
        let moving = scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            agent.does(&format!("float move 203.0.113.5 --endpoint {green}"));
            thread::sleep(Duration::from_millis(300));
        });
        let mut sent = 0_u32;
        while !moving.is_finished() {
            sender
                .send_to(&sent.to_le_bytes(), ("203.0.113.5", PORT))
                .unwrap();
            sent += 1;
            thread::sleep(Duration::from_millis(1));
        }
        moving.join().unwrap();
        is_over.store(true, Ordering::Relaxed);
        (sent, sinks.map(|sink| sink.join().unwrap()))
    });
    assert!(!at_blue.is_empty() && !at_green.is_empty());
    let lost: Vec<u32> = (0..sent)
        .filter(|number| !at_blue.contains(number) && !at_green.contains(number))
        .collect();
    assert!(lost.is_empty(), "{lost:?} of {sent} are lost");
}

#[test]
fn without_the_registry_flows_begin_and_go_on_and_nobody_gets_another_block() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create public --ip 203.0.113.8/30 --block 64");
    world.share("public");
    until("blue gets out", || world.blue().pings(OUTSIDE, "-c 1 -W 1"));
    let stream = Stream::start(world.blue(), &world.world, OUTSIDE);
    stream.flows(20);
    let url = world.fixture.lab.registry();
    let file = url.strip_prefix("sqlite://").unwrap();
    let away = format!("{file}.away");
    fs::rename(file, &away).unwrap();
    until("the agent misses it", || {
        !agent.overlay("status").stdout.contains("connected")
    });
    let before = external_port(&world, world.blue(), 4000);
    // More ports than a block has are refused, and what has one keeps it.
    world.blue().enter(|| {
        for port in 20_000..20_100_u16 {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            let _ = socket.send_to(b"x", (OUTSIDE, 9));
        }
    });
    assert_eq!(external_port(&world, world.blue(), 4000), before);
    stream.flows(100);
    let (_, lost) = stream.finish();
    assert!(lost.is_empty(), "{lost:?}");
    fs::rename(&away, file).unwrap();
    until("it has another block once the registry is back", || {
        let nat = agent.overlay(&format!(
            "-o json nat ls --endpoint {}",
            world.blue().name()
        ));
        let nat: serde_json::Value = serde_json::from_str(&nat.stdout).unwrap_or_default();
        nat["blocks"].as_array().is_some_and(|it| it.len() > 1)
    });
    assert_eq!(external_port(&world, world.blue(), 4000), before);
}

#[test]
fn a_host_that_reboots_has_its_endpoints_with_their_external_addresses_again() {
    let mut world = World::new("");
    let name = world.green().name().to_owned();
    let blue = world.blue().name().to_owned();
    world.agent().does("pool create public --ip 203.0.113.8/30");
    world.share("public");
    world
        .agent()
        .does(&format!("float add 203.0.113.5 --endpoint {blue}"));
    until("both get out", || {
        world.blue().pings(OUTSIDE, "-c 1 -W 1") && world.green().pings(OUTSIDE, "-c 1 -W 1")
    });
    let blocks = |world: &World| {
        let nat = world.agent().json("nat ls");
        let blocks = nat["blocks"].as_array().unwrap().iter();
        blocks
            .map(|block| (block["endpoint"].clone(), block["ip"].clone()))
            .filter(|(endpoint, _)| *endpoint == json!(name))
            .collect::<Vec<_>>()
    };
    let before = blocks(&world);
    // A reboot takes namespaces, interfaces, programs, maps, and what is in /run.
    for (place, endpoint) in [(0, &blue), (1, &name)] {
        let agent = &mut world.fixture.agents[place];
        let instance = agent.instance().to_owned();
        agent.kill();
        netns::remove(endpoint).unwrap();
        for folder in ["/sys/fs/bpf/overlay", "/run/overlay"] {
            let _ = fs::remove_dir_all(format!("{folder}/{instance}"));
        }
        let _ = fs::remove_file(format!("/run/overlay/{instance}.json"));
    }
    for agent in &mut world.fixture.agents {
        agent.restart("");
    }
    world
        .fixture
        .agents
        .iter()
        .for_each(|agent| agent.await_ready());
    until("both get out again", || {
        world.blue().exists()
            && world.green().exists()
            && world.blue().pings(OUTSIDE, "-c 1 -W 1")
            && world.green().pings(OUTSIDE, "-c 1 -W 1")
    });
    world.world.reaches("203.0.113.5");
    assert_eq!(blocks(&world), before);
}
