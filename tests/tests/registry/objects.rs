//! Objects: what they claim and refer to, what of them is kept, and what goes along with what is removed.
//!
//! The kinds are test doubles of those to come: a router and its ports, routes, a pool and its blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use overlay_user::{
    model::{
        Change, Claim, Endpoint, Key, Kind, KnownKind, Name, Object, ObjectId, Reference, Resource,
        Vni, Wanted,
    },
    registry::{self, BackupError, Findings, Registry, RegistryError, Repair, Scope},
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    backup::{comparable, exported},
    fixture::{
        Fixture, Reader, content, create, endpoint, furnish, line, name, network, next_delta,
        remove, vni,
    },
    for_every_backend,
    rules::{fixture_is_sound, refusal},
};

for_every_backend! {
    an_object_is_kept_as_it_is_with_its_revision,
    what_an_object_claims_nobody_else_gets,
    addresses_that_objects_claim_are_not_handed_out,
    prefixes_of_one_space_never_overlap,
    what_breaks_a_rule_is_refused_as_a_whole,
    what_is_referred_to_has_to_exist,
    what_is_referred_to_stays,
    what_cascades_goes_along,
    a_node_takes_along_what_its_endpoints_have,
    a_block_comes_and_goes_with_its_endpoint,
    what_is_given_up_is_kept_from_others_for_as_long_as_it_says,
    an_object_is_changed_only_as_it_was_looked_at,
    a_change_keeps_what_a_newer_version_has_added,
    many_writers_never_share_a_claim,
    removals_and_references_never_pass_each_other,
    a_watch_tells_of_objects_in_order,
    what_was_removed_and_made_again_is_only_among_the_put_ones,
    large_commits_of_objects_are_carried_out_whole,
    unknown_kinds_and_fields_pass_through_a_backup,
    an_import_tells_which_objects_differ,
    an_object_that_cannot_be_read_is_named_and_stops_nothing,
    objects_that_contradict_each_other_are_found,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Router {
    name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outside: Option<String>,
}

impl Resource for Router {
    const KIND: Kind = Kind::new("router");

    fn key(&self) -> Key {
        (&self.name).into()
    }
}

/// A network has one router: the key is its VNI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RouterPort {
    router: Name,
    vni: Vni,
    gateway: IpAddr,
    subnets: Vec<IpNet>,
}

impl Resource for RouterPort {
    const KIND: Kind = Kind::new("router-port");

    fn key(&self) -> Key {
        self.vni.into()
    }

    fn claims(&self) -> Vec<Claim> {
        let router = key("router").join(&(&self.router).into());
        let subnets = self.subnets.iter().map(|prefix| Claim::Disjoint {
            space: router.clone(),
            prefix: *prefix,
        });
        let gateway = Claim::Ip {
            vni: self.vni,
            ip: self.gateway,
        };
        subnets.chain([gateway]).collect()
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::restrict(Router::id((&self.router).into())),
            Reference::restrict(ObjectId::of_network(self.vni)),
        ]
    }
}

/// A block of ports: its key says who has it, its claim which one it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Block {
    endpoint: Name,
    index: u8,
    ip: IpAddr,
    number: u16,
    quarantine_s: u32,
}

impl Resource for Block {
    const KIND: Kind = Kind::new("block");

    fn key(&self) -> Key {
        Key::from(&self.endpoint).join(&key(&self.index.to_string()))
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Unique {
            space: key("block"),
            value: Key::from(self.ip).join(&key(&self.number.to_string())),
            quarantine_s: self.quarantine_s,
        }]
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference::cascade(ObjectId::of_endpoint(&self.endpoint))]
    }

    fn check(&self) -> Result<(), String> {
        if self.ip.is_ipv4() {
            Ok(())
        } else {
            Err(format!("{} has no blocks", self.ip))
        }
    }
}

const KINDS: &[KnownKind] = &[
    KnownKind::of::<Router>(),
    KnownKind::of::<RouterPort>(),
    KnownKind::of::<Block>(),
];

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn kind(text: &str) -> Kind {
    text.parse().unwrap()
}

fn id(word: &str) -> ObjectId {
    ObjectId::from_word(word).unwrap()
}

fn router(text: &str) -> Router {
    Router {
        name: name(text),
        outside: None,
    }
}

/// Of network 42 or 43, with 7.7.0.1 or 7.8.0.1.
fn port(router: &str, number: u32) -> RouterPort {
    let second = if number == 42 { 7 } else { 8 };
    RouterPort {
        router: name(router),
        vni: vni(number),
        gateway: [7, second, 0, 1].into(),
        subnets: vec![format!("7.{second}.0.0/16").parse().unwrap()],
    }
}

fn block(endpoint: &str, number: u16, quarantine_s: u32) -> Block {
    Block {
        endpoint: name(endpoint),
        index: 0,
        ip: [203, 0, 113, 7].into(),
        number,
        quarantine_s,
    }
}

fn put(resource: &impl Resource) -> Change {
    Change::PutObject(resource.to_object().unwrap())
}

fn remove_object(word: &str) -> Change {
    Change::RemoveObject(id(word))
}

/// Of no kind that anybody knows.
fn thing(text: &str, references: Vec<Reference>) -> Object {
    Object {
        id: id(text),
        body: serde_json::Map::new(),
        claims: Vec::new(),
        references,
        revision: 0,
    }
}

async fn ids(registry: &dyn Registry) -> BTreeSet<String> {
    let objects = registry.snapshot().await.unwrap().objects;
    objects.iter().map(|object| object.id.to_word()).collect()
}

async fn found(registry: &dyn Registry, word: &str) -> Option<Object> {
    let objects = registry.objects(&id(word).kind).await.unwrap();
    objects.into_iter().find(|object| object.id == id(word))
}

async fn an_object_is_kept_as_it_is_with_its_revision(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let changes = [put(&router("r2")), put(&router("r1")), put(&port("r1", 42))];
    let revision = registry.commit(&changes).await.unwrap();
    let second = registry.commit(&[put(&block("web", 1, 0))]).await;
    assert!(second.is_err(), "its endpoint is missing");
    let made = |resource: Object| Object {
        revision,
        ..resource
    };
    let expected = [
        made(router("r1").to_object().unwrap()),
        made(router("r2").to_object().unwrap()),
        made(port("r1", 42).to_object().unwrap()),
    ];
    let snapshot = content(registry.snapshot().await.unwrap());
    assert_eq!(snapshot.objects, expected);
    assert_eq!(
        registry.objects(&kind("router")).await.unwrap(),
        expected[..2]
    );
    assert_eq!(registry.objects(&kind("route")).await.unwrap(), []);
    for scope in [Scope::Network(vni(43)), Scope::Resident(name("h1"))] {
        let reading = registry.read(scope).await.unwrap();
        assert_eq!(reading.objects.len(), 3);
    }
    drop(registry);
    let again = fixture.open().await;
    assert_eq!(content(again.snapshot().await.unwrap()), snapshot);
    // The same once more, whatever the revision: nothing to do.
    again.commit(&changes).await.unwrap();
    let unchanged = expected.map(Change::PutObject);
    again.commit(&unchanged).await.unwrap();
    assert_eq!(content(again.snapshot().await.unwrap()), snapshot);
    assert_eq!(fixture_is_sound(&*again).await, "");
}

async fn what_an_object_claims_nobody_else_gets(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut with_mac = thing("anycast/m", vec![Reference::restrict(id("network/42"))]);
    with_mac.claims.push(Claim::Mac {
        vni: vni(42),
        mac: endpoint("x", 99).mac,
    });
    let changes = [
        create("web", 2),
        create("db", 3),
        put(&router("r1")),
        put(&port("r1", 42)),
        put(&block("web", 12, 0)),
        Change::PutObject(with_mac),
    ];
    registry.commit(&changes).await.unwrap();
    let gateway = Endpoint {
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("green", 4)
    };
    let readdressed = Change::ReaddressEndpoint {
        name: name("db"),
        mac: endpoint("x", 99).mac,
        addresses: endpoint("db", 3).addresses,
        generation: registry
            .find_endpoint(&name("db"))
            .await
            .unwrap()
            .unwrap()
            .generation,
    };
    let second = Block {
        endpoint: name("db"),
        ..block("db", 12, 0)
    };
    let at = |ip: [u8; 4]| {
        let mut object = thing(
            "router-port/other",
            vec![Reference::restrict(id("network/42"))],
        );
        object.claims.push(Claim::Ip {
            vni: vni(42),
            ip: ip.into(),
        });
        Change::PutObject(object)
    };
    for (change, expected) in [
        (
            Change::CreateEndpoint(gateway),
            "IP 7.7.0.1 is taken by router-port 42: choose another or remove that one first",
        ),
        (
            Change::CreateEndpoint(Endpoint {
                mac: endpoint("x", 99).mac,
                ..endpoint("green", 4)
            }),
            "MAC 02:42:07:07:00:63 is taken by anycast m: choose another or remove that one first",
        ),
        (
            readdressed,
            "MAC 02:42:07:07:00:63 is taken by anycast m: choose another or remove that one first",
        ),
        (
            put(&second),
            "claim block 203.0.113.7/12 is taken by block web/0: choose another or remove that one first",
        ),
        (
            at([7, 7, 0, 2]),
            "IP 7.7.0.2 is taken by endpoint web (node h1): choose another or remove that one first",
        ),
        (
            at([7, 7, 0, 1]),
            "IP 7.7.0.1 is taken by router-port 42: choose another or remove that one first",
        ),
        (
            put(&Router {
                outside: Some("host".to_owned()),
                ..router("r1")
            }),
            "key r1 is taken by another router: choose another or remove that one first",
        ),
    ] {
        assert_eq!(refusal(&*registry, &[change]).await, expected);
    }
    // Of other networks the same address is free, and given up it is free at once for the same one.
    let elsewhere = Endpoint {
        vni: vni(43),
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("green", 4)
    };
    let handed_over = [
        Change::CreateEndpoint(elsewhere),
        remove_object("router-port/42"),
        put(&port("r1", 42)),
    ];
    registry.commit(&handed_over).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn addresses_that_objects_claim_are_not_handed_out(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let gateway = RouterPort {
        gateway: [7, 7, 0, 2].into(),
        ..port("r1", 42)
    };
    registry
        .commit(&[put(&router("r1")), put(&gateway)])
        .await
        .unwrap();
    let free = registry
        .next_ip(&network(42, &["7.7.0.0/16"]), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(free.unwrap().to_string(), "7.7.0.3/16");
    // Nobody lives there who could be asked.
    let at = Wanted::Ip([7, 7, 0, 2].into());
    assert_eq!(registry.find(vni(42), at).await.unwrap(), None);
    let removal = [remove_object("router-port/42")];
    registry.commit(&removal).await.unwrap();
    let free = registry
        .next_ip(&network(42, &["7.7.0.0/16"]), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(
        free.unwrap().to_string(),
        "7.7.0.3/16",
        "it is in quarantine"
    );
}

async fn prefixes_of_one_space_never_overlap(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .commit(&[put(&router("r1")), put(&router("r2")), put(&port("r1", 42))])
        .await
        .unwrap();
    for prefix in ["7.7.0.0/16", "7.7.9.0/24", "7.0.0.0/8"] {
        let overlapping = RouterPort {
            subnets: vec![prefix.parse().unwrap()],
            ..port("r1", 43)
        };
        assert_eq!(
            refusal(&*registry, &[put(&overlapping)]).await,
            format!(
                "prefix {prefix} is taken by router-port 42 (7.7.0.0/16): choose another or remove that one first"
            )
        );
    }
    let second = RouterPort {
        subnets: vec!["fd00::/64".parse().unwrap(), "7.6.0.0/16".parse().unwrap()],
        ..port("r1", 43)
    };
    registry.commit(&[put(&second)]).await.unwrap();
    // Its own prefix may grow over what it had.
    let former = found(&*registry, "router-port/42").await.unwrap();
    let grown = RouterPort {
        subnets: vec![
            "7.7.0.0/17".parse().unwrap(),
            "7.7.128.0/17".parse().unwrap(),
        ],
        ..port("r1", 42)
    };
    let grown = grown.update(&former).unwrap();
    registry.commit(&[Change::PutObject(grown)]).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn what_breaks_a_rule_is_refused_as_a_whole(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[put(&router("r1"))]).await.unwrap();
    let to_42 = || vec![Reference::restrict(id("network/42"))];
    let claims = |claims: Vec<Claim>| Object {
        claims,
        ..thing("thing/1", to_42())
    };
    let ip = |text: &str| Claim::Ip {
        vni: vni(42),
        ip: text.parse().unwrap(),
    };
    let mut huge = thing("thing/1", vec![]);
    huge.body
        .insert("text".to_owned(), "x".repeat(300_000).into());
    let prefix = |text: &str| Claim::Disjoint {
        space: key("s"),
        prefix: text.parse().unwrap(),
    };
    for (object, expected) in [
        (thing("network/44", vec![]), "an object can't be a network"),
        (
            thing("endpoint/web", vec![]),
            "an object can't be a endpoint",
        ),
        (huge, "thing 1 takes 300011 bytes and 262144 are allowed"),
        (
            thing("thing/1", vec![Reference::cascade(id("thing/1"))]),
            "thing 1 can't refer to thing 1 that way",
        ),
        (
            Object {
                claims: vec![ip("7.7.0.9")],
                ..thing("thing/1", vec![])
            },
            "thing 1 claims an address of network 42 and does not refer to it",
        ),
        (
            claims(vec![ip("8.8.8.8")]),
            "IP 8.8.8.8 of thing 1 is outside the subnets of network net42 (7.7.0.0/16)",
        ),
        (
            claims(vec![ip("224.0.0.1")]),
            "IP 224.0.0.1 of thing 1 is no address that an interface can have",
        ),
        (
            claims(vec![ip("7.7.0.9"), ip("7.7.0.9")]),
            "thing 1 claims IP 7.7.0.9 and 7.7.0.9 at once",
        ),
        (
            claims(vec![prefix("7.0.0.0/8"), prefix("7.1.0.0/16")]),
            "thing 1 claims prefix 7.1.0.0/16 (s) and 7.0.0.0/8 (s) at once",
        ),
        (
            claims(vec![prefix("7.0.0.1/8")]),
            "prefix 7.0.0.1/8 of thing 1 has host bits set: write 7.0.0.0/8",
        ),
    ] {
        let changes = [put(&router("r9")), Change::PutObject(object)];
        let text = refusal(&*registry, &changes).await;
        assert!(text.starts_with(expected), "{text}");
    }
}

async fn what_is_referred_to_has_to_exist(fixture: Fixture) {
    let registry = fixture.furnished().await;
    for (target, expected) in [
        (
            "network/44",
            "network 44 does not exist: make it with `overlay network create NAME --vni 44`",
        ),
        ("node/h9", "node h9 does not exist: start its agent"),
        ("endpoint/web", "endpoint web does not exist: see"),
        (
            "route/r1/10.0.0.0/8",
            "object route r1/10.0.0.0/8 does not exist: make that one first",
        ),
        ("network/blue", "object network blue does not exist"),
    ] {
        let object = thing("thing/1", vec![Reference::cascade(id(target))]);
        let error = registry.commit(&[Change::PutObject(object)]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, RegistryError::Missing { .. }), "{error:?}");
        assert!(line(&error).starts_with(expected), "{error}");
    }
    let stale = Object {
        revision: 7,
        ..thing("thing/1", vec![])
    };
    let error = registry.commit(&[Change::PutObject(stale)]).await;
    assert_eq!(
        line(&error.unwrap_err()),
        "object thing 1 does not exist: somebody may have removed it"
    );
    // In one commit each thing exists from its own change on, and not before.
    let chain = [
        Change::PutObject(thing("thing/1", vec![])),
        Change::PutObject(thing("thing/2", vec![Reference::restrict(id("thing/1"))])),
    ];
    let backwards: Vec<Change> = chain.iter().rev().cloned().collect();
    refusal(&*registry, &backwards).await;
    registry.commit(&chain).await.unwrap();
}

async fn what_is_referred_to_stays(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let keeper = |number: u8, target: &str| {
        let target = Reference::restrict(id(target));
        Change::PutObject(thing(&format!("keeper/{number}"), vec![target]))
    };
    registry
        .commit(&[
            create("web", 2),
            put(&router("r1")),
            put(&port("r1", 43)),
            keeper(1, "node/h2"),
            keeper(2, "endpoint/web"),
            keeper(3, "router/r1"),
            keeper(4, "router/r1"),
        ])
        .await
        .unwrap();
    for (removal, expected) in [
        (
            Change::RemoveNetwork(vni(43)),
            "network net43 (VNI 43) is still referred to by router-port 43: remove that one first",
        ),
        (
            Change::RemoveNode(name("h2")),
            "node h2 is still referred to by keeper 1: remove that one first",
        ),
        (
            Change::RemoveSilentNode(name("h2")),
            "node h2 is still referred to by keeper 1: remove that one first",
        ),
        (
            remove("web"),
            "endpoint web is still referred to by keeper 2: remove that one first",
        ),
        (
            Change::RemoveNode(name("h1")),
            "node h1 is still referred to by keeper 2: remove that one first",
        ),
        (
            remove_object("router/r1"),
            "router r1 is still referred to by keeper 3, keeper 4, ...: remove them first",
        ),
    ] {
        assert_eq!(refusal(&*registry, &[removal]).await, expected);
    }
    // Nothing is wrong with a node that somebody else needs.
    let before = content(registry.snapshot().await.unwrap());
    let empty = [Change::RemoveEmptyNode(name("h2"))];
    registry.commit(&empty).await.unwrap();
    assert_eq!(content(registry.snapshot().await.unwrap()), before);
    // What keeps it may go in the same commit, before it.
    let all = [
        remove_object("keeper/1"),
        remove_object("keeper/2"),
        remove_object("keeper/3"),
        remove_object("keeper/4"),
        remove_object("router-port/43"),
        remove_object("router/r1"),
        Change::RemoveNode(name("h1")),
        Change::RemoveEmptyNode(name("h2")),
        Change::RemoveNetwork(vni(43)),
    ];
    registry.commit(&all).await.unwrap();
    let after = registry.snapshot().await.unwrap();
    assert_eq!(
        (after.networks.len(), after.nodes.len(), after.objects.len()),
        (1, 0, 0)
    );
    // Gone already: nothing to do.
    registry.commit(&all).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn what_cascades_goes_along(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let with = |text: &str, targets: &[&str]| {
        let targets = targets.iter().map(|target| Reference::cascade(id(target)));
        Change::PutObject(thing(text, targets.collect()))
    };
    let kept = |text: &str, target: &str| {
        Change::PutObject(thing(text, vec![Reference::restrict(id(target))]))
    };
    registry
        .commit(&[
            with("a/1", &["network/43", "node/h2"]),
            with("b/1", &["a/1"]),
            with("c/1", &["b/1"]),
            with("other/1", &[]),
            kept("d/1", "c/1"),
        ])
        .await
        .unwrap();
    let expected = "c 1, which goes with network net43 (VNI 43), is still referred to by d 1: remove that one first";
    let removal = [Change::RemoveNetwork(vni(43))];
    assert_eq!(refusal(&*registry, &removal).await, expected);
    // What keeps another goes along itself: it forbids nothing.
    let former = found(&*registry, "d/1").await.unwrap();
    let both = Object {
        references: vec![
            Reference::restrict(id("c/1")),
            Reference::cascade(id("a/1")),
        ],
        ..former
    };
    registry.commit(&[Change::PutObject(both)]).await.unwrap();
    let mut reader = Reader::start(&registry).await;
    let revision = registry.commit(&removal).await.unwrap();
    reader.reach(revision).await;
    assert_eq!(
        ids(&*registry).await,
        BTreeSet::from(["other/1".to_owned()])
    );
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn a_node_takes_along_what_its_endpoints_have(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let on_h2 = Endpoint {
        node: name("h2"),
        ..endpoint("db", 3)
    };
    registry
        .commit(&[
            create("web", 2),
            Change::CreateEndpoint(on_h2),
            put(&block("web", 1, 0)),
            put(&block("db", 2, 0)),
            Change::PutObject(thing(
                "gateway/g/h1",
                vec![Reference::cascade(id("node/h1"))],
            )),
        ])
        .await
        .unwrap();
    let removal = [Change::RemoveSilentNode(name("h1"))];
    registry.commit(&removal).await.unwrap();
    assert_eq!(
        ids(&*registry).await,
        BTreeSet::from(["block/db/0".to_owned()])
    );
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn a_block_comes_and_goes_with_its_endpoint(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let revision = registry
        .commit(&[create("web", 2), put(&block("web", 12, 120))])
        .await
        .unwrap();
    let made = found(&*registry, "block/web/0").await.unwrap();
    let web = registry.find_endpoint(&name("web")).await.unwrap().unwrap();
    assert_eq!((made.revision, web.generation), (revision, revision));
    // All or nothing: a block that is taken leaves no endpoint behind.
    let taken = [create("db", 3), put(&block("db", 12, 120))];
    let text = refusal(&*registry, &taken).await;
    assert!(text.contains("is taken by block web/0"), "{text}");
    let moved = Change::MoveEndpoint {
        name: name("web"),
        node: name("h2"),
        netns: None,
        ifname: None,
    };
    registry.commit(&[moved]).await.unwrap();
    assert_eq!(found(&*registry, "block/web/0").await, Some(made));
    registry.commit(&[remove("web")]).await.unwrap();
    assert_eq!(ids(&*registry).await, BTreeSet::new());
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn what_is_given_up_is_kept_from_others_for_as_long_as_it_says(fixture: Fixture) {
    // Addresses have no quarantine here: a claim that says so has one all the same.
    let registry = fixture.open_with(|s| s.quarantine = Duration::ZERO).await;
    furnish(&*registry).await;
    let web = [create("web", 2), put(&block("web", 12, 120))];
    registry.commit(&web).await.unwrap();
    registry
        .commit(&[create("db", 3), remove("web")])
        .await
        .unwrap();
    let error = registry.commit(&[put(&block("db", 12, 120))]).await;
    let error = error.unwrap_err();
    assert!(
        line(&error).starts_with(
            "claim block 203.0.113.7/12 was block web/0's until a moment ago and is kept free for at most 1"
        ),
        "{error}"
    );
    let RegistryError::Quarantined { for_at_most, .. } = error else {
        panic!("{error:?}");
    };
    // A lease of etcd may last a quarter longer.
    let range = Duration::from_secs(110)..=Duration::from_secs(150);
    assert!(range.contains(&for_at_most), "{for_at_most:?}");
    // The same one may have it back at once, and hand it over in one commit.
    registry.commit(&web).await.unwrap();
    registry
        .commit(&[remove_object("block/web/0"), put(&block("db", 12, 1))])
        .await
        .unwrap();
    // One second, and it is anybody's.
    registry
        .commit(&[remove_object("block/db/0")])
        .await
        .unwrap();
    crate::fixture::until("the quarantine is over", || async {
        registry.commit(&[put(&block("web", 12, 0))]).await.is_ok()
    })
    .await;
    // Without one it is free at once.
    registry
        .commit(&[remove_object("block/web/0")])
        .await
        .unwrap();
    registry.commit(&[put(&block("db", 12, 0))]).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");

    // A gateway's address has the quarantine of addresses, from endpoints too.
    let with_quarantine = fixture.open().await;
    let gateway = [put(&router("r1")), put(&port("r1", 42))];
    with_quarantine.commit(&gateway).await.unwrap();
    let removal = [remove_object("router-port/42")];
    with_quarantine.commit(&removal).await.unwrap();
    let newcomer = Endpoint {
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("new", 9)
    };
    let text = refusal(
        &*with_quarantine,
        &[Change::CreateEndpoint(newcomer.clone())],
    )
    .await;
    assert!(
        text.starts_with("IP 7.7.0.1 was router-port 42's until a moment ago"),
        "{text}"
    );
    // And the other way round.
    with_quarantine
        .commit(&[put(&port("r1", 42)), remove("db")])
        .await
        .unwrap();
    let former = found(&*with_quarantine, "router-port/42").await.unwrap();
    let at_db = RouterPort {
        gateway: [7, 7, 0, 3].into(),
        ..port("r1", 42)
    };
    let at_db = Change::PutObject(at_db.update(&former).unwrap());
    let text = refusal(&*with_quarantine, &[at_db]).await;
    assert!(
        text.starts_with("IP 7.7.0.3 was endpoint db's until a moment ago"),
        "{text}"
    );
}

async fn an_object_is_changed_only_as_it_was_looked_at(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let first = registry.commit(&[put(&router("r1"))]).await.unwrap();
    let former = found(&*registry, "router/r1").await.unwrap();
    let outside = |text: &str| Router {
        outside: Some(text.to_owned()),
        ..router("r1")
    };
    let update = |text: &str| Change::PutObject(outside(text).update(&former).unwrap());
    let second = registry.commit(&[update("host")]).await.unwrap();
    assert!(second > first);
    reader.reach(second).await;
    let now = &reader.objects[&id("router/r1")];
    assert_eq!(now.revision, second);
    assert_eq!(Router::of(now), Ok(outside("host")));
    assert_eq!(
        refusal(&*registry, &[update("none")]).await,
        "router r1 was changed by somebody else meanwhile: look at it and try again"
    );
    // Of two who have looked at the same one, one is too late.
    let former = now.clone();
    let other = fixture.open().await;
    let put = |text: &str| [Change::PutObject(outside(text).update(&former).unwrap())];
    let (one, two) = (put("one"), put("two"));
    let (one, two) = tokio::join!(registry.commit(&one), other.commit(&two));
    assert_eq!(
        usize::from(one.is_ok()) + usize::from(two.is_ok()),
        1,
        "{one:?} {two:?}"
    );
}

async fn a_change_keeps_what_a_newer_version_has_added(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut newer = router("r1").to_object().unwrap();
    newer
        .body
        .insert("bfd".to_owned(), json!({"interval_ms": 300}));
    newer.claims.push(Claim::Unique {
        space: key("router-id"),
        value: key("7"),
        quarantine_s: 0,
    });
    newer.references.push(Reference::restrict(id("network/43")));
    registry.commit(&[Change::PutObject(newer)]).await.unwrap();
    let former = found(&*registry, "router/r1").await.unwrap();
    let changed = Router {
        outside: Some("host".to_owned()),
        ..router("r1")
    };
    let changed = changed.update(&former).unwrap();
    registry
        .commit(&[Change::PutObject(changed)])
        .await
        .unwrap();
    let now = found(&*registry, "router/r1").await.unwrap();
    assert_eq!(
        serde_json::Value::Object(now.body.clone()),
        json!({"name": "r1", "outside": "host", "bfd": {"interval_ms": 300}})
    );
    assert_eq!((now.claims.len(), now.references.len()), (1, 1));
    // And the rules of what it does not know hold for it too.
    let text = refusal(&*registry, &[Change::RemoveNetwork(vni(43))]).await;
    assert!(text.contains("still referred to by router r1"), "{text}");
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn many_writers_never_share_a_claim(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut writers = Vec::new();
    for writer in 0..4_u16 {
        let registry = fixture.open().await;
        writers.push(tokio::spawn(async move {
            let mut made = 0;
            for round in 0..30_u16 {
                let text = format!("e{writer}-{round}");
                let number = (round * 7 + writer * 3) % 20;
                // With the endpoint, and of a prefix and a gateway that others want as well.
                let mut block = block(&text, number, 0).to_object().unwrap();
                block.claims.push(Claim::Disjoint {
                    space: key("outside"),
                    prefix: IpNet::new([9, 9, 0, u8::try_from(number).unwrap() & !1].into(), 31)
                        .unwrap(),
                });
                let changes = [
                    create(&text, writer * 100 + round + 300),
                    Change::PutObject(block),
                ];
                match registry.commit(&changes).await {
                    Ok(_) => made += 1,
                    Err(error @ RegistryError::Conflict { .. }) => {
                        let line = line(&error);
                        assert!(line.contains(" is taken by block e"), "{line}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            made
        }));
    }
    let mut made = 0;
    for writer in writers {
        made += writer.await.unwrap();
    }
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.objects.len(), made);
    assert_eq!(snapshot.endpoints.len(), made, "all or nothing");
    assert_eq!(made, 10, "there are so many pairs of numbers");
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn removals_and_references_never_pass_each_other(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let other = fixture.open().await;
    for round in 0..25_u16 {
        registry.commit(&[create("web", round + 2)]).await.unwrap();
        let block = [put(&block("web", round, 0))];
        let removal = [remove("web")];
        let (put, removed) = tokio::join!(other.commit(&block), registry.commit(&removal));
        removed.unwrap();
        if let Err(error) = put {
            assert!(line(&error).contains("does not exist"), "{error}");
        }
        let left = registry.snapshot().await.unwrap();
        assert_eq!((left.endpoints.len(), left.objects.len()), (0, 0));
    }
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn a_watch_tells_of_objects_in_order(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let other = fixture.open().await;
    let mut last = 0;
    for round in 0..60_u16 {
        let text = format!("thing/{}", round % 7);
        let known = found(&*registry, &text).await;
        let change = match (known, round % 3) {
            (Some(_), 0) => remove_object(&text),
            (former, _) => {
                let mut object = former.unwrap_or_else(|| thing(&text, vec![]));
                object.body.insert("round".to_owned(), round.into());
                Change::PutObject(object)
            }
        };
        let writer = if round % 2 == 0 { &registry } else { &other };
        last = writer.commit(&[change]).await.unwrap();
    }
    reader.reach(last).await;
    assert_eq!(reader.resyncs, 0);
    assert!(!reader.objects.is_empty());
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

async fn what_was_removed_and_made_again_is_only_among_the_put_ones(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let both = [put(&router("r1")), put(&router("r2"))];
    registry.commit(&both).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    let changes = [
        remove_object("router/r1"),
        remove_object("router/r2"),
        put(&router("r1")),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.revision, revision);
    let made: Vec<_> = delta.objects.iter().map(|it| it.id.to_word()).collect();
    assert_eq!(made, ["router/r1"]);
    assert_eq!(delta.objects_removed, [id("router/r2")]);
}

async fn large_commits_of_objects_are_carried_out_whole(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let mut changes = vec![Change::PutObject(thing("pool/p", vec![]))];
    for number in 0..400_u16 {
        let text = format!("e{number}");
        let mut block = block(&text, number, 0).to_object().unwrap();
        block.references.push(Reference::cascade(id("pool/p")));
        changes.extend([create(&text, number + 2), Change::PutObject(block)]);
    }
    registry.commit(&changes).await.unwrap();
    assert_eq!(ids(&*registry).await.len(), 401);
    assert_eq!(fixture_is_sound(&*registry).await, "");
    // Half of them by their endpoints, the rest by their pool.
    let half = (0..200).map(|number| remove(&format!("e{number}")));
    registry.commit(&half.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(ids(&*registry).await.len(), 201);
    let last = registry.commit(&[remove_object("pool/p")]).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.objects.len(), snapshot.endpoints.len()), (0, 200));
    reader.reach(last).await;
    assert_eq!(reader.content(), content(snapshot));
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn unknown_kinds_and_fields_pass_through_a_backup(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut future = thing(
        "z-future/x/10.0.0.0/8",
        vec![Reference::restrict(id("a-first/1"))],
    );
    future.body = serde_json::from_value(json!({
        "nested": {"list": [1, "two", null, {"deep": -3.5}]}, "umlaut": "ä", "large": u64::MAX,
    }))
    .unwrap();
    let mut newer = port("r1", 42).to_object().unwrap();
    newer.body.insert("color".to_owned(), "red".into());
    let mut first = thing("a-first/1", vec![Reference::cascade(id("m-middle/1"))]);
    first.claims.push(Claim::Unique {
        space: key("a/b"),
        value: key("c"),
        quarantine_s: 9,
    });
    registry
        .commit(&[
            create("web", 2),
            put(&router("r1")),
            Change::PutObject(newer),
            Change::PutObject(thing("m-middle/1", vec![])),
            Change::PutObject(first),
            Change::PutObject(future),
            put(&block("web", 12, 120)),
        ])
        .await
        .unwrap();
    let (file, counts) = exported(&*registry).await;
    assert_eq!((counts.endpoints, counts.objects), (1, 6));
    let other_bed = match fixture {
        Fixture::Sqlite(_) => Fixture::etcd(),
        Fixture::Etcd(_) => Fixture::sqlite(),
    };
    let other = other_bed.open().await;
    let imported = registry::import(&*other, file.as_slice()).await.unwrap();
    assert_eq!((imported.made, imported.refused), (counts, 0));
    assert_eq!(comparable(&*other).await, comparable(&*registry).await);
    assert_eq!(fixture_is_sound(&*other).await, "");
    // Once more: nothing is left to do.
    let (file, _) = exported(&*other).await;
    let again = registry::import(&*other, file.as_slice()).await.unwrap();
    assert_eq!((again.unchanged, again.refused), (counts, 0));
    // A file that lacks an object is not whole; one of before there were any is.
    let text = String::from_utf8(file).unwrap();
    let without = |text: &str| {
        let kept = text.lines().filter(|line| !line.contains("a-first"));
        kept.collect::<Vec<_>>().join("\n")
    };
    let error = registry::import(&*other, without(&text).as_bytes()).await;
    assert!(
        matches!(error, Err(BackupError::CutOff { .. })),
        "{error:?}"
    );
    let old = r#"{"registry":{"format":1,"revision":3}}
{"end":{"networks":0,"nodes":0,"endpoints":0}}"#;
    registry::import(&*other, old.as_bytes()).await.unwrap();
}

async fn an_import_tells_which_objects_differ(fixture: Fixture) {
    let source = Fixture::sqlite();
    let from = source.furnished().await;
    from.commit(&[
        create("web", 2),
        create("db", 3),
        put(&router("same")),
        put(&router("other")),
        put(&block("web", 12, 0)),
        put(&block("db", 13, 0)),
    ])
    .await
    .unwrap();
    let (file, _) = exported(&*from).await;
    let registry = fixture.furnished().await;
    let other = Router {
        outside: Some("host".to_owned()),
        ..router("other")
    };
    let owner = Object {
        references: vec![],
        ..block("owner", 12, 0).to_object().unwrap()
    };
    registry
        .commit(&[put(&router("same")), put(&other), Change::PutObject(owner)])
        .await
        .unwrap();
    let imported = registry::import(&*registry, file.as_slice()).await.unwrap();
    assert_eq!(
        (imported.made.objects, imported.unchanged.objects),
        (1, 1),
        "{imported:?}"
    );
    let refusals: BTreeSet<&str> = imported.refusals.iter().map(String::as_str).collect();
    assert_eq!(
        refusals,
        BTreeSet::from([
            "router other differs from the one that is there",
            "claim block 203.0.113.7/12 is taken by block owner/0: choose another or remove that one first",
        ])
    );
}

/// Other hands have been at the store.
fn edit(fixture: &Fixture, sql: &str, etcdctl: &[&str]) {
    match fixture {
        Fixture::Sqlite(folder) => {
            let file = Connection::open(folder.path().join("registry.db")).unwrap();
            file.execute_batch(sql).unwrap();
        }
        Fixture::Etcd(etcd) => etcdctl.iter().for_each(|words| drop(etcd.does(words))),
    }
}

async fn an_object_that_cannot_be_read_is_named_and_stops_nothing(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let changes = [
        put(&router("r1")),
        put(&router("r2")),
        create("web", 2),
        put(&block("web", 12, 0)),
        put(&port("r1", 42)),
    ];
    registry.commit(&changes).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    // One is no JSON, one has a claim of a later version, one makes no sense to who knows its kind.
    edit(
        &fixture,
        r#"UPDATE object SET value = '{"body":' WHERE key = 'r1';
        UPDATE object SET value = replace(value, '"unique"', '"nearby"') WHERE kind = 'block';
        UPDATE object SET value = '{"body":{}}' WHERE key = 'r2';
        UPDATE object SET revision = revision + 1;
        UPDATE meta SET revision = revision + 1"#,
        &[
            r#"put /overlay/v1/state/object/router/r1 {"body":"#,
            r#"put /overlay/v1/state/object/block/web/0 {"body":{},"claims":[{"nearby":{}}]}"#,
            r#"put /overlay/v1/state/object/router/r2 {"body":{}}"#,
        ],
    );
    // The watch names them and goes on.
    let mut named = BTreeMap::new();
    while named.len() < 2 {
        for rejected in next_delta(&mut events).await.rejected {
            named.insert(rejected.row.to_string(), rejected.why);
        }
    }
    let rows: Vec<&str> = named.keys().map(String::as_str).collect();
    assert_eq!(rows, ["block web/0", "router r1"]);
    // So does a reading.
    let reading = registry.read(Scope::All).await.unwrap();
    let readable: BTreeSet<String> = reading.objects.iter().map(|it| it.id.to_word()).collect();
    assert_eq!(
        readable,
        BTreeSet::from(["router/r2".to_owned(), "router-port/42".to_owned()])
    );
    assert_eq!(reading.rejected.take().len(), 2);
    // And the check, which leaves alone what a later version may know.
    let found = registry::check_with(&*registry, true, KINDS).await.unwrap();
    for expected in [
        "block web/0 is left out: ",
        "router r1 is left out: ",
        "router r2 is left out: missing field `name`",
    ] {
        let mut findings = found.findings.iter();
        assert!(
            findings
                .any(|finding| finding.repair == Repair::ByHand
                    && finding.what.starts_with(expected)),
            "{expected}: {found:?}"
        );
    }
    assert!(
        found.findings.iter().all(|it| it.repair == Repair::ByHand),
        "{found:?}"
    );
    // A copy that leaves them out is not the whole.
    let error = registry::export(&*registry, &mut Vec::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is left out"), "{error}");
    // Everything else goes on, what they have claimed is still theirs, and they can be removed.
    let other = block("db", 12, 0);
    registry.commit(&[create("db", 3)]).await.unwrap();
    let text = line(&registry.commit(&[put(&other)]).await.unwrap_err());
    assert!(text.contains("is taken by block web/0"), "{text}");
    registry
        .commit(&[
            remove_object("block/web/0"),
            remove_object("router-port/42"),
            remove_object("router/r1"),
            remove_object("router/r2"),
        ])
        .await
        .unwrap();
    assert_eq!(ids(&*registry).await, BTreeSet::new());
    registry::check(&*registry, true).await.unwrap();
    assert_eq!(
        registry::check(&*registry, false).await.unwrap(),
        Findings::default()
    );
    registry
        .commit(&[put(&other), put(&router("r1"))])
        .await
        .unwrap();
}

async fn objects_that_contradict_each_other_are_found(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let changes = [
        create("web", 2),
        create("db", 3),
        put(&router("r1")),
        put(&port("r1", 42)),
        put(&port("r1", 43)),
        put(&block("web", 12, 0)),
        put(&block("db", 13, 0)),
    ];
    registry.commit(&changes).await.unwrap();
    let row = |object: &Object| {
        let Object {
            body,
            claims,
            references,
            ..
        } = object;
        json!({"body": body, "claims": claims, "references": references}).to_string()
    };
    // The second block says that it is the first one; a port lies inside the other's subnet, has an
    // endpoint's address, and refers to what is not there.
    let twin = block("db", 12, 0).to_object().unwrap();
    let port = RouterPort {
        gateway: [7, 7, 0, 2].into(),
        subnets: vec!["7.8.9.0/24".parse().unwrap()],
        ..port("r1", 42)
    };
    let mut port = port.to_object().unwrap();
    port.references.push(Reference::restrict(id("router/r9")));
    let (twin, port) = (row(&twin), row(&port));
    edit(
        &fixture,
        &format!(
            "UPDATE object SET value = '{twin}' WHERE key = 'db/0';
            UPDATE object SET value = '{port}' WHERE key = '42';
            DELETE FROM object_reference WHERE object = (SELECT id FROM object WHERE key = 'web/0')"
        ),
        &[
            &format!("put /overlay/v1/state/object/block/db/0 {twin}"),
            &format!("put /overlay/v1/state/object/router-port/42 {port}"),
            "del /overlay/v1/claim/reference/endpoint/web,cascade,block/web/0",
        ],
    );
    let found = registry::check(&*registry, true).await.unwrap();
    let text: Vec<&str> = found.findings.iter().map(|it| it.what.as_str()).collect();
    for expected in [
        "block db/0 and block web/0 have the same claim unique/block 203.0.113.7/12",
        "endpoint web and router-port 42 have the same IP 7.7.0.2 in VNI 42",
        "router-port 42 refers to router r9, which does not exist",
        "prefixes 7.8.0.0/16 of router-port 43 and 7.8.9.0/24 of router-port 42 overlap in router/r1",
    ] {
        assert!(text.contains(&expected), "{expected}: {text:#?}");
    }
    // What needed no decision is mended: the index by what is referred to.
    assert!(
        found.findings.iter().any(|it| it.repair == Repair::Done),
        "{found:?}"
    );
    registry.commit(&[remove("web")]).await.unwrap();
    assert!(!ids(&*registry).await.contains("block/web/0"));
}
