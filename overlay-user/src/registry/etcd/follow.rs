//! A watch: one task that keeps a stream from some member going, from where the last one ended.
//!
//! - A position is a revision up to which all was handed over. Another member goes on from there;
//!   only if history was compacted beyond it, or the store is another or an older one by now, is
//!   that a [`WatchEvent::Resync`].
//! - Before a stream begins, the member is asked for the store's revision in a way that needs a
//!   leader. Streams too demand one: a member that is cut off from the others ends them.
//! - A slow receiver slows the stream down, and etcd keeps what it has not taken yet.

use std::{collections::BTreeSet, sync::Arc};

use etcd_client::{Event, EventType, ResponseHeader, WatchOptions, WatchStream};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    super::{RegistryError, WatchEvent},
    delta::DeltaBuilder,
    identity, keys,
    members::{Channel, Members, REQUEST, delays},
    read::{self, from_revision, to_revision},
    store_error::{CallError, StoreError},
};
use crate::model::{Delta, Name, Revision};

/// Events that wait for a slow receiver.
const BACKLOG: usize = 16;

/// Begins at the present.
pub(super) async fn start(
    members: &Arc<Members>,
) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
    // Subscribed first: what is passed on after this is noticed.
    let turns = members.turns();
    let (present, alive) = read::present(members).await?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let follower = Follower {
        members: Arc::clone(members),
        turns,
        cluster: present.cluster,
        position: present.revision,
        alive,
        lost: None,
        sender,
    };
    tokio::spawn(follower.run());
    Ok(receiver)
}

struct Follower {
    members: Arc<Members>,
    turns: watch::Receiver<usize>,
    cluster: u64,
    position: Revision,
    /// Whose sessions live, as far as was handed over.
    alive: BTreeSet<Name>,
    /// Why the store is out of reach, as the receiver was told; `None`: it is in reach.
    lost: Option<String>,
    sender: mpsc::Sender<WatchEvent>,
}

/// Why a stream has ended, or did not begin.
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// The member failed, for this reason.
    Broken(String),
    /// The store can't tell what has happened since the position.
    Gap,
    /// The store is not the one that is followed, for this reason.
    Foreign(String),
}

impl Follower {
    async fn run(mut self) {
        let mut said = Vec::new();
        let mut waits = delays();
        loop {
            let end = match self.attach().await {
                Ok((member, stream)) => {
                    said.clear();
                    waits = delays();
                    self.follow(member, stream).await
                }
                Err(end) => end,
            };
            let end = match end {
                End::Gap => match self.resync().await {
                    Ok(()) => continue,
                    Err(end) => end,
                },
                end => end,
            };
            let told = match end {
                End::Unwanted => return,
                End::Foreign(why) => self.refuse(why).await,
                End::Broken(why) => {
                    tracing::debug!(%why, "the registry's watch has to begin again");
                    said.push(why);
                    if said.len() < self.members.count() + 1 {
                        // Another member may well go on at once.
                        continue;
                    }
                    self.lose(&std::mem::take(&mut said)).await
                }
                End::Gap => Ok(()),
            };
            if told.is_err() {
                return;
            }
            tokio::select! {
                () = self.sender.closed() => return,
                () = sleep(waits.next().unwrap_or_default()) => {}
            }
        }
    }

    /// Begins a stream at the position; gives the member too.
    async fn attach(&mut self) -> Result<(usize, WatchStream), End> {
        let member = self.look().await?;
        self.turns.mark_unchanged();
        let start = from_revision(self.position) + 1;
        let (index, opened) = self
            .members
            .once(REQUEST, |mut channel: Channel| async move {
                let options = WatchOptions::new()
                    .with_range(keys::end_of(keys::STATE))
                    .with_start_revision(start)
                    .with_progress_notify()
                    .with_fragment();
                let mut stream = channel.watch.watch(keys::STATE, Some(options)).await?;
                let first = stream.message().await?;
                Ok((stream, first))
            })
            .await;
        if index != member {
            return Err(End::Broken("another member's turn".to_owned()));
        }
        let (stream, first) = opened.map_err(|trouble| self.end_of(trouble))?;
        match first {
            Some(first) if first.canceled() => Err(self.canceled(&first)),
            Some(_) => {
                self.restore().await?;
                Ok((index, stream))
            }
            None => Err(End::Broken("the stream has ended".to_owned())),
        }
    }

    /// Asks for the store's identity and revision. A revision below the position is an older state,
    /// another cluster's can't be compared.
    async fn look(&self) -> Result<usize, End> {
        let (index, looked) = self
            .members
            .once(REQUEST, |mut channel: Channel| async move {
                channel.kv.get(keys::IDENTITY, None).await
            })
            .await;
        let looked = looked.map_err(|trouble| self.end_of(trouble))?;
        identity::check(&self.members, looked.kvs().first())
            .map_err(|failure| self.end_of(CallError::Final(failure)))?;
        let header = looked
            .header()
            .ok_or_else(|| End::Broken("an answer without a header".to_owned()))?;
        if header.cluster_id() != self.cluster || to_revision(header.revision()) < self.position {
            return Err(End::Gap);
        }
        Ok(index)
    }

    /// Hands over what comes until the stream ends.
    async fn follow(&mut self, member: usize, mut stream: WatchStream) -> End {
        let mut builder = DeltaBuilder::default();
        loop {
            let message = tokio::select! {
                () = self.sender.closed() => return End::Unwanted,
                // Somebody found the member at fault; this stream may be silent for the same reason.
                Ok(turn) = turn_of(&mut self.turns), if self.members.count() > 1 => {
                    if turn == member {
                        continue;
                    }
                    return End::Broken("the member is at fault".to_owned());
                }
                message = stream.message() => message,
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.members.pass_on(member);
                    return End::Broken("the stream has ended".to_owned());
                }
                Err(error) => {
                    self.members.pass_on(member);
                    return self.end_of(super::store_error::classify(&error));
                }
            };
            if response.canceled() {
                self.members.pass_on(member);
                return self.canceled(&response);
            }
            for event in response.events() {
                if self.changes_identity(event) {
                    return End::Gap;
                }
                if let Err(failure) = builder.add(event) {
                    // Whoever reads the whole finds it too, and says so.
                    let error = failure.explain(self.members.url());
                    tracing::error!(%error, "an event that makes no sense");
                    return End::Gap;
                }
            }
            // The rest of the same revisions follows.
            if response.0.fragment {
                continue;
            }
            let (revision, events) = if response.events().is_empty() {
                // Progress: nothing has happened up to here.
                let revision = response.header().map_or(0, ResponseHeader::revision);
                let delta = Delta {
                    revision: to_revision(revision),
                    ..Delta::default()
                };
                (delta.revision, vec![WatchEvent::Delta(delta)])
            } else {
                std::mem::take(&mut builder).finish()
            };
            if revision <= self.position {
                continue;
            }
            for mut event in events {
                self.remember(&mut event);
                if self.sender.send(event).await.is_err() {
                    return End::Unwanted;
                }
            }
            self.position = revision;
        }
    }

    /// Whether the store is no longer the one that is followed, or was another one meanwhile.
    fn changes_identity(&self, event: &Event) -> bool {
        let row = event
            .kv()
            .filter(|kv| kv.key() == keys::IDENTITY.as_bytes());
        row.is_some_and(|kv| {
            let is_put = event.event_type() == EventType::Put;
            identity::check(&self.members, is_put.then_some(kv)).is_err()
        })
    }

    /// Keeps in mind whose sessions live; a node's own row does not say.
    fn remember(&mut self, event: &mut WatchEvent) {
        match event {
            WatchEvent::Alive(node) => drop(self.alive.insert(node.clone())),
            WatchEvent::Silent(node) => drop(self.alive.remove(node)),
            WatchEvent::Delta(delta) => {
                for node in &mut delta.nodes {
                    node.alive = node.agent && self.alive.contains(&node.name);
                }
            }
            _ => {}
        }
    }

    /// Begins anew at the present.
    async fn resync(&mut self) -> Result<(), End> {
        let (present, alive) = match read::present(&self.members).await {
            Ok(present) => present,
            Err(failure) => {
                let end = self.end_of(CallError::Final(failure));
                if let End::Broken(why) = &end {
                    self.lose(std::slice::from_ref(why)).await?;
                }
                return Err(end);
            }
        };
        self.cluster = present.cluster;
        self.position = present.revision;
        self.restore().await?;
        self.tell(WatchEvent::Resync).await?;
        for node in self.alive.difference(&alive).cloned().collect::<Vec<_>>() {
            self.tell(WatchEvent::Silent(node)).await?;
        }
        for node in alive.difference(&self.alive).cloned().collect::<Vec<_>>() {
            self.tell(WatchEvent::Alive(node)).await?;
        }
        self.alive = alive;
        Ok(())
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), End> {
        self.sender.send(event).await.map_err(|_| End::Unwanted)
    }

    async fn lose(&mut self, said: &[String]) -> Result<(), End> {
        if self.lost.is_some() {
            return Ok(());
        }
        let mut why = said.to_vec();
        why.sort_unstable();
        why.dedup();
        let url = self.members.url();
        let why = format!("registry {url} is out of reach ({})", why.join("; "));
        self.lost = Some(why.clone());
        self.tell(WatchEvent::Lost(why)).await
    }

    /// Tells that the store is another one; once for each reason.
    async fn refuse(&mut self, why: String) -> Result<(), End> {
        if self.lost.as_ref() == Some(&why) {
            return Ok(());
        }
        self.lost = Some(why.clone());
        self.tell(WatchEvent::Foreign(why)).await
    }

    async fn restore(&mut self) -> Result<(), End> {
        if self.lost.take().is_some() {
            self.tell(WatchEvent::Restored).await?;
        }
        Ok(())
    }

    fn end_of(&self, trouble: CallError) -> End {
        match trouble {
            CallError::Passing(why) => End::Broken(why),
            CallError::Login => End::Broken("it refuses the login".to_owned()),
            CallError::Final(StoreError::Compacted) => End::Gap,
            CallError::Final(failure) => match failure.explain(self.members.url()) {
                RegistryError::Foreign(why) => End::Foreign(why),
                error => End::Broken(error.to_string()),
            },
        }
    }

    fn canceled(&self, response: &etcd_client::WatchResponse) -> End {
        if response.compact_revision() > 0 {
            return End::Gap;
        }
        let why = response.cancel_reason();
        if why.contains("permission denied") {
            return self.end_of(CallError::Final(StoreError::Denied));
        }
        End::Broken(if why.is_empty() {
            "it has ended the stream".to_owned()
        } else {
            why.trim_start_matches("etcdserver: ").to_owned()
        })
    }
}

/// Waits until the turn has changed; whose it is.
async fn turn_of(turns: &mut watch::Receiver<usize>) -> Result<usize, watch::error::RecvError> {
    turns.changed().await?;
    Ok(*turns.borrow_and_update())
}
