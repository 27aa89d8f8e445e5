//! Identifies the registry's file, and checks that it is whole.
//!
//! A file is checked as a whole when it is seen for the first time, when it has become shorter, and
//! before writes, as often as costs little time. A live connection would not notice: it reads from its
//! cache and from the -wal what was overwritten or cut off underneath.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{
    super::{RegistryError, identity::Followed},
    schema,
    store_error::StoreError,
};
use crate::model::RegistryId;

/// The share of time that checks before writes take: one part in this many.
const CHECK_SHARE: u32 = 100;
/// A file that takes longer (some 100,000 endpoints) is not checked before writes: they would wait for it.
const LONGEST_CHECK: Duration = Duration::from_millis(200);

/// How long the retry of a step that SQLite's own waiting does not cover rests, see [`connect`].
const RETRY: Duration = Duration::from_millis(20);

/// Which file it is, whatever its name. The number of an inode that nobody has open may be given to
/// another file, which is born later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    /// `None`: the file system does not tell.
    born: Option<SystemTime>,
}

/// The file that the path names now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) file: FileId,
    length: u64,
    /// It was found whole, and has not become shorter since.
    pub(super) is_checked: bool,
}

/// A file that was found whole.
#[derive(Debug, Clone, Copy)]
struct Checked {
    file: FileId,
    /// Bytes. SQLite in WAL mode never makes a file shorter, unless it is vacuumed, which no agent does.
    length: u64,
    at: Instant,
    took: Duration,
}

/// The registry's file, whichever the path names.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    pub(super) followed: Followed,
    /// Whether a file or a schema that is missing may be made: until one was found.
    may_make: AtomicBool,
    checked: Mutex<Option<Checked>>,
}

impl File {
    /// Nothing is looked at yet.
    pub(super) fn new(path: &Path, identity: Option<RegistryId>, may_make: bool) -> Self {
        Self {
            path: path.to_owned(),
            followed: Followed::new(identity),
            may_make: AtomicBool::new(may_make),
            checked: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn may_make(&self) -> bool {
        self.may_make.load(Ordering::Relaxed)
    }

    /// Follows the registry of this identity once `open` has found it. `None`: `open` may make what is
    /// missing of the file.
    pub(super) fn adopt<E>(
        &self,
        identity: Option<RegistryId>,
        open: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let adoption = self.followed.adopt(identity);
        let could_make = self.may_make.swap(identity.is_none(), Ordering::Relaxed);
        *self.checked() = None;
        let opened = open();
        if opened.is_ok() {
            adoption.keep();
        } else {
            self.may_make.store(could_make, Ordering::Relaxed);
        }
        opened
    }

    /// The file that the path names now.
    pub(super) fn current(&self) -> Result<Current, RegistryError> {
        let (file, length) = self.look()?;
        let checked = self
            .checked()
            .filter(|checked| checked.file == file && checked.length <= length);
        Ok(Current {
            file,
            length,
            is_checked: checked.is_some(),
        })
    }

    /// Opens it; refuses a file that is damaged, empty or not the one that is followed.
    pub(super) fn connect(
        &self,
        now: Current,
        lock_wait: Duration,
    ) -> Result<Connection, StoreError> {
        if now.length == 0 && !self.may_make() {
            return Err(self.empty().into());
        }
        let connection = connect(self, lock_wait, now.is_checked)?;
        self.may_make.store(false, Ordering::Relaxed);
        Ok(connection)
    }

    /// Looks whether what is about to be written can last.
    pub(super) fn before_write(&self, lock_wait: Duration) -> Result<(), StoreError> {
        let is_read_only =
            statvfs(&self.path).is_ok_and(|system| system.flags().contains(FsFlags::ST_RDONLY));
        if is_read_only {
            return Err(RegistryError::Unavailable(format!(
                "registry file {} can't be written: its file system is read-only; see the kernel's log for why",
                self.path.display()
            ))
            .into());
        }
        let is_due = self.checked().is_some_and(|checked| {
            checked.took <= LONGEST_CHECK && checked.at.elapsed() >= checked.took * CHECK_SHARE
        });
        if is_due {
            let connection =
                connect(self, lock_wait, false).inspect_err(|_| *self.checked() = None)?;
            // Its close is no reason for a checkpoint.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        Ok(())
    }

    /// Reads all of it, and remembers that it is whole.
    pub(super) fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let begun = Instant::now();
        let (file, length) = self.look()?;
        let said: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
        if said != "ok" {
            return Err(StoreError::Damaged(said.replace('\n', " ")));
        }
        *self.checked() = Some(Checked {
            file,
            length,
            at: Instant::now(),
            took: begun.elapsed(),
        });
        Ok(())
    }

    /// The refusal of a file that holds nothing.
    pub(super) fn empty(&self) -> RegistryError {
        RegistryError::Foreign(format!(
            "registry file {} is empty: nothing is removed and traffic goes on; if it is not being copied \
             just now, put a backup back, or see what `overlay registry adopt` would remove",
            self.path.display()
        ))
    }

    fn look(&self) -> Result<(FileId, u64), RegistryError> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok((
                FileId {
                    device: metadata.dev(),
                    inode: metadata.ino(),
                    born: metadata.created().ok(),
                },
                metadata.len(),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RegistryError::Foreign(format!(
                    "registry file {path} is gone: put it back; until then nothing is removed and traffic goes on"
                )))
            }
            Err(error) => Err(RegistryError::Unavailable(format!(
                "registry file {path} is out of reach ({error}): give this user access to it and its folder"
            ))),
        }
    }

    fn checked(&self) -> MutexGuard<'_, Option<Checked>> {
        // One value is replaced by another: a panic elsewhere leaves nothing half done.
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens an existing file, and brings its schema up to date if it is the one that is followed. Waits up
/// to `lock_wait` for a lock, here and in every later statement.
fn connect(file: &File, lock_wait: Duration, is_checked: bool) -> Result<Connection, StoreError> {
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

fn try_connect(
    file: &File,
    lock_wait: Duration,
    is_checked: bool,
) -> Result<Connection, StoreError> {
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
    let version = schema::version(&*connection.transaction()?, path)?;
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
    if version < schema::VERSION {
        schema::migrate(&mut connection, path)?;
    }
    if let Some(identity) = schema::identity(&connection)? {
        file.followed.follow_first(identity);
    }
    Ok(connection)
}

/// Refuses a registry that is not the one that is followed.
fn check_identity(connection: &Connection, file: &File, version: usize) -> Result<(), StoreError> {
    let found = if version < schema::WITH_IDENTITY {
        None
    } else {
        schema::identity(connection)?
    };
    let called = format!("registry file {}", file.path().display());
    Ok(file.followed.check(&called, found)?)
}
