use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    model::{Change, Endpoint, Session, Vtep},
    registry::{RegistrySettings, WatchEvent, open},
};

/// What a host has, given what it should have and how many questions it has answered before.
type Installed = fn(Vec<Wanted>, usize) -> Vec<Wanted>;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn vni() -> Vni {
    "42".parse().unwrap()
}

struct Cluster {
    registry: Arc<dyn Registry>,
    _folder: TempDir,
}

impl Cluster {
    async fn new(resolve: Resolve) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/registry.db", folder.path().display());
        let registry = open(&RegistrySettings::new(url)).await.unwrap();
        let mut network = Network::new(name("blue"), vni());
        network.resolve = resolve;
        let mut changes = vec![Change::CreateNetwork(network)];
        for number in 1..=2_u8 {
            let vtep = Vtep {
                ip: [10, 0, 0, number].into(),
                port: 4789,
            };
            let node = name(&format!("h{number}"));
            changes.push(Change::PutNode(Node::new(node.clone(), vtep, true)));
            changes.push(Change::CreateEndpoint(Endpoint {
                name: name(&format!("e{number}")),
                vni: vni(),
                mac: format!("02:42:07:07:07:0{number}").parse().unwrap(),
                addresses: vec![format!("7.7.7.{number}/24").parse().unwrap()],
                node,
                attachment: None,
                generation: 0,
            }));
        }
        registry.commit(&changes).await.unwrap();
        Self {
            registry,
            _folder: folder,
        }
    }

    async fn live(&self, host: &str) {
        let session = Session::new(host.to_owned());
        self.registry
            .heartbeat(&name(host), &session)
            .await
            .unwrap();
    }

    /// A host that lives and answers each question from what it has.
    async fn host(&self, host: &str, installed: Installed) {
        self.live(host).await;
        let events = self.registry.watch().await.unwrap();
        let (registry, host) = (Arc::clone(&self.registry), name(host));
        tokio::spawn(answer(registry, host, events, installed));
    }

    async fn verify(&self) -> VerifyView {
        let verifier = Verifier {
            registry: &*self.registry,
            patience: Duration::from_secs(3),
        };
        verifier.compare(Asked::default()).await.unwrap()
    }
}

async fn answer(
    registry: Arc<dyn Registry>,
    node: Name,
    mut events: mpsc::Receiver<WatchEvent>,
    installed: Installed,
) {
    let answered = AtomicUsize::new(0);
    while let Some(event) = events.recv().await {
        let WatchEvent::Question(question) = event else {
            continue;
        };
        let mut wanted = Vec::new();
        let mut reading = registry.read(Scope::All).await.unwrap();
        for_each_row(&mut reading, |row| wanted.push(row))
            .await
            .unwrap();
        let mut survey = Survey::new(&question.subject);
        for row in installed(wanted, answered.fetch_add(1, Ordering::Relaxed)) {
            survey.see(row.row);
        }
        let (digests, rows) = survey.answer();
        let report = Report {
            node: node.clone(),
            question: Some(question.id),
            revision: question.revision,
            digests,
            rows,
            answer: None,
        };
        registry.publish(&report).await.unwrap();
    }
}

fn all(rows: Vec<Wanted>, _: usize) -> Vec<Wanted> {
    rows
}

fn without_e1(rows: Vec<Wanted>, _: usize) -> Vec<Wanted> {
    let e1 = name("e1");
    rows.into_iter().filter(|row| row.endpoint != e1).collect()
}

fn late(rows: Vec<Wanted>, answered: usize) -> Vec<Wanted> {
    // The first look takes three questions.
    if answered < 3 {
        without_e1(rows, answered)
    } else {
        rows
    }
}

fn verdicts(view: &VerifyView) -> Vec<(&str, Verdict)> {
    let hosts = view.hosts.iter();
    hosts
        .map(|host| (host.node.as_str(), host.verdict))
        .collect()
}

#[tokio::test]
async fn hosts_that_have_what_the_registry_wants_agree() {
    let cluster = Cluster::new(Resolve::Proactive).await;
    cluster.host("h1", all).await;
    cluster.host("h2", all).await;
    let view = cluster.verify().await;
    assert!(view.agree, "{view:?}");
    assert_eq!(
        verdicts(&view),
        [("h1", Verdict::Agrees), ("h2", Verdict::Agrees)]
    );
    assert_eq!(view.hosts[0].rows, Some(4));
}

#[tokio::test]
async fn an_entry_that_one_host_lacks_is_named_and_so_is_the_host() {
    let cluster = Cluster::new(Resolve::Proactive).await;
    cluster.host("h1", all).await;
    cluster.host("h2", without_e1).await;
    let view = cluster.verify().await;
    assert!(!view.agree);
    assert_eq!(
        verdicts(&view),
        [("h1", Verdict::Agrees), ("h2", Verdict::Differs)]
    );
    let entries: Vec<_> = view
        .differences
        .iter()
        .map(|difference| (difference.node.as_str(), difference.entry.as_str()))
        .collect();
    assert_eq!(entries, [("h2", "02:42:07:07:07:01"), ("h2", "7.7.7.1")]);
    assert!(
        view.differences
            .iter()
            .all(|difference| difference.installed.is_none())
    );
}

#[tokio::test]
async fn a_host_that_was_only_behind_for_a_moment_agrees() {
    let cluster = Cluster::new(Resolve::Proactive).await;
    cluster.host("h1", all).await;
    cluster.host("h2", late).await;
    let view = cluster.verify().await;
    assert!(view.agree, "{view:?}");
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_told_from_those_that_are_down() {
    let cluster = Cluster::new(Resolve::Proactive).await;
    cluster.live("h1").await;
    let view = cluster.verify().await;
    assert!(!view.agree);
    assert_eq!(
        verdicts(&view),
        [("h1", Verdict::Silent), ("h2", Verdict::Down)]
    );
    assert!(view.differences.is_empty());
}

#[tokio::test]
async fn an_on_demand_cache_agrees_though_it_lacks_what_lives_elsewhere() {
    let cluster = Cluster::new(Resolve::OnDemand).await;
    cluster.host("h1", all).await;
    cluster.host("h2", without_e1).await;
    assert!(cluster.verify().await.agree);
}

#[tokio::test]
async fn an_on_demand_host_that_lacks_its_own_endpoint_differs() {
    let cluster = Cluster::new(Resolve::OnDemand).await;
    cluster.host("h1", without_e1).await;
    cluster.host("h2", all).await;
    let view = cluster.verify().await;
    assert_eq!(
        verdicts(&view),
        [("h1", Verdict::Differs), ("h2", Verdict::Agrees)]
    );
}

#[tokio::test]
async fn an_endpoint_that_nobody_has_is_missing_on_its_own_on_demand_host() {
    let cluster = Cluster::new(Resolve::OnDemand).await;
    cluster.host("h1", without_e1).await;
    cluster.host("h2", without_e1).await;
    let view = cluster.verify().await;
    assert_eq!(
        verdicts(&view),
        [("h1", Verdict::Differs), ("h2", Verdict::Agrees)]
    );
}

#[tokio::test]
async fn a_network_that_does_not_exist_is_refused() {
    let cluster = Cluster::new(Resolve::Proactive).await;
    let request = Asked {
        vni: Some("43".parse().unwrap()),
    };
    let refused = Verifier::new(&*cluster.registry).compare(request).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::NotFound);
}
