//! Makes the kernel's state equal the registry's: subscribe, take a snapshot, apply it whole, then
//! apply what changes; apply it whole again from time to time, and after errors with growing
//! patience.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

pub mod apply;
pub mod mirror;
pub mod plan;

use self::{apply::Applier, mirror::Mirror};
use crate::{
    model::{Change, Delta, EndpointState, Name, Node, Revision},
    registry::{Registry, RegistryError, WatchEvent},
};

/// How often the whole host is compared with the registry even if nothing went wrong.
const RESYNC: Duration = Duration::from_secs(30);
/// The first wait after an error; doubles up to [`RESYNC`].
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// How often the loop vouches for the next hops that it wrote.
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// For how long each time. An agent that died, or is too busy to follow the routes, is believed no
/// longer than this.
const LEASE: Duration = Duration::from_secs(3);

/// What the loop knows, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The registry's state.
    pub mirror: Mirror,
    /// Host-side indexes of the endpoints that stand here.
    pub ports: BTreeMap<Name, u32>,
    /// Why others of this node don't.
    pub failures: BTreeMap<Name, String>,
    /// Why the registry is out of reach; `None`: it is in reach.
    pub lost: Option<String>,
    /// The last revision that was carried over to the kernel as far as it can be; 0: none yet.
    pub applied: Revision,
    /// What could not be done since the last look at the whole; empty: the kernel is what the
    /// registry wants.
    pub errors: Vec<String>,
}

impl View {
    /// What became of an endpoint on this node.
    #[must_use]
    pub fn state_of(&self, endpoint: &Name, node: &Name) -> EndpointState {
        match self.mirror.endpoints.get(endpoint) {
            Some(known) if known.node != *node => EndpointState::Remote,
            _ if self.failures.contains_key(endpoint) => EndpointState::Failed,
            _ if self.ports.contains_key(endpoint) => EndpointState::Ready,
            _ => EndpointState::Pending,
        }
    }
}

/// What was carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All there is: what went wrong earlier is mended, or told again.
    Whole,
    /// What a delta touched.
    Delta,
}

/// A look at the loop from outside.
#[derive(Debug, Clone)]
pub struct Observer {
    view: Arc<RwLock<View>>,
    applied: watch::Receiver<Revision>,
}

impl Observer {
    /// What the loop knows now.
    pub async fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().await
    }

    /// Waits until the kernel is what `revision` wants, as far as it can be. `false`: the loop has
    /// ended.
    pub async fn applied(&mut self, revision: Revision) -> bool {
        self.applied
            .wait_for(|applied| *applied >= revision)
            .await
            .is_ok()
    }

    /// Waits until the loop has ended.
    pub async fn ended(&mut self) {
        while self.applied.changed().await.is_ok() {}
    }
}

/// The loop.
pub struct Reconciler {
    registry: Arc<dyn Registry>,
    applier: Applier,
    node: Node,
    /// Only the loop writes; it lets others read while it works on the kernel.
    view: Arc<RwLock<View>>,
    applied: watch::Sender<Revision>,
    retry: Duration,
    next_resync: Instant,
}

impl Reconciler {
    /// A loop for `node`, and the way to look at it.
    pub fn new(registry: Arc<dyn Registry>, applier: Applier, node: Node) -> (Self, Observer) {
        let view = Arc::new(RwLock::new(View::default()));
        let (publisher, progress) = watch::channel(0);
        let observer = Observer {
            view: Arc::clone(&view),
            applied: progress,
        };
        let reconciler = Self {
            registry,
            applier,
            node,
            view,
            applied: publisher,
            retry: FIRST_RETRY,
            next_resync: Instant::now(),
        };
        (reconciler, observer)
    }

    /// Runs until the future is dropped. `routes` tells of changes to the host's routes; however
    /// many there are, the registry gets its turns. Ends with an error if the registry can't be
    /// watched at the start; later losses are waited out.
    pub async fn run(mut self, mut routes: mpsc::Receiver<()>) -> Result<(), RegistryError> {
        let mut events = self.registry.watch().await?;
        let mut renewal = interval(LEASE_RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.resync().await;
        loop {
            tokio::select! {
                Some(()) = routes.recv() => self.follow_routes().await,
                _ = renewal.tick(), if !routes.is_closed() => {
                    // The lease says that the next hops are up to date.
                    if routes.try_recv().is_ok() {
                        self.follow_routes().await;
                    }
                    self.renew_lease().await;
                }
                event = events.recv() => match event {
                    Some(event) => self.take(event).await,
                    None => events = self.watch_again().await,
                },
                () = sleep_until(self.next_resync) => self.resync().await,
            }
        }
    }

    async fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Delta(delta) => self.take_delta(delta).await,
            WatchEvent::Resync => self.resync().await,
            WatchEvent::Lost(reason) => {
                tracing::warn!(%reason, "registry lost: the datapath goes on as it is");
                self.view.write().await.lost = Some(reason);
            }
            WatchEvent::Restored => {
                tracing::info!("registry restored");
                self.resync().await;
            }
            WatchEvent::Alive(_) | WatchEvent::Silent(_) | WatchEvent::Question(_) => {}
        }
    }

    async fn follow_routes(&mut self) {
        let view = self.view.read().await;
        if let Err(error) = self.applier.follow_routes(&view.mirror).await {
            tracing::error!(%error, "next hops not written");
            drop(view);
            self.hasten();
        }
    }

    async fn renew_lease(&self) {
        if let Err(error) = self.applier.renew_lease(LEASE).await {
            tracing::error!(%error, "the kernel looks for each packet's next hop");
        }
    }

    async fn take_delta(&mut self, delta: Delta) {
        let mut view = self.view.write().await;
        let touched = view.mirror.apply(delta);
        if touched.everything || !view.mirror.nodes.contains_key(&self.node.name) {
            drop(view);
            return self.resync().await;
        }
        let view = RwLockWriteGuard::downgrade(view);
        let errors = self.applier.apply_touched(&view.mirror, &touched).await;
        drop(view);
        if !errors.is_empty() || !self.applier.failures().is_empty() {
            self.hasten();
        }
        self.publish(errors, Scope::Delta).await;
    }

    /// A watch ends only with its backend's task: begin another.
    async fn watch_again(&mut self) -> mpsc::Receiver<WatchEvent> {
        loop {
            match self.registry.watch().await {
                Ok(events) => {
                    self.resync().await;
                    return events;
                }
                Err(error) => {
                    self.view.write().await.lost = Some(error.to_string());
                    tokio::time::sleep(RESYNC).await;
                }
            }
        }
    }

    /// Takes a snapshot and makes the whole host what it says.
    async fn resync(&mut self) {
        match self.snapshot().await {
            Ok(mirror) => {
                let mut view = self.view.write().await;
                view.mirror = mirror;
                view.lost = None;
                let view = RwLockWriteGuard::downgrade(view);
                let errors = self.applier.apply_all(&view.mirror).await;
                drop(view);
                self.postpone(!errors.is_empty() || !self.applier.failures().is_empty());
                self.publish(errors, Scope::Whole).await;
            }
            Err(error) => {
                tracing::warn!(%error, "no snapshot of the registry");
                self.view.write().await.lost = Some(error.to_string());
                self.postpone(true);
            }
        }
    }

    /// The registry's state; this node is put back into it if somebody removed it.
    async fn snapshot(&self) -> Result<Mirror, RegistryError> {
        let mirror = Mirror::from(self.registry.snapshot().await?);
        if mirror.nodes.contains_key(&self.node.name) {
            return Ok(mirror);
        }
        tracing::warn!(node = %self.node.name, "this node is missing in the registry: putting it back");
        self.registry
            .commit(&[Change::PutNode(self.node.clone())])
            .await?;
        self.registry.snapshot().await.map(Mirror::from)
    }

    /// Tells what was done.
    async fn publish(&self, errors: Vec<String>, scope: Scope) {
        for error in &errors {
            tracing::error!("{error}");
        }
        let mut view = self.view.write().await;
        view.ports.clone_from(self.applier.ports());
        view.failures.clone_from(self.applier.failures());
        if scope == Scope::Whole {
            view.errors.clear();
        }
        for error in errors {
            if !view.errors.contains(&error) {
                view.errors.push(error);
            }
        }
        let revision = view.mirror.revision;
        view.applied = revision;
        drop(view);
        self.applied.send_replace(revision);
    }

    /// Plans the next look at the whole because a part of it failed: never later than planned already, so
    /// that many deltas don't put it off for ever.
    fn hasten(&mut self) {
        self.next_resync = self.next_resync.min(Instant::now() + self.retry);
    }

    /// Plans the next look at the whole after one.
    fn postpone(&mut self, is_failed: bool) {
        let wait = if is_failed { self.retry } else { RESYNC };
        self.retry = if is_failed {
            (self.retry * 2).min(RESYNC)
        } else {
            FIRST_RETRY
        };
        self.next_resync = Instant::now() + wait;
    }
}
