//! `overlay doctor --cluster`: every pair of hosts, each direction by itself.

use overlay_lab::{Agent, until};
use serde_json::Value;

use super::fixture::{DAMAGE, Fixture, TUNNELS, fixture};

/// What the command says, and its exit code.
fn examine(agent: &Agent) -> (Value, i32) {
    let run = agent.overlay("-o json doctor --cluster");
    let view = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr));
    (view, run.code)
}

/// How the packets of the first get to the second, and of the second to the first.
fn ways(fixture: &Fixture, view: &Value) -> (String, String) {
    let [one, two] = &fixture.agents;
    let way = |from: &Agent, to: &Agent| {
        let paths = view["paths"].as_array().unwrap();
        let path = paths
            .iter()
            .find(|path| path["from"] == from.instance() && path["to"] == to.instance())
            .unwrap();
        path["way"].as_str().unwrap().to_owned()
    };
    (way(one, two), way(two, one))
}

fn has_finding(view: &Value, subject: &str, text: &str) -> bool {
    let findings = view["findings"].as_array().unwrap();
    findings.iter().any(|finding| {
        let of = |key: &str| finding[key].as_str().unwrap().to_owned();
        of("subject") == subject && (of("message") + &of("advice")).contains(text)
    })
}

/// In a sound cluster every pair has a round trip, and the exit code is 0.
#[test]
fn a_sound_cluster_has_round_trips_and_exit_code_0() {
    let fixture = fixture();
    fixture.endpoints();
    for agent in &fixture.agents {
        until("all to be well", || examine(agent).1 == 0);
        let (view, _) = examine(agent);
        assert_eq!(view["healthy"], true, "{view}");
        assert_eq!(view["hosts"].as_array().unwrap().len(), 2);
        for host in view["hosts"].as_array().unwrap() {
            assert_eq!(host["answered"], true);
            assert_eq!(host["clock_ms"], 0);
            assert_eq!(host["version"], env!("CARGO_PKG_VERSION"));
        }
        for path in view["paths"].as_array().unwrap() {
            assert_eq!((&path["way"], &path["loss"]), (&"ok".into(), &0.into()));
            assert!(path["rtt_us"].is_u64(), "{path}");
            assert_eq!(path["largest"], 1450);
        }
    }
}

/// Both hosts name a blocked direction as lost, and the other one as sound.
#[test]
fn only_the_blocked_direction_is_lost() {
    let fixture = fixture();
    let [one, two] = &fixture.agents;
    fixture.filter(0, TUNNELS);
    let subject = format!("path {} -> {}", one.instance(), two.instance());
    for agent in &fixture.agents {
        until("the direction to be known", || {
            ways(&fixture, &examine(agent).0) == ("lost".into(), "ok".into())
        });
        let (view, code) = examine(agent);
        assert_eq!(code, 1);
        assert!(
            has_finding(&view, &subject, "let UDP from 10.0.0.1 to port 4789"),
            "{view}"
        );
    }
    fixture.filter(1, TUNNELS);
    until("both directions to be lost", || {
        ways(&fixture, &examine(one).0) == ("lost".into(), "lost".into())
    });
}

#[test]
fn a_narrow_path_is_a_warning_with_its_longest_packet() {
    let fixture = fixture();
    let [one, two] = &fixture.agents;
    fixture.filter(0, Some("udp dport 4789 ip length > 1300"));
    let subject = format!("path {} -> {}", one.instance(), two.instance());
    until("the longest packet to be found", || {
        has_finding(&examine(two).0, &subject, "packets of up to 12")
    });
}

/// Packets that are changed are named by their direction.
#[test]
fn changed_packets_are_named_by_direction() {
    let fixture = fixture();
    let [one, two] = &fixture.agents;
    fixture.rule(0, Some(DAMAGE.to_owned()));
    for agent in [one, two] {
        until("the direction to be known", || {
            ways(&fixture, &examine(agent).0).0 == "damaged"
        });
    }
    assert_eq!(ways(&fixture, &examine(one).0).1, "ok");
}

/// A host without an agent and one that is off are named.
#[test]
fn hosts_without_agent_and_hosts_off_are_named() {
    let mut fixture = fixture();
    let second = fixture.agents[1].instance().to_owned();
    fixture.agents[1].kill();
    let [one, _] = &fixture.agents;
    let subject = format!("host {second}");
    until("the agent to be missed", || {
        has_finding(&examine(one).0, &subject, "its agent does not run")
    });
    assert_eq!(ways(&fixture, &examine(one).0).0, "ok");
    fixture.hosts[1].plug(false);
    until("the host to be lost", || {
        ways(&fixture, &examine(one).0).0 == "lost"
    });
    assert_eq!(examine(one).1, 1);
}

/// A network that does not get through is named by both hosts.
#[test]
fn both_hosts_name_a_network_that_is_cut_off() {
    let fixture = fixture();
    fixture.endpoints();
    let [one, two] = &fixture.agents;
    // Only this network's packets, by their VNI.
    for host in 0..2 {
        fixture.rule(host, Some("udp dport 4789 @th,96,24 42 drop".to_owned()));
    }
    for (agent, other) in [(one, two), (two, one)] {
        let subject = format!("path to {} in vni-42", other.instance());
        until("the network to be missed", || {
            let run = agent.overlay("-o json doctor");
            let view: Value = serde_json::from_str(&run.stdout).unwrap();
            has_finding(&view, &subject, "do not get through")
        });
    }
    let subject = format!("path {} -> {} in vni-42", one.instance(), two.instance());
    until("the network to be missed", || {
        has_finding(&examine(two).0, &subject, "did not get to")
    });
}
