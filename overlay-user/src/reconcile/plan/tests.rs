use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;

use super::{
    super::{
        desired::{HostState, Local},
        mirror::Mirror,
        status::LocalEndpoints,
    },
    *,
};
use crate::model::{
    Attachment, Endpoint, EndpointRow, FdbKey, FdbRow, FdbTarget, Mac, NeighborKey, NeighborRow,
    Network, Node, Vni, Vtep, VtepAddr, VtepPath, VtepRow,
};

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn vtep(ip: &str) -> Vtep {
    Vtep {
        ip: ip.parse().unwrap(),
        port: 4789,
    }
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
        attachment: Some(Attachment::veth(
            name.parse().unwrap(),
            "eth0".parse().unwrap(),
        )),
        generation: 3,
    }
}

fn mirror_of(endpoints: Vec<Endpoint>) -> Mirror {
    let mut mirror = Mirror::new("h1".parse().unwrap());
    let networks = vec![
        Network::new("blue".parse().unwrap(), vni(42)),
        Network::new("red".parse().unwrap(), vni(43)),
    ];
    let nodes = vec![
        Node::new("h1".parse().unwrap(), vtep("10.0.0.1"), true),
        Node::new("h2".parse().unwrap(), vtep("10.0.0.2"), true),
    ];
    mirror.expect_reading();
    mirror.begin_reading(3, networks, nodes, &mut |_, _| ());
    mirror.read(endpoints, &mut |_, _| ());
    mirror
}

fn mirror() -> Mirror {
    mirror_of(vec![
        endpoint("a", 42, "7.7.7.2/24", "h1"),
        endpoint("b", 42, "7.7.7.3/24", "h2"),
        endpoint("c", 43, "7.7.7.2/24", "h2"),
    ])
}

fn local() -> Local {
    Local {
        node: "h1".parse().unwrap(),
        vtep: vtep("10.0.0.1"),
        underlay_mtu: 1500,
    }
}

fn host() -> HostState {
    let peer = VtepAddr::from([10, 0, 0, 2]);
    let mut endpoints = LocalEndpoints::default();
    endpoints.set_interface(&"a".parse().unwrap(), 7, false);
    HostState {
        endpoints,
        paths: BTreeMap::from([(
            peer,
            VtepPath {
                next_hop: Some(peer.ip()),
                mtu: Some(4000),
            },
        )]),
    }
}

fn desired<'a>(mirror: &'a Mirror, local: &'a Local, host: &'a HostState) -> Desired<'a> {
    Desired {
        mirror,
        local,
        host,
    }
}

fn fdb_key(number: u32, last: u8) -> FdbKey {
    FdbKey {
        vni: vni(number),
        mac: Mac::from_ipv4([7, 7, 7, last].into()),
    }
}

#[test]
fn endpoints_here_point_to_their_interface_and_others_to_their_vtep() {
    let (mirror, local, host) = (mirror(), local(), host());
    let target = |key| {
        desired(&mirror, &local, &host)
            .row::<FdbRow>(key)
            .unwrap()
            .target
    };
    assert_eq!(
        target(fdb_key(42, 2)),
        FdbTarget::Local {
            ifindex: 7,
            is_queued: false,
            is_metered: false,
        }
    );
    let remote = FdbTarget::Remote {
        vtep: [10, 0, 0, 2].into(),
        port: 4789,
    };
    assert_eq!(target(fdb_key(42, 3)), remote);
    assert_eq!(target(fdb_key(43, 2)), remote);
}

#[test]
fn only_other_nodes_are_vteps_to_accept_from() {
    let (mirror, local, host) = (mirror(), local(), host());
    let vteps = VtepRow::all(&desired(&mirror, &local, &host));
    assert_eq!(
        vteps.keys().collect::<Vec<_>>(),
        [&VtepAddr::from([10, 0, 0, 2])]
    );
}

#[test]
fn a_path_that_is_not_known_is_left_to_the_kernel() {
    let (mirror, local, peer) = (mirror(), local(), VtepAddr::from([10, 0, 0, 2]));
    let path = |found: &HostState| {
        desired(&mirror, &local, found)
            .row::<VtepRow>(peer)
            .unwrap()
            .path
    };
    assert_eq!(path(&host()).next_hop, Some(peer.ip()));
    assert_eq!(path(&host()).mtu, Some(4000));
    assert_eq!(path(&HostState::default()), VtepPath::default());
}

#[test]
fn an_endpoint_whose_interface_does_not_stand_yet_has_no_rows() {
    let (mirror, local, host) = (mirror(), local(), HostState::default());
    let desired = desired(&mirror, &local, &host);
    assert!(desired.row::<FdbRow>(fdb_key(42, 2)).is_none());
    assert!(EndpointRow::desired(&desired, &"a".parse().unwrap()).is_none());
    let ip = [7, 7, 7, 2].into();
    let key = NeighborKey { vni: vni(42), ip };
    assert!(desired.row::<NeighborRow>(key).is_none());
    assert!(desired.row::<FdbRow>(fdb_key(42, 3)).is_some());
}

#[test]
fn only_rows_of_endpoints_that_are_not_there_make_an_addition() {
    let (mirror, local, host) = (mirror(), local(), host());
    let desired = desired(&mirror, &local, &host);
    let is_addition = |record: &dyn Fn(&mut ChangeSet)| {
        let mut changes = ChangeSet::default();
        for new in [4, 5] {
            changes.fdb.record(&desired, fdb_key(42, new));
            let ip = [7, 7, 7, new].into();
            let key = NeighborKey { vni: vni(42), ip };
            changes.neighbors.record(&desired, key);
        }
        assert!(changes.is_addition());
        record(&mut changes);
        changes.is_addition()
    };
    let ip = [7, 7, 7, 3].into();
    let neighbor = NeighborKey { vni: vni(42), ip };
    assert!(!is_addition(&|changes| changes
        .fdb
        .record(&desired, fdb_key(42, 3))));
    assert!(!is_addition(&|changes| changes
        .neighbors
        .record(&desired, neighbor)));
    assert!(!is_addition(&|changes| changes
        .networks
        .record(&desired, vni(44))));
    let unknown = [10, 0, 0, 3].into();
    assert!(!is_addition(&|changes| changes
        .vteps
        .record(&desired, unknown)));
    let port = || "d".parse().unwrap();
    assert!(!is_addition(&|changes| changes
        .endpoints
        .record(&desired, port())));
}

#[test]
fn a_network_takes_what_the_underlay_leaves_or_less() {
    let mut network = Network::new("blue".parse().unwrap(), vni(42));
    assert_eq!(local().mtu(&network, None), Ok(1450));
    network.mtu = 1300;
    assert_eq!(local().mtu(&network, Some(1500)), Ok(1300));
    network.mtu = 1451;
    let refused = local().mtu(&network, Some(9000)).unwrap_err();
    assert!(refused.contains("leaves 1450"));
}

#[test]
fn an_automatic_mtu_is_what_the_least_of_all_underlays_leaves() {
    let network = Network::new("blue".parse().unwrap(), vni(42));
    assert_eq!(local().mtu(&network, Some(1400)), Ok(1350));
    // This host's own is not yet told, or is told larger than it is by now.
    assert_eq!(local().mtu(&network, Some(9000)), Ok(1450));
}

#[test]
fn only_attached_endpoints_of_this_node_get_an_interface() {
    let foreign = Endpoint {
        attachment: None,
        ..endpoint("d", 42, "7.7.7.4/24", "h1")
    };
    let mirror = mirror_of(vec![
        endpoint("a", 42, "7.7.7.2/24", "h1"),
        endpoint("b", 42, "7.7.7.3/24", "h2"),
        foreign,
    ]);
    let spec = |name: &str| local().port_spec(&mirror, &name.parse().unwrap());
    let spec_a = spec("a").unwrap().unwrap();
    assert_eq!(
        (spec_a.attachment.netns(), spec_a.mtu),
        (Some(&"a".parse().unwrap()), 1450)
    );
    assert_eq!((spec("b"), spec("d")), (None, None));
}

/// What a change makes of the rows that it affects.
fn plan_of(mirror: &mut Mirror, digests: &mut RowDigests, delta: crate::model::Delta) -> Plan {
    let (local, host, mut changes) = (local(), host(), ChangeSet::default());
    mirror.apply(delta, &BTreeSet::new(), &mut |mirror, fact| {
        changes.record_before(&desired(mirror, &local, &host), fact);
    });
    changes.into_plan(&desired(mirror, &local, &host), digests)
}

#[test]
fn a_mac_that_goes_over_to_another_endpoint_is_written_and_not_removed() {
    let (mut mirror, mut digests) = (mirror(), RowDigests::default());
    let delta = crate::model::Delta {
        revision: 4,
        endpoints_removed: vec!["b".parse().unwrap()],
        endpoints: vec![Endpoint {
            generation: 4,
            ..endpoint("d", 42, "7.7.7.3/24", "h2")
        }],
        ..crate::model::Delta::default()
    };
    let plan = plan_of(&mut mirror, &mut digests, delta);
    assert_eq!((plan.put.fdb.len(), plan.put.neighbors.len()), (1, 1));
    assert_eq!(plan.remove, Tables::default());
}

#[test]
fn the_older_of_two_claimants_gets_its_row_back_when_the_newer_goes() {
    let mut mirror = mirror_of(vec![
        endpoint("old", 42, "7.7.7.3/24", "h2"),
        Endpoint {
            generation: 9,
            ..endpoint("new", 42, "7.7.7.3/24", "h2")
        },
    ]);
    let delta = crate::model::Delta {
        revision: 10,
        endpoints_removed: vec!["new".parse().unwrap()],
        ..crate::model::Delta::default()
    };
    let plan = plan_of(&mut mirror, &mut RowDigests::default(), delta);
    // The kernel refuses an older generation unless the newer is removed first.
    assert_eq!(plan.remove.fdb[&fdb_key(42, 3)].generation, 9);
    assert_eq!(plan.put.fdb[&fdb_key(42, 3)].generation, 3);
}

#[test]
fn a_change_that_is_undone_at_once_needs_no_plan_and_leaves_the_books_alone() {
    let (mut mirror, mut digests, mut changes) =
        (mirror(), RowDigests::default(), ChangeSet::default());
    let (local, host) = (local(), host());
    let far = endpoint("b", 42, "7.7.7.3/24", "h2");
    mirror.remove(&far.name, &mut |mirror, fact| {
        changes.record_before(&desired(mirror, &local, &host), fact);
    });
    mirror.answer(far, 3, &mut |mirror, fact| {
        changes.record_before(&desired(mirror, &local, &host), fact);
    });
    assert!(
        changes
            .into_plan(&desired(&mirror, &local, &host), &mut digests)
            .is_empty()
    );
    assert_eq!(digests.intended.iter().count(), 0);
}

proptest! {
    #[test]
    fn carrying_a_plan_out_gives_what_was_desired(wanted: BTreeMap<u32, u32>, actual: BTreeMap<u32, u32>) {
        let tables = |rows: &BTreeMap<u32, u32>| Tables {
            vteps: rows
                .iter()
                .map(|(ip, port)| {
                    let port = u16::try_from(*port % 7).unwrap();
                    (VtepAddr::from((*ip % 64).to_be_bytes()), VtepRow { port, path: VtepPath::default() })
                })
                .collect(),
            ..Tables::default()
        };
        let (wanted, actual) = (tables(&wanted), tables(&actual));
        let plan = Plan::between(&wanted, &actual);
        let mut result = actual.clone();
        result.vteps.retain(|key, _| !plan.remove.vteps.contains_key(key));
        result.vteps.extend(plan.put.vteps.clone());
        prop_assert_eq!(&result, &wanted);
        // And touches nothing that was right already.
        prop_assert!(plan.put.vteps.iter().all(|(key, row)| actual.vteps.get(key) != Some(row)));
    }
}
