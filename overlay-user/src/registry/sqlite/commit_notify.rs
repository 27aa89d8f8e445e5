//! Wakes watchers after a commit, so that they rarely need to poll.
//!
//! Within the process a channel wakes them. For other processes the committer sets the file's times once the
//! commit is visible, which their inotify watch on the folder reports. Writes to the -wal would not do: they come
//! before the commit is visible, and heartbeats and checkpoints make them too. A committer may be killed between
//! its commit and the notification: that is why watchers also poll.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::sys::{
    stat::{UtimensatFlags, utimensat},
    time::TimeSpec,
};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{MetadataKind, ModifyKind},
};
use tokio::sync::watch;

/// How often a watch looks without being woken: the safety net.
const POLL: Duration = Duration::from_millis(250);

/// The same where the kernel gives no inotify watch: within the 100 ms that a change may take.
const POLL_WITHOUT_INOTIFY: Duration = Duration::from_millis(50);

/// Wakes the watches of this process and those of others on the same file.
pub(super) struct CommitNotifier {
    path: PathBuf,
    wake: Arc<watch::Sender<()>>,
    /// Keeps inotify going; `None` if the kernel refused it.
    inotify: OnceLock<Option<RecommendedWatcher>>,
}

impl CommitNotifier {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            wake: Arc::new(watch::Sender::new(())),
            inotify: OnceLock::new(),
        }
    }

    /// A commit is visible.
    pub(super) fn notify(&self) {
        self.wake.send_replace(());
        // By path: opening the file here would cost this process its locks, see `schema`.
        let now = TimeSpec::UTIME_NOW;
        let touched = utimensat(
            nix::fcntl::AT_FDCWD,
            &self.path,
            &now,
            &now,
            UtimensatFlags::FollowSymlink,
        );
        if let Err(error) = touched {
            tracing::debug!(path = %self.path.display(), %error, "other processes will poll");
        }
    }

    /// From now on hears other processes' bells. The first call makes the inotify watch, so that a
    /// process that only commits has none.
    pub(super) fn listen(&self) {
        self.inotify.get_or_init(|| {
            self.watch_folder()
                .inspect_err(|error| {
                    tracing::warn!(%error, "no inotify watch on the registry: polling more often");
                })
                .ok()
        });
    }

    /// Wakes at every ring.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// How long to wait for a ring at most.
    pub(super) fn poll_interval(&self) -> Duration {
        match self.inotify.get() {
            Some(Some(_)) => POLL,
            _ => POLL_WITHOUT_INOTIFY,
        }
    }

    /// The folder and not the file: it outlives a file that is replaced.
    fn watch_folder(&self) -> notify::Result<RecommendedWatcher> {
        // inotify sees the folder that holds the file itself, not one that holds a link to it.
        let path = self
            .path
            .canonicalize()
            .unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = path.file_name().unwrap_or_default().to_owned();
        let wake = Arc::clone(&self.wake);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| concerns(&event, &name)) {
                wake.send_replace(());
            }
        })?;
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Whether the event is a bell, or the file coming or going, or events were lost.
fn concerns(event: &Event, file: &OsStr) -> bool {
    let is_of_interest = matches!(
        event.kind,
        EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any) | ModifyKind::Name(_))
            | EventKind::Create(_)
            | EventKind::Remove(_)
    );
    let is_ours = |path: &PathBuf| path.file_name() == Some(file);
    event.need_rescan() || (is_of_interest && event.paths.iter().any(is_ours))
}

impl fmt::Debug for CommitNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitNotifier")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
