//! The loop's event sources, polled in turn so that none starves another.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval, sleep_until},
};

use super::{
    cache::Lookup,
    watchdog::{Part, Watchdog},
    work::Work,
};
use crate::{
    model::{Endpoint, Miss, Name, QuestionId},
    platform::{PlatformError, Port, PortChange, PortSpec},
    registry::{Reading, RegistryError, WatchEvent},
};

/// What the registry said about an address; `None`: nothing in time.
pub(super) type Answer = Option<Result<Option<Endpoint>, RegistryError>>;

/// The result of a request that ran in the background.
pub(super) enum Completion {
    /// A watch was begun.
    Watched(Result<mpsc::Receiver<WatchEvent>, RegistryError>),
    /// The state was asked for.
    Read(u64, Result<Reading, RegistryError>),
    /// The owner of an address was asked for. `None`: the answer took too long.
    Found(Lookup, u64, Answer),
    /// A report was published, or an answer.
    Reported(Option<QuestionId>, Result<(), RegistryError>),
    /// This node was put back into the registry.
    Joined(Result<(), RegistryError>),
    /// An endpoint's port was looked at, for this spec. `None`: it is not there as a whole.
    Looked(PortSpec, Result<Option<Port>, PlatformError>),
    /// An endpoint's port was made, or could not be, for this spec.
    Made(PortSpec, Result<Port, PlatformError>),
    /// An endpoint's port was removed, or could not be.
    Removed(Name, Result<(), PlatformError>),
}

/// Why the loop woke.
pub(super) enum Wake {
    /// The lease of the next hops is to be renewed.
    Renewal,
    /// The host's routes changed.
    Routes,
    /// Somebody changed a port.
    Port(PortChange),
    /// The registry has something to say. `None`: the watch has ended.
    Event(Option<WatchEvent>),
    /// The next page of a reading. `None`: that was all.
    Page(Option<Result<Vec<Endpoint>, RegistryError>>),
    /// A frame found no row.
    Miss(Miss),
    /// A background request is done.
    Completion(Completion),
    /// The registry is to be followed as it is.
    Adoption,
    /// The time for a chore has come.
    Timer,
}

/// How many sources there are.
const SOURCES: usize = 9;

/// All that the loop waits for.
pub(super) struct WakeSources {
    renewal: Interval,
    routes: Option<mpsc::Receiver<()>>,
    ports: Option<mpsc::Receiver<PortChange>>,
    pub(super) events: Option<mpsc::Receiver<WatchEvent>>,
    pub(super) pages: Option<mpsc::Receiver<Result<Vec<Endpoint>, RegistryError>>>,
    misses: Option<mpsc::Receiver<Miss>>,
    adoptions: Option<mpsc::Receiver<()>>,
    requests: FuturesUnordered<BoxFuture<'static, Completion>>,
    deadline: Pin<Box<Sleep>>,
    /// Whose turn it is.
    turn: usize,
}

impl WakeSources {
    pub(super) fn new(
        routes: mpsc::Receiver<()>,
        ports: Option<mpsc::Receiver<PortChange>>,
        misses: mpsc::Receiver<Miss>,
        adoptions: mpsc::Receiver<()>,
        renewal: Duration,
    ) -> Self {
        let mut renewal = interval(renewal);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            renewal,
            routes: Some(routes),
            ports,
            events: None,
            pages: None,
            misses: Some(misses),
            adoptions: Some(adoptions),
            requests: FuturesUnordered::new(),
            deadline: Box::pin(sleep_until(Instant::now())),
            turn: 0,
        }
    }

    /// Makes a request in the background; [`Wake::Completion`] tells of its end.
    pub(super) fn spawn_request(&self, request: impl Future<Output = Completion> + Send + 'static) {
        let mut request = Work::begin(request);
        self.requests
            .push(Box::pin(async move { request.end().await }));
    }

    /// Whether the host's routes are watched: only then can next hops be vouched for.
    pub(super) fn knows_routes(&self) -> bool {
        self.routes.is_some()
    }

    /// Whether the kernel tells what happens to ports.
    pub(super) fn hears_ports(&self) -> bool {
        self.ports.is_some()
    }

    /// Tells of sources from which nothing will come any more.
    pub(super) fn report_ended(&self, watchdog: &Watchdog) {
        if self.routes.is_none() {
            watchdog.ended(Part::Routes);
        }
        if self.misses.is_none() {
            watchdog.ended(Part::Misses);
        }
    }

    /// Whether a change of the routes waits to be heard of; it is heard of by that.
    pub(super) fn drain_routes(&mut self) -> bool {
        self.routes
            .as_mut()
            .is_some_and(|routes| routes.try_recv().is_ok())
    }

    /// Waits for whatever comes first, at the latest for `deadline`.
    pub(super) async fn next(&mut self, deadline: Instant) -> Wake {
        if self.deadline.deadline() != deadline {
            self.deadline.as_mut().reset(deadline);
        }
        poll_fn(|context| {
            for offset in 0..SOURCES {
                let source = (self.turn + offset) % SOURCES;
                if let Poll::Ready(wake) = self.poll(source, context) {
                    self.turn = source + 1;
                    return Poll::Ready(wake);
                }
            }
            Poll::Pending
        })
        .await
    }

    fn poll(&mut self, source: usize, context: &mut Context<'_>) -> Poll<Wake> {
        match source {
            0 => self.renewal.poll_tick(context).map(|_| Wake::Renewal),
            1 => poll_channel(&mut self.routes, context).map(|()| Wake::Routes),
            2 => poll_end(&mut self.events, context).map(Wake::Event),
            3 => poll_end(&mut self.pages, context).map(Wake::Page),
            4 => poll_channel(&mut self.misses, context).map(Wake::Miss),
            5 => match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(done)) => Poll::Ready(Wake::Completion(done)),
                // Without requests there is nothing to wait for.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
            6 => poll_channel(&mut self.adoptions, context).map(|()| Wake::Adoption),
            7 => poll_channel(&mut self.ports, context).map(Wake::Port),
            _ => self.deadline.as_mut().poll(context).map(|()| Wake::Timer),
        }
    }
}

/// The next item of a channel. Pending for ever once the channel is closed.
fn poll_channel<T>(channel: &mut Option<mpsc::Receiver<T>>, context: &mut Context<'_>) -> Poll<T> {
    match poll_end(channel, context) {
        Poll::Ready(Some(item)) => Poll::Ready(item),
        Poll::Ready(None) | Poll::Pending => Poll::Pending,
    }
}

/// What a channel has, and its end, once.
fn poll_end<T>(
    channel: &mut Option<mpsc::Receiver<T>>,
    context: &mut Context<'_>,
) -> Poll<Option<T>> {
    let Some(receiver) = channel else {
        return Poll::Pending;
    };
    let item = receiver.poll_recv(context);
    if matches!(item, Poll::Ready(None)) {
        *channel = None;
    }
    item
}
