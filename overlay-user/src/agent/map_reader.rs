//! Reads the datapath for clients, on threads of its own: a few at once, each for a limited time.
//!
//! A system call that the kernel does not answer can't be called back. Made on one of the runtime's
//! threads it would take that thread away, and so would each client that asks again.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::api::{ErrorKind, OperationError};
use crate::datapath::{Datapath, DatapathError};

/// How long an answer may take; a look at maps with a million rows takes less than a second.
const LIMIT: Duration = Duration::from_secs(5);
/// How many may be waited for at once.
const AT_ONCE: usize = 4;

/// The datapath, for reading alone.
#[derive(Clone)]
pub(super) struct MapReader {
    datapath: Arc<dyn Datapath>,
    places: Arc<Semaphore>,
}

impl MapReader {
    pub(super) fn new(datapath: Arc<dyn Datapath>) -> Self {
        Self {
            datapath,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What the datapath answers. An error too if that takes too long.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let datapath = Arc::clone(&self.datapath);
        self.wait_for(move || question(&*datapath)).await
    }

    /// What another part of the kernel's side answers, likewise.
    pub(super) async fn wait_for<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let asking = async {
            // Kept until the kernel has answered, whether or not somebody still waits for it.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            let asked = spawn_blocking(move || {
                let _place = place;
                question()
            });
            asked.await
        };
        match timeout(LIMIT, asking).await {
            Ok(Ok(answer)) => answer.map_err(OperationError::from),
            Ok(Err(error)) => Err(OperationError::new(ErrorKind::Internal, error)),
            Err(_) => Err(OperationError::new(
                ErrorKind::Internal,
                format_args!(
                    "the kernel has not told what the maps hold within {} s: traffic goes on; see \
                     `overlay doctor` and the kernel's log",
                    LIMIT.as_secs()
                ),
            )),
        }
    }
}
