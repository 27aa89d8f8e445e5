//! The members of the cluster, of which one is asked until it fails.
//!
//! Every request has a limit. A member that says nothing until then, or that says that it can't
//! (no leader, no connection), passes the turn to the next one. What a request has done by then is
//! unknown; it is repeated all the same, because each of ours may be: reads, writes of the same
//! values, and transactions whose comparisons fail if they were carried out already.

use std::{fmt, future::Future, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use etcd_client::{Client, GetOptions, KvClient, LeaseClient, WatchClient};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    super::identity::Followed,
    access::{Access, CONNECT, Fingerprint},
    keys,
    store_error::{CallError, StoreError, asks_for_no_login, classify, innermost},
};

/// How long a small request may take.
pub(super) const REQUEST: Duration = Duration::from_secs(3);

/// How long a page of endpoints may take.
pub(super) const PAGE_REQUEST: Duration = Duration::from_secs(15);

/// How long a request is repeated before it counts as failed: an election takes less.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer: a page of endpoints, or all networks and nodes.
const LONGEST_ANSWER: usize = 64 << 20;

/// A connection to one member.
#[derive(Clone)]
pub(super) struct Channel {
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
}

/// A channel, and the files that it was made from.
struct Open {
    channel: Channel,
    made_from: Fingerprint,
    /// The last ones that were attempted.
    attempted: Fingerprint,
}

/// The members, and whose turn it is.
pub(super) struct Members {
    url: String,
    access: Access,
    pub(super) followed: Followed,
    links: Vec<Mutex<Option<Open>>>,
    current: watch::Sender<usize>,
}

impl Members {
    pub(super) fn new(url: String, access: Access, followed: Followed) -> Self {
        Self {
            url,
            followed,
            links: access.members.iter().map(|_| Mutex::default()).collect(),
            access,
            current: watch::Sender::new(0),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Tells whose turn it is.
    pub(super) fn turns(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    pub(super) fn count(&self) -> usize {
        self.links.len()
    }

    /// Does `work` until a member has done it.
    pub(super) async fn call<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        limit: Duration,
        work: impl Fn(Channel) -> F,
    ) -> Result<T, StoreError> {
        let mut tries = self.tries();
        loop {
            if let Some(done) = tries.once(limit, &work).await? {
                return Ok(done);
            }
        }
    }

    /// A fresh lot of patience.
    pub(super) fn tries(&self) -> Tries<'_> {
        Tries {
            members: self,
            deadline: Instant::now() + CALL_TIMEOUT,
            said: vec![None; self.count()],
            attempts: 0,
            has_logged_in: false,
            delays: delays(),
        }
    }

    /// Does `work` once, on the member whose turn it is; gives that member too.
    pub(super) async fn once<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        limit: Duration,
        work: impl FnOnce(Channel) -> F,
    ) -> (usize, Result<T, CallError>) {
        let index = *self.current.borrow();
        let done = match self.channel(index).await {
            Ok(channel) => match timeout(limit, work(channel)).await {
                Ok(done) => done.map_err(|error| classify(&error)),
                Err(_) => Err(CallError::Passing(format!(
                    "no answer within {} s",
                    limit.as_secs()
                ))),
            },
            Err(trouble) => Err(trouble),
        };
        match &done {
            Err(CallError::Passing(_)) => {
                self.forget_outdated(index).await;
                self.pass_on(index);
            }
            Err(CallError::Login) => self.forget(index).await,
            _ => {}
        }
        (index, done)
    }

    /// Gives the turn to the next member, unless somebody has done so already.
    pub(super) fn pass_on(&self, index: usize) {
        let next = (index + 1) % self.count();
        self.current.send_if_modified(|current| {
            let is_ours = *current == index && next != index;
            if is_ours {
                *current = next;
            }
            is_ours
        });
    }

    /// The login that a member refuses, in the user's words.
    fn login(&self) -> StoreError {
        match &self.access.user {
            Some((_, file)) => StoreError::Login(Some(file.clone())),
            None => StoreError::NoLogin,
        }
    }

    /// Makes the connection to a member anew, files and all, when it is used next.
    async fn forget(&self, index: usize) {
        if let Some(slot) = self.links.get(index) {
            *slot.lock().await = None;
        }
    }

    async fn channel(&self, index: usize) -> Result<Channel, CallError> {
        let (Some(slot), Some(member)) = (self.links.get(index), self.access.members.get(index))
        else {
            return Err(CallError::Passing("there is no such member".to_owned()));
        };
        let mut slot = slot.lock().await;
        let files = self.access.fingerprint();
        if let Some(open) = &mut *slot {
            if open.attempted == files {
                return Ok(open.channel.clone());
            }
            open.attempted = files.clone();
            // They may be no good, or not all changed yet, or etcd may not know them yet: what is open
            // serves until it fails.
            if let Err(trouble) = Box::pin(self.replace(member, open)).await {
                tracing::warn!(?trouble, member, "etcd's changed files are not used yet");
            }
            return Ok(open.channel.clone());
        }
        // Boxed: a large future and a rare one, inside of every other.
        let channel = Box::pin(self.connect(member)).await?;
        let open = slot.insert(Open {
            channel,
            made_from: files.clone(),
            attempted: files,
        });
        Ok(open.channel.clone())
    }

    /// Makes a channel from the files as they are now, and takes it if it works.
    async fn replace(&self, member: &str, open: &mut Open) -> Result<(), CallError> {
        let channel = self.connect(member).await?;
        let mut kv = channel.kv.clone();
        let options = GetOptions::new().with_count_only();
        timeout(REQUEST, kv.get(keys::TICK, Some(options)))
            .await
            .map_err(|_| CallError::Passing("no answer".to_owned()))?
            .map_err(|error| classify(&error))?;
        open.channel = channel;
        open.made_from = open.attempted.clone();
        Ok(())
    }

    /// Forgets a member's channel that has failed, if its files have changed since it was made.
    async fn forget_outdated(&self, index: usize) {
        let Some(slot) = self.links.get(index) else {
            return;
        };
        let mut slot = slot.lock().await;
        let files = self.access.fingerprint();
        if slot.as_ref().is_some_and(|open| open.made_from != files) {
            *slot = None;
        }
    }

    async fn connect(&self, member: &str) -> Result<Channel, CallError> {
        // Lazy but for the login.
        let connect = async |with_login| {
            let options = self
                .access
                .options(with_login)
                .map_err(|error| CallError::Final(error.into()))?;
            timeout(CONNECT + REQUEST, Client::connect([member], Some(options)))
                .await
                .map_err(|_| CallError::Passing("no answer to the login".to_owned()))
        };
        let client = match connect(true).await? {
            // A user for a cluster that asks for none is no fault; etcdctl takes it so too.
            Err(error) if asks_for_no_login(&error) => connect(false).await?,
            connected => connected,
        };
        let client = client.map_err(|error| match (classify(&error), error) {
            // Nothing was sent: it is about what the files hold.
            (_, etcd_client::Error::TransportError(error)) => {
                CallError::Final(self.access.unusable(&innermost(&error)).into())
            }
            (CallError::Login, _) => CallError::Final(self.login()),
            (other, _) => other,
        })?;
        Ok(Channel {
            kv: client.kv_client().max_decoding_message_size(LONGEST_ANSWER),
            watch: client
                .watch_client()
                .max_decoding_message_size(LONGEST_ANSWER),
            lease: client.lease_client(),
        })
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Waits between attempts: 50 ms, then twice as long each time up to a second, a little of it by
/// chance, so that hundreds of agents don't come at once.
pub(super) fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Attempts at one piece of work.
pub(super) struct Tries<'a> {
    members: &'a Members,
    deadline: Instant,
    /// What each member said last.
    said: Vec<Option<String>>,
    attempts: usize,
    has_logged_in: bool,
    delays: ExponentialBackoff,
}

impl Tries<'_> {
    /// Does `work` once. `None`: it may have been done or not, and may be tried again now.
    pub(super) async fn once<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &mut self,
        limit: Duration,
        work: impl FnOnce(Channel) -> F,
    ) -> Result<Option<T>, StoreError> {
        let (member, done) = self.members.once(limit, work).await;
        match done {
            Ok(done) => Ok(Some(done)),
            Err(CallError::Final(failure)) => Err(failure),
            Err(CallError::Login) if self.has_logged_in => Err(self.members.login()),
            Err(CallError::Login) => {
                self.has_logged_in = true;
                Ok(None)
            }
            Err(CallError::Passing(why)) => {
                if let Some(said) = self.said.get_mut(member) {
                    *said = Some(why);
                }
                self.attempts += 1;
                self.rest().await.map(|()| None)
            }
        }
    }

    /// Waits after each round, and gives up after the last.
    async fn rest(&mut self) -> Result<(), StoreError> {
        if !self.attempts.is_multiple_of(self.members.count()) {
            return Ok(());
        }
        let delay = self.delays.next().unwrap_or_default();
        if Instant::now() + delay > self.deadline {
            return Err(self.away());
        }
        sleep(delay).await;
        Ok(())
    }

    /// Waits before a further attempt after `failure`, which is what it ends with if there is no time
    /// left for one.
    pub(super) async fn rest_after(&mut self, failure: StoreError) -> Result<(), StoreError> {
        let delay = self.delays.next().unwrap_or_default();
        if Instant::now() + delay > self.deadline {
            return Err(failure);
        }
        sleep(delay).await;
        Ok(())
    }

    fn away(&self) -> StoreError {
        let access = &self.members.access;
        let said = access.members.iter().zip(&self.said);
        let members: Vec<(String, String)> = said
            .filter_map(|(member, said)| Some((member.clone(), said.clone()?)))
            .collect();
        let said = members.iter().map(|(_, said)| said.as_str());
        StoreError::Away {
            advice: access.advice(said),
            members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistrySettings;

    #[tokio::test(start_paused = true)]
    async fn what_fails_each_time_is_tried_with_pauses_and_given_up() {
        let settings = RegistrySettings::new("etcd://h:2379".to_owned());
        let access = Access::new("h:2379", &settings).unwrap();
        let members = Members::new(settings.url, access, Followed::default());
        let (mut tries, started, mut attempts) = (members.tries(), Instant::now(), 0);
        let failure = loop {
            match tries.rest_after(StoreError::LeaseGone).await {
                Ok(()) => attempts += 1,
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, StoreError::LeaseGone));
        assert!((4..20).contains(&attempts), "{attempts}");
        assert!(started.elapsed() <= CALL_TIMEOUT);
    }
}
