//! What a watch delivers.

use overlay_user::{
    model::{Change, Network, Vni},
    registry::{RegistryError, WatchEvent},
};

use crate::{
    fixture::{
        Fixture, Reader, content, create, endpoint, name, network, next_delta, node, remove, until,
        vni,
    },
    for_every_backend,
};

for_every_backend! {
    a_watch_begins_at_the_present_and_hears_its_own_process,
    what_was_removed_and_made_again_is_only_among_the_put_ones,
    a_slow_receiver_misses_nothing,
    snapshot_and_watch_have_no_gap_under_concurrent_commits,
    networks_and_nodes_are_told_too,
}

async fn a_watch_begins_at_the_present_and_hears_its_own_process(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry.commit(&[create("old", 1)]).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    let other = fixture.open().await;
    let first = registry.commit(&[create("here", 2)]).await.unwrap();
    let second = other.commit(&[create("there", 3)]).await.unwrap();
    assert!(first < second);
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let delta = next_delta(&mut events).await;
        heard.extend(
            delta
                .endpoints
                .into_iter()
                .map(|e| (e.name.to_string(), e.generation)),
        );
    }
    heard.sort_unstable();
    assert_eq!(
        heard,
        [("here".to_owned(), first), ("there".to_owned(), second)]
    );
}

async fn what_was_removed_and_made_again_is_only_among_the_put_ones(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("a", 1), create("b", 2)])
        .await
        .unwrap();
    let mut events = registry.watch().await.unwrap();
    let mut to_43 = endpoint("a", 1);
    to_43.vni = vni(43);
    let changes = [
        remove("a"),
        remove("b"),
        Change::CreateEndpoint(to_43),
        create("c", 3),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    let delta = next_delta(&mut events).await;
    assert_eq!(delta.revision, revision);
    let mut made: Vec<_> = delta
        .endpoints
        .iter()
        .map(|e| (e.name.as_str(), e.vni))
        .collect();
    made.sort_unstable();
    assert_eq!(made, [("a", vni(43)), ("c", vni(42))]);
    assert_eq!(delta.endpoints_removed, [name("b")]);
}

async fn a_slow_receiver_misses_nothing(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let mut last = 0;
    for number in 0..300 {
        last = registry
            .commit(&[create(&format!("e{number}"), number)])
            .await
            .unwrap();
        if number % 3 == 0 {
            last = registry
                .commit(&[remove(&format!("e{number}"))])
                .await
                .unwrap();
        }
    }
    reader.reach(last).await;
    assert_eq!(reader.resyncs, 0);
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

async fn snapshot_and_watch_have_no_gap_under_concurrent_commits(fixture: Fixture) {
    let registry = fixture
        .open_with(|settings| settings.quarantine = std::time::Duration::ZERO)
        .await;
    crate::fixture::furnish(&*registry).await;
    let mut writers = Vec::new();
    for writer in 0..4_u16 {
        let registry = fixture
            .open_with(|settings| settings.quarantine = std::time::Duration::ZERO)
            .await;
        writers.push(tokio::spawn(async move {
            let mut last = 0;
            for round in 0..60_u16 {
                let pick = (round * 7 + writer * 13) % 11;
                let change = match round % 5 {
                    0 | 1 | 3 => create(&format!("e{}", pick % 6), pick),
                    2 => remove(&format!("e{}", pick % 6)),
                    _ => Change::MoveEndpoint {
                        name: name(&format!("e{}", pick % 6)),
                        node: name(if writer % 2 == 0 { "h1" } else { "h2" }),
                        attachment: None,
                    },
                };
                match registry.commit(&[change]).await {
                    Ok(revision) => last = revision,
                    Err(RegistryError::Conflict { .. } | RegistryError::Missing { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            last
        }));
    }
    // In the midst of it.
    let mut reader = Reader::start(&registry).await;
    let mut last = 0;
    for writer in writers {
        last = last.max(writer.await.unwrap());
    }
    reader.reach(last).await;
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
}

async fn networks_and_nodes_are_told_too(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut reader = Reader::start(&registry).await;
    let changes = [
        Change::RemoveNetwork(vni(43)),
        Change::CreateNetwork(Network::new(name("net43"), Vni::try_from(44).unwrap())),
        Change::CreateNetwork(network(45, &["fd00::/64"])),
        Change::PutNode(node("h3", "10.0.0.3")),
        Change::RemoveNode(name("h2")),
    ];
    let revision = registry.commit(&changes).await.unwrap();
    reader.reach(revision).await;
    assert_eq!(
        reader.content(),
        content(registry.snapshot().await.unwrap())
    );
    assert_eq!(reader.networks.len(), 3);
    // A receiver that is gone ends its watch: nothing of it stays in the way.
    drop(reader);
    until("commits go on", || async {
        registry
            .commit(&[create("x", 9), remove("x")])
            .await
            .is_ok()
    })
    .await;
    assert!(!matches!(
        crate::fixture::next(&mut registry_watch(&registry).await).await,
        WatchEvent::Resync
    ));
}

async fn registry_watch(
    registry: &std::sync::Arc<dyn overlay_user::registry::Registry>,
) -> tokio::sync::mpsc::Receiver<WatchEvent> {
    let events = registry.watch().await.unwrap();
    registry.commit(&[create("y", 10)]).await.unwrap();
    events
}
