//! Serves clients on a separate runtime, which answers while the rest of the agent hangs.
//!
//! A system call that blocks one of a runtime's threads can hold up all of it. The other threads sleep,
//! and the one that would wake them, because it waits for the kernel's events, is the one that hangs.

use std::{future::Future, io};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

/// Most of what clients ask for is waited for, not worked at.
const THREADS: usize = 2;

/// Where clients are served. What is not over when it goes ends then.
pub(super) struct Clients {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Clients {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("clients")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Runs `work` there. Its sockets have to be made there too.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(work)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // To wait for its threads is not allowed on another runtime's.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
