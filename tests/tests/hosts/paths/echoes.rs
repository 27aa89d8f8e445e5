//! The echoes between hosts, and what `doctor`, `vtep ls` and `status` make of them.

use overlay_lab::until;

use super::fixture::{TUNNELS, finding, fixture, path};

/// A path that is well has a round trip and a longest packet.
#[test]
fn a_sound_path_has_round_trip_and_mtu() {
    let fixture = fixture();
    for agent in &fixture.agents {
        until("the longest packet to be known", || {
            path(agent)["largest"] == 1450
        });
        let path = path(agent);
        assert_eq!(path["expected"], 1450);
        assert!(path["rtt_us"].as_u64().unwrap() > 0, "{path}");
        assert_eq!(finding(agent), None);
        let status = agent.json("status");
        assert_eq!(status["paths"]["ok"], 1, "{status}");
    }
}

/// A port that is blocked one way is named on both sides.
#[test]
fn a_port_blocked_one_way_is_named() {
    let fixture = fixture();
    let [one, two] = &fixture.agents;
    fixture.filter(0, TUNNELS);
    let deaf = finding(one).unwrap();
    assert_eq!(deaf["severity"], "problem");
    until("the first host to hear the other's echoes", || {
        finding(one).is_some_and(|finding| {
            let message = finding["message"].as_str().unwrap();
            message.contains("do not get to")
        })
    });
    let mute = finding(two).unwrap();
    let message = mute["message"].as_str().unwrap();
    assert!(message.contains("no tunnel packet of"), "{mute}");
    assert_eq!(path(one)["state"], "one_way");
    assert_eq!(path(two)["state"], "lost");
    fixture.filter(0, None);
    for agent in &fixture.agents {
        assert_eq!(finding(agent), None);
        assert_eq!(path(agent)["state"], "ok");
    }
}

/// A port that is blocked both ways is lost on both sides.
#[test]
fn a_port_blocked_both_ways_is_lost() {
    let fixture = fixture();
    for host in 0..2 {
        fixture.filter(host, TUNNELS);
    }
    for agent in &fixture.agents {
        let finding = finding(agent).unwrap();
        let message = finding["message"].as_str().unwrap();
        assert!(message.contains("no tunnel packet of"), "{finding}");
        assert_eq!(path(agent)["state"], "lost");
        assert_eq!(agent.json("status")["paths"]["lost"], 1);
    }
}

#[test]
fn a_host_whose_agent_is_dead_answers_all_the_same() {
    let mut fixture = fixture();
    fixture.agents[1].kill();
    let [one, _] = &fixture.agents;
    let _ = finding(one);
    assert_eq!(path(one)["state"], "ok");
}

#[test]
fn a_host_that_is_off_is_lost() {
    let mut fixture = fixture();
    fixture.agents[1].kill();
    fixture.hosts[1].plug(false);
    let [one, _] = &fixture.agents;
    let _ = finding(one);
    assert_eq!(path(one)["state"], "lost");
}

#[test]
fn a_path_that_is_narrower_than_both_ends_is_found() {
    let fixture = fixture();
    let [one, two] = &fixture.agents;
    // Between the hosts nobody says that it is: packets of more than 1300 bytes vanish.
    fixture.filter(0, Some("udp dport 4789 ip length > 1300"));
    for agent in [one, two] {
        until("the longest packet to be found", || {
            let _ = finding(agent);
            let largest = path(agent)["largest"].as_u64();
            largest.is_some_and(|largest| (1242..=1250).contains(&largest))
        });
        let finding = finding(agent).unwrap();
        assert_eq!(finding["severity"], "warning", "{finding}");
        assert_eq!(path(agent)["state"], "ok");
    }
}
