//! One connection, and whether the path still names the file that it has open.

use std::{sync::Arc, time::Duration};

use rusqlite::config::DbConfig;
use tokio::{sync::Mutex, task::spawn_blocking};

pub(super) use super::file::{File, FileId};
use super::{
    super::{RegistryError, RegistrySettings},
    HISTORY, LOCK_WAIT,
    store_error::StoreError,
};

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

impl From<&RegistrySettings> for Limits {
    fn from(settings: &RegistrySettings) -> Self {
        Self {
            lock_wait: LOCK_WAIT,
            history: HISTORY,
            quarantine: settings.quarantine,
            session_ttl: settings.session_ttl,
        }
    }
}

/// A connection that follows the path.
#[derive(Debug)]
pub(super) struct Connection {
    file: Arc<File>,
    limits: Limits,
    open: Option<(rusqlite::Connection, FileId)>,
}

impl Connection {
    /// Opens an existing file.
    pub(super) fn open(file: &Arc<File>, limits: Limits) -> Result<Self, RegistryError> {
        let mut connection = Self {
            file: Arc::clone(file),
            limits,
            open: None,
        };
        connection.with(|_, _| Ok(()))?;
        Ok(connection)
    }

    /// Does `work` on a connection to the file that the path names now.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut rusqlite::Connection, Limits) -> Result<T, StoreError>,
    ) -> Result<T, RegistryError> {
        let limits = self.limits;
        let result = self
            .connection()
            .and_then(|connection| work(connection, limits))
            .map_err(|failure| failure.explain(self.file.path()));
        // A broken connection is not used again: the next try opens the file anew.
        if matches!(
            result,
            Err(RegistryError::Unavailable(_) | RegistryError::Foreign(_))
        ) {
            self.close();
        }
        result
    }

    /// Does `work` that writes, on a file that is whole before it and in its place after it.
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut rusqlite::Connection, Limits) -> Result<T, StoreError>,
    ) -> Result<T, RegistryError> {
        self.file
            .before_write(self.limits.lock_wait)
            .map_err(|failure| failure.explain(self.file.path()))?;
        let done = self.with(work)?;
        let now = self.file.current();
        if now.is_ok_and(|now| Some(now.file) == self.id()) {
            return Ok(done);
        }
        self.close();
        Err(RegistryError::Unavailable(format!(
            "registry file {} was replaced while it was written to: the change is lost with the previous file, try again",
            self.file.path().display()
        )))
    }

    /// The file of the last successful use.
    pub(super) fn id(&self) -> Option<FileId> {
        self.open.as_ref().map(|(_, file)| *file)
    }

    /// What the path names.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// For use from async tasks.
    pub(super) fn share(self) -> SharedConnection {
        SharedConnection(Arc::new(Mutex::new(self)))
    }

    fn connection(&mut self) -> Result<&mut rusqlite::Connection, StoreError> {
        let now = self.file.current()?;
        if self.id() != Some(now.file) || !now.is_checked {
            self.close();
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => (self.file.connect(now, self.limits.lock_wait)?, now.file),
        };
        Ok(&mut self.open.insert(open).0)
    }

    /// Closes the connection without a checkpoint: the file may be another by now, or be restored just
    /// now. SQLite leaves the -wal and -shm of the path alone when it closes a file that was moved.
    fn close(&mut self) {
        if let Some((connection, _)) = self.open.take() {
            // Known since SQLite 3.16: it does not fail.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

/// A connection that async tasks share. They wait for it without a thread.
#[derive(Debug, Clone)]
pub(super) struct SharedConnection(Arc<Mutex<Connection>>);

impl SharedConnection {
    /// Does `work` on a blocking thread. It runs to its end even if the caller gives up.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let mut connection = Arc::clone(&self.0).lock_owned().await;
        blocking(move || work(&mut connection)).await
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
