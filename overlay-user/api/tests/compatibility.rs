//! Versions beside each other: requests are strict, answers are not.

use overlay_api::{
    AddEndpoint, EndpointView, NetworkView, Operation, SetNetwork, ShowStatus, StatusView, schema,
};
use serde_json::{Value, from_value, json};

/// A field that an older agent does not know would be done without: it refuses the request instead.
#[test]
fn requests_with_unknown_fields_are_refused() {
    fn check<Op: Operation>(known: Value) {
        let mut unknown = known.clone();
        unknown["new"] = json!(1);
        assert!(from_value::<Op>(known).is_ok(), "{}", Op::PATH);
        let error = from_value::<Op>(unknown).err().unwrap();
        assert!(error.to_string().contains("unknown field `new`"), "{error}");
    }
    check::<AddEndpoint>(json!({"name": "web", "vni": 42}));
    check::<SetNetwork>(json!({"name": "blue"}));
    check::<ShowStatus>(json!({}));
}

/// The same of every operation, as its schema says.
#[test]
fn no_operation_takes_unknown_fields() {
    let generator = || schemars::generate::SchemaSettings::default().into_generator();
    macro_rules! check {
        ($($operation:ident: $form:ident,)+) => {
            $(
                let schema = generator().into_root_schema_for::<overlay_api::$operation>();
                let more = schema.get("additionalProperties");
                assert_eq!(more, Some(&json!(false)), stringify!($operation));
            )+
        };
    }
    overlay_api::for_each_operation!(check);
}

/// An older client reads the answers of a newer agent, and those of an older one.
#[test]
fn answers_with_unknown_fields_are_read() {
    let network = json!({
        "name": "blue", "vni": 42, "subnets": ["7.7.7.0/24"], "mtu": 0, "flood": "none",
        "learning": false, "resolve": "proactive", "new": {"a": [1]},
    });
    assert!(from_value::<NetworkView>(network).is_ok());
    let endpoint = json!({
        "name": "web", "vni": 42, "mac": "02:42:07:07:07:02", "ips": [], "addresses": [],
        "node": "h1", "vtep": "10.0.0.1", "netns": null, "ifname": null, "generation": 7,
        "state": "ready", "new": true,
    });
    assert!(from_value::<EndpointView>(endpoint).is_ok());
    let status = json!({
        "instance": "default", "node": "h1", "ready": true, "iface": "eth0", "vtep": "10.0.0.1",
        "port": 4789, "networks": 0, "endpoints": {"local": 0, "remote": 0}, "problems": [],
        "registry": {"url": "", "connected": true, "revision": 1, "stale_for_s": 0, "error": null},
        "datapath": {
            "attach": "tcx", "abi": 2, "fast_path": true, "fast_path_error": null, "maps": {},
            "counters": {}, "new": 1,
        },
    });
    let status: StatusView = from_value(status).unwrap();
    assert!(status.agent && status.registry.followed);
}

/// The same of every type that is answered, as its schema says.
#[test]
fn every_answer_may_have_more_fields() {
    let document = schema::document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        let is_closed = schema.get("additionalProperties") == Some(&json!(false));
        // Of a tagged value.
        let is_variant = schema.get("oneOf").is_some() || schema.get("anyOf").is_some();
        assert!(!is_closed || is_variant, "{name}");
    }
}
