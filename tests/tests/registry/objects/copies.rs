//! Objects in watches and backups.

use super::*;

for_every_backend! {
    a_watch_tells_of_objects_in_order,
    what_was_removed_and_made_again_is_only_among_the_put_ones,
    unknown_kinds_and_fields_pass_through_a_backup,
    an_import_tells_which_objects_differ,
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
            (previous, _) => {
                let mut object = previous.unwrap_or_else(|| thing(&text, vec![]));
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
        remove_object("test-router/r1"),
        remove_object("test-router/r2"),
        put(&router("r1")),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.revision, revision);
    let made: Vec<_> = delta.objects.iter().map(|it| it.id.to_word()).collect();
    assert_eq!(made, ["test-router/r1"]);
    assert_eq!(delta.objects_removed, [id("test-router/r2")]);
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
    let other_fixture = fixture.other();
    let other = other_fixture.open().await;
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
            "test-router other differs from the one that is there",
            "claim test-block 203.0.113.7/12 is taken by test-block owner/0: choose another or remove that one first",
        ])
    );
}
