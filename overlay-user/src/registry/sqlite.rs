//! The registry in one SQLite file that several agents on one machine may share.
//!
//! - A commit is one transaction and one revision; what must be unique is a constraint.
//! - WAL mode: readers never wait for writers. A process killed at any point leaves a file that
//!   opens at its last commit; a power cut may cost the last commits, never the file.
//! - The file may be removed or replaced under us: every use compares what the path names now with
//!   what is open, and nobody but [`Sqlite::open`] makes a new file. An agent that took a missing
//!   file for an empty registry would take all endpoints away.
//! - SQLite's work is blocking: it runs on tokio's blocking threads, one connection each for
//!   writing, for snapshots and for every watch, so that none waits for another.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Registry, RegistryError, WatchEvent};
use crate::model::{Change, Name, Node, Revision, Snapshot};

mod bell;
mod commit;
mod failure;
mod follow;
mod read;
mod schema;
mod session;
#[cfg(test)]
mod tests;

use bell::Bell;
use session::{Limits, Session, SharedSession};

/// How long a locked file is waited for.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How many revisions back a watch can catch up with removals; an older one gets
/// [`WatchEvent::Resync`].
pub const HISTORY: u64 = 10_000;

/// The registry in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    limits: Limits,
    writer: SharedSession,
    reader: SharedSession,
    bell: Arc<Bell>,
}

impl Sqlite {
    /// Opens the file; makes it (0600) and its folder (0700) if they are missing, and brings an
    /// older schema up to date.
    ///
    /// Blocks, up to [`LOCK_WAIT`] if the file is locked.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        Self::open_with(
            path,
            Limits {
                lock_wait: LOCK_WAIT,
                history: HISTORY,
            },
        )
    }

    fn open_with(path: &Path, limits: Limits) -> Result<Self, RegistryError> {
        schema::create(path)?;
        let writer = Session::open(path, limits)?;
        let reader = Session::open(path, limits)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            writer: writer.share(),
            reader: reader.share(),
            bell: Arc::new(Bell::new(path)),
        })
    }
}

#[async_trait]
impl Registry for Sqlite {
    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        self.reader
            .run(|session| session.with(|connection, _| read::snapshot(connection)))
            .await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.reader
            .run(|session| session.with(|connection, _| read::nodes(connection, 0)))
            .await
    }

    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError> {
        self.bell.listen();
        let (path, limits) = (self.path.clone(), self.limits);
        let (session, position) = session::blocking(move || {
            let mut session = Session::open(&path, limits)?;
            let position = follow::Position::now(&mut session)?;
            Ok((session, position))
        })
        .await?;
        Ok(follow::start(
            session.share(),
            position,
            Arc::clone(&self.bell),
        ))
    }

    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError> {
        let changes = changes.to_vec();
        let bell = Arc::clone(&self.bell);
        self.writer
            .run(move |session| {
                let revision = session.with(|connection, limits| {
                    commit::commit(connection, &changes, limits.history)
                })?;
                // Here and not after the await: a caller that gives up has committed all the same.
                bell.ring();
                Ok(revision)
            })
            .await
    }

    async fn heartbeat(&self, node: &Name) -> Result<(), RegistryError> {
        let node = node.clone();
        self.writer
            .run(move |session| session.with(|connection, _| commit::heartbeat(connection, &node)))
            .await
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path.display())
    }
}
