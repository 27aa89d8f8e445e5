use std::fmt;

use anyhow::Context;
use serde_json::{json, to_value};

use super::*;
use crate::agent::fake;

#[test]
fn an_endpoint_has_the_keys_of_the_contract() {
    assert_eq!(
        to_value(fake::endpoint()).unwrap(),
        json!({
            "name": "web", "vni": 42, "mac": "02:42:07:07:07:02",
            "ips": ["7.7.7.2", "fd00::2"], "addresses": ["7.7.7.2/24", "fd00::2/64"],
            "node": "h1", "vtep": "10.0.0.1", "netns": "web", "ifname": "eth0",
            "generation": 7, "state": "ready",
        })
    );
}

#[test]
fn an_endpoint_without_an_agent_has_null_for_namespace_and_interface() {
    let view = to_value(fake::imported_endpoint()).unwrap();
    assert_eq!(view["netns"], json!(null));
    assert_eq!(view["ifname"], json!(null));
    assert_eq!(view["state"], json!("remote"));
}

#[test]
fn a_failed_endpoint_says_why() {
    let mut view = fake::endpoint().with_error(Some("namespace web is taken".into()));
    view.state = EndpointState::Failed;
    let view = to_value(view).unwrap();
    assert_eq!(view["state"], json!("failed"));
    assert_eq!(view["error"], json!("namespace web is taken"));
}

#[test]
fn a_network_has_the_keys_of_the_contract() {
    assert_eq!(
        to_value(NetworkView::from(fake::network())).unwrap(),
        json!({
            "name": "blue", "vni": 42, "subnets": ["7.7.7.0/24"],
            "mtu": 0, "flood": "none", "learning": false, "resolve": "proactive",
            "snat": "none", "dhcp": false, "qos": null,
        })
    );
}

#[test]
fn vteps_have_the_keys_of_the_contract() {
    assert_eq!(
        to_value(fake::vteps()).unwrap(),
        json!([
            {"node": "h1", "ip": "10.0.0.1", "port": 4789,
             "last_seen": "2026-08-01T12:00:00.123Z", "alive": true, "agent": true,
             "state": "alive", "version": "0.2.0", "abi": 2, "mtu": 1500,
             "path": null},
            {"node": "vtep-10.0.0.9", "ip": "10.0.0.9", "port": 4789,
             "last_seen": null, "alive": false, "agent": false,
             "state": "no_agent", "version": null, "abi": null, "mtu": null,
             "path": null},
        ])
    );
}

#[test]
fn status_has_the_keys_of_the_contract() {
    assert_eq!(
        to_value(fake::status()).unwrap(),
        json!({
            "instance": "default", "node": "h1", "ready": true, "agent": true,
            "iface": "eth0", "vtep": "10.0.0.1", "port": 4789,
            "registry": {
                "url": "sqlite:///var/lib/overlay/registry.db", "connected": true, "revision": 12,
                "stale_for_s": 0, "error": null, "followed": true, "rejected": [],
            },
            "networks": 2,
            "endpoints": {"local": 3, "remote": 4, "failed": 0, "waiting": 0},
            "paths": {"ok": 1, "one_way": 1}, "dhcp": {},
            "datapath": {
                "attach": "tcx", "abi": 1, "fast_path": true, "fast_path_error": null, "counters": {},
                "maps": {"fdb": {"entries": 7, "capacity": 262_144, "refused": 0, "stale": 0}},
                "drops": {"loss": 3, "noise": 12},
            },
            "problems": [], "stalled": [],
        })
    );
}

#[test]
fn an_event_is_one_object_with_its_kind_and_time() {
    assert_eq!(
        to_value(fake::event()).unwrap(),
        json!({
            "time": "2026-08-01T12:00:00.123Z", "event": "drop",
            "reason": "too_big", "packets": 3, "total": 7, "class": "loss",
        })
    );
    let change = RegistryChange::NodeSilent {
        node: "h2".parse().unwrap(),
    };
    let event = to_value(EventView::now(Event::Registry { change })).unwrap();
    assert_eq!(event["event"], "registry");
    assert_eq!(
        (&event["what"], &event["node"]),
        (&json!("node_silent"), &json!("h2"))
    );
}

#[test]
fn a_verdict_has_the_hosts_and_the_entries_that_differ() {
    assert_eq!(
        to_value(fake::verified()).unwrap(),
        json!({
            "agree": false, "revision": 12, "more": 0,
            "hosts": [{"node": "h2", "verdict": "differs", "revision": 12, "rows": 7}],
            "differences": [{
                "node": "h2", "vni": 42, "map": "fdb", "entry": "02:42:07:07:07:02",
                "endpoint": "web", "wanted": {"vtep": "10.0.0.1:4789", "generation": 7},
                "installed": null,
            }],
        })
    );
}

#[test]
fn an_error_has_a_message_and_a_kind() {
    let error = OperationError::new(ErrorKind::NotFound, "endpoint web does not exist");
    assert_eq!(
        to_value(ErrorView { error }).unwrap(),
        json!({"error": {"message": "endpoint web does not exist", "kind": "not_found"}})
    );
}

#[test]
fn the_kind_of_a_chain_is_that_of_the_error_that_knows_it() {
    let cause = RegistryError::Unavailable("the file is locked".into());
    let error = anyhow::Error::new(cause).context("can't start");
    assert_eq!(
        error_of_chain(&error),
        OperationError::new(ErrorKind::Unavailable, "can't start: the file is locked")
    );
    let unknown = Err::<(), _>(fmt::Error).context("can't start");
    let kind = error_of_chain(&unknown.unwrap_err()).kind;
    assert_eq!(kind, ErrorKind::Internal);
}
