//! Objects: of a kind that is known, and of another.

use serde::{Deserialize, Serialize};

use super::*;
use crate::model::{Key, Kind, KnownKind, Object, ObjectId, Resource, RowId};

#[derive(Serialize, Deserialize)]
struct Rule {
    name: Name,
    port: u16,
}

impl Resource for Rule {
    const KIND: Kind = Kind::new("rule");

    fn key(&self) -> Key {
        (&self.name).into()
    }
}

const KINDS: &[KnownKind] = &[KnownKind::of::<Rule>()];

fn rule(text: &str, port: u16, revision: Revision) -> Object {
    let rule = Rule {
        name: name(text),
        port,
    };
    Object {
        revision,
        ..rule.to_object().unwrap()
    }
}

fn id(word: &str) -> ObjectId {
    ObjectId::from_word(word).unwrap()
}

fn delta(revision: Revision, objects: Vec<Object>, removed: &[&str]) -> Delta {
    Delta {
        revision,
        objects,
        objects_removed: removed.iter().map(|word| id(word)).collect(),
        ..Delta::default()
    }
}

/// A reading as of this revision that has these objects, and is not over.
fn read(mirror: &mut Mirror, revision: Revision, objects: Vec<Object>) {
    mirror.expect_reading();
    begin(mirror, revision, vec![network(42, Resolve::Proactive)]);
    mirror.read_objects(objects, &mut |_, _| ());
}

/// At revision 5, with rules a and b.
fn mirror() -> Mirror {
    let mut mirror = Mirror::with_kinds(name("h1"), KINDS);
    read(&mut mirror, 5, vec![rule("a", 1, 4), rule("b", 2, 5)]);
    finish(&mut mirror);
    mirror
}

fn ports(mirror: &Mirror) -> Vec<(String, u16)> {
    let rules = mirror.objects().map(|object| Rule::of(object).unwrap());
    rules
        .map(|rule| (rule.name.to_string(), rule.port))
        .collect()
}

fn expected(rules: &[(&str, u16)]) -> Vec<(String, u16)> {
    let rules = rules.iter();
    rules
        .map(|(name, port)| ((*name).to_owned(), *port))
        .collect()
}

#[test]
fn an_object_is_told_as_it_was_and_as_it_will_be() {
    let mut mirror = mirror();
    let facts = apply(&mut mirror, delta(6, vec![rule("a", 9, 6)], &["rule/b"]));
    let told = ["rule a 4", "rule a 6", "rule b 5"].map(String::from);
    assert_eq!(facts, told.into());
    assert_eq!(ports(&mirror), expected(&[("a", 9)]));
    let facts = apply(&mut mirror, delta(7, vec![rule("a", 9, 6)], &["rule/b"]));
    assert_eq!(facts, BTreeSet::new(), "nothing has changed");
}

#[test]
fn a_kind_that_is_not_known_does_nothing() {
    let mut mirror = mirror();
    let mut riddle = rule("c", 3, 6);
    riddle.id = id("riddle/c");
    let facts = apply(&mut mirror, delta(6, vec![riddle.clone()], &["riddle/d"]));
    assert_eq!(facts, BTreeSet::new());
    read(&mut mirror, 7, vec![riddle, rule("a", 1, 4)]);
    finish(&mut mirror);
    assert_eq!(ports(&mirror), expected(&[("a", 1)]));
}

#[test]
fn a_reading_never_undoes_what_a_newer_delta_said() {
    let mut mirror = mirror();
    mirror.expect_reading();
    apply(
        &mut mirror,
        delta(8, vec![rule("c", 3, 8), rule("a", 7, 8)], &["rule/b"]),
    );
    begin(&mut mirror, 7, vec![network(42, Resolve::Proactive)]);
    mirror.read_objects(vec![rule("a", 1, 4), rule("b", 2, 5)], &mut |_, _| ());
    finish(&mut mirror);
    assert_eq!(ports(&mirror), expected(&[("a", 7), ("c", 3)]));
}

#[test]
fn what_can_not_be_read_stays_as_it_was() {
    let mut mirror = mirror();
    read(&mut mirror, 6, vec![rule("b", 3, 6)]);
    mirror.hold(&RowId::Object(id("rule/a")));
    finish(&mut mirror);
    assert_eq!(ports(&mirror), expected(&[("a", 1), ("b", 3)]));
    // The next agent has it too.
    let known = mirror.in_places_of([&RowId::Object(id("rule/a"))].into_iter());
    let mut next = Mirror::with_kinds(name("h1"), KINDS);
    next.recall(known, &mut |_, _| ());
    read(&mut next, 6, vec![rule("b", 3, 6)]);
    next.hold(&RowId::Object(id("rule/a")));
    finish(&mut next);
    assert_eq!(ports(&next), expected(&[("a", 1), ("b", 3)]));
}

#[test]
fn a_previous_state_changes_nothing_until_it_is_believed() {
    let mut mirror = mirror();
    let previous = || vec![rule("a", 8, 2), rule("c", 3, 1)];
    read(&mut mirror, 3, previous());
    assert_eq!(ports(&mirror), expected(&[("a", 1), ("b", 2)]));
    let mut position = 0;
    while !mirror.withhold(&mut position, 2, &mut |_, _| ()) {}
    assert_eq!(ports(&mirror), expected(&[("a", 1), ("b", 2)]));
    // The same rows stay doubtful, here and for the next agent; what is new is followed.
    let mut next = Mirror::with_kinds(name("h1"), KINDS);
    next.withhold_again(mirror.held(), mirror.doubted(), &mut |_, _| ());
    assert_eq!(next.object(&id("rule/a")), Some(&rule("a", 1, 4)));
    apply(&mut mirror, delta(4, vec![rule("c", 6, 4)], &[]));
    read(&mut mirror, 4, [previous(), vec![rule("c", 6, 4)]].concat());
    let mut position = 0;
    while !mirror.withhold(&mut position, 2, &mut |_, _| ()) {}
    assert_eq!(ports(&mirror), expected(&[("a", 1), ("b", 2), ("c", 6)]));
    read(&mut mirror, 4, vec![rule("a", 8, 2), rule("c", 6, 4)]);
    finish(&mut mirror);
    assert_eq!(ports(&mirror), expected(&[("a", 8), ("c", 6)]));
}
