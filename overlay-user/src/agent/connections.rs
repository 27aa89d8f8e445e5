//! Serves HTTP within limits: no client can take the agent's memory or its last descriptors.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::DefaultBodyLimit, serve::Listener};
use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tower_http::timeout::RequestBodyTimeoutLayer;

/// How long a request's head may take, from the connection on.
const HEAD: Duration = Duration::from_secs(5);
/// How long the next part of a request's body may take.
const BODY: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const LONGEST_HEAD: usize = 16 << 10;
/// Bytes of a request's body; the longest names an endpoint with its addresses.
const LONGEST_BODY: usize = 64 << 10;
/// For how long answers that are under way hold up the end.
pub(super) const PARTING: Duration = Duration::from_secs(2);

/// Bounds of what one socket serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once, at least 1.
    pub connections: usize,
    /// How long a client may take to send its request while others wait for its place.
    pub idle: Duration,
    /// How long a connection may last. `None`: as long as its answer does.
    pub lifetime: Option<Duration>,
}

/// Serves until `stop` resolves, then for a moment more the answers that are under way.
///
/// Each connection is for one request. A new one that finds no room closes the oldest one that is idle,
/// which is to say that it has sent no request: idle connections keep nobody out. While all are being
/// answered, new ones wait in the kernel's queue.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let router = router
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(RequestBodyTimeoutLayer::new(BODY));
    let graceful = GracefulShutdown::new();
    let mut open = Connections::default();
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let (stream, _) = listener.accept().await;
            open.make_room(limits).await;
            stream
        };
        let stream = tokio::select! {
            stream = next => stream,
            () = &mut stop => break,
        };
        open.start(stream, router.clone(), limits, graceful.watcher());
    }
    // A connection that stays open does not keep the agent from ending.
    let _ = timeout(PARTING, graceful.shutdown()).await;
}

/// The connections of one socket.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Those that were idle when last looked at, the oldest first.
    idle: VecDeque<Idle>,
}

/// A connection that has sent no request yet.
struct Idle {
    connection: AbortHandle,
    since: Instant,
    has_asked: Arc<AtomicBool>,
}

impl Connections {
    /// Returns when there is room for another connection.
    async fn make_room(&mut self, limits: Limits) {
        while self.tasks.try_join_next().is_some() {}
        self.idle.retain(Idle::is_idle);
        while self.tasks.len() >= limits.connections {
            self.idle.retain(Idle::is_idle);
            if let Some(oldest) = self.idle.front() {
                let end = oldest.since + limits.idle;
                if timeout_at(end, self.tasks.join_next()).await.is_ok() || !oldest.is_idle() {
                    continue;
                }
                oldest.connection.abort();
            }
            self.tasks.join_next().await;
        }
    }

    fn start<S>(&mut self, stream: S, router: Router, limits: Limits, watcher: Watcher)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&has_asked);
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |request| {
            asks.store(true, Ordering::Relaxed);
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LONGEST_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let served = watcher.watch(connection);
        let connection = self.tasks.spawn(async move {
            let served = match limits.lifetime {
                Some(lifetime) => timeout(lifetime, served).await.unwrap_or(Ok(())),
                None => served.await,
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a client's connection broke off");
            }
        });
        self.idle.push_back(Idle {
            connection,
            since: Instant::now(),
            has_asked,
        });
    }
}

impl Idle {
    fn is_idle(&self) -> bool {
        !self.connection.is_finished() && !self.has_asked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
