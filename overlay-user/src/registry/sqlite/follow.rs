//! A watch: one task with a connection of its own that asks "what since?" whenever the bell rings.
//!
//! The question reaches back to what the receiver was last given, so a slow receiver loses nothing:
//! the task waits until there is room, then one delta holds all that has come in between.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    super::{RegistryError, WatchEvent},
    commit_notify::CommitNotifier,
    connection::{Connection, FileId, SharedConnection},
    liveness,
    read::{self, Progress},
};
use crate::model::{Name, Question, Revision};

/// Events that wait for a slow receiver before deltas are merged.
const BACKLOG: usize = 16;

/// Where a receiver stands.
#[derive(Debug, Clone)]
pub(super) struct Position {
    file: Option<FileId>,
    revision: Revision,
    /// The last question's number.
    question: i64,
    alive: BTreeSet<Name>,
}

impl Position {
    /// The present.
    pub(super) fn now(connection: &mut Connection) -> Result<Self, RegistryError> {
        let mut position = connection.with(|connection, limits| {
            Ok(Self {
                file: None,
                revision: read::horizon(connection)?.revision,
                question: liveness::last_question(connection)?,
                alive: read::alive(connection, limits)?,
            })
        })?;
        position.file = connection.id();
        Ok(position)
    }
}

/// Delivers what comes after `position`, until the receiver is dropped.
pub(super) fn start(
    connection: SharedConnection,
    position: Position,
    commits: Arc<CommitNotifier>,
) -> mpsc::Receiver<WatchEvent> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    // Subscribed here: a ring after this function's return is never missed.
    let rings = commits.subscribe();
    let follower = Follower {
        connection,
        position,
        lost: None,
    };
    tokio::spawn(follower.run(commits, rings, sender));
    receiver
}

/// What one look has found.
struct Look {
    progress: Progress,
    questions: Vec<(i64, Question)>,
    alive: BTreeSet<Name>,
    file: Option<FileId>,
    path: PathBuf,
}

struct Follower {
    connection: SharedConnection,
    position: Position,
    /// Why the file is out of reach, as the receiver was told; `None`: it is in reach.
    lost: Option<String>,
}

impl Follower {
    async fn run(
        mut self,
        commits: Arc<CommitNotifier>,
        mut rings: watch::Receiver<()>,
        sender: mpsc::Sender<WatchEvent>,
    ) {
        loop {
            for event in self.step().await {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                // A ring and the end of the wait lead to the same question.
                _ = timeout(commits.poll_interval(), rings.changed()) => {}
            }
        }
    }

    /// Looks once.
    async fn step(&mut self) -> Vec<WatchEvent> {
        let (since, question) = (self.position.revision, self.position.question);
        let looked = self
            .connection
            .run(move |connection| {
                let (progress, questions, alive) = connection.with(|connection, limits| {
                    Ok((
                        read::progress(connection, since, limits)?,
                        liveness::questions(connection, question)?,
                        read::alive(connection, limits)?,
                    ))
                })?;
                Ok(Look {
                    progress,
                    questions,
                    alive,
                    file: connection.id(),
                    path: connection.file().path().to_owned(),
                })
            })
            .await;
        let mut events = Vec::new();
        match looked {
            Err(error) => events.extend(self.lose(&error)),
            Ok(look) => {
                let is_replaced = look.file != self.position.file;
                if is_replaced && self.lost.is_none() {
                    let why = format!(
                        "registry file {} was replaced by another",
                        look.path.display()
                    );
                    events.extend(self.lose(&RegistryError::Unavailable(why)));
                }
                if self.lost.take().is_some() {
                    events.push(WatchEvent::Restored);
                }
                self.position.file = look.file;
                events.extend(self.advance(look.progress, is_replaced));
                events.extend(self.hear(look.questions));
                events.extend(self.compare(look.alive));
            }
        }
        events
    }

    /// Tells that the file is out of reach; once for each reason.
    fn lose(&mut self, error: &RegistryError) -> Option<WatchEvent> {
        let why = error.to_string();
        if self.lost.as_ref() == Some(&why) {
            return None;
        }
        self.lost = Some(why.clone());
        Some(match error {
            RegistryError::Foreign(_) => WatchEvent::Foreign(why),
            _ => WatchEvent::Lost(why),
        })
    }

    fn advance(&mut self, progress: Progress, is_replaced: bool) -> Option<WatchEvent> {
        let revision = match &progress {
            Progress::None => self.position.revision,
            Progress::Delta(delta) => delta.revision,
            Progress::Resync(revision) => *revision,
        };
        self.position.revision = revision;
        match progress {
            // Revisions of two files don't compare.
            _ if is_replaced => Some(WatchEvent::Resync),
            Progress::None => None,
            Progress::Delta(delta) => Some(WatchEvent::Delta(*delta)),
            Progress::Resync(_) => Some(WatchEvent::Resync),
        }
    }
    fn hear(&mut self, questions: Vec<(i64, Question)>) -> Vec<WatchEvent> {
        if let Some((last, _)) = questions.last() {
            self.position.question = *last;
        }
        questions
            .into_iter()
            .map(|(_, question)| WatchEvent::Question(question))
            .collect()
    }

    fn compare(&mut self, alive: BTreeSet<Name>) -> Vec<WatchEvent> {
        let before = std::mem::replace(&mut self.position.alive, alive);
        let now = &self.position.alive;
        let silent = before.difference(now).cloned().map(WatchEvent::Silent);
        let alive = now.difference(&before).cloned().map(WatchEvent::Alive);
        silent.chain(alive).collect()
    }
}
