use std::{collections::btree_map::Entry, time::SystemTime};

use proptest::prelude::*;

use super::*;
use crate::model::Attachment;

const PORT: u16 = 4789;

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn network(number: u32, subnets: &[&str]) -> Network {
    let mut network = Network::new(format!("net{number}").parse().unwrap(), vni(number));
    network.subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
    network
}

fn two_networks() -> Snapshot {
    Snapshot {
        revision: 1,
        networks: vec![
            network(42, &["7.7.7.0/24", "fd00::/64"]),
            network(43, &["7.7.7.0/24"]),
        ],
        nodes: vec![Node {
            last_seen: Some(SystemTime::UNIX_EPOCH),
            ..Node::new(
                "h1".parse().unwrap(),
                Vtep {
                    ip: "10.0.0.1".parse().unwrap(),
                    port: PORT,
                },
                true,
            )
        }],
        endpoints: vec![Endpoint {
            name: "blue".parse().unwrap(),
            vni: vni(42),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: vec!["7.7.7.2/24".parse().unwrap()],
            node: "h1".parse().unwrap(),
            attachment: Some(Attachment::veth(
                "blue".parse().unwrap(),
                "eth0".parse().unwrap(),
            )),
            generation: 7,
        }],
        objects: Vec::new(),
    }
}

fn folder(arp: &[(&str, &str)], fdb: &[(&str, &str)]) -> Folder {
    let files = |entries: &[(&str, &str)]| {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        entries.iter().map(owned).collect()
    };
    Folder {
        arp: files(arp),
        fdb: files(fdb),
        problems: Vec::new(),
    }
}

fn problems(folder: &Folder, snapshot: &Snapshot) -> Vec<String> {
    plan(folder, vni(42), PORT, snapshot).unwrap_err().problems
}

/// What the registry does with a commit, without its checks.
fn apply(snapshot: &mut Snapshot, changes: &[Change]) {
    snapshot.revision += 1;
    for change in changes {
        match change {
            Change::PutNode(node) => {
                snapshot.nodes.retain(|old| old.name != node.name);
                snapshot.nodes.push(node.clone());
            }
            Change::RemoveEmptyNode(name) => {
                assert!(
                    snapshot
                        .endpoints
                        .iter()
                        .all(|endpoint| endpoint.node != *name)
                );
                snapshot.nodes.retain(|node| node.name != *name);
            }
            Change::CreateEndpoint(endpoint) => {
                let mut endpoint = endpoint.clone();
                endpoint.generation = snapshot.revision;
                assert!(snapshot.nodes.iter().any(|node| node.name == endpoint.node));
                assert!(
                    snapshot
                        .endpoints
                        .iter()
                        .all(|old| old.name != endpoint.name)
                );
                snapshot.endpoints.push(endpoint);
            }
            Change::RemoveEndpoint(name) => {
                snapshot.endpoints.retain(|endpoint| endpoint.name != *name);
            }
            other => panic!("an import never does {other:?}"),
        }
    }
}

/// Imports and says what the imported endpoints of the VNI look like.
fn import(snapshot: &mut Snapshot, number: u32, folder: &Folder) -> Vec<String> {
    let first = plan(folder, vni(number), PORT, snapshot).unwrap();
    apply(snapshot, &first.changes);
    let again = plan(folder, vni(number), PORT, snapshot).unwrap();
    assert_eq!(again.changes, [], "a second import must change nothing");
    assert_eq!(
        (again.endpoints, again.vteps),
        (first.endpoints, first.vteps)
    );
    let mut lines: Vec<String> = snapshot
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.vni == vni(number) && endpoint.netns().is_none())
        .map(|endpoint| {
            let addresses: Vec<String> = endpoint.addresses.iter().map(IpNet::to_string).collect();
            format!(
                "{} {} [{}]",
                endpoint.name,
                endpoint.node,
                addresses.join(" ")
            )
        })
        .collect();
    lines.sort();
    lines
}

fn node_names(snapshot: &Snapshot) -> Vec<&str> {
    let mut names: Vec<&str> = snapshot
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn every_mac_becomes_an_endpoint_with_all_its_addresses() {
    let mut snapshot = two_networks();
    let lines = import(
        &mut snapshot,
        42,
        &folder(
            &[
                ("7.7.7.9", "02:42:07:07:07:09\n"),
                ("7.7.7.10", "02-42-07-07-07-09  \n\n"),
                ("fd00::9", "02:42:07:07:07:09"),
            ],
            &[
                ("02:42:07:07:07:09", "10.0.0.9\n"),
                ("02:42:07:07:07:0b", " 10.0.0.9"),
                ("02:42:07:07:07:0c", "fd99::2"),
            ],
        ),
    );
    assert_eq!(
        lines,
        [
            "42-02-42-07-07-07-09 vtep-10-0-0-9 [7.7.7.9/24 7.7.7.10/24 fd00::9/64]",
            "42-02-42-07-07-07-0b vtep-10-0-0-9 []",
            "42-02-42-07-07-07-0c vtep-fd99--2 []",
        ]
    );
    assert_eq!(
        node_names(&snapshot),
        ["h1", "vtep-10-0-0-9", "vtep-fd99--2"]
    );
    assert!(
        snapshot
            .nodes
            .iter()
            .skip(1)
            .all(|node| !node.agent && node.vtep.port == PORT)
    );
}

#[test]
fn a_plan_counts_endpoints_and_vteps() {
    let folder = folder(
        &[],
        &[
            ("02:42:07:07:07:09", "10.0.0.9"),
            ("02:42:07:07:07:0a", "10.0.0.9"),
            ("02:42:07:07:07:0b", "10.0.0.10"),
        ],
    );
    let plan = plan(&folder, vni(42), PORT, &two_networks()).unwrap();
    assert_eq!((plan.endpoints, plan.vteps), (3, 2));
}

#[test]
fn a_network_without_subnets_gives_host_prefixes() {
    let mut snapshot = two_networks();
    snapshot.networks.push(network(44, &[]));
    let folder = folder(
        &[
            ("7.7.7.9", "02:42:07:07:07:09"),
            ("fd00::9", "02:42:07:07:07:09"),
        ],
        &[("02:42:07:07:07:09", "10.0.0.9")],
    );
    assert_eq!(
        import(&mut snapshot, 44, &folder),
        ["44-02-42-07-07-07-09 vtep-10-0-0-9 [7.7.7.9/32 fd00::9/128]"]
    );
}

#[test]
fn a_changed_folder_updates_and_removes_what_an_earlier_import_made() {
    let mut snapshot = two_networks();
    let before = folder(
        &[
            ("7.7.7.9", "02:42:07:07:07:09"),
            ("7.7.7.10", "02:42:07:07:07:0a"),
            ("7.7.7.11", "02:42:07:07:07:0b"),
        ],
        &[
            ("02:42:07:07:07:09", "10.0.0.9"),
            ("02:42:07:07:07:0a", "10.0.0.9"),
            ("02:42:07:07:07:0b", "10.0.0.11"),
        ],
    );
    import(&mut snapshot, 42, &before);
    let untouched = snapshot
        .endpoints
        .iter()
        .find(|e| e.name.as_str().ends_with("09"))
        .cloned();

    // .10 and .11 change places, 0b moves to another VTEP.
    let after = folder(
        &[
            ("7.7.7.9", "02:42:07:07:07:09"),
            ("7.7.7.10", "02:42:07:07:07:0b"),
        ],
        &[
            ("02:42:07:07:07:09", "10.0.0.9"),
            ("02:42:07:07:07:0b", "10.0.0.12"),
        ],
    );
    assert_eq!(
        import(&mut snapshot, 42, &after),
        [
            "42-02-42-07-07-07-09 vtep-10-0-0-9 [7.7.7.9/24]",
            "42-02-42-07-07-07-0b vtep-10-0-0-12 [7.7.7.10/24]",
        ]
    );
    assert_eq!(
        node_names(&snapshot),
        ["h1", "vtep-10-0-0-12", "vtep-10-0-0-9"]
    );
    assert!(
        snapshot.endpoints.contains(&untouched.unwrap()),
        "its generation stays"
    );
    assert!(
        snapshot
            .endpoints
            .iter()
            .any(|endpoint| endpoint.name.as_str() == "blue")
    );
}

#[test]
fn an_emptied_folder_removes_the_import_and_its_nodes() {
    let mut snapshot = two_networks();
    let before = snapshot.clone();
    let entry = folder(&[], &[("02:42:07:07:07:09", "10.0.0.9")]);
    import(&mut snapshot, 42, &entry);
    import(&mut snapshot, 42, &Folder::default());
    assert_eq!(
        Snapshot {
            revision: before.revision,
            ..snapshot
        },
        before
    );
}

#[test]
fn a_vtep_that_another_network_still_uses_keeps_its_node() {
    let mut snapshot = two_networks();
    let entry = folder(
        &[("7.7.7.9", "02:42:07:07:07:09")],
        &[("02:42:07:07:07:09", "10.0.0.9")],
    );
    import(&mut snapshot, 42, &entry);
    let in_43 = import(&mut snapshot, 43, &entry);
    import(&mut snapshot, 42, &Folder::default());
    assert_eq!(node_names(&snapshot), ["h1", "vtep-10-0-0-9"]);
    assert_eq!(import(&mut snapshot, 43, &entry), in_43);
    import(&mut snapshot, 43, &Folder::default());
    assert_eq!(node_names(&snapshot), ["h1"]);
}

#[test]
fn another_port_updates_the_node_and_leaves_the_endpoints() {
    let mut snapshot = two_networks();
    let entry = folder(&[], &[("02:42:07:07:07:09", "10.0.0.9")]);
    import(&mut snapshot, 42, &entry);
    let Plan { changes, .. } = plan(&entry, vni(42), 8472, &snapshot).unwrap();
    assert!(
        matches!(changes.as_slice(), [Change::PutNode(node)] if node.vtep.port == 8472),
        "{changes:?}"
    );
}

#[test]
fn all_problems_are_reported_together_with_their_files() {
    let folder = Folder {
        problems: vec!["arp/pipe: is not a regular file".to_owned()],
        ..folder(
            &[
                ("10.9.9.9", "02:42:07:07:07:09"),
                ("7.7.7.300", "02:42:07:07:07:09"),
                ("7.7.7.20", "02:42:07:07:07:14"),
                ("7.7.7.21", "hello"),
                ("7.7.7.22", "02:42:07:07:07:09\n02:42:07:07:07:0a"),
                ("7.7.7.23", " \n"),
                ("fd00::24", "02:42:07:07:07:09"),
                ("fd00:0::24", "02:42:07:07:07:09"),
                ("224.0.0.1", "02:42:07:07:07:09"),
            ],
            &[
                ("02:42:07:07:07:09", "10.0.0.9"),
                ("02-42-07-07-07-09", "10.0.0.10"),
                ("ff:ff:ff:ff:ff:ff", "10.0.0.9"),
                ("02:42:07:07:07:30", "nowhere"),
                ("02:42:07:07:07:31", "0.0.0.0"),
            ],
        )
    };
    let problems = problems(&folder, &two_networks());
    for expected in [
        "arp/pipe: is not a regular file",
        "arp/10.9.9.9: outside the subnets of network net42",
        "arp/7.7.7.300: \"7.7.7.300\" is not an IP address",
        "arp/7.7.7.20: there is no fdb/02:42:07:07:07:14 that says where 02:42:07:07:07:14 lives",
        "arp/7.7.7.22: holds more than one line",
        "arp/7.7.7.23: is empty",
        "arp/fd00:0::24 and arp/fd00::24 are the same IP: remove one",
        "arp/224.0.0.1: 224.0.0.1 is not an address that one host can have",
        "fdb/02-42-07-07-07-09 and fdb/02:42:07:07:07:09 are the same MAC: remove one",
        "fdb/02:42:07:07:07:30: does not hold an IP address",
        "fdb/02:42:07:07:07:31: 0.0.0.0 is not an address that one host can have",
    ] {
        assert!(
            problems.iter().any(|line| line == expected),
            "{expected}\n{problems:#?}"
        );
    }
    for start in [
        "arp/7.7.7.21: does not hold a unicast MAC",
        "fdb/ff:ff:ff:ff:ff:ff: MAC",
    ] {
        assert!(
            problems.iter().any(|line| line.starts_with(start)),
            "{start}\n{problems:#?}"
        );
    }
    assert_eq!(problems.len(), 13, "{problems:#?}");
}

#[test]
fn many_problems_are_still_one_line() {
    let arp: Vec<String> = (0..100).map(|n| format!("x{n}")).collect();
    let arp: Vec<(&str, &str)> = arp.iter().map(|name| (name.as_str(), "")).collect();
    let error = plan(&folder(&arp, &[]), vni(42), PORT, &two_networks()).unwrap_err();
    assert_eq!(error.problems.len(), 100);
    let line = error.to_string();
    assert!(
        line.starts_with("nothing was imported, 100 problems: arp/x0: "),
        "{line}"
    );
    assert!(
        line.ends_with("; and 90 more") && !line.contains('\n'),
        "{line}"
    );
}

#[test]
fn names_macs_and_addresses_of_other_endpoints_are_not_taken_over() {
    let mut snapshot = two_networks();
    let mut taken = snapshot.endpoints[0].clone();
    taken.name = "42-02-42-07-07-07-09".parse().unwrap();
    taken.vni = vni(43);
    snapshot.endpoints.push(taken);
    let folder = folder(
        &[("7.7.7.2", "02:42:07:07:07:09")],
        &[
            ("02:42:07:07:07:09", "10.0.0.9"),
            ("02:42:07:07:07:02", "10.0.0.9"),
        ],
    );
    assert_eq!(
        problems(&folder, &snapshot),
        [
            "fdb/02:42:07:07:07:02: MAC 02:42:07:07:07:02 is taken by endpoint blue (node h1)",
            "endpoint name 42-02-42-07-07-07-09 is taken by endpoint 42-02-42-07-07-07-09 (node h1)",
            "arp/7.7.7.2: IP 7.7.7.2 is taken by endpoint blue (node h1)",
        ]
    );
}

#[test]
fn a_vtep_that_runs_an_agent_of_ours_is_refused() {
    let folder = folder(&[], &[("02:42:07:07:07:09", "10.0.0.1")]);
    assert_eq!(
        problems(&folder, &two_networks()),
        [
            "VTEP 10.0.0.1 is node h1, which runs an agent: add its endpoints there and remove its fdb files"
        ]
    );
}

#[test]
fn a_node_name_that_is_taken_is_refused() {
    let mut snapshot = two_networks();
    snapshot.nodes[0].name = "vtep-10-0-0-9".parse().unwrap();
    let folder = folder(&[], &[("02:42:07:07:07:09", "10.0.0.9")]);
    assert_eq!(
        problems(&folder, &snapshot),
        [
            "VTEP 10.0.0.9 needs the node name vtep-10-0-0-9, which is taken by a node with VTEP 10.0.0.1: rename or remove that one"
        ]
    );
}

#[test]
fn an_unknown_network_is_refused() {
    let error = plan(&Folder::default(), vni(99), PORT, &two_networks()).unwrap_err();
    assert!(
        error.to_string().contains("network 99 does not exist"),
        "{error}"
    );
}

#[test]
fn a_folder_is_read_without_dot_files_and_with_what_is_no_file_named() {
    let root = tempfile::tempdir().unwrap();
    let arp = root.path().join("arp");
    fs::create_dir_all(arp.join("7.7.7.8")).unwrap();
    fs::write(arp.join("7.7.7.9"), "02:42:07:07:07:09\n").unwrap();
    fs::write(arp.join(".7.7.7.9.swp"), "\0").unwrap();
    fs::write(arp.join("7.7.7.10"), [0xff, 0xfe]).unwrap();
    fs::write(arp.join("7.7.7.11"), "x".repeat(5000)).unwrap();
    nix::unistd::mkfifo(&arp.join("7.7.7.12"), nix::sys::stat::Mode::S_IRUSR).unwrap();

    let folder = Folder::read(root.path());
    assert_eq!(folder.arp.len(), 1);
    assert_eq!(folder.arp["7.7.7.9"], "02:42:07:07:07:09\n");
    assert!(folder.fdb.is_empty());
    let mut problems: Vec<String> = folder
        .problems
        .iter()
        .map(|line| line.rsplit('/').next().unwrap().to_owned())
        .collect();
    problems.sort();
    assert_eq!(
        problems,
        [
            "7.7.7.10: stream did not contain valid UTF-8",
            "7.7.7.11: is longer than 4096 bytes",
            "7.7.7.12: is not a regular file",
            "7.7.7.8: is not a regular file",
        ]
    );
}

#[test]
fn a_path_that_is_no_such_folder_is_a_problem_and_not_an_empty_import() {
    let root = tempfile::tempdir().unwrap();
    for path in [root.path().to_owned(), root.path().join("missing")] {
        let problems = Folder::read(&path).problems;
        assert!(
            problems[0].contains("neither arp/ nor fdb/"),
            "{problems:?}"
        );
    }
}

/// (last byte of the MAC, last byte of its VTEP, last bytes of its addresses)
type Row = (u8, (u8, Vec<u8>));

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (10..14_u8, prop::collection::vec(100..200_u8, 0..3));
    prop::collection::btree_map(20..30_u8, row, 0..6).prop_map(|rows| rows.into_iter().collect())
}

/// A folder and what it should become; an address that comes twice belongs to the first.
fn written(rows: &[Row]) -> (Folder, Vec<String>) {
    let mut folder = Folder::default();
    let mut lines = Vec::new();
    for (mac, (vtep, ips)) in rows {
        folder.fdb.insert(
            format!("02:42:00:00:00:{mac:02x}"),
            format!("10.0.0.{vtep}"),
        );
        let mut own = BTreeSet::new();
        for ip in ips {
            let file = format!("7.7.7.{ip}");
            if let Entry::Vacant(free) = folder.arp.entry(file) {
                free.insert(format!("02:42:00:00:00:{mac:02x}"));
                own.insert(ip);
            }
        }
        let own: Vec<String> = own.iter().map(|ip| format!("7.7.7.{ip}/24")).collect();
        let name = format!("42-02-42-00-00-00-{mac:02x}");
        lines.push(format!("{name} vtep-10-0-0-{vtep} [{}]", own.join(" ")));
    }
    (folder, lines)
}

proptest! {
    #[test]
    fn whatever_was_imported_before_the_folder_decides(first in rows(), second in rows()) {
        let mut snapshot = two_networks();
        for rows in [first, second] {
            let (folder, expected) = written(&rows);
            prop_assert_eq!(import(&mut snapshot, 42, &folder), expected);
            let used: BTreeSet<String> =
                rows.iter().map(|(_, (vtep, _))| format!("vtep-10-0-0-{vtep}")).collect();
            let nodes: BTreeSet<String> =
                node_names(&snapshot).into_iter().skip(1).map(str::to_owned).collect();
            prop_assert_eq!(nodes, used);
        }
    }
}
