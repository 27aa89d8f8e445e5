use std::collections::BTreeSet;

use super::*;
use crate::model::{Delta, Vtep};

mod absence;
mod objects;

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn network(number: u32, resolve: Resolve) -> Network {
    Network {
        resolve,
        ..Network::new(name(&format!("n{number}")), vni(number))
    }
}

fn node(text: &str, ip: &str) -> Node {
    let ip = ip.parse().unwrap();
    Node::new(name(text), Vtep { ip, port: 4789 }, true)
}

/// An endpoint of network 42 with address 7.7.7.LAST.
fn endpoint(text: &str, last: u8, on: &str, generation: Revision) -> Endpoint {
    let address = format!("7.7.7.{last}/24");
    Endpoint {
        name: name(text),
        vni: vni(42),
        mac: Mac::try_from([2, 0x42, 7, 7, 7, last]).unwrap(),
        addresses: vec![address.parse().unwrap()],
        node: name(on),
        attachment: Some(Attachment::veth(name(text), "eth0".parse().unwrap())),
        generation,
    }
}

/// What host h1 knows at revision 5: endpoint `near` on itself, `far` on h2.
fn mirror() -> Mirror {
    let mut mirror = Mirror::new(name("h1"));
    mirror.expect_reading();
    begin(&mut mirror, 5, vec![network(42, Resolve::Proactive)]);
    let page = vec![endpoint("near", 2, "h1", 4), endpoint("far", 3, "h2", 5)];
    mirror.read(page, &mut |_, _| ());
    finish(&mut mirror);
    mirror
}

/// A reading has come, with hosts h1 and h2. `false`: of an older state.
fn begin(mirror: &mut Mirror, revision: Revision, networks: Vec<Network>) -> bool {
    let nodes = vec![node("h1", "10.0.0.1"), node("h2", "10.0.0.2")];
    mirror.begin_reading(revision, networks, nodes, &mut |_, _| ())
}

/// Ends a reading that is believed.
fn finish(mirror: &mut Mirror) {
    while mirror.believe(1, &mut |_, _| ()).is_some() {}
    let mut position = 0;
    while !mirror.end_reading(&mut position, 2, None, &mut |_, _| ()) {}
}

/// Applies a delta and gives the facts that it changes.
fn apply(mirror: &mut Mirror, delta: Delta) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    mirror.apply(delta, &BTreeSet::new(), &mut |_, fact| {
        facts.insert(in_words(fact));
    });
    facts
}

fn in_words(fact: &Fact<'_>) -> String {
    match fact {
        Fact::Endpoint(endpoint) => {
            let place = if endpoint.is_local {
                "here"
            } else {
                "elsewhere"
            };
            let ips: Vec<_> = endpoint.ips().collect();
            format!("{} {} {ips:?} {place}", endpoint.name, endpoint.mac)
        }
        Fact::Network(vni) => format!("network {vni}"),
        Fact::Node(node) => format!("node {} {}", node.name, node.vtep.ip),
        Fact::Object(object) => format!("{} {}", object.id, object.revision),
    }
}

fn put(revision: Revision, endpoints: Vec<Endpoint>) -> Delta {
    Delta {
        revision,
        endpoints,
        ..Delta::default()
    }
}

fn removal(revision: Revision, text: &str) -> Delta {
    Delta {
        revision,
        endpoints_removed: vec![name(text)],
        ..Delta::default()
    }
}

fn generation(mirror: &Mirror, text: &str) -> Option<Revision> {
    mirror.endpoint(&name(text)).map(|known| known.generation())
}

fn fact(text: &str, last: u8, place: &str) -> String {
    format!("{text} 02:42:07:07:07:{last:02x} [7.7.7.{last}] {place}")
}

#[test]
fn a_change_tells_what_was_and_what_will_be() {
    let mut mirror = mirror();
    let facts = apply(&mut mirror, put(6, vec![endpoint("far", 9, "h2", 6)]));
    let expected = [fact("far", 3, "elsewhere"), fact("far", 9, "elsewhere")];
    assert_eq!(facts, expected.into());
    let facts = apply(&mut mirror, removal(7, "near"));
    assert_eq!(facts, [fact("near", 2, "here")].into());
    assert_eq!(mirror.revision(), 7);
}

#[test]
fn a_fact_is_told_while_the_mirror_has_what_was() {
    let mut mirror = mirror();
    let mut generations = Vec::new();
    mirror.apply(
        put(6, vec![endpoint("far", 3, "h2", 6)]),
        &BTreeSet::new(),
        &mut |mirror, _| {
            generations.push(mirror.endpoint(&name("far")).unwrap().generation());
        },
    );
    assert!(
        generations.iter().all(|generation| *generation == 5),
        "{generations:?}"
    );
    assert_eq!(generation(&mirror, "far"), Some(6));
}

#[test]
fn a_delta_that_the_reading_contained_changes_nothing() {
    let mut mirror = mirror();
    assert!(apply(&mut mirror, removal(5, "far")).is_empty());
    assert_eq!(mirror.counts(), (1, 1));
}

#[test]
fn an_older_generation_never_overwrites_a_newer_one_and_is_counted() {
    let mut mirror = mirror();
    assert!(apply(&mut mirror, put(7, vec![endpoint("far", 9, "h2", 3)])).is_empty());
    assert_eq!((generation(&mirror, "far"), mirror.fenced()), (Some(5), 1));
}

#[test]
fn a_node_that_only_lives_on_changes_nothing_and_one_that_moves_its_endpoints_alone() {
    let mut mirror = mirror();
    let put = |revision, text, ip| Delta {
        revision,
        nodes: vec![node(text, ip)],
        ..Delta::default()
    };
    assert!(apply(&mut mirror, put(6, "h2", "10.0.0.2")).is_empty());
    let facts = apply(&mut mirror, put(7, "h2", "10.0.0.9"));
    let nodes = ["node h2 10.0.0.2", "node h2 10.0.0.9"].map(str::to_owned);
    let expected = nodes.into_iter().chain([fact("far", 3, "elsewhere")]);
    assert_eq!(facts, expected.collect());
    let facts = apply(&mut mirror, put(8, "h3", "10.0.0.3"));
    assert_eq!(facts, ["node h3 10.0.0.3".to_owned()].into());
}

#[test]
fn a_network_that_changes_its_name_leaves_its_rows_alone() {
    let mut mirror = mirror();
    let changed = Network {
        name: name("renamed"),
        ..network(42, Resolve::Proactive)
    };
    let delta = Delta {
        revision: 6,
        networks: vec![changed],
        ..Delta::default()
    };
    assert_eq!(
        apply(&mut mirror, delta),
        BTreeSet::from(["network 42".to_owned()])
    );
}

#[test]
fn endpoints_of_a_node_that_nobody_knows_yet_wait_for_it() {
    let mut mirror = mirror();
    apply(&mut mirror, put(6, vec![endpoint("early", 9, "h9", 6)]));
    let known = mirror.endpoint(&name("early")).unwrap();
    assert_eq!((known.node(), known.known_node()), (&name("h9"), None));
    let delta = Delta {
        revision: 7,
        nodes: vec![node("h9", "10.0.0.9")],
        ..Delta::default()
    };
    assert!(apply(&mut mirror, delta).contains(&fact("early", 9, "elsewhere")));
}

#[test]
fn what_a_reading_does_not_have_is_gone_and_what_came_since_is_not() {
    let mut mirror = mirror();
    mirror.expect_reading();
    // Both come while the reading is on its way: it can't know the second.
    apply(&mut mirror, put(6, vec![endpoint("sixth", 6, "h2", 6)]));
    apply(&mut mirror, put(8, vec![endpoint("eighth", 8, "h2", 8)]));
    begin(&mut mirror, 7, vec![network(42, Resolve::Proactive)]);
    mirror.read(vec![endpoint("near", 2, "h1", 4)], &mut |_, _| ());
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "far"), None);
    assert_eq!(
        generation(&mirror, "sixth"),
        None,
        "the reading is newer and has it not"
    );
    assert_eq!(generation(&mirror, "eighth"), Some(8));
    assert_eq!((mirror.counts(), mirror.revision()), ((1, 1), 8));
}

#[test]
fn a_reading_undoes_nothing_that_a_newer_delta_said() {
    let mut mirror = mirror();
    mirror.expect_reading();
    let newer = Delta {
        revision: 7,
        networks: vec![network(43, Resolve::Proactive)],
        nodes_removed: vec![name("h3")],
        endpoints: vec![endpoint("near", 9, "h1", 7)],
        endpoints_removed: vec![name("far")],
        ..Delta::default()
    };
    apply(&mut mirror, newer);
    let networks = vec![network(42, Resolve::Proactive)];
    let nodes = ["h1", "h2", "h3"].map(|text| node(text, "10.0.0.1")).into();
    mirror.begin_reading(6, networks, nodes, &mut |_, _| ());
    let page = vec![endpoint("near", 2, "h1", 4), endpoint("far", 3, "h2", 5)];
    mirror.read(page, &mut |_, _| ());
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "near"), Some(7));
    assert_eq!(generation(&mirror, "far"), None);
    assert!(mirror.network(vni(43)).is_some());
    assert!(mirror.node(&name("h3")).is_none() && mirror.node(&name("h2")).is_some());
}

#[test]
fn a_registry_that_is_put_back_is_right_in_everything() {
    let mut mirror = mirror();
    mirror.expect_reading();
    let networks = vec![network(42, Resolve::Proactive)];
    let nodes = vec![node("h2", "10.0.0.2")];
    assert!(!mirror.begin_reading(3, networks, nodes, &mut |_, _| ()));
    mirror.read(vec![endpoint("far", 9, "h2", 2)], &mut |_, _| ());
    // Its history goes on, with revisions that the previous had too.
    apply(&mut mirror, put(4, vec![endpoint("other", 4, "h2", 4)]));
    apply(&mut mirror, put(5, vec![endpoint("far", 10, "h2", 5)]));
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "far"), Some(5));
    assert_eq!(generation(&mirror, "other"), Some(4));
    assert_eq!(generation(&mirror, "near"), None);
    assert_eq!(mirror.revision(), 5);
}

#[test]
fn a_reading_of_one_network_forgets_nothing_of_another() {
    let mut mirror = mirror();
    mirror.expect_reading();
    mirror.begin_reading_of_network(6);
    let mut position = 0;
    while !mirror.end_reading(&mut position, 100, Some(vni(43)), &mut |_, _| ()) {}
    assert_eq!(mirror.counts(), (1, 1));
}

#[test]
fn a_delta_that_repeats_what_the_reading_had_takes_nothing_from_it() {
    let mut mirror = mirror();
    mirror.expect_reading();
    begin(&mut mirror, 6, vec![network(42, Resolve::Proactive)]);
    let page = || vec![endpoint("near", 2, "h1", 4), endpoint("far", 3, "h2", 6)];
    mirror.read(page(), &mut |_, _| ());
    apply(&mut mirror, put(7, page()));
    finish(&mut mirror);
    assert_eq!(mirror.counts(), (1, 1));
}

#[test]
fn a_reading_does_not_bring_back_what_went_to_an_on_demand_network_since() {
    let mut mirror = Mirror::new(name("h1"));
    mirror.expect_reading();
    let networks = vec![
        network(42, Resolve::Proactive),
        network(43, Resolve::OnDemand),
    ];
    begin(&mut mirror, 5, networks);
    let mut moved = endpoint("far", 3, "h2", 6);
    moved.vni = vni(43);
    apply(&mut mirror, put(6, vec![moved]));
    mirror.read(vec![endpoint("far", 3, "h2", 5)], &mut |_, _| ());
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "far"), None);
}

#[test]
fn what_another_history_had_of_a_network_that_is_on_demand_in_this_one_is_forgotten() {
    let mut mirror = mirror();
    mirror.expect_reading();
    assert!(!begin(&mut mirror, 3, vec![network(42, Resolve::OnDemand)]));
    mirror.read(vec![endpoint("near", 2, "h1", 3)], &mut |_, _| ());
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "far"), None);
    assert_eq!(generation(&mirror, "near"), Some(3));
}

#[test]
fn after_a_reading_of_one_network_the_deltas_up_to_it_still_count_for_others() {
    let mut mirror = mirror();
    mirror.expect_reading();
    mirror.begin_reading_of_network(7);
    mirror.read(vec![endpoint("near", 2, "h1", 7)], &mut |_, _| ());
    let mut delta = put(6, vec![endpoint("near", 4, "h1", 6)]);
    delta.endpoints_removed = vec![name("far")];
    apply(&mut mirror, delta);
    assert_eq!(generation(&mirror, "far"), None);
    assert_eq!(generation(&mirror, "near"), Some(7), "the reading's");
}

/// h1 with network 42 on demand.
fn on_demand() -> Mirror {
    let mut mirror = mirror();
    let delta = Delta {
        revision: 6,
        networks: vec![network(42, Resolve::OnDemand)],
        ..Delta::default()
    };
    apply(&mut mirror, delta);
    mirror
}

#[test]
fn of_an_on_demand_network_only_what_is_here_or_asked_for_is_taken() {
    let mut mirror = on_demand();
    let both = || vec![endpoint("mine", 6, "h1", 7), endpoint("theirs", 7, "h2", 7)];
    apply(&mut mirror, put(7, both()));
    assert_eq!(generation(&mirror, "mine"), Some(7));
    assert_eq!(generation(&mirror, "theirs"), None);
    let admitted = BTreeSet::from([name("theirs")]);
    mirror.apply(
        put(8, vec![endpoint("theirs", 7, "h2", 8)]),
        &admitted,
        &mut |_, _| (),
    );
    assert_eq!(generation(&mirror, "theirs"), Some(8));
    // What is held is followed without being named.
    let moves = mirror.apply(
        put(9, vec![endpoint("theirs", 7, "h3", 9)]),
        &BTreeSet::new(),
        &mut |_, _| (),
    );
    assert_eq!((&moves[0].from, &moves[0].to), (&name("h2"), &name("h3")));
}

#[test]
fn a_reading_leaves_what_was_asked_for_alone() {
    let mut mirror = on_demand();
    mirror.expect_reading();
    begin(&mut mirror, 9, vec![network(42, Resolve::OnDemand)]);
    finish(&mut mirror);
    assert_eq!(
        generation(&mirror, "near"),
        None,
        "this node's own are in every reading"
    );
    assert_eq!(generation(&mirror, "far"), Some(5));
}

#[test]
fn an_answer_does_not_overwrite_what_a_delta_brought_since_the_question() {
    let mut mirror = on_demand();
    apply(&mut mirror, put(8, vec![endpoint("far", 9, "h2", 8)]));
    mirror.answer(endpoint("far", 3, "h2", 5), 7, &mut |_, _| ());
    assert_eq!((generation(&mirror, "far"), mirror.fenced()), (Some(8), 1));
    // Asked after it, the registry is right, whatever its generations.
    mirror.answer(endpoint("far", 3, "h2", 5), 8, &mut |_, _| ());
    assert_eq!(generation(&mirror, "far"), Some(5));
}

#[test]
fn attachments_are_held_of_this_nodes_endpoints_alone() {
    let mirror = mirror();
    let attachment = |text| mirror.endpoint(&name(text)).unwrap().attachment();
    assert!(attachment("near").is_some() && attachment("far").is_none());
}

/// A million endpoints in a thousand networks, as `cargo test --release -- --ignored` measures it.
#[test]
#[ignore = "takes seconds and measures memory: run it alone"]
fn a_million_endpoints_fit_150_megabytes() {
    let resident = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident();
    let mut mirror = Mirror::new(name("h1"));
    mirror.expect_reading();
    let networks = (1..=1000).map(|number| network(number, Resolve::Proactive));
    let nodes = (0..200).map(|number| node(&format!("h{number}"), &format!("10.0.0.{number}")));
    mirror.begin_reading(1, networks.collect(), nodes.collect(), &mut |_, _| ());
    let started = std::time::Instant::now();
    for page in 0..1000_u32 {
        let endpoints = (0..1000_u32).map(|number| {
            let [.., a, b] = number.to_be_bytes();
            Endpoint {
                name: name(&format!("endpoint-{page}-{number}")),
                vni: vni(page + 1),
                mac: Mac::try_from([2, 0x42, 10, 0, a, b]).unwrap(),
                addresses: vec![format!("10.0.{a}.{b}/16").parse().unwrap()],
                node: name(&format!("h{}", 1 + number % 199)),
                attachment: Some(Attachment::veth(name("somewhere"), "eth0".parse().unwrap())),
                generation: 1,
            }
        });
        mirror.read(endpoints.collect(), &mut |_, _| ());
    }
    let took = started.elapsed();
    finish(&mut mirror);
    let megabytes = (resident() - before) / 1024;
    println!("{megabytes} MB, {took:?}");
    assert_eq!(mirror.counts(), (5025, 994_975));
    assert!(megabytes < 150, "{megabytes} MB");
}
