//! Objects that can't be read, or contradict each other.

use super::*;

for_every_backend! {
    an_object_that_cannot_be_read_is_named_and_stops_nothing,
    objects_that_contradict_each_other_are_found,
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
        UPDATE object SET value = replace(value, '"unique"', '"nearby"') WHERE kind = 'test-block';
        UPDATE object SET value = '{"body":{}}' WHERE key = 'r2';
        UPDATE object SET revision = revision + 1;
        UPDATE meta SET revision = revision + 1"#,
        &[
            r#"put /overlay/v1/state/object/test-router/r1 {"body":"#,
            r#"put /overlay/v1/state/object/test-block/web/0 {"body":{},"claims":[{"nearby":{}}]}"#,
            r#"put /overlay/v1/state/object/test-router/r2 {"body":{}}"#,
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
    assert_eq!(rows, ["test-block web/0", "test-router r1"]);
    // So does a reading.
    let reading = registry.read(Scope::All).await.unwrap();
    let readable: BTreeSet<String> = reading.objects.iter().map(|it| it.id.to_word()).collect();
    assert_eq!(
        readable,
        BTreeSet::from([
            "test-router/r2".to_owned(),
            "test-router-port/42".to_owned()
        ])
    );
    assert_eq!(reading.rejected.take().len(), 2);
    // And the check, which leaves alone what a later version may know.
    let found = registry::check_with(&*registry, true, KINDS).await.unwrap();
    for expected in [
        "test-block web/0 is left out: ",
        "test-router r1 is left out: ",
        "test-router r2 is left out: missing field `name`",
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
    assert!(text.contains("is taken by test-block web/0"), "{text}");
    registry
        .commit(&[
            remove_object("test-block/web/0"),
            remove_object("test-router-port/42"),
            remove_object("test-router/r1"),
            remove_object("test-router/r2"),
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
    port.references
        .push(Reference::restrict(id("test-router/r9")));
    let (twin, port) = (row(&twin), row(&port));
    edit(
        &fixture,
        &format!(
            "UPDATE object SET value = '{twin}' WHERE key = 'db/0';
            UPDATE object SET value = '{port}' WHERE key = '42';
            DELETE FROM object_reference WHERE object = (SELECT id FROM object WHERE key = 'web/0')"
        ),
        &[
            &format!("put /overlay/v1/state/object/test-block/db/0 {twin}"),
            &format!("put /overlay/v1/state/object/test-router-port/42 {port}"),
            "del /overlay/v1/claim/reference/endpoint/web,cascade,test-block/web/0",
        ],
    );
    let found = registry::check(&*registry, true).await.unwrap();
    let text: Vec<&str> = found.findings.iter().map(|it| it.what.as_str()).collect();
    for expected in [
        "test-block db/0 and test-block web/0 have the same claim unique/test-block 203.0.113.7/12",
        "endpoint web and test-router-port 42 have the same IP 7.7.0.2 in VNI 42",
        "test-router-port 42 refers to test-router r9, which does not exist",
        "prefixes 7.8.0.0/16 of test-router-port 43 and 7.8.9.0/24 of test-router-port 42 overlap in test-router/r1",
    ] {
        assert!(text.contains(&expected), "{expected}: {text:#?}");
    }
    // What needed no decision is mended: the index by what is referred to.
    assert!(
        found.findings.iter().any(|it| it.repair == Repair::Done),
        "{found:?}"
    );
    registry.commit(&[remove("web")]).await.unwrap();
    assert!(!ids(&*registry).await.contains("test-block/web/0"));
}
