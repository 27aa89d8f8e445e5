//! Work beside the loop.

use std::{future::pending, panic::resume_unwind};

use tokio::task::JoinSet;

/// Goes on whether or not anybody waits for it, and is given up when this is dropped. What it holds, a lock
/// above all, it so lets go of in its own time, also while the loop waits for the same.
pub(super) struct Work<T>(JoinSet<T>);

impl<T: Send + 'static> Work<T> {
    pub(super) fn begin(work: impl Future<Output = T> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(work);
        Self(task)
    }

    /// Waits for what comes of it; nothing comes twice. Giving up the wait loses nothing.
    pub(super) async fn end(&mut self) -> T {
        match self.0.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Some(Err(_)) | None => pending().await,
        }
    }
}
