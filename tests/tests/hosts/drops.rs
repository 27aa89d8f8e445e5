//! Drops say who: the last packets of each reason with endpoint, addresses and peer, counts of each endpoint, and
//! noise told apart from loss.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use etherparse::IpEcn;
use overlay_ebpf::abi::{DropSample, map};
use overlay_lab::{
    Agent, Host, Lab, Netns,
    agent::{self, FAILED},
    eventually,
    frame::{self, Mac, Party, RawSocket, VNI_IS_VALID, tunnel, vxlan},
    until,
};
use serde_json::Value;

const BLUE: &str = "7.7.7.2";
const GREEN: &str = "7.7.7.3";
const NOBODYS: Mac = [0x02, 0x42, 7, 7, 7, 99];

/// Blue on the first host, green on the second; the third has no agent.
struct Fixture {
    one: Agent,
    two: Agent,
    blue: Netns,
    hosts: [Host; 3],
    lab: Lab,
}

fn fixture() -> Fixture {
    let lab = Lab::new();
    let hosts: [Host; 3] = lab.hosts();
    let [first, second, _] = &hosts;
    let one = Agent::start(&lab, first, "--vni 42");
    let two = Agent::start(&lab, second, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let _green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches(GREEN);
    Fixture {
        one,
        two,
        blue,
        hosts,
        lab,
    }
}

/// A datagram from blue to green that says it is from somebody else.
fn forged() -> Vec<u8> {
    let somebody = Party {
        mac: frame::default_mac(BLUE),
        ip: "7.7.7.9",
    };
    frame::udp(somebody, Party::at(GREEN), IpEcn::ZERO, b"forged")
}

fn sends(netns: &Netns, frame: &[u8]) {
    RawSocket::open(netns, "eth0").send(frame);
}

/// The last packet that was dropped for this reason and that `is_it`.
fn sample(agent: &Agent, reason: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a packet dropped for {reason}"), || {
        let drops = agent.json("drops -v");
        let samples = drops["samples"].as_array().unwrap().iter();
        let mut samples = samples.filter(|sample| sample["reason"] == reason);
        samples.find(|sample| is_it(sample)).cloned()
    })
}

/// An endpoint's dropped frame is reported with its name, addresses and peer.
#[test]
fn a_dropped_frame_names_its_endpoint_and_peer() {
    let fixture = fixture();
    let Fixture {
        one,
        two,
        blue,
        lab,
        ..
    } = &fixture;
    let name = lab.name("blue");
    sends(blue, &forged());
    let told = sample(one, "source_ip", |_| true);
    for (key, expected) in [
        ("endpoint", name.as_str()),
        ("direction", "sent"),
        ("class", "loss"),
        ("source_ip", "7.7.7.9"),
        ("destination_ip", GREEN),
        ("source_mac", "02:42:07:07:07:02"),
        ("destination_mac", "02:42:07:07:07:03"),
        ("protocol", "udp"),
        ("node", two.instance()),
    ] {
        assert_eq!(told[key], expected, "{key}: {told}");
    }
    assert_eq!(told["vni"], 42);
    assert_eq!(
        (&told["source_port"], &told["destination_port"]),
        (&5001.into(), &5002.into())
    );
    let to_nobody = Party::at(GREEN).with_mac(NOBODYS);
    let lost = frame::udp(Party::at(BLUE), to_nobody, IpEcn::ZERO, b"lost");
    sends(blue, &lost);
    let told = sample(one, "destination_unknown", |_| true);
    assert_eq!(told["endpoint"], *name);
    assert_eq!(told["peer"], Value::Null);

    // The same for people.
    let text = one.does("drops -v");
    let line = text.lines().find(|line| line.contains(" source_ip "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("7.7.7.9:5001 -> 7.7.7.3:5002 udp"), "{line}");
    assert!(
        line.contains(&name) && line.contains(two.instance()),
        "{line}"
    );
}

/// A stranger's frame is reported with the endpoint that it is for.
#[test]
fn a_strangers_frame_names_its_target() {
    let fixture = fixture();
    let Fixture {
        one,
        hosts: [first, _, third],
        lab,
        ..
    } = &fixture;
    let inner = frame::udp(Party::at(GREEN), Party::at(BLUE), IpEcn::ZERO, b"strange");
    tunnel(
        &third.netns,
        first.ip,
        IpEcn::ZERO,
        &vxlan(VNI_IS_VALID, 42, &inner),
    );
    let told = sample(one, "vtep_unknown", |_| true);
    for (key, expected) in [
        ("endpoint", lab.name("blue")),
        ("direction", "received".to_owned()),
        ("peer", third.ip.to_string()),
        ("source_ip", GREEN.to_owned()),
        ("destination_ip", BLUE.to_owned()),
    ] {
        assert_eq!(told[key], expected, "{key}: {told}");
    }
    assert_eq!(told["node"], Value::Null);
    // A sender that is no node can't fill an endpoint's counts.
    let shown = one.json(&format!("endpoint show {}", lab.name("blue")));
    assert_eq!(shown["drops"]["received"], serde_json::json!({}));
}

/// Drops are counted for their endpoint, and go with it.
#[test]
fn drops_go_with_their_endpoint() {
    let fixture = fixture();
    let Fixture {
        one,
        blue,
        hosts: [first, second, _],
        lab,
        ..
    } = &fixture;
    let name = lab.name("blue");
    for _ in 0..3 {
        sends(blue, &forged());
    }
    // A node that speaks for an endpoint that it does not have.
    let liar = Party::at(GREEN).with_mac(NOBODYS);
    let inner = frame::udp(liar, Party::at(BLUE), IpEcn::ZERO, b"lie");
    let packet = vxlan(VNI_IS_VALID, 42, &inner);
    tunnel(&second.netns, first.ip, IpEcn::ZERO, &packet);
    let show = format!("endpoint show {name}");
    until("both are counted", || {
        let drops = &one.json(&show)["drops"];
        drops["sent"]["source_ip"] == 3 && drops["received"]["source_vtep"] == 1
    });
    let listed = one.json("endpoint ls");
    let of = |name: &str| {
        let mut endpoints = listed.as_array().unwrap().iter();
        endpoints.find(|it| it["name"] == name).unwrap()["drops"].clone()
    };
    assert_eq!(of(&name)["sent"]["source_ip"], 3);
    assert_eq!(of(&lab.name("green")), Value::Null, "it is not here");

    let drops = one.json(&format!("drops --endpoint {name}"));
    let reasons = drops["reasons"].as_array().unwrap();
    assert_eq!(reasons[0]["reason"], "source_ip");
    assert_eq!(
        (&reasons[0]["sent"], &reasons[0]["received"]),
        (&3.into(), &0.into())
    );
    let samples = drops["samples"].as_array().unwrap();
    assert!(
        samples.iter().all(|sample| sample["endpoint"] == *name),
        "{drops}"
    );
    let text = one.does(&format!("drops --endpoint {name}"));
    assert!(text.starts_with("REASON"), "{text}");

    let green = lab.name("green");
    let line = one
        .overlay(&format!("drops --endpoint {green}"))
        .error(FAILED);
    assert!(line.contains("lives on"), "{line}");
    let line = one.overlay("drops --endpoint nope").error(FAILED);
    assert!(line.contains("no endpoint nope"), "{line}");

    assert!(!one.dump(map::ENDPOINT_DROPS).is_empty());
    one.does(&format!("endpoint rm {name}"));
    until("its counts are gone", || {
        one.dump(map::ENDPOINT_DROPS).is_empty()
    });
}

#[test]
fn a_link_that_comes_up_brings_noise_and_no_loss() {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let [one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    one.does("network create vast --vni 43 --resolve on-demand");
    for (number, agent) in [(2, &one), (3, &two)] {
        for vni in [42, 43] {
            let name = lab.name(&format!("e{vni}n{number}"));
            let addresses = [
                format!("7.7.{vni}.{number}/24"),
                format!("fd{vni}::{number}/64"),
            ];
            agent.endpoint(&name, vni, &addresses.each_ref().map(String::as_str));
        }
    }
    for agent in [&one, &two] {
        // Kernels ask for routers again after four seconds.
        until("both endpoints asked for routers twice", || {
            agent.drops("router_solicitation") >= 4
        });
        let drops = agent.json("drops -v");
        let reasons = drops["reasons"].as_array().unwrap().iter();
        let lost: Vec<_> = reasons
            .filter(|it| it["class"] == "loss" && it["packets"] != 0)
            .collect();
        assert!(lost.is_empty(), "{lost:?} {drops}");
        assert!(agent.drops("multicast_membership") > 0);
        assert!(agent.drops("nd_detection") > 0);
        let status = agent.json("status");
        assert_eq!(status["datapath"]["drops"]["loss"], 0);
        assert!(status["datapath"]["drops"]["noise"].as_u64().unwrap() >= 6);
        assert!(agent.dump(map::ENDPOINT_DROPS).is_empty());
    }
}

/// What an endpoint misses is no noise, though it goes to a group.
#[test]
fn a_missed_group_frame_is_no_noise() {
    let fixture = fixture();
    let Fixture { one, blue, .. } = &fixture;
    let group = Party {
        mac: [1, 0, 0x5e, 0, 0, 0xfb],
        ip: "224.0.0.251",
    };
    let before = one.drops("multicast");
    sends(
        blue,
        &frame::udp(Party::at(BLUE), group, IpEcn::ZERO, b"mDNS"),
    );
    one.dropped("multicast", before, 1);
    let told = sample(one, "multicast", |it| it["destination_ip"] == "224.0.0.251");
    assert_eq!(told["class"], "loss");
    let table = one.does("drops");
    let class_of = |reason: &str| {
        let line = table.lines().position(|line| line.starts_with(reason));
        line.unwrap_or_else(|| panic!("{table}"))
    };
    assert!(
        class_of("multicast ") < class_of("multicast_membership "),
        "{table}"
    );
}

/// A flood is counted in full, and reported a few times a second.
#[test]
fn a_flood_is_counted_in_full_and_sampled() {
    const FLOOD: u64 = 20_000;
    let fixture = fixture();
    let Fixture { one, blue, .. } = &fixture;
    let monitor = Monitor::start(one, blue);
    let before = one.drops("source_ip");
    let begun = Instant::now();
    let (socket, frame) = (RawSocket::open(blue, "eth0"), forged());
    for _ in 0..FLOOD {
        socket.send(&frame);
    }
    one.dropped("source_ip", before, FLOOD);
    let seconds = begun.elapsed().as_secs() + 2;
    let counted = |event: &Value| event["event"] == "drop" && event["reason"] == "source_ip";
    let (mut told, mut total) = (0, 0);
    while total < before + FLOOD {
        let event = monitor.next();
        if counted(&event) {
            total = event["total"].as_u64().unwrap();
        } else if event["event"] == "dropped" {
            assert_eq!(event["source_ip"], "7.7.7.9", "{event}");
            told += 1;
        }
    }
    let cpus = u64::try_from(thread::available_parallelism().unwrap().get()).unwrap();
    let most = (seconds + 1) * cpus * u64::from(DropSample::ROWS);
    assert!(
        (1..=most).contains(&told),
        "{told} of {FLOOD} in {seconds} s"
    );
}

#[test]
fn without_an_agent_the_packets_are_told_all_the_same() {
    let mut fixture = fixture();
    fixture.one.kill();
    let Fixture {
        one,
        two,
        blue,
        lab,
        ..
    } = &fixture;
    sends(blue, &forged());
    let told = sample(one, "source_ip", |_| true);
    assert_eq!(told["endpoint"], lab.name("blue"));
    assert_eq!(told["node"], two.instance());
    let drops = one.json(&format!("drops --endpoint {}", lab.name("blue")));
    assert_eq!(drops["reasons"][0]["sent"], 1);
    let run = one.overlay("drops -v");
    assert!(run.stderr.contains("no agent"), "{run:?}");
    assert!(
        one.json("status")["datapath"]["drops"]["loss"]
            .as_u64()
            .unwrap()
            > 0
    );
    // Without the registry nobody knows the name, but what it was is known.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(lab.dir().join(format!("registry.db{suffix}")));
    }
    let told = sample(one, "source_ip", |_| true);
    assert_eq!(
        (&told["endpoint"], &told["vni"]),
        (&Value::Null, &42.into())
    );
    assert_eq!(told["source_mac"], "02:42:07:07:07:02");
    let line = one
        .overlay(&format!("drops --endpoint {}", lab.name("blue")))
        .error(FAILED);
    assert!(line.contains("registry"), "{line}");
}

/// Pins of an agent that had no such maps are taken over and completed.
#[test]
fn pins_without_newer_maps_are_completed() {
    let mut fixture = fixture();
    let Fixture { one, blue, lab, .. } = &mut fixture;
    one.kill();
    for name in [map::DROP_SAMPLES, map::ENDPOINT_DROPS] {
        fs::remove_file(one.map(name)).unwrap();
    }
    let drops = one.json("drops -v");
    assert_eq!(drops["samples"], serde_json::json!([]));
    one.restart("");
    one.await_ready();
    assert!(blue.pings(GREEN, "-c 1 -W 2"));
    sends(blue, &forged());
    assert_eq!(
        sample(one, "source_ip", |_| true)["endpoint"],
        lab.name("blue")
    );
    // bpftool shows the fields by their names.
    let rows = one.dump(map::DROP_SAMPLES);
    let cpus = rows
        .iter()
        .flat_map(|row| row["values"].as_array().unwrap());
    let shown = cpus.map(|cpu| &cpu["value"]).find(|row| row["reason"] == 4);
    assert_eq!(shown.unwrap()["vni"], 42);
}

/// What an agent tells of as it happens.
struct Monitor {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Monitor {
    /// Starts one and waits until it has told of a packet of this endpoint's.
    fn start(agent: &Agent, endpoint: &Netns) -> Self {
        let mut command = agent::command(agent.instance());
        command
            .args(["-o", "json", "monitor"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let monitor = Self { child, lines };
        until("the monitor to tell of a packet", || {
            sends(endpoint, &forged());
            let line = monitor.lines.recv_timeout(Duration::from_millis(200));
            line.is_ok_and(|line| line.contains("dropped"))
        });
        monitor
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
