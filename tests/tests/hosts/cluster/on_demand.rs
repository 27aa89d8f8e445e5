//! A network that resolves on demand, on a registry that comes and goes.

use overlay_lab::{Netns, traffic, until, until_within};

use super::fixture::{Fixture, HOSTS, RECOVERY};

/// A fixture and the endpoints 7.8.0.1, 7.8.0.2 and 7.8.0.3 of a network that resolves on demand.
fn fixture() -> (Fixture, Vec<Netns>) {
    let fixture = Fixture::new();
    fixture.agents[0].does("network create lazy --vni 43 --resolve on-demand");
    let endpoints = (0..HOSTS).map(|index| {
        until("the network is known everywhere", || {
            let networks = fixture.agents[index].json("network ls");
            networks
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["vni"] == 43)
        });
        let last = index + 1;
        let name = fixture.lab.name(&format!("lazy{last}"));
        fixture.agents[index].endpoint(&name, 43, &[&format!("7.8.0.{last}/24")])
    });
    let endpoints = endpoints.collect();
    (fixture, endpoints)
}

/// What was resolved goes on without etcd, and the rest waits for it.
#[test]
fn resolved_rows_outlast_etcd() {
    let (mut fixture, endpoints) = fixture();
    let [one, two, three] = &endpoints[..] else {
        panic!("three endpoints");
    };
    assert!(!fixture.has(0, "7.8.0.2"), "nobody asked for it yet");
    one.reaches("7.8.0.2");
    assert!(fixture.has(0, "7.8.0.2") && fixture.has(1, "7.8.0.1"));
    let stream = traffic::Stream::start(one, two, "7.8.0.2");
    stream.flows(100);
    fixture.cluster.kill_all();
    for index in 0..HOSTS {
        fixture.await_connected(index, false);
    }
    assert!(
        !three.pings("7.8.0.1", "-c 1 -W 1"),
        "nobody can look it up"
    );
    stream.flows(1000);
    fixture.cluster.restart_all();
    until_within(RECOVERY, "the rest is resolved again", || {
        three.pings("7.8.0.1", "-c 1 -W 1")
    });
    stream.flows(1000);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent}: {lost:?}", lost.len());
}

/// A change to what was resolved arrives without another question.
#[test]
fn a_change_to_a_resolved_row_arrives_unasked() {
    let (fixture, endpoints) = fixture();
    endpoints[0].reaches("7.8.0.2");
    assert!(fixture.has(0, "7.8.0.2"));
    let name = endpoints[1].name();
    fixture.agents[1].does(&format!(
        "endpoint move {name} --node {}",
        fixture.agents[2].instance()
    ));
    let vtep = fixture.hosts[2].ip.octets();
    until("host 0 sends it to host 2", || {
        fixture.agents[0]
            .dump("fdb")
            .iter()
            .any(|row| row["key"]["vni"] == 43 && row["value"]["vtep"] == serde_json::json!(vtep))
    });
    until_within(RECOVERY, "it answers from there", || {
        endpoints[0].pings("7.8.0.2", "-c 1 -W 1")
    });
    fixture.agents[1].does(&format!("endpoint rm {name}"));
    until("host 0 forgets it", || !fixture.has(0, "7.8.0.2"));
}

/// An endpoint that is asked for before it exists is found once it does.
#[test]
fn an_endpoint_asked_for_too_early_is_found_later() {
    let (fixture, endpoints) = fixture();
    assert!(!endpoints[0].pings("7.8.0.9", "-c 1 -W 1"));
    fixture.agents[1].endpoint(&fixture.lab.name("late"), 43, &["7.8.0.9/24"]);
    until_within(RECOVERY, "it is found", || {
        endpoints[0].pings("7.8.0.9", "-c 1 -W 1")
    });
}
