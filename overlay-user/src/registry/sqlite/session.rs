//! One connection, and whether the path still names the file that it has open.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;
use tokio::{sync::Mutex, task::spawn_blocking};

use super::{super::RegistryError, failure::Failure, schema};

/// What can be tuned; tests do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long a locked file is waited for.
    pub(super) lock_wait: Duration,
    /// How many revisions tombstones are kept.
    pub(super) history: u64,
    /// How long removed addresses are kept free.
    pub(super) quarantine: Duration,
    /// How long a session lives that says nothing.
    pub(super) session_ttl: Duration,
}

/// Which file it is, whatever its name: device and inode. While a connection has it open, no other
/// file can get the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

/// A connection that follows the path.
#[derive(Debug)]
pub(super) struct Session {
    path: PathBuf,
    limits: Limits,
    open: Option<(Connection, FileId)>,
}

impl Session {
    /// Opens an existing file.
    pub(super) fn open(path: &Path, limits: Limits) -> Result<Self, RegistryError> {
        let mut session = Self {
            path: path.to_owned(),
            limits,
            open: None,
        };
        session.with(|_, _| Ok(()))?;
        Ok(session)
    }

    /// Does `work` on a connection to the file that the path names now.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection, Limits) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let limits = self.limits;
        let result = self
            .connection()
            .and_then(|connection| work(connection, limits))
            .map_err(|failure| failure.explain(&self.path));
        // A broken connection is not used again: the next try opens the file anew.
        if matches!(result, Err(RegistryError::Unavailable(_))) {
            self.open = None;
        }
        result
    }

    /// The file of the last successful use.
    pub(super) fn file(&self) -> Option<FileId> {
        self.open.as_ref().map(|(_, file)| *file)
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For use from async tasks.
    pub(super) fn share(self) -> SharedSession {
        SharedSession(Arc::new(Mutex::new(self)))
    }

    fn connection(&mut self) -> Result<&mut Connection, Failure> {
        let file = self.identify()?;
        // SQLite leaves the -wal and -shm of the path alone when it closes a file that was moved.
        let still_open = self.open.take().filter(|(_, open)| *open == file);
        let open = match still_open {
            Some(open) => open,
            None => (schema::connect(&self.path, self.limits.lock_wait)?, file),
        };
        Ok(&mut self.open.insert(open).0)
    }

    fn identify(&self) -> Result<FileId, RegistryError> {
        let file = self.path.display();
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(FileId(metadata.dev(), metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RegistryError::Unavailable(format!(
                    "registry file {file} is gone: put it back, or restart the agents to begin with an empty one"
                )))
            }
            Err(error) => Err(RegistryError::Unavailable(format!(
                "registry file {file} is out of reach ({error}): give this user access to it and its folder"
            ))),
        }
    }
}

/// A session that async tasks share. They wait for it without a thread.
#[derive(Debug, Clone)]
pub(super) struct SharedSession(Arc<Mutex<Session>>);

impl SharedSession {
    /// Does `work` on a blocking thread. It runs to its end even if the caller gives up.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let mut session = Arc::clone(&self.0).lock_owned().await;
        blocking(move || work(&mut session)).await
    }
}

/// Does `work` on a blocking thread.
pub(in crate::registry) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(cut_off()))
}

/// The thread has panicked, or the runtime is going down.
pub(super) fn cut_off() -> RegistryError {
    RegistryError::Unavailable(
        "the registry's work was cut off: see the log, then restart the agent".to_owned(),
    )
}
