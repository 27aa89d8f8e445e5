//! The schema and its migrations.
//!
//! Never open the database file with anything but SQLite, not even to look at it: closing any file
//! descriptor of a file gives up all POSIX locks that this process has on it.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use rusqlite::{Connection, TransactionBehavior};

use super::{super::RegistryError, store_error::StoreError};
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
pub(super) const WITH_IDENTITY: usize = 3;

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

/// The registry's identity; `None`: whoever made the schema has not got that far.
pub(super) fn identity(connection: &Connection) -> Result<Option<RegistryId>, StoreError> {
    let text: String = connection
        .prepare_cached("SELECT identity FROM meta")?
        .query_row((), |row| row.get(0))?;
    if text.is_empty() {
        return Ok(None);
    }
    let identity = text.parse();
    identity
        .map(Some)
        .map_err(|error| StoreError::Row(format!("identity {text:?}: {error}")))
}

/// The file's schema version; refuses another program's database and a newer schema.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<usize, StoreError> {
    let header = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (header("application_id")?, header("user_version")?);
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let refuse = |line: String| StoreError::Said(RegistryError::Unavailable(line));

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
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
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
