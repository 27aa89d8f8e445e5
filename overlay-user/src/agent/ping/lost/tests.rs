use super::*;
use crate::model::Vni;

fn pinged() -> Pinged {
    Pinged {
        from: "web".parse().unwrap(),
        from_node: "h1".parse().unwrap(),
        to: "db".parse().unwrap(),
        to_node: "h2".parse().unwrap(),
        via: Some([10, 0, 0, 2].into()),
        vni: Some(Vni::try_from(42).unwrap()),
        size: 84,
        rtt_us: None,
        largest: None,
        expected: 1450,
        lost: None,
    }
}

fn facts(here: Vec<Sighting>, there: Option<Vec<Sighting>>) -> Facts {
    let vtep = |last| Vtep {
        ip: [10, 0, 0, last].into(),
        port: 4789,
    };
    Facts {
        here,
        is_alive: there.is_some(),
        there,
        path: PathState::Unknown,
        own: vtep(1),
        other: vtep(2),
    }
}

fn line(facts: &Facts) -> (Option<String>, String) {
    let lost = judge(&pinged(), facts);
    let last_seen = lost.last_seen.map(|node| node.to_string());
    (last_seen, format!("{}: {}", lost.message, lost.advice))
}

#[test]
fn the_last_place_that_saw_it_is_named_with_what_to_do() {
    use Sighting::{Answered, Dropped, Left};
    for (facts, last_seen, expected) in [
        (facts(vec![], None), None, "no program of h1 saw it"),
        (
            facts(vec![Dropped("destination_unknown".into())], None),
            Some("h1"),
            "h1 dropped it, on its way out, as destination_unknown (No endpoint",
        ),
        (
            facts(vec![Left], Some(vec![])),
            Some("h1"),
            "did not get to h2: let UDP from 10.0.0.1 to port 4789 of h2 (10.0.0.2)",
        ),
        (
            facts(vec![Left], Some(vec![Answered])),
            Some("h2"),
            "did not get back to h1: let UDP from 10.0.0.2 to port 4789 of h1 (10.0.0.1)",
        ),
        (
            facts(vec![Left], Some(vec![Dropped("vni_unknown".into())])),
            Some("h2"),
            "h2 dropped it as vni_unknown",
        ),
        (
            facts(vec![Left, Dropped("echo_damaged".into())], None),
            Some("h1"),
            "the answer, which had come back, as echo_damaged",
        ),
        (
            facts(vec![Left], None),
            Some("h1"),
            "it left h1 for h2, whose agent does not run",
        ),
    ] {
        let (seen, line) = line(&facts);
        assert_eq!(seen.as_deref(), last_seen, "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_host_that_answers_others_and_has_no_agent_has_old_maps() {
    let facts = Facts {
        path: PathState::Ok,
        ..facts(vec![Sighting::Left], None)
    };
    let (_, line) = line(&facts);
    assert!(line.contains("so it dropped this one"), "{line}");
    assert!(line.contains("start the agent on h2"), "{line}");
}
