//! Several processes on one file, and processes that are killed. The children are this very test
//! executable, told to run one ignored test.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

/// Where a child finds the file.
const REGISTRY: &str = "OVERLAY_TEST_REGISTRY";

/// A number for a child.
const NUMBER: &str = "OVERLAY_TEST_NUMBER";

/// Endpoints per commit of the child that is killed.
const BATCH: u16 = 20;

/// A child that doesn't outlive the test, however that ends.
struct Process(Child);

impl Process {
    fn start(test: &str, path: &Path, number: u16) -> Self {
        let module = module_path!().split_once("::").unwrap().1;
        let child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("{module}::{test}"),
                "--ignored",
                "--nocapture",
            ])
            .env(REGISTRY, path)
            .env(NUMBER, number.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let output = self.0.stdout.take().unwrap();
        BufReader::new(output).lines().map_while(Result::ok)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn task() -> (Sqlite, u16) {
    let path = env::var(REGISTRY).expect("the parent test sets it");
    let number = env::var(NUMBER).expect("the parent test sets it");
    (
        Sqlite::open(Path::new(&path), &settings()).unwrap(),
        number.parse().unwrap(),
    )
}

fn batch(round: u16) -> Vec<Change> {
    (0..BATCH)
        .map(|n| create(&format!("e{round}-{n}"), round * BATCH + n))
        .collect()
}

#[tokio::test]
#[ignore = "a child process of killed_while_committing_loses_nothing_that_was_acknowledged"]
async fn child_that_commits_until_it_is_killed() {
    let (registry, first) = task();
    for round in first.. {
        registry.commit(&batch(round)).await.unwrap();
        println!("committed {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_committing_loses_nothing_that_was_acknowledged() {
    let fixture = Fixture::new();
    drop(fixture.furnished().await);
    let mut next_round = 0;
    for lifetime in [1, 2, 3, 5, 8, 13] {
        let mut child = Process::start(
            "child_that_commits_until_it_is_killed",
            &fixture.path(),
            next_round,
        );
        let mut committed = child
            .lines()
            .filter_map(|line| line.rsplit_once("committed ")?.1.parse::<u16>().ok());
        committed.nth(lifetime - 1).expect("the child ended early");
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let acknowledged = committed.last();

        let registry = fixture.open();
        let snapshot = registry.snapshot().await.unwrap();
        let count = u16::try_from(snapshot.endpoints.len()).unwrap();
        assert_eq!(count % BATCH, 0, "a commit is all or nothing");
        let rounds = count / BATCH;
        assert!(
            acknowledged.is_none_or(|last| rounds > last),
            "round {acknowledged:?} was acknowledged, {rounds} are there"
        );
        assert_eq!(snapshot.revision, 2 + u64::from(rounds));
        let check: String = rusqlite::Connection::open(fixture.path())
            .unwrap()
            .query_row("PRAGMA integrity_check", (), |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        next_round = rounds;
        registry
            .commit(&batch(next_round))
            .await
            .expect("and it can be written to");
        next_round += 1;
    }
}

/// Commits `create` for 0..50 under names of its own; gives how many it got.
async fn claim_fifty(registry: &Sqlite, claimant: u16) -> usize {
    let mut won = 0;
    for number in 0..50 {
        match registry
            .commit(&[create(&format!("e{number}-of-{claimant}"), number)])
            .await
        {
            Ok(_) => won += 1,
            Err(RegistryError::Conflict { what, .. }) => assert_eq!(what, "IP"),
            Err(other) => panic!("{other}"),
        }
    }
    won
}

async fn assert_fifty_were_claimed(fixture: &Fixture, won: usize) {
    let snapshot = fixture.open().snapshot().await.unwrap();
    assert_eq!((snapshot.endpoints.len(), won), (50, 50));
    let mut macs: Vec<Mac> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| endpoint.mac)
        .collect();
    macs.sort_unstable();
    macs.dedup();
    assert_eq!(macs.len(), 50);
    assert_eq!(snapshot.revision, 52);
}

#[tokio::test]
#[ignore = "a child process of eight_processes_never_share_an_address"]
async fn child_that_claims_addresses() {
    let (registry, claimant) = task();
    println!("won {}", claim_fifty(&registry, claimant).await);
}

#[tokio::test]
async fn eight_processes_never_share_an_address() {
    let fixture = Fixture::new();
    drop(fixture.furnished().await);
    let mut children: Vec<Process> = (0..8)
        .map(|claimant| Process::start("child_that_claims_addresses", &fixture.path(), claimant))
        .collect();
    let mut won = 0;
    for child in &mut children {
        let line = child
            .lines()
            .filter_map(|line| line.rsplit_once("won ")?.1.parse::<usize>().ok());
        won += line.last().expect("the child failed");
        assert!(child.0.wait().unwrap().success());
    }
    assert_fifty_were_claimed(&fixture, won).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_tasks_with_a_connection_each_never_share_an_address() {
    let fixture = Fixture::new();
    drop(fixture.furnished().await);
    let tasks: Vec<_> = (0..8)
        .map(|claimant| {
            let registry = fixture.open();
            tokio::spawn(async move { claim_fifty(&registry, claimant).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += task.await.unwrap();
    }
    assert_fifty_were_claimed(&fixture, won).await;
}

#[tokio::test]
#[ignore = "a child process of eight_processes_make_one_registry"]
async fn child_that_registers_a_node() {
    let (registry, number) = task();
    let node = node(&format!("h{number}"), &format!("10.0.0.{number}"));
    registry.commit(&[Change::PutNode(node)]).await.unwrap();
}

#[tokio::test]
async fn eight_processes_make_one_registry() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("new/registry.db");
    let mut children: Vec<Process> = (1..=8)
        .map(|number| Process::start("child_that_registers_a_node", &path, number))
        .collect();
    for child in &mut children {
        child.lines().for_each(drop);
        assert!(child.0.wait().unwrap().success());
    }
    let snapshot = Sqlite::open(&path, &settings())
        .unwrap()
        .snapshot()
        .await
        .unwrap();
    assert_eq!((snapshot.nodes.len(), snapshot.revision), (8, 9));
}
