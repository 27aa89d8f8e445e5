//! The agent as its clients see it: what operations work on, and what they share.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Reconciling,
    api::{DropNames, ErrorKind, OperationError},
    descriptors,
    devices::Problem,
    dhcp::Answers,
    liveness::Liveness,
    map_reader::MapReader,
    outside::WayOut,
    paths::Paths,
    sightings::Sightings,
};
use crate::{
    config::Config,
    datapath::{Datapath, Tracer, Translator},
    model::{Change, Revision, Session},
    platform::{Linux, Underlay},
    reconcile::{Lost, Observer, View},
    registry::{Registry, RegistryError},
};

/// Readers at once: each has a watch on the registry.
pub(super) const READERS: usize = 16;
/// How long the registry may take over a change.
pub(super) const COMMIT: Duration = Duration::from_secs(10);
/// How long this host's kernel may take to follow it.
pub(super) const CARRYING: Duration = Duration::from_secs(30);

/// The agent as its clients see it.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) underlay: Underlay,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) platform: Arc<Linux>,
    pub(super) datapath: Arc<dyn Datapath>,
    pub(super) translator: Arc<dyn Translator>,
    pub(super) tracer: Arc<dyn Tracer>,
    pub(super) way_out: watch::Receiver<WayOut>,
    pub(super) maps: MapReader,
    pub(super) observer: Observer,
    pub(super) session: Session,
    pub(super) fast_path_problem: watch::Receiver<Problem>,
    pub(super) paths: Arc<Paths>,
    pub(super) sightings: Arc<Sightings>,
    pub(super) answers: Arc<Answers>,
    pub(super) reconciling: Mutex<Option<Reconciling>>,
    pub(super) keeping: Mutex<Option<JoinHandle<()>>>,
    pub(super) remembering: Mutex<Option<JoinHandle<()>>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) liveness: Liveness,
    /// A permit for each reader of events.
    pub(super) monitors: Arc<Semaphore>,
}

/// What an agent is made of.
pub(super) struct Parts {
    pub config: Config,
    pub underlay: Underlay,
    pub registry: Arc<dyn Registry>,
    pub platform: Arc<Linux>,
    pub datapath: Arc<dyn Datapath>,
    pub translator: Arc<dyn Translator>,
    pub tracer: Arc<dyn Tracer>,
    /// The uplink, and who has no part of it.
    pub way_out: watch::Receiver<WayOut>,
    pub maps: MapReader,
    pub observer: Observer,
    pub session: Session,
    /// Why the fast path is off.
    pub fast_path_problem: watch::Receiver<Problem>,
    /// Whether tunnel packets get to other hosts.
    pub paths: Arc<Paths>,
    /// What the programs have seen of echoes.
    pub sightings: Arc<Sightings>,
    /// What was sent to DHCP clients and heard of them.
    pub answers: Arc<Answers>,
    pub reconciling: Reconciling,
    /// What puts the devices back.
    pub keeping: JoinHandle<()>,
    /// Writes down what the loop knows, and ends with it.
    pub remembering: JoinHandle<()>,
    pub stop: watch::Sender<bool>,
}

impl From<Parts> for Agent {
    fn from(parts: Parts) -> Self {
        Self {
            liveness: Liveness::new(parts.config.node_grace),
            config: parts.config,
            underlay: parts.underlay,
            registry: parts.registry,
            platform: parts.platform,
            datapath: parts.datapath,
            translator: parts.translator,
            tracer: parts.tracer,
            way_out: parts.way_out,
            maps: parts.maps,
            observer: parts.observer,
            session: parts.session,
            fast_path_problem: parts.fast_path_problem,
            paths: parts.paths,
            sightings: parts.sightings,
            answers: parts.answers,
            reconciling: Mutex::new(Some(parts.reconciling)),
            keeping: Mutex::new(Some(parts.keeping)),
            remembering: Mutex::new(Some(parts.remembering)),
            stop: parts.stop,
            monitors: Arc::new(Semaphore::new(descriptors::share(READERS))),
        }
    }
}

impl Agent {
    /// Whether it is being taken down.
    pub(super) async fn is_going_down(&self) -> bool {
        self.reconciling.lock().await.is_none()
    }

    /// Becomes true when the agent ends.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Refuses a change while the registry is away: nothing is queued, for by the time it could be
    /// carried out somebody else may have claimed the same address.
    pub(super) async fn check_reach(&self) -> Result<(), OperationError> {
        let view = self.observer.view().await;
        match view.refusal() {
            None => Ok(()),
            Some(Lost {
                reason,
                is_foreign: true,
                ..
            }) => Err(OperationError::new(
                ErrorKind::Unavailable,
                format_args!("{reason}: nothing was changed"),
            )),
            Some(Lost { reason, since, .. }) => Err(OperationError::new(
                ErrorKind::Unavailable,
                format_args!(
                    "the registry has been out of reach for {} s ({reason}): nothing was changed, try \
                     again when `overlay status` says connected",
                    since.elapsed().as_secs()
                ),
            )),
        }
    }

    /// Commits, and waits until this host's kernel has the change.
    pub(super) async fn commit(&self, changes: &[Change]) -> Result<Revision, OperationError> {
        self.check_reach().await?;
        let revision = self.in_registry(changes).await??;
        self.carried_over(revision).await?;
        Ok(revision)
    }

    /// Commits. The outer error: whether it was done is not known.
    pub(super) async fn in_registry(
        &self,
        changes: &[Change],
    ) -> Result<Result<Revision, RegistryError>, OperationError> {
        timeout(COMMIT, self.registry.commit(changes))
            .await
            .map_err(|_| no_answer())
    }

    /// Waits until this host's kernel is what `revision` wants.
    pub(super) async fn carried_over(&self, revision: Revision) -> Result<(), OperationError> {
        let message = match timeout(CARRYING, self.observer.clone().applied(revision)).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                "the agent's reconciler has ended: see its log and start the agent again".to_owned()
            }
            Err(_) => format!(
                "it is in the registry (revision {revision}), and this host has not followed within {} \
                 s: see `overlay status`",
                CARRYING.as_secs()
            ),
        };
        Err(OperationError::new(ErrorKind::Internal, message))
    }
}

pub(super) fn named<T>((name, value): (&str, T)) -> (String, T) {
    (name.to_owned(), value)
}

/// The registry was asked for a change and says nothing.
pub(super) fn no_answer() -> OperationError {
    OperationError::new(
        ErrorKind::Unavailable,
        format_args!(
            "the registry has not answered within {} s: whether it was done is not known, look before you \
             try again",
            COMMIT.as_secs()
        ),
    )
}

/// The names of this host's endpoints and of the nodes.
pub(super) fn names_of(view: &View) -> DropNames {
    let endpoints = view.ready();
    let nodes = view.mirror.nodes();
    let nodes = nodes.map(|node| (node.vtep.ip.into(), node.name.clone()));
    DropNames {
        endpoints: endpoints
            .map(|(name, ifindex)| (ifindex, name.clone()))
            .collect(),
        nodes: nodes.collect(),
    }
}
