//! Readings that leave things out, or say what once was.

use super::*;
use crate::model::RowId;

/// Ends a reading that is not believed.
fn withhold(mirror: &mut Mirror) {
    let mut position = 0;
    while !mirror.withhold(&mut position, 2, &mut |_, _| ()) {}
}

fn absent(mirror: &Mirror) -> Absent {
    let (mut position, mut absent) = (0, Absent::default());
    while !mirror.count_absent(&mut position, 2, &mut absent) {}
    absent
}

/// A reading as of this revision that has these endpoints, and is not over.
fn read(mirror: &mut Mirror, revision: Revision, page: Vec<Endpoint>) {
    mirror.expect_reading();
    begin(mirror, revision, vec![network(42, Resolve::Proactive)]);
    mirror.read(page, &mut |_, _| ());
}

#[test]
fn what_a_reading_leaves_out_is_counted_by_where_it_was() {
    let mut mirror = mirror();
    read(&mut mirror, 6, vec![endpoint("far", 3, "h2", 5)]);
    let counted = absent(&mirror);
    assert_eq!((counted.local, counted.known_local), (1, 1));
    assert_eq!((counted.all, counted.known), (1, 2));
    assert!(counted.is_suspicious());
    withhold(&mut mirror);
    assert_eq!(mirror.counts(), (1, 1));
    assert!(mirror.withheld().contains(&name("near")));
}

#[test]
fn what_a_delta_removed_is_not_missed_in_a_reading_whichever_comes_first() {
    let removed = || Delta {
        revision: 6,
        endpoints_removed: vec![name("near"), name("far")],
        ..Delta::default()
    };
    let mut mirror = mirror();
    read(&mut mirror, 6, Vec::new());
    apply(&mut mirror, removed());
    assert!(!absent(&mirror).is_suspicious());
    finish(&mut mirror);
    assert_eq!(mirror.counts(), (0, 0));

    let mut mirror = self::mirror();
    read(&mut mirror, 6, Vec::new());
    assert!(absent(&mirror).is_suspicious());
    withhold(&mut mirror);
    apply(&mut mirror, removed());
    assert_eq!(mirror.counts(), (0, 0));
    assert!(mirror.withheld().is_empty());
}

#[test]
fn what_is_withheld_gives_way_to_who_has_its_address_in_the_registry() {
    let mut mirror = mirror();
    read(&mut mirror, 6, Vec::new());
    withhold(&mut mirror);
    apply(&mut mirror, put(7, vec![endpoint("new", 2, "h2", 7)]));
    assert_eq!(generation(&mirror, "near"), None);
    assert_eq!(generation(&mirror, "new"), Some(7));
    assert_eq!(generation(&mirror, "far"), Some(5));
}

#[test]
fn a_loss_stays_one_however_much_is_made_after_it() {
    let mut mirror = mirror();
    read(&mut mirror, 6, Vec::new());
    withhold(&mut mirror);
    let many = || (10..20).map(|last| endpoint(&format!("e{last}"), last, "h2", 7));
    apply(&mut mirror, put(7, many().collect()));
    read(&mut mirror, 8, many().collect());
    assert!(!absent(&mirror).is_suspicious() || mirror.is_withholding());
    assert!(mirror.is_withholding());
    // Most of it is back.
    read(
        &mut mirror,
        9,
        many()
            .chain([endpoint("near", 2, "h1", 4), endpoint("far", 3, "h2", 5)])
            .collect(),
    );
    assert!(!mirror.is_withholding() && !absent(&mirror).is_suspicious());
    finish(&mut mirror);
    assert_eq!(mirror.counts(), (1, 11));
}

#[test]
fn rows_that_are_left_out_stay_as_they_were() {
    let mut mirror = mirror();
    mirror.expect_reading();
    mirror.begin_reading(6, Vec::new(), Vec::new(), &mut |_, _| ());
    mirror.hold(&RowId::Network(vni(42)));
    mirror.hold(&RowId::Node(name("h2")));
    mirror.hold(&RowId::Endpoint(name("near")));
    mirror.hold(&RowId::Endpoint(name("far")));
    assert_eq!(absent(&mirror).all, 0);
    finish(&mut mirror);
    assert!(mirror.network(vni(42)).is_some());
    assert!(mirror.node(&name("h2")).is_some() && mirror.node(&name("h1")).is_none());
    assert_eq!(mirror.counts(), (1, 1));
}

#[test]
fn rows_of_an_older_state_take_nothing_away_until_the_reading_is_believed() {
    let mut mirror = mirror();
    let moved = || vec![endpoint("near", 2, "h2", 2), endpoint("far", 3, "h2", 5)];
    // The registry was put back to a state in which `near` was elsewhere.
    read(&mut mirror, 3, moved());
    let is_here = |mirror: &Mirror| mirror.endpoint(&name("near")).unwrap().is_local();
    let counted = absent(&mirror);
    assert_eq!((counted.local, counted.all), (1, 1));
    assert!(counted.is_suspicious() && is_here(&mirror));
    withhold(&mut mirror);
    assert!(mirror.withheld().contains(&name("near")) && is_here(&mirror));
    // That is so in the next readings too, which go on from there.
    read(&mut mirror, 8, moved());
    assert!(absent(&mirror).is_suspicious() && is_here(&mirror));
    // If somebody says that it is right, it is followed.
    finish(&mut mirror);
    assert!(!is_here(&mirror) && mirror.withheld().is_empty());
}

#[test]
fn networks_and_nodes_of_an_older_state_wait_like_its_endpoints() {
    let mut mirror = mirror();
    let (vtep, older) = (
        mirror.node(&name("h2")).unwrap().vtep,
        node("h2", "10.0.0.77"),
    );
    let begin = |mirror: &mut Mirror, revision| {
        mirror.expect_reading();
        let networks = vec![network(42, Resolve::OnDemand)];
        mirror.begin_reading(revision, networks, vec![older.clone()], &mut |_, _| ());
    };
    let is_as_it_was = |mirror: &Mirror| {
        !mirror.is_on_demand(vni(42)) && mirror.node(&name("h2")).unwrap().vtep == vtep
    };
    begin(&mut mirror, 3);
    assert!(is_as_it_was(&mirror));
    withhold(&mut mirror);
    begin(&mut mirror, 8);
    assert!(is_as_it_was(&mirror));
    finish(&mut mirror);
    assert!(mirror.is_on_demand(vni(42)));
    assert_eq!(mirror.node(&name("h2")).unwrap().vtep, older.vtep);
}

#[test]
fn a_reading_of_one_network_is_refused_if_it_is_of_a_previous_state() {
    let mut mirror = mirror();
    mirror.expect_reading();
    assert!(!mirror.begin_reading_of_network(3));
    mirror.abandon_reading();
    assert_eq!(mirror.revision(), 5);
    assert_eq!(mirror.counts(), (1, 1));
}

#[test]
fn what_is_new_in_an_older_state_waits_too_and_takes_no_address_of_what_is_withheld() {
    let older = || endpoint("older", 2, "h1", 3);
    let mut held = mirror();
    read(&mut held, 3, vec![older()]);
    assert!(absent(&held).is_suspicious());
    withhold(&mut held);
    assert_eq!(generation(&held, "older"), None);
    // Nor does it for the next agent.
    let mut next = Mirror::new(name("h1"));
    next.withhold_again(held.held(), held.doubted(), &mut |_, _| ());
    for mirror in [&mut held, &mut next] {
        read(mirror, 8, vec![older(), endpoint("other", 7, "h2", 7)]);
        assert!(absent(mirror).is_suspicious() || mirror.is_withholding());
        withhold(mirror);
        assert_eq!(generation(mirror, "near"), Some(4));
        assert_eq!(generation(mirror, "older"), None);
        assert_eq!(generation(mirror, "other"), Some(7), "made since");
    }
}

#[test]
fn what_changes_while_something_is_withheld_is_followed() {
    let mut mirror = mirror();
    let read = |mirror: &mut Mirror, revision, ip| {
        mirror.expect_reading();
        let networks = vec![network(42, Resolve::Proactive)];
        mirror.begin_reading(revision, networks, vec![node("h2", ip)], &mut |_, _| ());
        withhold(mirror);
        mirror.node(&name("h2")).unwrap().vtep.ip.to_string()
    };
    assert_eq!(read(&mut mirror, 3, "10.0.0.77"), "10.0.0.2", "it once was");
    assert_eq!(
        read(&mut mirror, 8, "10.0.0.77"),
        "10.0.0.2",
        "the same row"
    );
    assert_eq!(read(&mut mirror, 9, "10.0.0.78"), "10.0.0.78");
}

#[test]
fn what_was_asked_for_stays_until_an_older_state_is_believed() {
    let mut mirror = on_demand();
    mirror.expect_reading();
    begin(&mut mirror, 3, vec![network(42, Resolve::OnDemand)]);
    mirror.answer(endpoint("far", 3, "h1", 2), 3, &mut |_, _| ());
    withhold(&mut mirror);
    mirror.answer(endpoint("far", 3, "h1", 2), 3, &mut |_, _| ());
    assert_eq!(generation(&mirror, "far"), Some(5));
    assert_eq!(mirror.fenced(), 2);
    mirror.expect_reading();
    begin(&mut mirror, 2, vec![network(42, Resolve::OnDemand)]);
    finish(&mut mirror);
    assert_eq!(generation(&mirror, "far"), None);
}

/// h1 holds what it knew against an older state, of revision 3, that has nothing but `rows`.
fn put_back(rows: Vec<Endpoint>) -> Mirror {
    let mut mirror = mirror();
    read(&mut mirror, 3, rows);
    assert!(absent(&mirror).is_suspicious());
    withhold(&mut mirror);
    mirror
}

#[test]
fn the_next_agent_knows_what_stands_in_the_places_of_doubted_networks_and_nodes() {
    let mut mirror = mirror();
    let older = |mirror: &mut Mirror, revision| {
        mirror.expect_reading();
        let (networks, nodes) = (
            vec![network(42, Resolve::OnDemand)],
            vec![node("h2", "10.0.0.77")],
        );
        mirror.begin_reading(revision, networks, nodes, &mut |_, _| ());
        mirror.read(vec![endpoint("far", 3, "h2", 3)], &mut |_, _| ());
        withhold(mirror);
    };
    older(&mut mirror, 3);
    assert_eq!(mirror.withheld().len(), 1);
    let mut next = Mirror::new(name("h1"));
    next.withhold_again(mirror.held(), mirror.doubted(), &mut |_, _| ());
    older(&mut next, 8);
    let vtep = next.node(&name("h2")).map(|node| node.vtep.ip.to_string());
    assert_eq!(vtep.as_deref(), Some("10.0.0.2"));
    assert!(next.network(vni(42)).is_some() && !next.is_on_demand(vni(42)));
}

#[test]
fn what_deltas_say_after_a_previous_state_wins_though_its_generations_are_lower() {
    let mut mirror = on_demand();
    apply(&mut mirror, put(9, vec![endpoint("far", 3, "h2", 9)]));
    mirror.expect_reading();
    begin(&mut mirror, 3, vec![network(42, Resolve::OnDemand)]);
    withhold(&mut mirror);
    assert!(
        !mirror.withheld().contains(&name("far")),
        "it was asked for"
    );
    apply(&mut mirror, put(4, vec![endpoint("far", 7, "h2", 4)]));
    assert_eq!(generation(&mirror, "far"), Some(4));
    apply(&mut mirror, removal(5, "far"));
    assert_eq!(generation(&mirror, "far"), None);
}

#[test]
fn an_answer_of_a_previous_state_takes_no_address_of_what_is_withheld() {
    let mut mirror = put_back(Vec::new());
    let mut both = endpoint("older", 2, "h2", 3);
    both.addresses.push("7.7.7.9/24".parse().unwrap());
    mirror.answer(both, 3, &mut |_, _| ());
    assert_eq!(generation(&mirror, "near"), Some(4));
    mirror.answer(endpoint("another", 9, "h2", 3), 3, &mut |_, _| ());
    assert_eq!(
        generation(&mirror, "another"),
        Some(3),
        "it is in nobody's way"
    );
}

#[test]
fn those_of_a_network_that_is_on_demand_by_now_are_not_missed() {
    let mut mirror = put_back(Vec::new());
    assert!(mirror.is_withholding());
    let delta = Delta {
        revision: 4,
        networks: vec![network(42, Resolve::OnDemand)],
        ..Delta::default()
    };
    apply(&mut mirror, delta);
    mirror.expect_reading();
    begin(&mut mirror, 5, vec![network(42, Resolve::OnDemand)]);
    mirror.read(vec![endpoint("near", 2, "h1", 4)], &mut |_, _| ());
    assert_eq!(mirror.release_unexpected(), [name("far")]);
    assert!(!absent(&mirror).is_suspicious() && !mirror.is_withholding());
}

#[test]
fn what_gives_way_makes_the_rest_of_a_loss_no_smaller() {
    let mut mirror = mirror();
    let more = (10..16).map(|last| endpoint(&format!("e{last}"), last, "h2", 5));
    apply(&mut mirror, put(6, more.collect()));
    read(&mut mirror, 7, Vec::new());
    withhold(&mut mirror);
    let others = (10..15).map(|last| endpoint(&format!("o{last}"), last, "h3", 8));
    apply(&mut mirror, put(8, others.collect()));
    assert_eq!(mirror.withheld().len(), 3);
    assert!(mirror.is_withholding());
}

#[test]
fn what_a_delta_removes_during_a_reading_that_is_not_believed_goes() {
    let mut mirror = mirror();
    read(&mut mirror, 7, Vec::new());
    apply(&mut mirror, removal(6, "far"));
    withhold(&mut mirror);
    assert_eq!(generation(&mirror, "far"), None);
    assert_eq!(mirror.withheld().len(), 1);
}
