use super::*;
use crate::{
    agent::api::{NodeState, Severity},
    model::{SESSION_TTL, Vtep},
};

fn own() -> Own<'static> {
    static NODE: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| "h1".parse().unwrap());
    Own {
        node: &NODE,
        version: "0.2.1",
        abi: 2,
        vtep: Vtep {
            ip: "10.0.0.1".parse().unwrap(),
            port: 4789,
        },
        mtu: 1500,
    }
}

/// What the registry has of this host.
fn this_host() -> Node {
    Node {
        vtep: own().vtep,
        ..node("h1")
    }
}

fn node(name: &str) -> Node {
    let vtep = Vtep {
        ip: "10.0.0.2".parse().unwrap(),
        port: 4789,
    };
    Node {
        alive: true,
        last_seen: Some(SystemTime::now()),
        version: Some("0.2.1".to_owned()),
        abi: Some(2),
        ..Node::new(name.parse().unwrap(), vtep, true)
    }
}

/// What is found of one peer, a line each.
fn found(peer: Node, state: NodeState) -> Vec<(Severity, String)> {
    let states = BTreeMap::from([(peer.name.clone(), state)]);
    let mut found = DoctorView::default();
    judge_nodes(&mut found, &own(), &[this_host(), peer], &states);
    found
        .concluded()
        .findings
        .into_iter()
        .map(|finding| {
            let line = format!(
                "{}: {}: {}",
                finding.subject, finding.message, finding.advice
            );
            assert!(!line.contains('\n'), "{line}");
            (finding.severity, line)
        })
        .collect()
}

#[test]
fn a_peer_that_fits_is_no_finding() {
    assert_eq!(found(node("h2"), NodeState::Alive), []);
}

#[test]
fn a_peer_that_does_not_fit_is_named_with_what_differs_and_what_to_do() {
    let peers = [
        (
            Node {
                abi: Some(3),
                ..node("h2")
            },
            NodeState::Alive,
            Severity::Problem,
            ["peer h2: ", "ABI version 3", "upgrade this host"],
        ),
        (
            Node {
                version: Some("0.1.0".to_owned()),
                ..node("h2")
            },
            NodeState::Alive,
            Severity::Problem,
            ["peer h2: ", "version 0.1.0", "upgrade"],
        ),
        (
            Node {
                version: Some("0.2.9".to_owned()),
                ..node("h2")
            },
            NodeState::Alive,
            Severity::Warning,
            ["peer h2: ", "version 0.2.9", "fit each other"],
        ),
        (
            Node {
                vtep: Vtep {
                    port: 4790,
                    ..node("h2").vtep
                },
                ..node("h2")
            },
            NodeState::Alive,
            Severity::Problem,
            ["peer h2: ", "UDP port 4790", "--port"],
        ),
        (
            node("h2"),
            NodeState::Down,
            Severity::Problem,
            ["peer h2: ", "down", "overlay vtep rm h2"],
        ),
        (
            node("h2").without_address(),
            NodeState::Alive,
            Severity::Problem,
            ["peer h2: ", "no VTEP address", "overlay vtep rm h2"],
        ),
        (
            Node {
                vtep: Vtep {
                    ip: "fd00::2".parse().unwrap(),
                    ..node("h2").vtep
                },
                ..node("h2")
            },
            NodeState::Alive,
            Severity::Problem,
            ["peer h2: ", "fd00::2", "--local-ip"],
        ),
        (
            node("h2"),
            NodeState::Silent,
            Severity::Warning,
            ["peer h2: ", "silent", "grace"],
        ),
    ];
    for (peer, state, severity, parts) in peers {
        let findings = found(peer, state);
        let [(found, line)] = findings.as_slice() else {
            panic!("{findings:?}");
        };
        assert_eq!(*found, severity, "{line}");
        for part in parts {
            assert!(line.contains(part), "{line}");
        }
    }
}

#[test]
fn a_foreign_vtep_has_no_version_to_miss() {
    let foreign = Node {
        version: None,
        abi: None,
        agent: false,
        alive: false,
        ..node("vtep-10.0.0.9")
    };
    assert_eq!(found(foreign, NodeState::NoAgent), []);
}

#[test]
fn a_node_that_the_registry_takes_for_silent_says_so_itself() {
    let silent = Node {
        alive: false,
        ..this_host()
    };
    let mut found = DoctorView::default();
    judge_nodes(&mut found, &own(), &[silent], &BTreeMap::new());
    assert_eq!(found.findings[0].subject, "session");
}

#[test]
fn clocks_that_are_far_apart_are_a_warning() {
    let now = SystemTime::now();
    for (seen, expected) in [
        (now, None),
        (now - SESSION_TTL, None),
        (now - Duration::from_mins(5), Some("behind")),
        (now + Duration::from_mins(5), Some("ahead of")),
    ] {
        let peer = Node {
            last_seen: Some(seen),
            ..node("h2")
        };
        let mut found = DoctorView::default();
        judge_clocks(&mut found, &own(), &[peer], now);
        match (found.findings.as_slice(), expected) {
            ([], None) => assert_eq!(found.passed, ["clocks"]),
            ([finding], Some(how)) => {
                assert_eq!(finding.severity, Severity::Warning);
                assert!(finding.message.contains(how), "{}", finding.message);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn maps_are_a_warning_when_nearly_full_and_a_problem_when_full() {
    let usage = |entries, refused| MapUsage {
        entries,
        capacity: 1000,
        refused,
        stale: 0,
    };
    for (entries, expected) in [
        (849, None),
        (850, Some(Severity::Warning)),
        (1000, Some(Severity::Problem)),
    ] {
        let mut found = DoctorView::default();
        judge_maps(&mut found, &BTreeMap::from([("fdb", usage(entries, 7))]));
        let finding = found.findings.first();
        assert_eq!(finding.map(|finding| finding.severity), expected);
        if let Some(finding) = finding {
            assert!(finding.advice.contains("--fdb-entries"), "{finding:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_a_problem_that_says_for_how_long() {
    let mut found = DoctorView::default();
    let lost = Some(Lost {
        reason: "no route to host".to_owned(),
        since: Instant::now(),
        is_foreign: false,
    });
    tokio::time::advance(Duration::from_secs(41)).await;
    let nodes = judge_registry(&mut found, "etcd://h:2379", lost, None, EXAMINATION_TIMEOUT);
    assert!(nodes.is_none());
    assert!(
        found.findings[0]
            .message
            .contains("for 41 s: no route to host")
    );
    assert!(!found.concluded().healthy);
}

#[test]
fn warnings_alone_leave_a_host_healthy_and_problems_come_first() {
    let mut found = DoctorView::default();
    judge_offloads(
        &mut found,
        &"u0".parse().unwrap(),
        Offloads {
            gro: false,
            tso: true,
            tunnel_segmentation: true,
        },
    );
    assert!(found.clone().concluded().healthy);
    judge_mtu(&mut found, &[network(9000)], 1450);
    let found = found.concluded();
    assert!(!found.healthy);
    assert_eq!(found.findings[0].severity, Severity::Problem);
    assert!(found.findings[1].advice.contains("gro on"));
}

fn network(mtu: u32) -> Network {
    let mut network = Network::new("blue".parse().unwrap(), "42".parse().unwrap());
    network.mtu = mtu;
    network
}

#[test]
fn an_address_that_the_registry_gives_another_node_is_named_with_that_node() {
    let displaced = this_host().without_address();
    let heir = Node {
        vtep: own().vtep,
        ..node("h9")
    };
    let states = BTreeMap::from([(heir.name.clone(), NodeState::Alive)]);
    let mut found = DoctorView::default();
    judge_nodes(&mut found, &own(), &[displaced, heir], &states);
    let [claim] = found.findings.as_slice() else {
        panic!("{:?}", found.findings);
    };
    assert_eq!(
        (&*claim.subject, claim.severity),
        ("claim", Severity::Problem)
    );
    assert!(claim.message.contains("10.0.0.1") && claim.message.contains("node h9 has it"));
}

#[test]
fn underlays_that_differ_and_networks_that_do_not_fit_them_are_named() {
    let with = |name: &str, mtu| Node { mtu, ..node(name) };
    let fixed = |name: &str, mtu| Network {
        mtu,
        ..Network::new(name.parse().unwrap(), "42".parse().unwrap())
    };
    let networks = [fixed("auto", 0), fixed("small", 1350), fixed("large", 1450)];
    let judged = |peers: &[Node]| {
        let mut found = DoctorView::default();
        judge_underlays(&mut found, &own(), peers, &networks);
        let lines = found.findings.iter();
        lines
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect::<Vec<_>>()
    };
    let same = [with("h2", Some(1500)), with("h3", None)];
    assert!(judged(&same).is_empty());
    let [underlays, network] = judged(&[with("h2", Some(9000)), with("h3", Some(1400))])
        .try_into()
        .unwrap();
    assert!(underlays.contains("h2 (9000), h3 (1400)"), "{underlays}");
    assert!(underlays.contains("automatic have 1350"), "{underlays}");
    assert!(
        network.starts_with("network large: ") && network.contains("h3 (1400)"),
        "{network}"
    );
}

#[test]
fn questions_that_were_lost_are_told_of() {
    let mut found = DoctorView::default();
    judge_punts(&mut found, 0);
    assert_eq!((found.passed.len(), found.findings.len()), (1, 0));
    judge_punts(&mut found, 7);
    let [finding] = &found.findings[..] else {
        panic!("{found:?}");
    };
    assert!(finding.message.starts_with("7 questions"), "{finding:?}");
}
