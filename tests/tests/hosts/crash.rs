//! kill -9 at any point: the registry opens, the next start converges, orphans are collected.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    process::Stdio,
    thread,
    time::Duration,
};

use overlay_lab::{Agent, Lab, Netns, agent, until};

/// Endpoints of this node by name, each ready.
fn ready(agent: &Agent) -> BTreeSet<String> {
    let endpoints = agent.json("endpoint ls");
    let endpoints = endpoints.as_array().unwrap().iter();
    let here = endpoints.filter(|endpoint| endpoint["node"] == agent.instance());
    here.map(|endpoint| {
        assert_eq!(endpoint["state"], "ready", "{endpoint}");
        endpoint["name"].as_str().unwrap().to_owned()
    })
    .collect()
}

/// What is there is what the registry wants: veths, namespaces and map entries, and no more.
fn assert_converged(lab: &Lab, agent: &Agent) {
    let wanted = ready(agent);
    let links = agent.netns().links();
    let veths = links.iter().filter(|link| link.starts_with("ovl")).count();
    assert_eq!(veths, wanted.len(), "{links:?} {wanted:?}");
    let prefix = lab.name("e");
    let namespaces: BTreeSet<String> = std::fs::read_dir("/run/netns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    assert_eq!(namespaces, wanted);
    for map in ["fdb", "neighbors", "endpoints"] {
        assert_eq!(agent.dump(map).len(), wanted.len(), "{map}");
    }
}

/// A moment between 0 and `longest` ms; a test's failure shows which rounds came before.
fn any_moment(round: usize, longest: u64) -> Duration {
    Duration::from_millis(RandomState::new().hash_one(round) % (longest + 1))
}

/// Kills the agent after `moment` while it is asked for an endpoint, and starts it again.
fn crash_while_adding(lab: &Lab, agent: &mut Agent, round: usize, moment: Duration) {
    let name = lab.name(&format!("e{round}"));
    let mut add = agent::command(agent.instance())
        .args([
            "endpoint",
            "add",
            &name,
            "--vni",
            "42",
            "--ip",
            &format!("7.7.7.{}/24", round + 2),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(moment);
    agent.kill();
    add.wait().unwrap();
    agent.restart("--vni 42");
}

fn survives(rounds: usize, longest: u64, kill_in_start: bool) {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    for round in 0..rounds {
        crash_while_adding(&lab, &mut agent, round, any_moment(round, longest));
        if kill_in_start {
            thread::sleep(any_moment(round, 100));
            agent.kill();
            agent.restart("--vni 42");
        }
        agent.await_ready();
        assert_converged(&lab, &agent);
    }
    let last = agent.endpoint(&lab.name("e-last"), 42, &["7.7.7.200/24"]);
    for name in ready(&agent).into_iter().filter(|name| name != last.name()) {
        Netns::named(name).reaches("7.7.7.200");
    }
}

/// An agent killed while it adds endpoints converges at its next start.
#[test]
fn a_kill_while_adding_converges() {
    survives(20, 60, false);
}

/// An agent killed while it adds, and again while it starts, converges.
#[test]
fn a_kill_while_adding_and_starting_converges() {
    survives(10, 60, true);
}

/// An interface without a record is collected with its namespace.
#[test]
fn an_interface_without_a_record_is_collected() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let mut one = Agent::start(&lab, &one, "--vni 42");
    let two = Agent::start(&lab, &two, "--vni 42");
    let blue = one.endpoint(&lab.name("e1"), 42, &["7.7.7.2/24"]);
    one.endpoint(&lab.name("e2"), 42, &["7.7.7.3/24"]);
    one.kill();
    two.does(&format!("endpoint rm {}", blue.name()));
    assert!(blue.exists());
    one.restart("");
    one.await_ready();
    assert!(!blue.exists());
    assert_converged(&lab, &one);
}

#[test]
fn map_entries_without_a_record_are_collected() {
    let lab = Lab::new();
    let hosts: [_; 2] = lab.hosts();
    let [mut agent, _peer] = Agent::on_each(&lab, &hosts, "--vni 42");
    agent.endpoint(&lab.name("e1"), 42, &["7.7.7.2/24"]);
    until("the other host's VTEP", || !agent.dump("vteps").is_empty());
    agent.kill();
    // The last bytes of a MAC, of an IPv4 address in IPv6's place, of a VTEP's address, of a VNI.
    for (map, byte) in [
        ("fdb", 9),
        ("neighbors", 19),
        ("vteps", 15),
        ("networks", 0),
    ] {
        let before = agent.dump(map).len();
        agent.forge(map, byte);
        assert_eq!(agent.dump(map).len(), before + 1, "{map}");
    }
    agent.restart("");
    agent.await_ready();
    assert_converged(&lab, &agent);
    assert_eq!(
        (agent.dump("vteps").len(), agent.dump("networks").len()),
        (1, 1)
    );
}

#[test]
fn an_interface_that_somebody_deletes_is_made_again() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    let blue = agent.endpoint(&lab.name("e1"), 42, &["7.7.7.2/24"]);
    let red = agent.endpoint(&lab.name("e2"), 42, &["7.7.7.3/24"]);
    agent.kill();
    blue.ip("link del eth0");
    agent.restart("");
    agent.await_ready();
    assert_converged(&lab, &agent);
    until("traffic", || red.pings("7.7.7.2", "-c 1 -W 1"));
}
