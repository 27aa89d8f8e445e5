//! From a path to a connection with the current schema.
//!
//! Never open the database file with anything but SQLite, not even to look at it: closing any file
//! descriptor of a file gives up all POSIX locks that this process has on it.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};

use super::{super::RegistryError, failure::Failure, file::File};
use crate::{model::RegistryId, registry::identity};

/// "OVLY" in the file's header: what `file` shows, and what tells ours from another's database.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"OVLY");

/// Each lifts the schema by one version. Only ever add to the end.
const MIGRATIONS: [&str; 5] = [
    include_str!("migrations/0001-begin.sql"),
    include_str!("migrations/0002-cluster.sql"),
    include_str!("migrations/0003-identity.sql"),
    include_str!("migrations/0004-objects.sql"),
    include_str!("migrations/0005-attachment.sql"),
];

/// The schema's version that this binary writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// The first version whose files have an identity.
const WITH_IDENTITY: usize = 3;

/// How long the retry of a step that SQLite's own waiting does not cover rests, see [`connect`].
const RETRY: Duration = Duration::from_millis(20);

/// Makes what is missing of the folder (root's alone) and of the file.
pub(super) fn create(path: &Path) -> Result<(), RegistryError> {
    let unusable = |what: &Path, cause: &dyn std::fmt::Display| {
        RegistryError::Unavailable(format!(
            "registry file {} can't be made ({}: {cause}): name a file in a folder that this user may write",
            path.display(),
            what.display(),
        ))
    };
    if path.is_dir() {
        return Err(unusable(path, &"it is a folder"));
    }
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| unusable(folder, &error))?;
    }
    // -wal and -shm get the file's mode from SQLite. `create_new` leaves an existing file unopened.
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// Opens an existing file, and brings its schema up to date if it is the one that is followed. Waits up
/// to `lock_wait` for a lock, here and in every later statement.
pub(super) fn connect(
    file: &File,
    lock_wait: Duration,
    is_checked: bool,
) -> Result<Connection, Failure> {
    let deadline = Instant::now() + lock_wait;
    loop {
        // SQLite's busy handler stays out of the switch to WAL and of its recovery where waiting
        // could be a deadlock: both happen to the first ones to open a file at the same time.
        match try_connect(file, lock_wait, is_checked) {
            Err(failure) if failure.is_busy() && Instant::now() < deadline => thread::sleep(RETRY),
            result => return result,
        }
    }
}

fn try_connect(file: &File, lock_wait: Duration, is_checked: bool) -> Result<Connection, Failure> {
    let path = file.path();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(lock_wait)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Nothing is written into a file that may be damaged, another's or half a copy: a close would bring
    // a -wal into it that may be another file's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // In WAL mode NORMAL never corrupts, and a killed process loses nothing: its commits are in the
    // page cache. A power cut may take the last commits, and with them every reader that saw them,
    // since all of them are on this machine. FULL would cost each endpoint a disk flush.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;

    // One state for all that is asked: somebody else may be making the schema just now.
    let version = version(&*connection.transaction()?, path)?;
    if connection.is_readonly("main")? {
        return Err(RegistryError::Unavailable(format!(
            "registry file {} can't be written: give this user write access to it and its folder",
            path.display()
        ))
        .into());
    }
    if version == 0 && !file.may_make() {
        return Err(file.empty().into());
    }
    if !is_checked {
        file.check(&connection)?;
    }
    if version > 0 {
        check_identity(&connection, file, version)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    if version < VERSION {
        migrate(&mut connection, path)?;
    }
    if let Some(identity) = identity(&connection)? {
        file.followed.follow_first(identity);
    }
    Ok(connection)
}

/// Refuses a registry that is not the one that is followed.
fn check_identity(connection: &Connection, file: &File, version: usize) -> Result<(), Failure> {
    let found = if version < WITH_IDENTITY {
        None
    } else {
        identity(connection)?
    };
    let called = format!("registry file {}", file.path().display());
    Ok(file.followed.check(&called, found)?)
}

/// The registry's identity; `None`: whoever made the schema has not got that far.
pub(super) fn identity(connection: &Connection) -> Result<Option<RegistryId>, Failure> {
    let text: String = connection
        .prepare_cached("SELECT identity FROM meta")?
        .query_row((), |row| row.get(0))?;
    if text.is_empty() {
        return Ok(None);
    }
    let identity = text.parse();
    identity
        .map(Some)
        .map_err(|error| Failure::Row(format!("identity {text:?}: {error}")))
}

/// The file's schema version; refuses another program's database and a newer schema.
fn version(connection: &Connection, path: &Path) -> Result<usize, Failure> {
    let header = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (header("application_id")?, header("user_version")?);
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let refuse = |line: String| Failure::Said(RegistryError::Unavailable(line));

    let is_empty = (application, version, tables) == (0, 0, 0);
    if application != APPLICATION_ID && !is_empty {
        return Err(refuse(format!(
            "registry file {} is another program's SQLite database: name another file",
            path.display()
        )));
    }
    match usize::try_from(version) {
        Ok(version) if version <= VERSION => Ok(version),
        _ => Err(refuse(format!(
            "registry file {} has schema version {version}, this binary knows up to {VERSION}: upgrade this binary or name another file",
            path.display()
        ))),
    }
}

/// Several processes may come here at once: the version counts that is read under the lock.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = version(&transaction, path)?;
    for step in MIGRATIONS.iter().skip(from) {
        transaction.execute_batch(step)?;
    }
    transaction.execute(
        "UPDATE meta SET identity = ?1 WHERE identity = ''",
        [identity::random().to_string()],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
