//! The registry: the desired state that all agents share and watch.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::model::{
    Change, Delta, Endpoint, Kind, Name, Network, Node, Object, Question, QuestionId, RegistryId,
    RejectedRows, Report, Revision, SESSION_TTL, Session, Snapshot, Vni, Wanted, ipam::Block,
};

mod allocate;
mod backup;
pub mod etcd;
mod identity;
mod integrity;
pub mod limited;
mod object;
pub mod rules;
pub mod sqlite;

pub use backup::{BackupError, Counts, Imported, export, import};
pub use integrity::{Finding, Findings, Repair, check, check_with};

/// How long a removed MAC or IP can't be claimed by an endpoint of another name, unless configured.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// How long a question and its answers are kept.
pub const QUESTION_TTL: Duration = Duration::from_mins(1);

/// Endpoints in one page of a [`Reading`] at most.
pub const PAGE: usize = 1000;

/// Why the registry refused or failed. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A unique value is taken: what, and who has it.
    #[error("{what} {value} is taken by {owner}: choose another or remove that one first")]
    Conflict {
        /// "MAC", "IP", "endpoint name", "network name", "VNI", "VTEP", "key", "prefix", "claim".
        what: &'static str,
        /// The value that both want.
        value: String,
        /// Its owner, for example `endpoint blue (node h1)`.
        owner: String,
    },
    /// Something that the change refers to does not exist.
    #[error("{what} {value} does not exist: {advice}")]
    Missing {
        /// "network", "node", "endpoint", "object".
        what: &'static str,
        /// Its name or number.
        value: String,
        /// What to do about it.
        advice: String,
    },
    /// The change breaks a rule of the model, for example an address outside the subnets.
    #[error("{0}")]
    Refused(String),
    /// An address or another claim belonged to somebody else until a moment ago.
    #[error(
        "{what} {value} was {owner}'s until a moment ago and is kept free for at most {} s: \
         choose another, or try again then", for_at_most.as_secs_f64().ceil()
    )]
    Quarantined {
        /// "MAC", "IP" or "claim".
        what: &'static str,
        /// The address, or what was claimed.
        value: String,
        /// Its previous owner, for example `endpoint blue`, which may have it back at once.
        owner: String,
        /// How long it is still kept free at most.
        for_at_most: Duration,
    },
    /// The store can't be used: corrupt, locked, newer schema, unreachable. Says what to do.
    #[error("{0}")]
    Unavailable(String),
    /// The store that is there is not the one that is followed: another one, emptied, or gone.
    #[error("{0}")]
    Foreign(String),
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The next changes, in order of revision and without gaps. May be empty, and then only says
    /// that nothing changed up to its revision.
    Delta(Delta),
    /// The store can't say any more what changed: take a new snapshot. Its revision may be lower
    /// than what was seen before, if the store was restored from a backup: nobody must go on waiting
    /// for a revision of the older state.
    Resync,
    /// The store is out of reach; the text says why. The watch goes on trying.
    Lost(String),
    /// The store that is there is not the one that is followed; the text says why. It is out of reach
    /// all the same, and the watch goes on trying.
    Foreign(String),
    /// In reach again.
    Restored,
    /// A node's session has begun.
    Alive(Name),
    /// A node's session has ended: its agent has said nothing for [`RegistrySettings::session_ttl`], or the
    /// node was removed.
    Silent(Name),
    /// Every agent is asked what it has installed.
    Question(Question),
}

/// Which endpoints a reading brings; all else always comes whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every one.
    All,
    /// What this node keeps in its maps whatever its endpoints talk to: those of proactive networks,
    /// and its own in the others.
    Resident(Name),
    /// Those of one network.
    Network(Vni),
}

/// The state at one revision. The endpoints come in pages, so that a reader's memory does not
/// depend on how many there are.
#[derive(Debug)]
pub struct Reading {
    /// The revision that all of it is the state of.
    pub revision: Revision,
    /// Every network.
    pub networks: Vec<Network>,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every object.
    pub objects: Vec<Object>,
    /// Rows that could not be read, and are in none of the others.
    pub rejected: RejectedRows,
    /// The endpoints, in pages of at most [`PAGE`]; ends after the last one. After an error nothing
    /// follows, and what came before it is not the whole. Dropping it ends the reading.
    pub endpoints: mpsc::Receiver<Result<Vec<Endpoint>, RegistryError>>,
}

impl Reading {
    /// All of it at once, however much it is.
    pub async fn collect(mut self) -> Result<Snapshot, RegistryError> {
        let mut endpoints = Vec::new();
        while let Some(page) = self.endpoints.recv().await {
            endpoints.extend(page?);
        }
        Ok(Snapshot {
            revision: self.revision,
            networks: self.networks,
            nodes: self.nodes,
            endpoints,
            objects: self.objects,
        })
    }
}

/// One backend of the registry.
///
/// A reader subscribes before it takes its snapshot, then skips deltas up to the snapshot's
/// revision: nothing is missed between the two.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The state at one revision, in pages.
    async fn read(&self, scope: Scope) -> Result<Reading, RegistryError>;

    /// The whole state at one revision, at once.
    async fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        self.read(Scope::All).await?.collect().await
    }

    /// The endpoint of a network that has this MAC or address.
    async fn find(&self, vni: Vni, wanted: Wanted) -> Result<Option<Endpoint>, RegistryError>;

    /// The endpoint of this name.
    async fn find_endpoint(&self, name: &Name) -> Result<Option<Endpoint>, RegistryError>;

    /// Which addresses of a block can't be handed out to a new endpoint: claimed, or in quarantine.
    async fn taken(&self, vni: Vni, block: Block) -> Result<BTreeSet<IpAddr>, RegistryError>;

    /// A free address of the network's subnets with its prefix length, the lowest wherever they were
    /// handed out in order; none of `refused`. `None`: the network has no subnet, or all are full.
    /// It is not claimed: somebody else's commit may be faster.
    async fn next_ip(
        &self,
        network: &Network,
        refused: &BTreeSet<IpAddr>,
    ) -> Result<Option<IpNet>, RegistryError> {
        allocate::next_ip(self, network, refused).await
    }

    /// Every node, with whether its session lives.
    async fn nodes(&self) -> Result<Vec<Node>, RegistryError>;

    /// Every object of a kind, by key.
    async fn objects(&self, kind: &Kind) -> Result<Vec<Object>, RegistryError>;

    /// Changes from now on, including those of this process. Ends when the receiver is dropped.
    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError>;

    /// Carries out all changes or none; gives the revision that they have become. If there was
    /// nothing to do, a revision that every watch reaches.
    ///
    /// A backend may have to split a commit that is too large for one of its transactions: then it
    /// refuses what it can before the first part, carries the parts out in order, and if a later
    /// one fails the earlier ones stay. It is safe to commit the same changes again.
    ///
    /// The MAC and the addresses of an endpoint that is removed are in quarantine for the
    /// configured time: no endpoint of another name can claim them, unless the same commit hands
    /// them over. So are what an object gives up of those, and any claim that says for how long.
    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError>;

    /// Says that `node`'s agent lives; the first time claims the node, which need not be in the
    /// registry yet. [`RegistryError::Conflict`]: another session has the node, and lives. Changes
    /// no revision of the desired state.
    async fn heartbeat(&self, node: &Name, session: &Session) -> Result<(), RegistryError>;

    /// Puts a question to every agent that watches. It and its answers are kept for
    /// [`QUESTION_TTL`].
    async fn ask(&self, question: &Question) -> Result<(), RegistryError>;

    /// Publishes what a host has installed, in place of its earlier report to the same question.
    async fn publish(&self, report: &Report) -> Result<(), RegistryError>;

    /// The answers to a question; `None`: what hosts have told without being asked.
    async fn reports(&self, question: Option<QuestionId>) -> Result<Vec<Report>, RegistryError>;

    /// Looks for what does not agree among the things that the backend keeps beside the rows: claims,
    /// indexes, leases. With `repair`, mends what needs no decision. [`check`] looks at the rows too.
    async fn audit(&self, repair: bool) -> Result<Findings, RegistryError> {
        let _ = repair;
        Ok(Findings::default())
    }

    /// Follows the store of this identity from now on. `None`: one that has none, which gets one, and for
    /// SQLite a file that is missing or empty, which is made.
    async fn adopt(&self, identity: Option<RegistryId>) -> Result<(), RegistryError> {
        let _ = identity;
        Ok(())
    }

    /// The identity of the store that is followed. `None`: this backend has none.
    fn identity(&self) -> Option<RegistryId> {
        None
    }

    /// The registry's URL as `status` shows it; never with a secret.
    fn url(&self) -> String;
}

/// Which registry, and how it is to be used. Holds names of files with secrets, never secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySettings {
    /// `sqlite:///path`, the path taken as it is written, or `etcd://host:port[,host:port]`.
    pub url: String,
    /// The store that is followed, however often others are found in its place. `None`: the one that is
    /// found first, and one that has no identity gets it.
    #[serde(default)]
    pub identity: Option<RegistryId>,
    /// How long a removed MAC or IP can't be claimed by an endpoint of another name; zero: it can at
    /// once.
    pub quarantine: Duration,
    /// How long a session lives that says nothing: more than the time between two heartbeats.
    pub session_ttl: Duration,
    /// etcd: the authorities that its servers' certificates are checked against, PEM. Turns TLS on.
    pub ca: Option<PathBuf>,
    /// etcd: this client's certificate, PEM. Turns TLS on; needs `key`.
    pub cert: Option<PathBuf>,
    /// etcd: the certificate's private key, PEM.
    pub key: Option<PathBuf>,
    /// etcd: the user to log in as; needs `password_file`.
    pub user: Option<String>,
    /// etcd: the file whose first line is the user's password.
    pub password_file: Option<PathBuf>,
    /// etcd: whether that password may be sent without TLS.
    #[serde(default)]
    pub insecure: bool,
}

impl RegistrySettings {
    /// The registry at `url`, the rest as it is unless configured.
    #[must_use]
    pub const fn new(url: String) -> Self {
        Self {
            url,
            identity: None,
            quarantine: QUARANTINE,
            session_ttl: SESSION_TTL,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            insecure: false,
        }
    }
}

/// Opens the registry. For SQLite this makes the file if it is missing and no identity is expected, and
/// waits up to [`sqlite::LOCK_WAIT`] if somebody has locked it; for etcd, connects.
pub async fn open(settings: &RegistrySettings) -> Result<Arc<dyn Registry>, RegistryError> {
    open_with(settings, settings.identity.is_none()).await
}

/// Opens a registry that is there: like [`open`], but for SQLite a file that is missing or empty is an
/// error.
pub async fn open_existing(
    settings: &RegistrySettings,
) -> Result<Arc<dyn Registry>, RegistryError> {
    open_with(settings, false).await
}

/// Reads the store that is there now, whichever it is, for who has to decide whether to follow it. A
/// SQLite file that is missing or empty holds nothing.
pub async fn peek(
    settings: &RegistrySettings,
) -> Result<(Option<RegistryId>, Snapshot), RegistryError> {
    if let Some(("etcd", members)) = settings.url.split_once("://") {
        return Box::pin(etcd::Etcd::peek(members, settings)).await;
    }
    let settings = RegistrySettings {
        identity: None,
        ..settings.clone()
    };
    match open_existing(&settings).await {
        Ok(registry) => Ok((registry.identity(), registry.snapshot().await?)),
        Err(RegistryError::Foreign(_)) => Ok((None, Snapshot::default())),
        Err(error) => Err(error),
    }
}

async fn open_with(
    settings: &RegistrySettings,
    may_make: bool,
) -> Result<Arc<dyn Registry>, RegistryError> {
    let refused = |why: String| Err(RegistryError::Refused(why));
    let url = &settings.url;
    match url.split_once("://") {
        Some(("sqlite", path)) if Path::new(path).is_absolute() => {
            let (path, settings) = (PathBuf::from(path), settings.clone());
            let opened = sqlite::blocking(move || {
                if may_make {
                    sqlite::Sqlite::open(&path, &settings)
                } else {
                    sqlite::Sqlite::open_existing(&path, &settings)
                }
            });
            let opened = opened.await?;
            Ok(Arc::new(opened))
        }
        Some(("sqlite", _)) => refused(format!(
            "registry URL {url} has no absolute path: write it with three slashes, sqlite:///path"
        )),
        Some(("etcd", members)) => {
            // Boxed: a large future, and a rare one.
            let opened = Box::pin(etcd::Etcd::open(members, settings));
            Ok(Arc::new(opened.await?))
        }
        // What follows the scheme may hold a password: it is not repeated.
        Some((scheme, _)) => refused(format!(
            "registry URL {scheme}://... has an unknown scheme: use sqlite:///path or etcd://host:port"
        )),
        None => {
            refused("registry URL has no scheme: use sqlite:///path or etcd://host:port".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_that_name_no_usable_registry_are_refused_in_one_line_without_secrets() {
        for (url, expected) in [
            ("sqlite://registry.db", "three slashes"),
            ("sqlite://", "three slashes"),
            ("etcd://root:secret@10.0.0.1:2379", "malformed"),
            ("mysql://root:secret@db", "unknown scheme"),
            ("/var/lib/overlay/registry.db", "no scheme"),
            ("", "no scheme"),
        ] {
            let Err(RegistryError::Refused(line)) =
                open(&RegistrySettings::new(url.to_owned())).await
            else {
                panic!("{url} was not refused");
            };
            assert!(line.contains(expected), "{url}: {line}");
            assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
        }
    }

    #[tokio::test]
    async fn a_sqlite_url_opens_the_file_and_is_shown_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/new/registry.db", folder.path().display());
        let opened = open(&RegistrySettings::new(url.clone())).await.unwrap();
        assert_eq!(opened.url(), url);
    }
}
