use anyhow::Context;
use serde_json::{json, to_value};

use super::*;
use crate::model::EndpointState;

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
            "paths": {"ok": 1, "one_way": 1},
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
fn addresses_print_as_they_parse() {
    for text in [
        "7.7.7.2",
        "7.7.7.2/24",
        "fd00::2",
        "fd00::2/64",
        "7.7.7.0/31",
        "7.7.7.1/31",
        "7.7.7.0/32",
        "fd00::/127",
        "fd00::/128",
        "fd00::ffff:ffff:ffff:ffff/64",
    ] {
        assert_eq!(text.parse::<AddressRequest>().unwrap().to_string(), text);
    }
}

#[test]
fn addresses_that_no_host_can_have_are_refused() {
    for (text, why) in [
        ("", "malformed"),
        ("7.7.7", "malformed"),
        ("7.7.7.2/33", "malformed"),
        ("7.7.7.2/", "malformed"),
        ("fd00::2/129", "malformed"),
        ("hello", "malformed"),
        ("224.0.0.1", "no unicast address"),
        ("ff02::1", "no unicast address"),
        ("0.0.0.0", "no unicast address"),
        ("::ffff:7.7.7.2", "no unicast address"),
        ("::", "no unicast address"),
        ("127.0.0.1", "no unicast address"),
        ("255.255.255.255", "no unicast address"),
        ("7.7.7.0/24", "network address (the first) of 7.7.7.0/24"),
        (
            "7.7.7.255/24",
            "broadcast address (the last address) of 7.7.7.0/24",
        ),
        ("fd00::/64", "anycast address (the first) of fd00::/64"),
        ("10.0.0.4/30", "network address (the first) of 10.0.0.4/30"),
        ("fd00::4/126", "anycast address (the first) of fd00::4/126"),
    ] {
        let error = text.parse::<AddressRequest>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn an_address_without_a_length_takes_the_subnets() {
    let network = fake::network();
    let bare = |ip: &str| ip.parse::<AddressRequest>().unwrap().in_network(&network);
    assert_eq!(bare("7.7.7.2").unwrap().to_string(), "7.7.7.2/24");
    for edge in ["7.7.7.0", "7.7.7.255"] {
        assert_eq!(bare(edge).unwrap_err().kind, ErrorKind::Refused);
    }
    // Outside of them: the registry refuses it, and says which subnets there are.
    assert_eq!(bare("8.8.8.8").unwrap().to_string(), "8.8.8.8/32");
}

#[test]
fn an_address_with_another_length_than_its_subnets_is_refused_with_the_right_one() {
    let network = Network {
        subnets: ["7.8.7.0/24", "fd00::/64"]
            .map(|net| net.parse().unwrap())
            .into(),
        ..fake::network()
    };
    for (asked, right) in [
        ("7.8.7.5/8", "7.8.7.5/24"),
        ("7.8.7.5/32", "7.8.7.5/24"),
        ("fd00::5/48", "fd00::5/64"),
    ] {
        let asked: AddressRequest = asked.parse().unwrap();
        let refusal = asked.in_network(&network).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Refused);
        let end = format!("write {right}");
        assert!(refusal.message.ends_with(&end), "{}", refusal.message);
        let right: AddressRequest = right.parse().unwrap();
        assert!(right.in_network(&network).is_ok());
    }
}

#[test]
fn the_anycast_address_of_an_ipv6_subnet_is_refused() {
    let network = Network {
        subnets: vec!["fd00::/64".parse().unwrap()],
        ..fake::network()
    };
    let asked: AddressRequest = "fd00::".parse().unwrap();
    let refusal = asked.in_network(&network).unwrap_err();
    assert!(refusal.message.contains("anycast"), "{}", refusal.message);
}

#[test]
fn without_a_subnet_an_address_needs_its_length() {
    let network = Network {
        subnets: Vec::new(),
        ..fake::network()
    };
    let asked = |ip: &str| ip.parse::<AddressRequest>().unwrap().in_network(&network);
    assert_eq!(asked("7.7.7.2/24").unwrap().to_string(), "7.7.7.2/24");
    let refusal = asked("7.7.7.2").unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Refused);
    assert!(
        refusal.message.ends_with("7.7.7.2/24"),
        "{}",
        refusal.message
    );
}

#[test]
fn networks_that_cannot_work_are_refused() {
    let check = |subnets: &[&str], mtu| {
        let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        let subnets: Vec<IpNet> = subnets;
        check_network(&subnets, mtu).map_err(|error| error.message)
    };
    for (subnets, mtu) in [
        (&[][..], 0),
        (&["7.7.7.0/24", "7.7.8.0/24", "fd00::/64"], 1280),
        (&["7.7.7.0/24"], 576),
        (&["10.0.0.0/8", "169.254.0.0/16", "fe80::/64"], 65_485),
        (&[], 65_485),
    ] {
        assert_eq!(check(subnets, mtu), Ok(()), "{subnets:?} {mtu}");
    }
    for (subnet, special) in [
        ("224.0.0.0/8", "224.0.0.0/4"),
        ("0.0.0.0/0", "0.0.0.0/8"),
        ("0.0.0.0/24", "0.0.0.0/8"),
        ("127.1.0.0/16", "127.0.0.0/8"),
        ("126.0.0.0/7", "127.0.0.0/8"),
        ("::/0", "::/127"),
        ("::/64", "::/127"),
        ("::ffff:7.7.7.0/120", "::ffff:0:0/96"),
        ("ff05::/64", "ff00::/8"),
    ] {
        let refusal = check(&[subnet], 0).unwrap_err();
        let begin = format!("subnet {subnet} has addresses of {special}, ");
        assert!(refusal.starts_with(&begin), "{refusal}");
    }
    for (subnets, mtu, range) in [
        (&["7.7.7.0/24", "fd00::/64"][..], 1279, "1280 to 65485"),
        (&["7.7.7.0/24"], 575, "576 to 65485"),
        (&[], 100, "576 to 65485"),
        (&[], 65_486, "576 to 65485"),
        (&["fd00::/64"], 65_535, "1280 to 65485"),
    ] {
        let refusal = check(subnets, mtu).unwrap_err();
        assert!(refusal.contains(range), "{refusal}");
    }
}

#[test]
fn the_kind_of_a_chain_is_that_of_the_error_that_knows_it() {
    let cause = RegistryError::Unavailable("the file is locked".into());
    let error = anyhow::Error::new(cause).context("can't start");
    assert_eq!(
        OperationError::from_chain(&error),
        OperationError::new(ErrorKind::Unavailable, "can't start: the file is locked")
    );
    let unknown = Err::<(), _>(fmt::Error).context("can't start");
    let kind = OperationError::from_chain(&unknown.unwrap_err()).kind;
    assert_eq!(kind, ErrorKind::Internal);
}
