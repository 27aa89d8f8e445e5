//! What an endpoint sent and received: `endpoint show`, `endpoint ls --wide` and JSON.

use overlay_lab::{Agent, TwoHosts, two_hosts::BOTH};
use serde_json::Value;

/// Packets of echoes and their bytes: Ethernet, IPv4 and ICMP headers, 56 of data.
const ECHO: u64 = 14 + 20 + 8 + 56;

fn traffic(agent: &Agent, endpoint: &str) -> Value {
    agent.json(&format!("endpoint show {endpoint}"))["traffic"].clone()
}

fn sent(traffic: &Value) -> (u64, u64) {
    let volume = &traffic["sent"];
    (
        volume["packets"].as_u64().unwrap(),
        volume["bytes"].as_u64().unwrap(),
    )
}

fn received(traffic: &Value) -> (u64, u64) {
    let volume = &traffic["received"];
    (
        volume["packets"].as_u64().unwrap(),
        volume["bytes"].as_u64().unwrap(),
    )
}

/// Packets are counted on both hosts, also while no agent runs, and for whoever is there now.
#[test]
fn packets_count_for_their_endpoint() {
    let mut fixture = TwoHosts::new("--vni 42", BOTH);
    let (blue, green) = (
        fixture.blue.name().to_owned(),
        fixture.green.name().to_owned(),
    );
    assert!(fixture.blue.pings("7.7.7.3", "-c 1 -W 2"));
    let before = traffic(&fixture.agents[0], &blue);
    fixture.agents[0].kill();
    assert!(fixture.blue.pings("7.7.7.3", "-c 5 -W 2"));
    fixture.agents[0].restart("");
    fixture.agents[0].await_ready();
    let after = traffic(&fixture.agents[0], &blue);
    // Neighbour discovery and the like may come on top.
    for (before, after) in [
        (sent(&before), sent(&after)),
        (received(&before), received(&after)),
    ] {
        assert!(after.0 >= before.0 + 5, "{before:?} {after:?}");
        assert!(after.1 >= before.1 + 5 * ECHO, "{before:?} {after:?}");
    }
    assert!(received(&traffic(&fixture.agents[1], &green)).0 >= 6);
    assert_eq!(
        traffic(&fixture.agents[0], &green),
        Value::Null,
        "it is not here"
    );

    let agent = &fixture.agents[0];
    let text = agent.does("endpoint ls --wide");
    let line = text.lines().find(|line| line.contains(&blue)).unwrap();
    assert!(text.contains("RECEIVED BYTES"), "{text}");
    assert!(!line.trim_end().ends_with('-'), "{text}");
    let text = agent.does(&format!("endpoint show {blue}"));
    assert!(text.contains(" bytes) received"), "{text}");

    agent.does(&format!("endpoint rm {blue}"));
    let next = fixture.lab.name("next");
    agent.does(&format!("endpoint add {next} --vni 42 --ip 7.7.7.9/24"));
    assert!(sent(&traffic(agent, &next)).0 < 5, "it begins anew");
}
