use proptest::prelude::*;

use super::*;
use crate::model::{Mac, Snapshot, Vni, Vtep};

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn node(name: &str, ip: &str) -> Node {
    Node::new(
        name.parse().unwrap(),
        Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        },
        true,
    )
}

fn endpoint(name: &str, number: u32, address: &str, node: &str) -> Endpoint {
    let address: ipnet::IpNet = address.parse().unwrap();
    let mac = match address.addr() {
        IpAddr::V4(ip) => Mac::from_ipv4(ip),
        IpAddr::V6(_) => "02:42:00:00:00:06".parse().unwrap(),
    };
    Endpoint {
        name: name.parse().unwrap(),
        vni: vni(number),
        mac,
        addresses: vec![address],
        node: node.parse().unwrap(),
        netns: Some(name.parse().unwrap()),
        ifname: Some("eth0".parse().unwrap()),
        generation: 3,
    }
}

fn mirror() -> Mirror {
    Mirror::from(Snapshot {
        revision: 3,
        networks: vec![
            Network::new("blue".parse().unwrap(), vni(42)),
            Network::new("red".parse().unwrap(), vni(43)),
        ],
        nodes: vec![node("h1", "10.0.0.1"), node("h2", "10.0.0.2")],
        endpoints: vec![
            endpoint("a", 42, "7.7.7.2/24", "h1"),
            endpoint("b", 42, "7.7.7.3/24", "h2"),
            endpoint("c", 43, "7.7.7.2/24", "h2"),
        ],
    })
}

fn local() -> Local {
    Local {
        node: "h1".parse().unwrap(),
        underlay_mtu: 1500,
    }
}

fn found() -> Found {
    let peer = Ipv4Addr::new(10, 0, 0, 2);
    Found {
        ports: BTreeMap::from([("a".parse().unwrap(), 7)]),
        next_hops: BTreeMap::from([(peer, peer)]),
    }
}

#[test]
fn endpoints_here_point_to_their_interface_and_others_to_their_vtep() {
    let tables = tables(&mirror(), &local(), &found());
    let target = |number, ip| {
        let key = FdbKey {
            vni: vni(number),
            mac: Mac::from_ipv4(ip),
        };
        tables.fdb[&key].target
    };
    assert_eq!(
        target(42, [7, 7, 7, 2].into()),
        FdbTarget::Local { ifindex: 7 }
    );
    let remote = FdbTarget::Remote {
        vtep: [10, 0, 0, 2].into(),
        port: 4789,
    };
    assert_eq!(target(42, [7, 7, 7, 3].into()), remote);
    assert_eq!(target(43, [7, 7, 7, 2].into()), remote);
    assert_eq!(tables.neighbors.len(), 3);
}

#[test]
fn only_other_nodes_are_vteps_to_accept_from() {
    let tables = tables(&mirror(), &local(), &found());
    assert_eq!(
        tables.vteps.keys().copied().collect::<Vec<_>>(),
        [Ipv4Addr::new(10, 0, 0, 2)]
    );
}

#[test]
fn a_next_hop_that_is_not_known_is_left_to_the_kernel() {
    let peer = Ipv4Addr::new(10, 0, 0, 2);
    let next_hop = |found: &Found| tables(&mirror(), &local(), found).vteps[&peer].next_hop;
    assert_eq!(next_hop(&found()), Some(peer));
    assert_eq!(next_hop(&Found::default()), None);
}

#[test]
fn an_endpoint_whose_interface_does_not_stand_yet_has_no_rows() {
    let tables = tables(&mirror(), &local(), &Found::default());
    assert!(tables.endpoints.is_empty());
    assert_eq!(tables.fdb.len(), 2);
}

#[test]
fn a_network_takes_what_the_underlay_leaves_or_less() {
    let mut network = Network::new("blue".parse().unwrap(), vni(42));
    assert_eq!(local().mtu(&network), Ok(1450));
    network.mtu = 1300;
    assert_eq!(local().mtu(&network), Ok(1300));
    network.mtu = 1451;
    assert!(local().mtu(&network).unwrap_err().contains("leaves 1450"));
}

#[test]
fn only_endpoints_of_this_node_with_a_namespace_get_an_interface() {
    let mirror = mirror();
    let spec = |endpoint: &Endpoint| local().port_spec(&mirror, endpoint);
    let spec_a = spec(&endpoint("a", 42, "7.7.7.2/24", "h1"))
        .unwrap()
        .unwrap();
    assert_eq!((spec_a.netns.as_str(), spec_a.mtu), ("a", 1450));
    assert_eq!(spec(&endpoint("b", 42, "7.7.7.3/24", "h2")), None);
    let foreign = Endpoint {
        netns: None,
        ..endpoint("a", 42, "7.7.7.2/24", "h1")
    };
    assert_eq!(spec(&foreign), None);
}

#[test]
fn a_mac_that_moves_to_another_endpoint_in_one_delta_is_written_and_not_removed() {
    let before = [endpoint("a", 42, "7.7.7.9/24", "h2")];
    let after = [Endpoint {
        generation: 4,
        ..endpoint("b", 42, "7.7.7.9/24", "h2")
    }];
    let rows = |endpoints: &[Endpoint]| rows_of(endpoints, &mirror(), &local(), &found());
    let plan = Plan::between(&rows(&after), &rows(&before));
    assert_eq!((plan.put.fdb.len(), plan.remove.fdb.len()), (1, 0));
}

#[test]
fn equal_tables_need_no_plan() {
    let tables = tables(&mirror(), &local(), &found());
    assert!(Plan::between(&tables, &tables).is_empty());
}

type Rows = BTreeMap<u8, u8>;

proptest! {
    #[test]
    fn carrying_a_plan_out_gives_what_was_desired(desired: Rows, actual: Rows) {
        let (put, remove) = difference(&desired, &actual);
        let mut result = actual.clone();
        result.retain(|key, _| !remove.contains_key(key));
        result.extend(put.clone());
        prop_assert_eq!(&result, &desired);
        // And touches nothing that was right already.
        prop_assert!(put.iter().all(|(key, row)| actual.get(key) != Some(row)));
    }
}
