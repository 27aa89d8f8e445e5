//! The change to a new ABI version under traffic: from the object of an earlier one, kept under fixtures/,
//! as its agent pinned and attached it, to today's.

mod previous;

use std::{fs, thread, time::Duration};

use overlay_ebpf::abi::{ABI_VERSION, DropReason, map};
use overlay_lab::{
    Host, TwoHosts, netns,
    traffic::{self, Flow, Stream},
    two_hosts::BOTH,
    until,
};
use serde_json::Value;

use previous::{V1, V2, Version, now, pins, put_back};

const OPTIONS: &str = "--vni 42";

/// Two hosts with an endpoint each. Their datapath is an earlier version's, and no agent runs.
fn fixture(version: &Version) -> TwoHosts {
    let mut fixture = TwoHosts::new(OPTIONS, BOTH);
    for (agent, host) in fixture.agents.iter_mut().zip(&fixture.hosts) {
        agent.kill();
        put_back(version, host);
    }
    fixture
}

/// Packets both ways, and a TCP connection.
struct Flood {
    streams: [Stream; 2],
    flow: Flow,
}

impl Flood {
    fn start(fixture: &TwoHosts) -> Self {
        Self {
            streams: [
                Stream::start(&fixture.blue, &fixture.green, "7.7.7.3"),
                Stream::start(&fixture.green, &fixture.blue, "fd07::2"),
            ],
            flow: Flow::start(&fixture.blue, &fixture.green, "fd07::3"),
        }
    }

    #[track_caller]
    fn flows(&self) {
        for stream in &self.streams {
            stream.flows(500);
        }
        self.flow.flows(1 << 20);
    }

    #[track_caller]
    fn has_lost_nothing(self) {
        for stream in self.streams {
            let (sent, lost) = stream.finish();
            assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
        }
        assert!(self.flow.finish() > 0);
    }
}

/// What a slot of a pinned per-CPU map holds, all CPUs added up by `pick`.
fn sum(host: &Host, version: &str, name: &str, slot: u32, pick: fn(&Value) -> u64) -> u64 {
    let path = pins(host).join(version).join("maps").join(name);
    let [a, b, c, d] = slot.to_le_bytes().map(|byte| byte.to_string());
    let text = netns::run(
        "bpftool",
        &[
            "-j",
            "map",
            "lookup",
            "pinned",
            path.to_str().unwrap(),
            "key",
            &a,
            &b,
            &c,
            &d,
        ],
    );
    let entry: Value = serde_json::from_str(&text).unwrap();
    let cpus = entry["formatted"]["values"].as_array().unwrap();
    cpus.iter().map(|cpu| pick(&cpu["value"])).sum()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn is_this_version(host: &Host) {
    let folders: Vec<_> = fs::read_dir(pins(host))
        .unwrap()
        .map(|folder| folder.unwrap().path())
        .collect();
    assert_eq!(folders, [now(host)]);
    for name in map::ALL {
        assert!(now(host).join("maps").join(name).exists(), "{name}");
    }
}

/// Each test, from each version.
macro_rules! from {
    ($($version:ident: $previous:ident),+; $tests:tt) => {
        $(from! { @ $version $previous $tests })+
    };
    (@ $version:ident $previous:ident [$($test:ident,)+]) => {
        mod $version {
            $(#[test]
            fn $test() {
                super::$test(&super::$previous);
            })+
        }
    };
}

from! {
    version_1: V1, version_2: V2; [
        the_object_carries_packets_from_its_own_pins,
        an_upgrade_under_traffic_loses_nothing,
        a_killed_upgrade_is_finished_by_the_next_start,
        an_upgrade_may_change_the_capacity_of_the_tables,
        what_changed_meanwhile_is_made_up_for,
        a_newer_datapath_is_left_alone,
    ]
}

fn the_object_carries_packets_from_its_own_pins(version: &Version) {
    let fixture = fixture(version);
    for host in &fixture.hosts {
        assert!(!now(host).exists());
        for name in version.maps {
            let map = pins(host).join(version.folder()).join("maps").join(name);
            assert!(map.exists(), "{name}");
        }
    }
    assert!(fixture.blue.pings("7.7.7.3", "-c 3 -W 2"));
    traffic::tcp(&fixture.green, &fixture.blue, "fd07::2", 1 << 20);
}

/// An upgrade under traffic loses no packet, and keeps what was counted.
fn an_upgrade_under_traffic_loses_nothing(version: &Version) {
    let mut fixture = fixture(version);
    assert!(!fixture.blue.pings("7.7.7.77", "-c 1 -W 1"));
    let unknown = DropReason::NeighborUnknown.number();
    let before = sum(
        &fixture.hosts[0],
        &version.folder(),
        map::DROPS,
        unknown,
        number,
    );
    assert!(before > 0);
    let flood = Flood::start(&fixture);
    flood.flows();
    for agent in &mut fixture.agents {
        agent.restart(OPTIONS);
        flood.flows();
        agent.await_ready();
        flood.flows();
    }
    flood.has_lost_nothing();
    for (agent, host) in fixture.agents.iter().zip(&fixture.hosts) {
        is_this_version(host);
        assert_eq!(agent.json("status")["datapath"]["abi"], ABI_VERSION);
        assert_eq!(agent.json("status")["endpoints"]["local"], 1);
    }
    assert!(fixture.agents[0].drops("neighbor_unknown") >= before);
    // These are today's programs, at both hooks.
    let [one, _] = &fixture.hosts;
    for direction in [
        |value: &Value| number(&value["tx_packets"]),
        |value: &Value| number(&value["rx_packets"]),
    ] {
        let count = || sum(one, &format!("v{ABI_VERSION}"), map::TRAFFIC, 1, direction);
        let before = count();
        assert!(fixture.blue.pings("7.7.7.3", "-c 3 -W 2"));
        assert!(count() >= before + 3);
    }
}

/// An upgrade that is killed at any point is finished by the next start.
fn a_killed_upgrade_is_finished_by_the_next_start(version: &Version) {
    /// Beyond these the agent is ready.
    const LONGEST: Duration = Duration::from_millis(600);
    const STEP: Duration = Duration::from_millis(15);
    let mut fixture = fixture(version);
    let flood = Flood::start(&fixture);
    let mut patience = Duration::ZERO;
    while patience < LONGEST {
        for agent in &mut fixture.agents {
            agent.restart(OPTIONS);
            thread::sleep(patience);
            agent.kill();
        }
        patience += STEP;
    }
    for agent in &mut fixture.agents {
        agent.restart(OPTIONS);
        agent.await_ready();
    }
    flood.flows();
    flood.has_lost_nothing();
    for host in &fixture.hosts {
        is_this_version(host);
    }
}

fn an_upgrade_may_change_the_capacity_of_the_tables(version: &Version) {
    let mut fixture = fixture(version);
    let flood = Flood::start(&fixture);
    flood.flows();
    for agent in &mut fixture.agents {
        agent.restart("--vni 42 --fdb-entries 2048 --neighbor-entries 1000000");
        agent.await_ready();
    }
    flood.flows();
    flood.has_lost_nothing();
    for agent in &fixture.agents {
        assert_eq!(agent.dump(map::FDB).len(), 2);
        assert_eq!(agent.dump(map::NEIGHBORS).len(), 4);
    }
}

fn what_changed_meanwhile_is_made_up_for(version: &Version) {
    let mut fixture = fixture(version);
    let [one, two] = &mut fixture.agents;
    two.restart(OPTIONS);
    two.await_ready();
    two.does(&format!("endpoint rm {}", fixture.green.name()));
    one.restart(OPTIONS);
    one.await_ready();
    until("the endpoint is forgotten", || {
        one.dump(map::FDB).len() == 1
    });
}

/// A newer version's datapath is refused in one line and left alone.
fn a_newer_datapath_is_left_alone(version: &Version) {
    let mut fixture = fixture(version);
    let [host, _] = &fixture.hosts;
    let newer = pins(host).join(format!("v{}", ABI_VERSION + 1));
    fs::rename(pins(host).join(version.folder()), &newer).unwrap();
    let [one, _] = &mut fixture.agents;
    let run = overlay_lab::Run::of(&mut one.run_command(OPTIONS));
    let line = run.error(overlay_lab::agent::FAILED);
    for part in [
        &format!("ABI version {}", ABI_VERSION + 1),
        &format!("this one has {ABI_VERSION}"),
        "overlay down",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(newer.join("maps/fdb").exists());
    assert!(fixture.blue.pings("7.7.7.3", "-c 3 -W 2"));
}
