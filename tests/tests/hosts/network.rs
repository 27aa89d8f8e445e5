//! Networks that are made without a number, and changed while traffic runs.

use std::thread;

use overlay_lab::{Agent, Lab, agent::FAILED, traffic::Stream, until};

/// Networks that ask for any VNI at the same time get different ones.
#[test]
fn networks_that_ask_for_any_vni_get_different_ones() {
    let lab = Lab::new();
    let hosts = lab.hosts();
    let agents: [Agent; 2] = Agent::on_each(&lab, &hosts, "");
    let vnis: Vec<u64> = thread::scope(|scope| {
        let making: Vec<_> = (0..8)
            .map(|number| {
                let agent = &agents[number % 2];
                scope.spawn(move || {
                    let words = format!("network create net{number} --vni auto");
                    agent.json(&words)["vni"].as_u64().unwrap()
                })
            })
            .collect();
        making.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut sorted = vnis.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (4096..4104).collect::<Vec<_>>(), "{vnis:?}");
}

/// An agent makes sure of a network that `run` names.
#[test]
fn a_network_named_to_run_is_made() {
    let lab = Lab::new();
    let hosts = lab.hosts();
    let [one, two]: [Agent; 2] = Agent::on_each(&lab, &hosts, "--vni blue --vni 42");
    let networks = one.json("network ls");
    let names: Vec<_> = networks
        .as_array()
        .unwrap()
        .iter()
        .map(|net| &net["name"])
        .collect();
    assert_eq!(names, ["vni-42", "blue"]);
    assert_eq!(networks[1]["vni"], 4096);
    let web = lab.name("web");
    two.does(&format!("endpoint add {web} --vni blue --ip 7.7.7.2/24"));
    assert_eq!(two.json(&format!("endpoint show {web}"))["vni"], 4096);
}

/// Interfaces follow their network's MTU while traffic runs.
#[test]
fn interfaces_follow_their_networks_mtu() {
    let lab = Lab::new();
    let hosts = lab.hosts();
    let [one, two]: [Agent; 2] = Agent::on_each(&lab, &hosts, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    let mtu_of = |netns: &overlay_lab::Netns| -> u64 {
        let links: serde_json::Value =
            serde_json::from_str(&netns.ip("-j link show eth0")).unwrap();
        links[0]["mtu"].as_u64().unwrap()
    };
    let automatic = mtu_of(&blue);
    let stream = Stream::start(&blue, &green, "7.7.7.3");
    for mtu in [1300, 1400] {
        let set = one.json(&format!("network set vni-42 --mtu {mtu} --learning on"));
        assert_eq!((&set["mtu"], &set["learning"]), (&mtu.into(), &true.into()));
        assert_eq!(mtu_of(&blue), mtu);
        until("the other host follows", || mtu_of(&green) == mtu);
        stream.flows(500);
    }
    for (mtu, part) in [(9000, "underlay leaves"), (1000, "1280")] {
        let line = one.overlay(&format!("network set vni-42 --mtu {mtu}"));
        let line = line.error(FAILED);
        assert!(line.contains(part), "{line}");
    }
    one.does("network set vni-42 --mtu 0");
    assert_eq!(mtu_of(&blue), automatic);
    stream.flows(500);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());
    let line = one.overlay("network set nowhere --mtu 1400").error(FAILED);
    assert!(line.contains("no network nowhere"), "{line}");
}

/// Removing what is gone says so; one refusal keeps none of the others.
#[test]
fn removals_are_all_or_nothing_and_idempotent() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42 --vni 43 --vni 44");
    let web = lab.name("web");
    one.endpoint(&web, 42, &["7.7.7.2/24"]);
    let run = one.overlay("network delete vni-43 vni-42 nope vni-44");
    assert_eq!(run.code, FAILED);
    assert_eq!(
        run.stdout,
        "network vni-43 removed\nthere is no network nope\nnetwork vni-44 removed\n"
    );
    assert!(run.stderr.contains("still has 1 endpoint"), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1);
    for nope in ["endpoint rm nope", "network rm nope", "vtep rm nope"] {
        assert!(one.does(nope).starts_with("there is no "), "{nope}");
    }
    let again = one.does(&format!("endpoint rm {web} {web}"));
    assert_eq!(
        again,
        format!("endpoint {web} removed\nthere is no endpoint {web}\n")
    );
}
