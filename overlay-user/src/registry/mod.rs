//! The registry: the desired state that all agents share and watch.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::model::{Change, Delta, Name, Node, Revision, Snapshot};

pub mod sqlite;

/// Why the registry refused or failed. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A unique value is taken: what, and who has it.
    #[error("{what} {value} is taken by {owner}: choose another or remove that one first")]
    Conflict {
        /// "MAC", "IP", "endpoint name", "network name", "VNI", "VTEP".
        what: &'static str,
        /// The value that both want.
        value: String,
        /// Who has it, for example `endpoint blue (node h1)`.
        owner: String,
    },
    /// Something that the change refers to does not exist.
    #[error("{what} {value} does not exist: {advice}")]
    Missing {
        /// "network", "node", "endpoint".
        what: &'static str,
        /// Its name or number.
        value: String,
        /// What to do about it.
        advice: String,
    },
    /// The change breaks a rule of the model, for example an address outside the subnets.
    #[error("{0}")]
    Refused(String),
    /// The store can't be used: corrupt, locked, newer schema, unreachable. Says what to do.
    #[error("{0}")]
    Unavailable(String),
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The next changes, in order of revision and without gaps.
    Delta(Delta),
    /// The store can't say any more what changed: take a new snapshot.
    Resync,
    /// The store is out of reach; the text says why. The watch goes on trying.
    Lost(String),
    /// In reach again.
    Restored,
}

/// One backend of the registry.
///
/// A reader subscribes before it takes its snapshot, then skips deltas up to the snapshot's
/// revision: nothing is missed between the two.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The whole state at one revision.
    async fn snapshot(&self) -> Result<Snapshot, RegistryError>;

    /// Every node, with when its agent last said that it lives.
    async fn nodes(&self) -> Result<Vec<Node>, RegistryError>;

    /// Changes from now on, including those of this process. Ends when the receiver is dropped.
    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError>;

    /// Carries out all changes or none; gives the revision that they have become.
    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError>;

    /// Says that `node`'s agent lives. Changes no revision and wakes no watcher.
    async fn heartbeat(&self, node: &Name) -> Result<(), RegistryError>;

    /// The registry's URL as `status` shows it; never with a secret.
    fn url(&self) -> String;
}

/// Opens the registry that `url` names: `sqlite:///path`, the path taken as it is written.
///
/// Blocks on the file: for SQLite up to [`sqlite::LOCK_WAIT`] if somebody has locked it.
pub fn open(url: &str) -> Result<Arc<dyn Registry>, RegistryError> {
    let refused = |why: String| Err(RegistryError::Refused(why));
    match url.split_once("://") {
        Some(("sqlite", path)) if Path::new(path).is_absolute() => {
            Ok(Arc::new(sqlite::Sqlite::open(Path::new(path))?))
        }
        Some(("sqlite", _)) => refused(format!(
            "registry URL {url} has no absolute path: write it with three slashes, sqlite:///path"
        )),
        // What follows the scheme may hold a password: it is not repeated.
        Some(("etcd", _)) => refused(
            "registry URL etcd://... can't be used: this build has no etcd backend; use sqlite:///path"
                .to_owned(),
        ),
        Some((scheme, _)) => refused(format!(
            "registry URL {scheme}://... has an unknown scheme: use sqlite:///path"
        )),
        None => refused("registry URL has no scheme: use sqlite:///path".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_no_usable_registry_are_refused_in_one_line_without_secrets() {
        for (url, expected) in [
            ("sqlite://registry.db", "three slashes"),
            ("sqlite://", "three slashes"),
            ("etcd://root:secret@10.0.0.1:2379", "no etcd backend"),
            ("mysql://root:secret@db", "unknown scheme"),
            ("/var/lib/overlay/registry.db", "no scheme"),
            ("", "no scheme"),
        ] {
            let Err(RegistryError::Refused(line)) = open(url) else {
                panic!("{url} was not refused");
            };
            assert!(line.contains(expected), "{url}: {line}");
            assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_sqlite_url_opens_the_file_and_is_shown_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/new/registry.db", folder.path().display());
        assert_eq!(open(&url).unwrap().url(), url);
    }
}
