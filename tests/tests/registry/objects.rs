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

mod claims;
mod copies;
mod damage;
mod references;

for_every_backend! {
    an_object_is_kept_as_it_is_with_its_revision,
    what_breaks_a_rule_is_refused_as_a_whole,
    an_object_is_changed_only_as_it_was_looked_at,
    a_change_keeps_what_a_newer_version_has_added,
    large_commits_of_objects_are_carried_out_whole,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Router {
    name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outside: Option<String>,
}

impl Resource for Router {
    const KIND: Kind = Kind::new("test-router");

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
    const KIND: Kind = Kind::new("test-router-port");

    fn key(&self) -> Key {
        self.vni.into()
    }

    fn claims(&self) -> Vec<Claim> {
        let router = key("test-router").join(&(&self.router).into());
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
    const KIND: Kind = Kind::new("test-block");

    fn key(&self) -> Key {
        Key::from(&self.endpoint).join(&key(&self.index.to_string()))
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Unique {
            space: key("test-block"),
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
        registry.objects(&kind("test-router")).await.unwrap(),
        expected[..2]
    );
    assert_eq!(registry.objects(&kind("test-route")).await.unwrap(), []);
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

async fn an_object_is_changed_only_as_it_was_looked_at(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let first = registry.commit(&[put(&router("r1"))]).await.unwrap();
    let previous = found(&*registry, "test-router/r1").await.unwrap();
    let outside = |text: &str| Router {
        outside: Some(text.to_owned()),
        ..router("r1")
    };
    let update = |text: &str| Change::PutObject(outside(text).update(&previous).unwrap());
    let second = registry.commit(&[update("host")]).await.unwrap();
    assert!(second > first);
    reader.reach(second).await;
    let now = &reader.objects[&id("test-router/r1")];
    assert_eq!(now.revision, second);
    assert_eq!(Router::of(now), Ok(outside("host")));
    assert_eq!(
        refusal(&*registry, &[update("none")]).await,
        "test-router r1 was changed by somebody else meanwhile: look at it and try again"
    );
    // Of two who have looked at the same one, one is too late.
    let previous = now.clone();
    let other = fixture.open().await;
    let put = |text: &str| [Change::PutObject(outside(text).update(&previous).unwrap())];
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
    let previous = found(&*registry, "test-router/r1").await.unwrap();
    let changed = Router {
        outside: Some("host".to_owned()),
        ..router("r1")
    };
    let changed = changed.update(&previous).unwrap();
    registry
        .commit(&[Change::PutObject(changed)])
        .await
        .unwrap();
    let now = found(&*registry, "test-router/r1").await.unwrap();
    assert_eq!(
        serde_json::Value::Object(now.body.clone()),
        json!({"name": "r1", "outside": "host", "bfd": {"interval_ms": 300}})
    );
    assert_eq!((now.claims.len(), now.references.len()), (1, 1));
    // And the rules of what it does not know hold for it too.
    let text = refusal(&*registry, &[Change::RemoveNetwork(vni(43))]).await;
    assert!(
        text.contains("still referred to by test-router r1"),
        "{text}"
    );
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn large_commits_of_objects_are_carried_out_whole(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let mut changes = vec![Change::PutObject(thing("shelf/p", vec![]))];
    for number in 0..400_u16 {
        let text = format!("e{number}");
        let mut block = block(&text, number, 0).to_object().unwrap();
        block.references.push(Reference::cascade(id("shelf/p")));
        changes.extend([create(&text, number + 2), Change::PutObject(block)]);
    }
    registry.commit(&changes).await.unwrap();
    assert_eq!(ids(&*registry).await.len(), 401);
    assert_eq!(fixture_is_sound(&*registry).await, "");
    // Half of them by their endpoints, the rest by their pool.
    let half = (0..200).map(|number| remove(&format!("e{number}")));
    registry.commit(&half.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(ids(&*registry).await.len(), 201);
    let last = registry.commit(&[remove_object("shelf/p")]).await.unwrap();
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!((snapshot.objects.len(), snapshot.endpoints.len()), (0, 200));
    reader.reach(last).await;
    assert_eq!(reader.content(), content(snapshot));
    assert_eq!(fixture_is_sound(&*registry).await, "");
}
