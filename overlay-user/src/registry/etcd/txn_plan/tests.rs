//! Commits against a store in memory, which carries transactions out as etcd does.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{super::changes, *};
use crate::model::{
    Change, Claim, Endpoint, Mac, Name, Network, Node, Object, ObjectId, OnRemoval, Reference, Vni,
    Vtep,
};

/// Rows by key, with their revisions.
#[derive(Debug, Default)]
struct Store {
    revision: Revision,
    rows: BTreeMap<String, (Vec<u8>, Revision)>,
}

impl Store {
    /// Reads what is wanted.
    fn learn(&self, known: &mut ReadCache, read_set: ReadSet) {
        for key in read_set.keys {
            let row = self.rows.get(&key).map(|(value, revision)| Row {
                value: value.clone(),
                revision: *revision,
                lease: 0,
            });
            known.rows.insert(key, row);
        }
        for prefix in read_set.prefixes {
            let keys = self.rows.keys().filter(|key| key.starts_with(&prefix));
            let listing = Listing {
                revision: self.revision,
                keys: keys.cloned().collect(),
            };
            known.listings.insert(prefix, listing);
        }
    }

    /// Carries a transaction out. `false`: a comparison failed, nothing was done.
    fn execute(&mut self, group: &TxnGroup, revisions: &[Revision]) -> bool {
        assert!(group.guards.len() <= OPERATIONS && group.writes.len() <= OPERATIONS);
        let revision_of = |key: &String| self.rows.get(key).map_or(0, |(_, revision)| *revision);
        let holds = group.guards.iter().all(|(key, guard)| match guard {
            Guard::Unchanged(revision) => revision_of(key) == *revision,
            Guard::Written {
                is_there: false, ..
            } => revision_of(key) == 0,
            Guard::Written { group, .. } => revision_of(key) == revisions[*group],
            Guard::NoneSince(since) => self
                .rows
                .iter()
                .all(|(other, (_, revision))| !other.starts_with(key) || revision <= since),
        });
        if !holds {
            return false;
        }
        self.revision += 1;
        for (key, write) in &group.writes {
            match write {
                Write::Put(value) | Write::Quarantine { owner: value, .. } => {
                    self.rows
                        .insert(key.clone(), (value.clone(), self.revision));
                }
                Write::Delete => drop(self.rows.remove(key)),
            }
        }
        true
    }

    /// Thinks a commit out. How many times something had to be read comes with it.
    fn plan(&self, changes: &[Change]) -> Result<(Vec<TxnGroup>, usize), String> {
        let mut known = ReadCache::default();
        for rounds in 0..10 {
            let mut planner = TxnPlanner::new(&known, HashSet::new());
            let mut refusal = None;
            for (index, change) in changes.iter().enumerate() {
                planner.begin(index);
                match changes::apply(&mut planner, change, true) {
                    Ok(()) | Err(PlanError::NeedsRead) => {}
                    Err(_) if !planner.read_set().is_empty() => {}
                    Err(PlanError::StoreError(failure)) => {
                        refusal = Some(failure.explain("etcd://h:1").to_string());
                        break;
                    }
                    Err(PlanError::Quarantined(hit)) => {
                        refusal = Some(format!("{hit:?}"));
                        break;
                    }
                }
            }
            if planner.read_set().is_empty() {
                return match refusal {
                    Some(refusal) => Err(refusal),
                    None => Ok((planner.finish(), rounds)),
                };
            }
            let read_set = planner.into_read_set();
            self.learn(&mut known, read_set);
        }
        panic!("it never knows enough");
    }

    fn commit(&mut self, changes: &[Change]) -> Result<usize, String> {
        let (groups, _) = self.plan(changes)?;
        let mut revisions = Vec::new();
        for group in &groups {
            // Nobody else writes: what a group compares holds.
            assert!(self.execute(group, &revisions), "{group:?}\n{self:?}");
            revisions.push(self.revision);
        }
        Ok(groups.len())
    }

    fn keys(&self) -> Vec<&str> {
        let keys = self.rows.keys().map(String::as_str);
        keys.filter(|key| !key.contains("/quarantine/")).collect()
    }
}

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn network(number: u32) -> Change {
    let name = format!("net{number}").parse().unwrap();
    Change::CreateNetwork(Network::new(name, vni(number)))
}

fn node(number: u8) -> Change {
    let vtep = Vtep {
        ip: [10, 0, 0, number + 1].into(),
        port: 4789,
    };
    Change::PutNode(Node::new(format!("h{number}").parse().unwrap(), vtep, true))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn create(text: &str, number: u16, network: u32, node: u8) -> Change {
    let [high, low] = number.to_be_bytes();
    Change::CreateEndpoint(Endpoint {
        name: name(text),
        vni: vni(network),
        mac: Mac::try_from([2, 0x42, 7, 7, high, low]).unwrap(),
        addresses: vec![format!("7.7.{high}.{low}/16").parse().unwrap()],
        node: name(&format!("h{node}")),
        attachment: None,
        generation: 0,
    })
}

fn furnished() -> Store {
    let mut store = Store::default();
    let changes = [network(1), network(2), node(0), node(1), node(2)];
    assert_eq!(store.commit(&changes), Ok(1));
    store
}

#[test]
fn what_several_changes_rest_upon_is_read_at_once() {
    let store = furnished();
    let many: Vec<Change> = (0..100)
        .map(|n| create(&format!("e{n}"), n, 1, 0))
        .collect();
    let (_, rounds) = store.plan(&many).unwrap();
    assert_eq!(rounds, 1);
}

#[test]
fn a_small_commit_is_one_transaction_and_a_large_one_as_few_as_fit() {
    let mut store = furnished();
    let many = |range: std::ops::Range<u16>| -> Vec<Change> {
        range.map(|n| create(&format!("e{n}"), n, 1, 0)).collect()
    };
    assert_eq!(store.commit(&many(0..23)), Ok(1));
    assert_eq!(store.commit(&many(23..123)), Ok(5));
    let removal = [
        Change::RemoveNode(name("h0")),
        Change::RemoveNetwork(vni(1)),
    ];
    assert!(store.commit(&removal).unwrap() > 1);
    assert_eq!(
        store.keys(),
        [
            "/overlay/v1/claim/network-name/net2",
            "/overlay/v1/claim/vtep/010.000.000.002",
            "/overlay/v1/claim/vtep/010.000.000.003",
            "/overlay/v1/state/network/00000002",
            "/overlay/v1/state/node/h1",
            "/overlay/v1/state/node/h2",
        ]
    );
}

#[test]
fn an_endpoint_with_more_addresses_than_fit_is_refused() {
    let store = furnished();
    let Change::CreateEndpoint(endpoint) = create("wide", 1, 1, 0) else {
        unreachable!()
    };
    let with = |count: u8| Endpoint {
        addresses: (0..count)
            .map(|n| format!("7.8.0.{n}/16").parse().unwrap())
            .collect(),
        ..endpoint.clone()
    };
    assert!(store.plan(&[Change::CreateEndpoint(with(50))]).is_ok());
    let refusal = store.plan(&[Change::CreateEndpoint(with(80))]).unwrap_err();
    assert!(
        refusal.ends_with("an endpoint can have some 56 addresses there"),
        "{refusal}"
    );
}

#[test]
fn a_transaction_does_nothing_if_what_it_rests_upon_has_changed() {
    let changes = [
        create("new", 7, 1, 0),
        Change::RemoveEndpoint(name("old")),
        Change::RemoveEmptyNode(name("h2")),
    ];
    let meddling: [&[Change]; 6] = [
        &[create("new", 8, 1, 0)],
        &[create("other", 7, 1, 1)],
        &[
            create("other", 7, 1, 1),
            Change::RemoveEndpoint(name("other")),
        ],
        &[Change::RemoveEndpoint(name("old"))],
        &[create("late", 9, 2, 2)],
        &[
            Change::RemoveEndpoint(name("old")),
            Change::RemoveNetwork(vni(1)),
        ],
    ];
    for meddling in meddling {
        let mut store = furnished();
        store.commit(&[create("old", 1, 1, 1)]).unwrap();
        let (groups, _) = store.plan(&changes).unwrap();
        assert_eq!(groups.len(), 1);
        store.commit(meddling).unwrap();
        assert!(!store.execute(&groups[0], &[]), "{meddling:?}");
    }
}

fn object(text: &str, targets: &[&str], claims: &[&str]) -> Object {
    let id = |word| ObjectId::from_word(word).unwrap();
    let claim = |value: &&str| Claim::Unique {
        space: "test".parse().unwrap(),
        value: value.parse().unwrap(),
        quarantine_s: 0,
    };
    Object {
        id: id(text),
        body: serde_json::Map::new(),
        claims: claims.iter().map(claim).collect(),
        references: targets
            .iter()
            .map(|target| Reference::cascade(id(target)))
            .collect(),
        revision: 0,
    }
}

#[test]
fn an_endpoint_and_its_objects_are_one_transaction() {
    let mut store = furnished();
    let bare = store.keys().len();
    let made = [
        create("web", 1, 1, 0),
        Change::PutObject(object("block/web/0", &["endpoint/web"], &["7/0"])),
        Change::PutObject(object("block/web/1", &["endpoint/web"], &["7/1"])),
    ];
    assert_eq!(store.commit(&made), Ok(1));
    let taken = object("block/db/0", &["endpoint/web"], &["7/1"]);
    assert_eq!(
        store.commit(&[Change::PutObject(taken)]).unwrap_err(),
        "claim test 7/1 is taken by block web/1: choose another or remove that one first"
    );
    assert_eq!(store.commit(&[Change::RemoveEndpoint(name("web"))]), Ok(1));
    assert_eq!(store.keys().len(), bare);
}

#[test]
fn a_removal_does_nothing_if_an_object_has_come_to_refer_to_it() {
    for (removal, target) in [
        (Change::RemoveNetwork(vni(2)), "network/2"),
        (Change::RemoveNode(name("h2")), "node/h2"),
        (Change::RemoveEmptyNode(name("h2")), "node/h2"),
        (Change::RemoveEndpoint(name("web")), "endpoint/web"),
        (
            Change::RemoveObject(ObjectId::from_word("pool/p").unwrap()),
            "pool/p",
        ),
    ] {
        let mut store = furnished();
        let made = [
            create("web", 1, 1, 0),
            Change::PutObject(object("pool/p", &[], &[])),
        ];
        store.commit(&made).unwrap();
        let (groups, _) = store.plan(std::slice::from_ref(&removal)).unwrap();
        assert_eq!(groups.len(), 1);
        store
            .commit(&[Change::PutObject(object("new/1", &[target], &[]))])
            .unwrap();
        assert!(!store.execute(&groups[0], &[]), "{target}");
        store.commit(&[removal]).unwrap();
        assert!(
            !store.keys().iter().any(|key| key.contains("new/1")),
            "{target}"
        );
    }
}

#[test]
fn a_target_that_goes_meanwhile_stops_the_object() {
    for (target, removal) in [
        ("network/2", Change::RemoveNetwork(vni(2))),
        ("node/h2", Change::RemoveNode(name("h2"))),
    ] {
        let mut store = furnished();
        let put = [Change::PutObject(object("new/1", &[target], &[]))];
        let (groups, _) = store.plan(&put).unwrap();
        store.commit(&[removal]).unwrap();
        assert!(!store.execute(&groups[0], &[]), "{target}");
        let refusal = store.commit(&put).unwrap_err();
        assert!(refusal.contains("does not exist"), "{refusal}");
    }
}

#[test]
fn prefixes_of_a_space_never_overlap() {
    let mut store = furnished();
    let with = |text: &str, space: &str, prefix: &str| {
        let mut object = object(text, &[], &[]);
        object.claims.push(Claim::Disjoint {
            space: space.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        });
        Change::PutObject(object)
    };
    store
        .commit(&[with("port/1", "router/r1", "7.7.0.0/16")])
        .unwrap();
    store
        .commit(&[with("port/2", "router/r1", "7.8.0.0/16")])
        .unwrap();
    store
        .commit(&[with("port/3", "router/r2", "7.7.0.0/16")])
        .unwrap();
    for prefix in ["7.7.0.0/16", "7.7.9.0/24", "7.0.0.0/8"] {
        let refusal = store
            .commit(&[with("port/4", "router/r1", prefix)])
            .unwrap_err();
        assert!(
            refusal.contains(" is taken by port 1 (7.7.0.0/16): "),
            "{refusal}"
        );
    }
    // Two at once: the second one's transaction does nothing.
    let (groups, _) = store
        .plan(&[with("port/4", "router/r1", "9.0.0.0/8")])
        .unwrap();
    store
        .commit(&[with("port/5", "router/r1", "9.9.0.0/16")])
        .unwrap();
    assert!(!store.execute(&groups[0], &[]));
}

#[derive(Debug, Clone)]
enum Step {
    PutObject(u8, u8, u8),
    RemoveObject(u8),
    Create(u8, u16, u32, u8),
    Remove(u8),
    Move(u8, u8),
    RemoveNode(u8),
    PutNode(u8),
    RemoveNetwork(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..40_u8, 0..40_u16, 1..3_u32, 0..3_u8)
            .prop_map(|(name, number, net, node)| Step::Create(name, number, net, node)),
        4 => (0..40_u8).prop_map(Step::Remove),
        3 => (0..40_u8, 0..3_u8).prop_map(|(name, node)| Step::Move(name, node)),
        1 => (0..3_u8).prop_map(Step::RemoveNode),
        1 => (0..3_u8).prop_map(Step::PutNode),
        1 => (1..3_u32).prop_map(Step::RemoveNetwork),
        4 => (0..6_u8, 0..10_u8, 0..4_u8).prop_map(|(key, target, claim)| Step::PutObject(key, target, claim)),
        2 => (0..6_u8).prop_map(Step::RemoveObject),
    ]
}

fn change(step: &Step) -> Change {
    match step {
        Step::Create(text, number, net, node) => create(&format!("e{text}"), *number, *net, *node),
        Step::Remove(text) => Change::RemoveEndpoint(name(&format!("e{text}"))),
        Step::Move(text, node) => Change::MoveEndpoint {
            name: name(&format!("e{text}")),
            node: name(&format!("h{node}")),
            attachment: None,
        },
        Step::RemoveNode(number) => Change::RemoveNode(name(&format!("h{number}"))),
        Step::PutNode(number) => node(*number),
        Step::RemoveNetwork(number) => Change::RemoveNetwork(vni(*number)),
        Step::PutObject(key, target, claim) => {
            let target = match target {
                0..6 => format!("thing/{target}"),
                6 => "network/1".to_owned(),
                7 => "node/h1".to_owned(),
                other => format!("endpoint/e{other}"),
            };
            let restricts = key % 2 == 0;
            let targets = if target == format!("thing/{key}") {
                vec![]
            } else {
                vec![target.as_str()]
            };
            let claim = claim.to_string();
            let mut object = object(&format!("thing/{key}"), &targets, &[&claim]);
            for reference in &mut object.references {
                if restricts {
                    reference.on_removal = OnRemoval::Restrict;
                }
            }
            Change::PutObject(object)
        }
        Step::RemoveObject(key) => {
            Change::RemoveObject(ObjectId::from_word(&format!("thing/{key}")).unwrap())
        }
    }
}

proptest! {
    /// One commit of many changes leaves what as many commits of one change leave, or is refused as a
    /// whole where one of them is.
    #[test]
    fn a_commit_is_the_same_as_its_changes_one_by_one(
        before in prop::collection::vec(step(), 0..40),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut whole, mut parts) = (furnished(), furnished());
        for step in &before {
            prop_assert_eq!(whole.commit(&[change(step)]).is_ok(), parts.commit(&[change(step)]).is_ok());
        }
        let changes: Vec<Change> = steps.iter().map(change).collect();
        if whole.commit(&changes).is_ok() {
            for change in &changes {
                // Alone, an address that was given up just now is in quarantine.
                parts.rows.retain(|key, _| !key.contains("/quarantine/"));
                prop_assert_eq!(parts.commit(std::slice::from_ref(change)).err(), None);
            }
            let values = |store: &Store| -> Vec<(String, Vec<u8>)> {
                let rows = store.rows.iter();
                rows.filter(|(key, _)| !key.contains("/quarantine/"))
                    .map(|(key, (value, _))| (key.clone(), value.clone()))
                    .collect()
            };
            prop_assert_eq!(values(&whole), values(&parts));
        } else {
            prop_assert_eq!(whole.keys(), parts.keys());
        }
    }
}
