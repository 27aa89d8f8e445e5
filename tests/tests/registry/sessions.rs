//! Sessions of nodes, and questions to them.

use std::time::{Duration, Instant};

use overlay_user::{
    model::{Change, Question, QuestionId, Report, Subject},
    registry::{RegistryError, WatchEvent},
};

use crate::{
    fixture::{
        EVENT_TIMEOUT, Fixture, furnish, line, name, next_delta, next_other, node, session, until,
    },
    for_every_backend,
};

for_every_backend! {
    a_session_that_lives_keeps_its_node,
    a_session_that_says_nothing_ends_and_another_may_follow,
    agents_are_asked_and_their_answers_collected,
}

async fn a_session_that_lives_keeps_its_node(fixture: Fixture) {
    let (first, second) = (fixture.open().await, fixture.open().await);
    let h1 = name("h1");
    // The claim comes before the node itself.
    first.heartbeat(&h1, &session("one")).await.unwrap();
    let error = second.heartbeat(&h1, &session("two")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Conflict { .. }));
    assert_eq!(
        line(&error),
        "node name h1 is taken by another host, whose agent is alive: choose another or remove that one first"
    );
    furnish(&*first).await;
    let error = second.heartbeat(&h1, &session("two")).await.unwrap_err();
    assert!(line(&error).contains("(VTEP 10.0.0.1)"), "{error}");
    first.heartbeat(&h1, &session("one")).await.unwrap();
    // The next agent of the same instance takes over at once.
    second.heartbeat(&h1, &session("one")).await.unwrap();
    second
        .heartbeat(&name("h2"), &session("two"))
        .await
        .unwrap();
    for node in first.nodes().await.unwrap() {
        assert!(node.alive, "{node:?}");
        let age = node.last_seen.unwrap().elapsed().unwrap_or_default();
        assert!(age < EVENT_TIMEOUT);
    }
    let snapshot = first.snapshot().await.unwrap();
    assert!(snapshot.nodes.iter().all(|node| node.alive));
    // Registering the node again changes nothing of that.
    let mut events = first.watch().await.unwrap();
    first
        .commit(&[Change::PutNode(node("h1", "10.0.0.9"))])
        .await
        .unwrap();
    let delta = next_delta(&mut events).await;
    assert!(delta.nodes.iter().all(|node| node.alive), "{delta:?}");
    let nodes = first.nodes().await.unwrap();
    assert!(
        nodes
            .iter()
            .all(|node| node.alive && node.last_seen.is_some())
    );
}

async fn a_session_that_says_nothing_ends_and_another_may_follow(fixture: Fixture) {
    const TTL: Duration = Duration::from_secs(4);
    let registry = fixture.open_with(|s| s.session_ttl = TTL).await;
    furnish(&*registry).await;
    let mut events = registry.watch().await.unwrap();
    let h1 = name("h1");
    registry.heartbeat(&h1, &session("one")).await.unwrap();
    assert_eq!(next_other(&mut events).await, WatchEvent::Alive(h1.clone()));
    // It lives while it says so, longer than one time.
    let (begin, mut last) = (Instant::now(), Instant::now());
    while begin.elapsed() < TTL * 2 {
        last = Instant::now();
        registry.heartbeat(&h1, &session("one")).await.unwrap();
        tokio::time::sleep(TTL / 8).await;
    }
    assert!(events.try_recv().is_err(), "nothing has changed");
    assert_eq!(
        next_other(&mut events).await,
        WatchEvent::Silent(h1.clone())
    );
    assert!(last.elapsed() >= TTL / 2, "{:?}", last.elapsed());
    let nodes = registry.nodes().await.unwrap();
    let known = nodes.iter().find(|node| node.name == h1).unwrap();
    assert!(!known.alive && known.last_seen.is_some());

    let other = fixture.open_with(|s| s.session_ttl = TTL).await;
    other.heartbeat(&h1, &session("two")).await.unwrap();
    assert_eq!(next_other(&mut events).await, WatchEvent::Alive(h1.clone()));
    let error = registry.heartbeat(&h1, &session("one")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Conflict { .. }), "{error}");
}

async fn agents_are_asked_and_their_answers_collected(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let agent = fixture.open().await;
    let mut events = agent.watch().await.unwrap();
    let question = |subject| Question {
        id: QuestionId::random(),
        subject,
        revision: 7,
        inquiry: None,
    };
    let (first, second) = (
        question(Subject::Networks),
        question(Subject::Rows("42".parse().unwrap(), vec![1, 2])),
    );
    registry.ask(&first).await.unwrap();
    registry.ask(&second).await.unwrap();
    assert_eq!(
        next_other(&mut events).await,
        WatchEvent::Question(first.clone())
    );
    assert_eq!(
        next_other(&mut events).await,
        WatchEvent::Question(second.clone())
    );
    let report = |node: &str, question: Option<&Question>, revision| Report {
        node: name(node),
        question: question.map(|question| question.id),
        revision,
        digests: Vec::new(),
        rows: Vec::new(),
        answer: None,
    };
    for report in [
        report("h1", Some(&first), 7),
        report("h2", Some(&first), 8),
        report("h1", Some(&second), 9),
        report("h1", None, 10),
        // In place of the one before.
        report("h1", Some(&first), 11),
    ] {
        agent.publish(&report).await.unwrap();
    }
    let answers = registry.reports(Some(first.id)).await.unwrap();
    assert_eq!(
        answers,
        [
            report("h1", Some(&first), 11),
            report("h2", Some(&first), 8)
        ]
    );
    assert_eq!(
        registry.reports(None).await.unwrap(),
        [report("h1", None, 10)]
    );
    // Whoever watches from now on is asked nothing old; a node that goes takes its report along.
    let mut late = fixture.open().await.watch().await.unwrap();
    registry
        .commit(&[Change::RemoveNode(name("h1"))])
        .await
        .unwrap();
    assert!(registry.reports(None).await.unwrap().is_empty());
    until("the late one hears of the removal", || {
        let heard = matches!(late.try_recv(), Ok(WatchEvent::Delta(_)));
        async move { heard }
    })
    .await;
    assert!(!matches!(late.try_recv(), Ok(WatchEvent::Question(_))));
}
