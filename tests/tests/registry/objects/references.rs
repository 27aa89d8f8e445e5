//! What objects refer to stays, or takes them along.

use super::*;

for_every_backend! {
    what_is_referred_to_has_to_exist,
    what_is_referred_to_stays,
    what_cascades_goes_along,
    a_node_takes_along_what_its_endpoints_have,
    a_block_comes_and_goes_with_its_endpoint,
    removals_and_references_never_pass_each_other,
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
            "test-route/r1/10.0.0.0/8",
            "object test-route r1/10.0.0.0/8 does not exist: make that one first",
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
            keeper(3, "test-router/r1"),
            keeper(4, "test-router/r1"),
        ])
        .await
        .unwrap();
    for (removal, expected) in [
        (
            Change::RemoveNetwork(vni(43)),
            "network net43 (VNI 43) is still referred to by test-router-port 43: remove that one first",
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
            remove_object("test-router/r1"),
            "test-router r1 is still referred to by keeper 3, keeper 4, ...: remove them first",
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
        remove_object("test-router-port/43"),
        remove_object("test-router/r1"),
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
    let previous = found(&*registry, "d/1").await.unwrap();
    let both = Object {
        references: vec![
            Reference::restrict(id("c/1")),
            Reference::cascade(id("a/1")),
        ],
        ..previous
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
        BTreeSet::from(["test-block/db/0".to_owned()])
    );
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn a_block_comes_and_goes_with_its_endpoint(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let revision = registry
        .commit(&[create("web", 2), put(&block("web", 12, 120))])
        .await
        .unwrap();
    let made = found(&*registry, "test-block/web/0").await.unwrap();
    let web = registry.find_endpoint(&name("web")).await.unwrap().unwrap();
    assert_eq!((made.revision, web.generation), (revision, revision));
    // All or nothing: a block that is taken leaves no endpoint behind.
    let taken = [create("db", 3), put(&block("db", 12, 120))];
    let text = refusal(&*registry, &taken).await;
    assert!(text.contains("is taken by test-block web/0"), "{text}");
    let moved = Change::MoveEndpoint {
        name: name("web"),
        node: name("h2"),
        attachment: None,
    };
    registry.commit(&[moved]).await.unwrap();
    assert_eq!(found(&*registry, "test-block/web/0").await, Some(made));
    registry.commit(&[remove("web")]).await.unwrap();
    assert_eq!(ids(&*registry).await, BTreeSet::new());
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
