//! The registry in one SQLite file that several agents on one machine may share.
//!
//! - A commit is one transaction and one revision; what must be unique is a constraint.
//! - WAL mode: readers never wait for writers. A process killed at any point leaves a file that
//!   opens at its last commit; a power cut may cost the last commits, never the file.
//! - The file may be removed, replaced, truncated or overwritten under us: every use compares what the
//!   path names now with what is open, what was not seen before is checked as a whole and for its
//!   identity, and nobody but [`Sqlite::open`] makes a new file or schema. An agent that took a missing
//!   or half-copied file for an empty registry would take all endpoints away.
//! - SQLite's work is blocking: it runs on tokio's blocking threads, one connection each for
//!   writing, for snapshots and for every watch, so that none waits for another.

use std::{
    collections::BTreeSet, net::IpAddr, ops::ControlFlow, path::Path, sync::Arc, time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Findings, Reading, Registry, RegistryError, RegistrySettings, Scope, WatchEvent};
use crate::model::{
    self, Change, Endpoint, Kind, Name, Node, Object, Question, QuestionId, RegistryId,
    RejectedRows, Report, Revision, Vni, Wanted, ipam::Block,
};

mod audit;
mod clock;
mod commit;
mod commit_notify;
mod connection;
mod file;
mod follow;
mod liveness;
mod read;
mod schema;
mod store_error;
#[cfg(test)]
mod tests;

use commit_notify::CommitNotifier;
pub(super) use connection::blocking;
use connection::{Connection, File, Limits, SharedConnection};

/// How long a locked file is waited for.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How many revisions back a watch can catch up with removals; an older one gets
/// [`WatchEvent::Resync`].
pub const HISTORY: u64 = 10_000;

/// Pages that are read ahead of a slow reader.
const PAGES_AHEAD: usize = 4;

/// The registry in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    file: Arc<File>,
    limits: Limits,
    writer: SharedConnection,
    reader: SharedConnection,
    commits: Arc<CommitNotifier>,
}

impl Sqlite {
    /// Opens the file; makes it (0600) and its folder (0700) if they are missing, and brings an
    /// older schema up to date.
    ///
    /// Blocks, up to [`LOCK_WAIT`] if the file is locked.
    pub fn open(path: &Path, settings: &RegistrySettings) -> Result<Self, RegistryError> {
        let file = File::new(path, settings.identity, true);
        Self::open_with(file, Limits::from(settings))
    }

    /// The same for a file that is there; one that is missing or empty is an error.
    pub fn open_existing(path: &Path, settings: &RegistrySettings) -> Result<Self, RegistryError> {
        let file = File::new(path, settings.identity, false);
        Self::open_with(file, Limits::from(settings))
    }

    fn open_with(file: File, limits: Limits) -> Result<Self, RegistryError> {
        if file.may_make() {
            schema::create(file.path())?;
        }
        let commits = Arc::new(CommitNotifier::new(file.path()));
        let file = Arc::new(file);
        let writer = Connection::open(&file, limits)?;
        let reader = Connection::open(&file, limits)?;
        Ok(Self {
            file,
            limits,
            writer: writer.share(),
            reader: reader.share(),
            commits,
        })
    }
}

#[async_trait]
impl Registry for Sqlite {
    async fn read(&self, scope: Scope) -> Result<Reading, RegistryError> {
        let (file, limits) = (Arc::clone(&self.file), self.limits);
        let (head, reading) = oneshot::channel();
        let (pages, endpoints) = mpsc::channel(PAGES_AHEAD);
        let rejected = RejectedRows::default();
        let noted = rejected.clone();
        // A connection of its own: a reader that takes its time keeps nobody waiting.
        tokio::task::spawn_blocking(move || {
            let mut head = Some(head);
            let read = Connection::open(&file, limits).and_then(|mut connection| {
                connection.with(|connection, limits| {
                    let begin = |read| match head.take().map(|head| head.send(Ok(read))) {
                        Some(Ok(())) => ControlFlow::Continue(()),
                        _ => ControlFlow::Break(()),
                    };
                    read::read(
                        connection,
                        &scope,
                        limits,
                        &noted,
                        begin,
                        |page| match pages.blocking_send(Ok(page)) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(_) => ControlFlow::Break(()),
                        },
                    )
                })
            });
            // A reader that is gone wants no error either.
            match (read, head) {
                (Err(error), Some(head)) => drop(head.send(Err(error))),
                (Err(error), None) => drop(pages.blocking_send(Err(error))),
                (Ok(()), _) => {}
            }
        });
        let head = reading
            .await
            .unwrap_or_else(|_| Err(connection::cut_off()))?;
        Ok(Reading {
            revision: head.revision,
            networks: head.networks,
            nodes: head.nodes,
            objects: head.objects,
            rejected,
            endpoints,
        })
    }

    async fn find(&self, vni: Vni, wanted: Wanted) -> Result<Option<Endpoint>, RegistryError> {
        self.reader
            .run(move |connection| {
                connection.with(|connection, _| read::find(connection, vni, wanted))
            })
            .await
    }

    async fn find_endpoint(&self, name: &Name) -> Result<Option<Endpoint>, RegistryError> {
        let name = name.clone();
        self.reader
            .run(move |connection| {
                connection.with(|connection, _| read::find_endpoint(connection, &name))
            })
            .await
    }

    async fn taken(&self, vni: Vni, block: Block) -> Result<BTreeSet<IpAddr>, RegistryError> {
        self.reader
            .run(move |connection| {
                connection.with(|connection, _| read::taken(connection, vni, block))
            })
            .await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.reader
            .run(|connection| {
                connection
                    .with(|connection, limits| read::nodes(connection, 0, limits, &mut Vec::new()))
            })
            .await
    }

    async fn objects(&self, kind: &Kind) -> Result<Vec<Object>, RegistryError> {
        let kind = kind.clone();
        self.reader
            .run(move |connection| {
                connection.with(|connection, _| read::objects_of(connection, &kind))
            })
            .await
    }

    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError> {
        self.commits.listen();
        let (file, limits) = (Arc::clone(&self.file), self.limits);
        let (connection, position) = blocking(move || {
            let mut connection = Connection::open(&file, limits)?;
            let position = follow::Position::now(&mut connection)?;
            Ok((connection, position))
        })
        .await?;
        Ok(follow::start(
            connection.share(),
            position,
            Arc::clone(&self.commits),
        ))
    }

    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError> {
        let changes = changes.to_vec();
        let commits = Arc::clone(&self.commits);
        self.writer
            .run(move |connection| {
                let revision = connection
                    .write(|connection, limits| commit::commit(connection, &changes, limits))?;
                // Here and not after the await: a caller that gives up has committed all the same.
                commits.notify();
                Ok(revision)
            })
            .await
    }

    async fn heartbeat(&self, node: &Name, session: &model::Session) -> Result<(), RegistryError> {
        let (node, who) = (node.clone(), session.clone());
        self.writer
            .run(move |connection| {
                connection.write(|connection, limits| {
                    liveness::heartbeat(connection, &node, &who, limits)
                })
            })
            .await
    }

    async fn ask(&self, question: &Question) -> Result<(), RegistryError> {
        let question = question.clone();
        let commits = Arc::clone(&self.commits);
        self.writer
            .run(move |connection| {
                connection.write(|connection, _| liveness::ask(connection, &question))?;
                commits.notify();
                Ok(())
            })
            .await
    }

    async fn publish(&self, report: &Report) -> Result<(), RegistryError> {
        let report = report.clone();
        self.writer
            .run(move |connection| {
                connection.write(|connection, _| liveness::publish(connection, &report))
            })
            .await
    }

    async fn reports(&self, question: Option<QuestionId>) -> Result<Vec<Report>, RegistryError> {
        self.reader
            .run(move |connection| {
                connection.with(|connection, _| liveness::reports(connection, question))
            })
            .await
    }

    async fn audit(&self, repair: bool) -> Result<Findings, RegistryError> {
        self.writer
            .run(move |connection| {
                connection.with(|connection, _| audit::audit(connection, repair))
            })
            .await
    }

    async fn adopt(&self, identity: Option<RegistryId>) -> Result<(), RegistryError> {
        let (file, limits) = (Arc::clone(&self.file), self.limits);
        blocking(move || {
            file.adopt(identity, || {
                if file.may_make() {
                    schema::create(file.path())?;
                }
                Connection::open(&file, limits).map(drop)
            })
        })
        .await?;
        self.commits.notify();
        Ok(())
    }

    fn identity(&self) -> Option<RegistryId> {
        self.file.followed.get()
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.file.path().display())
    }
}
