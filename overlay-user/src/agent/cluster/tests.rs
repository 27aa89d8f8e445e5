use super::*;
use crate::{
    agent::api::{Severity, vtep_view},
    model::{Node, PathTold, Vtep},
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn vtep(node: &str, last: u8, state: NodeState) -> VtepView {
    let vtep = Vtep {
        ip: [10, 0, 0, last].into(),
        port: 4789,
    };
    vtep_view(Node::new(name(node), vtep, true), state)
}

fn hosts() -> Vec<VtepView> {
    vec![
        vtep("h1", 1, NodeState::Alive),
        vtep("h2", 2, NodeState::Alive),
    ]
}

fn says(node: &str, state: PathState) -> PathsTold {
    PathsTold {
        at_ms: 1000,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
        paths: vec![PathTold {
            node: name(node),
            path: PathView {
                state,
                since: None,
                rtt_us: Some(200),
                largest: Some(1450),
                expected: 1450,
                loss: Some(0),
            },
        }],
        networks: Vec::new(),
        problems: Vec::new(),
    }
}

/// What becomes of the paths from h1 to h2 and back if the two say so.
fn ways(first: Option<PathState>, second: Option<PathState>) -> (Way, Way) {
    let mut told = Told::new();
    told.extend(first.map(|state| (name("h1"), says("h2", state))));
    told.extend(second.map(|state| (name("h2"), says("h1", state))));
    let view = judge(&hosts(), &told, (0, 2000));
    (view.paths[0].way, view.paths[1].way)
}

#[test]
fn the_direction_that_dies_follows_from_both_ends_words() {
    use PathState::{Damaged, Lost, Ok, OneWay};
    for (first, second, expected) in [
        (Some(Ok), Some(Ok), (Way::Ok, Way::Ok)),
        (Some(OneWay), Some(Lost), (Way::Lost, Way::Ok)),
        (Some(Lost), Some(OneWay), (Way::Ok, Way::Lost)),
        (Some(Lost), Some(Lost), (Way::Lost, Way::Lost)),
        (Some(Damaged), Some(OneWay), (Way::Ok, Way::Damaged)),
        (Some(Damaged), Some(Damaged), (Way::Damaged, Way::Damaged)),
        (Some(Ok), None, (Way::Ok, Way::Ok)),
        (Some(Lost), None, (Way::Lost, Way::Lost)),
        (None, None, (Way::Unknown, Way::Unknown)),
    ] {
        assert_eq!(ways(first, second), expected, "{first:?} {second:?}");
    }
}

#[test]
fn a_host_that_does_not_answer_and_one_that_is_down_are_told_apart() {
    let told = Told::from([(name("h1"), says("h2", PathState::Ok))]);
    let view = judge(&hosts(), &told, (0, 2000));
    assert!(!view.healthy);
    assert!(view.findings[0].message.contains("does not answer"));
    let down = [
        vtep("h1", 1, NodeState::Alive),
        vtep("h2", 2, NodeState::Down),
    ];
    let told = Told::from([(name("h1"), says("h2", PathState::Lost))]);
    let view = judge(&down, &told, (0, 2000));
    let problems: Vec<_> = view.findings.iter().map(|it| it.subject.as_str()).collect();
    assert_eq!(problems, ["host h2"]);
}

#[test]
fn a_clock_counts_only_where_the_time_of_the_answer_does_not_explain_it() {
    let mut told = Told::from([
        (name("h1"), says("h2", PathState::Ok)),
        (name("h2"), says("h1", PathState::Ok)),
    ]);
    let view = judge(&hosts(), &told, (900, 1100));
    assert_eq!(view.hosts[1].clock_ms, Some(0));
    assert!(view.healthy && view.findings.is_empty());
    told.get_mut(&name("h2")).unwrap().at_ms = 61_100;
    let view = judge(&hosts(), &told, (900, 1100));
    assert_eq!(view.hosts[1].clock_ms, Some(60_000));
    assert!(view.healthy);
    assert_eq!(view.findings[0].severity, Severity::Warning);
    assert!(view.findings[0].message.contains("60 s ahead of"));
}
