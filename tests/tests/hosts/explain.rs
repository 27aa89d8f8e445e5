//! `overlay explain`: the rows that decide over a packet, at its sender's host and its receiver's.

use overlay_lab::{Agent, TwoHosts, two_hosts::BOTH};
use serde_json::Value;

/// What is explained, whether or not the packet gets there.
fn explained(agent: &Agent, words: &str) -> (i32, Value) {
    let run = agent.overlay(&format!("-o json explain {words}"));
    let view = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    (run.code, view)
}

/// The node and the fate of each leg.
fn fates(view: &Value) -> Vec<(&str, &str)> {
    let legs = view["legs"].as_array().unwrap().iter();
    legs.map(|leg| (leg["node"].as_str().unwrap(), leg["fate"].as_str().unwrap()))
        .collect()
}

/// Whether a program of a leg found a row of a table that is told so.
fn has_row(leg: &Value, program: &str, table: &str, text: &str) -> bool {
    leg["steps"].as_array().unwrap().iter().any(|step| {
        let row = step["row"].as_str().unwrap_or("none");
        step["program"] == program && step["table"] == table && row.contains(text)
    })
}

#[test]
fn a_packet_is_explained_from_its_sender_to_its_receiver_on_another_host() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let [one, two] = &fixture.agents;
    let [here, there] = [one.instance(), two.instance()];
    let (blue, green) = (fixture.blue.name(), fixture.green.name());
    fixture.green.ip("neigh flush all");
    for (destination, options) in [
        ("7.7.7.3", ""),
        ("7.7.7.3", "--proto tcp --port 443"),
        ("fd07::3", "--proto udp --port 53 --source-port 5353"),
    ] {
        let words = format!("{blue} {destination} {options}");
        let (code, view) = explained(one, &words);
        assert_eq!(code, 0, "{view}");
        let expected = [
            (here, "answered"),
            (here, "tunnelled"),
            (there, "delivered"),
        ];
        assert_eq!(fates(&view), expected, "{words}: {view}");
        assert!(has_row(
            &view["legs"][0],
            "endpoint_ingress",
            "neighbors",
            ":"
        ));
        assert!(has_row(
            &view["legs"][1],
            "endpoint_ingress",
            "fdb",
            "remote"
        ));
        assert!(has_row(
            &view["legs"][2],
            "underlay_ingress",
            "fdb",
            "local"
        ));
        let last = view["legs"][2]["message"].as_str().unwrap();
        assert!(
            last.starts_with(&format!("delivered to {green}: ")),
            "{last}"
        );
        // Any agent can be asked.
        assert_eq!(fates(&explained(two, &words).1), expected);
    }
    // What was explained was not sent.
    assert_eq!(fixture.green.ip("neigh show dev eth0"), "");
}

#[test]
fn a_packet_that_goes_no_further_is_explained_by_the_row_that_is_missing() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let [one, _] = &fixture.agents;
    let blue = fixture.blue.name();
    let (code, view) = explained(one, &format!("{blue} 7.7.7.99"));
    assert_eq!((code, view["passes"].as_bool()), (1, Some(false)), "{view}");
    assert_eq!(view["legs"][0]["reason"], "neighbor_unknown", "{view}");
    assert!(has_row(
        &view["legs"][0],
        "endpoint_ingress",
        "neighbors",
        "none"
    ));
    for (words, expected) in [
        ("7.7.7.2", "own: the packet would not leave it"),
        ("9.9.9.9", "its network has no gateway"),
        ("224.0.0.1", "the destination is one host's address"),
        ("7.7.7.3 --port 80", "ICMP has no ports"),
    ] {
        let run = one.overlay(&format!("explain {blue} {words}"));
        assert!(run.stderr.contains(expected), "{run:?}");
        assert_ne!(run.code, 0);
    }
    let error = one.overlay("explain nobody 7.7.7.3");
    assert!(
        error.stderr.contains("there is no endpoint nobody"),
        "{error:?}"
    );
}

#[test]
fn what_a_host_does_that_does_not_answer_is_said_to_be_unknown() {
    let mut fixture = TwoHosts::new("--vni 42", BOTH);
    fixture.agents[1].kill();
    let [one, two] = &fixture.agents;
    let words = format!("{} 7.7.7.3", fixture.blue.name());
    let (code, view) = explained(one, &words);
    assert_eq!((code, view["passes"].is_null()), (1, true), "{view}");
    let expected = [
        (one.instance(), "answered"),
        (one.instance(), "tunnelled"),
        (two.instance(), "unknown"),
    ];
    assert_eq!(fates(&view), expected, "{view}");
    let run = one.overlay(&format!("explain {words}"));
    assert!(run.stderr.contains("it is not known whether"), "{run:?}");
}

#[test]
fn a_routed_packet_is_explained_by_its_route() {
    let fixture = TwoHosts::new("--vni 42", BOTH);
    let [one, two] = &fixture.agents;
    let [here, there] = [one.instance(), two.instance()];
    one.does("network create far --vni 43 --subnet 8.8.8.0/24");
    two.endpoint(&fixture.lab.name("orange"), 43, &["8.8.8.3/24"]);
    one.does("router create r1");
    one.does("router attach r1 42 --ip 7.7.7.1/24");
    one.does("router attach r1 far");
    one.does("router route add r1 9.9.9.0/24 via blackhole");
    let blue = fixture.blue.name();
    let (code, view) = explained(one, &format!("{blue} 8.8.8.3 --proto tcp --port 22"));
    assert_eq!(code, 0, "{view}");
    let expected = [
        (here, "answered"),
        (here, "tunnelled"),
        (there, "delivered"),
    ];
    assert_eq!(fates(&view), expected, "{view}");
    assert!(has_row(
        &view["legs"][1],
        "route",
        "routes",
        "connected, vni 43"
    ));

    let (code, view) = explained(one, &format!("{blue} 9.9.9.9"));
    assert_eq!(code, 1, "{view}");
    assert_eq!(fates(&view)[1], (here, "refused"), "{view}");
    assert_eq!(view["legs"][1]["reason"], "route_prohibited", "{view}");
    assert!(has_row(&view["legs"][1], "route", "routes", "blackhole"));
}
