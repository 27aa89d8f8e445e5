//! Files that can't be used: one line each that names the file and says what to do.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread};

use nix::unistd::{Uid, geteuid, setfsuid};
use rusqlite::Connection;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Does it as a user that file modes bind, also where the tests run as root.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if geteuid().is_root() {
                // Of this thread alone, which ends with the work.
                setfsuid(Uid::from_raw(65534));
            }
            work()
        });
        thread.join().unwrap()
    })
}

fn impatient(path: &Path) -> Result<Sqlite, RegistryError> {
    let lock_wait = Duration::from_millis(100);
    Sqlite::open_with(
        File::new(path, None, true),
        Limits {
            lock_wait,
            history: HISTORY,
            quarantine: QUARANTINE,
            session_ttl: SESSION_TTL,
        },
    )
}

#[tokio::test]
async fn a_missing_file_is_made_with_its_folder_for_the_owner_alone() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path().join("a/b");
    let path = folder.join("registry.db");
    let registry = Sqlite::open(&path, &settings()).unwrap();
    furnish(&registry).await;
    assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
    assert_eq!(mode(&folder.join("registry.db-wal")), 0o600);
}

#[test]
fn an_empty_file_from_a_crash_while_making_it_is_taken() {
    let fixture = Fixture::new();
    fs::write(fixture.path(), "").unwrap();
    fixture.open();
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    let garbage = "not a database\n".repeat(1000);
    fs::write(fixture.path(), &garbage).unwrap();
    let text = unavailable(Sqlite::open(&fixture.path(), &settings()));
    assert!(
        text.contains("is not a registry (no SQLite database): name another"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(fixture.path()).unwrap(), garbage);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    let other = Connection::open(fixture.path()).unwrap();
    other
        .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1")
        .unwrap();
    drop(other);
    let before = fs::read(fixture.path()).unwrap();
    let text = unavailable(Sqlite::open(&fixture.path(), &settings()));
    assert!(
        text.ends_with("is another program's SQLite database: name another file"),
        "{text}"
    );
    assert_eq!(fs::read(fixture.path()).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let newer = Connection::open(fixture.path()).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let text = unavailable(Sqlite::open(&fixture.path(), &settings()));
    let expected = format!(
        "has schema version 99, this binary knows up to {}: upgrade this binary or name another file",
        schema::VERSION
    );
    assert!(text.ends_with(&expected), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_file_is_reported_wherever_the_damage_is() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    let many: Vec<Change> = (0..2000).map(|n| create(&format!("e{n}"), n)).collect();
    registry.commit(&many).await.unwrap();
    drop(registry);
    let healthy = fs::read(fixture.path()).unwrap();
    for (what, damaged) in [
        ("cut in half", healthy[..healthy.len() / 2].to_vec()),
        ("pages overwritten", {
            let mut bytes = healthy.clone();
            bytes[4096..].fill(0xa5);
            bytes
        }),
        ("schema overwritten", {
            let mut bytes = healthy.clone();
            bytes[100..4096].fill(0xa5);
            bytes
        }),
    ] {
        fs::write(fixture.path(), damaged).unwrap();
        let result = match Sqlite::open(&fixture.path(), &settings()) {
            Ok(registry) => registry.snapshot().await.map(drop),
            Err(error) => Err(error),
        };
        let text = unavailable(result);
        assert!(text.contains("is corrupt"), "{what}: {text}");
    }
}

#[tokio::test]
async fn rows_that_no_agent_wrote_are_left_out_and_named() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    registry
        .commit(&[create("blue", 2), create("green", 3)])
        .await
        .unwrap();
    let foreign = Connection::open(fixture.path()).unwrap();
    foreign
        .execute_batch(
            "UPDATE endpoint SET mac = 'nonsense' WHERE name = 'blue';
             UPDATE node SET vtep_ip = 'nowhere' WHERE name = 'h2';
             UPDATE network SET flood = 'sideways' WHERE vni = 43",
        )
        .unwrap();
    let mut reading = registry.read(Scope::All).await.unwrap();
    let names = |endpoints: Vec<Endpoint>| endpoints.into_iter().map(|it| it.name.to_string());
    let mut endpoints = Vec::new();
    while let Some(page) = reading.endpoints.recv().await {
        endpoints.extend(names(page.unwrap()));
    }
    assert_eq!(endpoints, ["green"]);
    assert_eq!((reading.networks.len(), reading.nodes.len()), (1, 1));
    let rejected = reading.rejected.take();
    let rows: Vec<String> = rejected.iter().map(|it| it.row.to_string()).collect();
    assert_eq!(rows, ["network 43", "node h2", "endpoint blue"]);
    // Where one row is asked for, it is an error and not nobody.
    let text = unavailable(registry.find_endpoint(&"blue".parse().unwrap()).await);
    assert!(text.contains("nonsense"), "{text}");
}

#[test]
fn a_file_that_somebody_holds_locked_is_reported_on_opening() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let holder = Connection::open(fixture.path()).unwrap();
    holder
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .unwrap();
    holder
        .execute_batch("BEGIN IMMEDIATE; UPDATE meta SET revision = 1; COMMIT")
        .unwrap();
    let text = unavailable(impatient(&fixture.path()));
    assert!(
        text.contains("is locked by another program: `fuser "),
        "{text}"
    );
    drop(holder);
    impatient(&fixture.path()).unwrap();
}

#[tokio::test]
async fn a_file_that_somebody_is_writing_to_is_reported_on_commit() {
    let fixture = Fixture::new();
    let registry = impatient(&fixture.path()).unwrap();
    let holder = Connection::open(fixture.path()).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let put = [Change::PutNode(node("h1", "10.0.0.1"))];
    let text = unavailable(registry.commit(&put).await);
    assert!(text.contains("is locked by another program"), "{text}");
    registry
        .snapshot()
        .await
        .expect("readers don't wait for writers");
    holder.execute_batch("ROLLBACK").unwrap();
    registry.commit(&put).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_let_go_in_time_is_waited_for() {
    let fixture = Fixture::new();
    let registry = fixture.open();
    let holder = Connection::open(fixture.path()).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let put = [Change::PutNode(node("h1", "10.0.0.1"))];
    let commit = tokio::spawn(async move { registry.commit(&put).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    holder.execute_batch("ROLLBACK").unwrap();
    commit.await.unwrap().unwrap();
}

#[test]
fn a_folder_in_the_files_place_is_reported() {
    let fixture = Fixture::new();
    let text = unavailable(Sqlite::open(fixture.folder.path(), &settings()));
    assert!(text.contains("it is a folder"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_made_is_reported() {
    let fixture = Fixture::new();
    fs::write(fixture.path(), "").unwrap();
    let text = unavailable(Sqlite::open(
        &fixture.path().join("below/registry.db"),
        &settings(),
    ));
    assert!(text.contains("can't be made"), "{text}");
}

#[test]
fn a_file_that_may_be_read_and_not_written_is_reported() {
    let fixture = Fixture::new();
    drop(fixture.open());
    fs::set_permissions(fixture.folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o444)).unwrap();
    let text = unavailable(unprivileged(|| Sqlite::open(&fixture.path(), &settings())));
    assert!(
        text.contains("can't be written") && text.contains("give this user"),
        "{text}"
    );
    fs::set_permissions(fixture.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_may_not_be_read_is_reported() {
    let fixture = Fixture::new();
    drop(fixture.open());
    fs::set_permissions(fixture.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let text = unavailable(unprivileged(|| Sqlite::open(&fixture.path(), &settings())));
    assert!(
        text.contains("can't be opened") && text.contains("may read and write"),
        "{text}"
    );
}

#[test]
fn a_folder_that_may_not_be_entered_is_reported() {
    let fixture = Fixture::new();
    drop(fixture.open());
    fs::set_permissions(fixture.folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let text = unavailable(unprivileged(|| Sqlite::open(&fixture.path(), &settings())));
    assert!(text.contains("Permission denied"), "{text}");
    fs::set_permissions(fixture.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_file_that_is_gone_is_reported_and_not_made_again() {
    let fixture = Fixture::new();
    let registry = fixture.furnished().await;
    fs::remove_file(fixture.path()).unwrap();
    let text = foreign(registry.snapshot().await);
    assert!(text.contains("is gone: put it back"), "{text}");
    foreign(registry.commit(&[create("blue", 2)]).await);
    assert!(!fixture.path().exists());
}

#[tokio::test]
async fn a_registry_that_has_to_be_there_is_neither_made_nor_given_a_schema() {
    let fixture = Fixture::new();
    let text = foreign(Sqlite::open_existing(&fixture.path(), &settings()));
    assert!(text.contains("is gone"), "{text}");
    assert!(!fixture.path().exists());
    fs::write(fixture.path(), "").unwrap();
    let text = foreign(Sqlite::open_existing(&fixture.path(), &settings()));
    assert!(text.contains("is empty"), "{text}");
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), 0);
}

#[tokio::test]
async fn copies_of_a_registry_have_its_identity_and_others_have_not() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let identity = fixture.furnished().await.identity();
    assert!(identity.is_some());
    assert_eq!(fixture.open().identity(), identity);
    fs::copy(fixture.path(), other.path()).unwrap();
    assert_eq!(other.open().identity(), identity);
    assert_ne!(Fixture::new().open().identity(), identity);
}
