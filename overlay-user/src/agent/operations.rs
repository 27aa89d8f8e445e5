//! The operations of the agent's API.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use overlay_ebpf::abi::ABI_VERSION;
use tokio::{
    sync::{Mutex, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Reconciling,
    api::{
        AdoptRequest, AdoptView, ClusterView, DatapathView, DoctorView, DropTotals, DropsFilter,
        DropsView, EndpointCounts, EndpointFilter, EndpointListing, EndpointRequest, EndpointView,
        ErrorKind, EventView, ImportArpdRequest, ImportView, MoveRequest, NetworkRequest,
        NetworkView, OperationError, Operations, PingRequest, Pinged, RegistryView, RejectedView,
        RemovedView, SetRequest, StalledView, StatusView, VerifyRequest, VerifyView, VtepRef,
        VtepRemovedView, VtepView,
    },
    descriptors,
    devices::Problem,
    liveness::Liveness,
    map_reader::MapReader,
    monitor,
    paths::Paths,
    sightings::Sightings,
    teardown,
    verify::{Asked, Verifier},
};
use crate::{
    config::{Config, InstancePaths},
    datapath::Datapath,
    integration::arpd,
    model::{Change, EndpointState, Name, NetworkSettings, Revision, Session},
    platform::{Linux, Platform, Underlay, netns::Netns},
    reconcile::{Lost, Observer, View},
    registry::{Registry, RegistryError, Scope},
};

/// How long the registry may take over a change.
pub(super) const COMMIT: Duration = Duration::from_secs(10);
/// Rows of the registry that are left out, and are told of one by one.
const REJECTED: usize = 100;
/// How long this host's kernel may take to follow it.
pub(super) const CARRYING: Duration = Duration::from_secs(30);

/// The agent as its clients see it.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) underlay: Underlay,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) platform: Arc<Linux>,
    datapath: Arc<dyn Datapath>,
    pub(super) maps: MapReader,
    pub(super) observer: Observer,
    session: Session,
    pub(super) fast_path_problem: watch::Receiver<Problem>,
    pub(super) paths: Arc<Paths>,
    pub(super) sightings: Arc<Sightings>,
    reconciling: Mutex<Option<Reconciling>>,
    keeping: Mutex<Option<JoinHandle<()>>>,
    remembering: Mutex<Option<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
    pub(super) liveness: Liveness,
    /// A permit for each reader of [`Operations::monitor`].
    pub(super) monitors: Arc<Semaphore>,
}

/// What an agent is made of.
pub(super) struct Parts {
    pub config: Config,
    pub underlay: Underlay,
    pub registry: Arc<dyn Registry>,
    pub platform: Arc<Linux>,
    pub datapath: Arc<dyn Datapath>,
    pub maps: MapReader,
    pub observer: Observer,
    pub session: Session,
    /// Why the fast path is off.
    pub fast_path_problem: watch::Receiver<Problem>,
    /// Whether tunnel packets get to other hosts.
    pub paths: Arc<Paths>,
    /// What the programs have seen of echoes.
    pub sightings: Arc<Sightings>,
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
            maps: parts.maps,
            observer: parts.observer,
            session: parts.session,
            fast_path_problem: parts.fast_path_problem,
            paths: parts.paths,
            sightings: parts.sightings,
            reconciling: Mutex::new(Some(parts.reconciling)),
            keeping: Mutex::new(Some(parts.keeping)),
            remembering: Mutex::new(Some(parts.remembering)),
            stop: parts.stop,
            monitors: Arc::new(Semaphore::new(descriptors::share(monitor::READERS))),
        }
    }
}

#[async_trait]
impl Operations for Agent {
    async fn network_create(&self, request: NetworkRequest) -> Result<NetworkView, OperationError> {
        self.create_network(&request).await
    }

    async fn network_set(
        &self,
        name: &Name,
        settings: NetworkSettings,
    ) -> Result<NetworkView, OperationError> {
        self.set_network(name, settings).await
    }

    async fn network_ls(&self) -> Result<Vec<NetworkView>, OperationError> {
        let view = self.observer.view().await;
        Ok(view
            .mirror
            .networks()
            .cloned()
            .map(NetworkView::from)
            .collect())
    }

    async fn network_rm(&self, name: &Name) -> Result<RemovedView, OperationError> {
        self.remove_network(name).await
    }

    async fn endpoint_add(&self, request: EndpointRequest) -> Result<EndpointView, OperationError> {
        self.add(&request).await
    }

    async fn endpoint_ls(&self, filter: EndpointFilter) -> Result<EndpointListing, OperationError> {
        self.list(filter).await
    }

    async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, OperationError> {
        self.check_reach().await?;
        self.view_of(self.find(name).await?).await
    }

    async fn endpoint_move(
        &self,
        name: &Name,
        to: MoveRequest,
    ) -> Result<EndpointView, OperationError> {
        self.relocate(name, to).await
    }

    async fn endpoint_set(
        &self,
        name: &Name,
        request: SetRequest,
    ) -> Result<EndpointView, OperationError> {
        self.readdress(name, request).await
    }

    async fn endpoint_rm(&self, name: &Name) -> Result<RemovedView, OperationError> {
        self.check_reach().await?;
        let removed = self.registry.find_endpoint(name).await?.is_some();
        // Also of one whose row can't be found that way: a removal is never wrong.
        self.commit(&[Change::RemoveEndpoint(name.clone())]).await?;
        Ok(RemovedView { removed })
    }

    async fn vtep_ls(&self) -> Result<Vec<VtepView>, OperationError> {
        self.list_vteps().await
    }

    async fn vtep_rm(&self, vtep: &VtepRef) -> Result<Option<VtepRemovedView>, OperationError> {
        self.remove_vtep(vtep).await
    }

    async fn status(&self) -> Result<StatusView, OperationError> {
        let read = self
            .maps
            .ask(|datapath| Ok((datapath.usage()?, datapath.counters()?, datapath.drops()?)));
        // Without the maps the rest is worth knowing all the more.
        let (maps, counters, drops, unread) = match read.await {
            Ok((maps, counters, drops)) => (maps, counters, drops, None),
            Err(error) => (
                BTreeMap::new(),
                BTreeMap::new(),
                BTreeMap::new(),
                Some(error.to_string()),
            ),
        };
        let stalled = self.observer.watchdog().stalled();
        let fast_path_error = self.fast_path_problem.borrow().clone();
        let view = self.observer.view().await;
        let refusal = view.refusal();
        Ok(StatusView {
            instance: self.config.instance.clone(),
            node: self.config.node.clone(),
            ready: view.is_ready() && unread.is_none() && stalled.is_empty(),
            agent: true,
            iface: self.config.iface.clone(),
            vtep: self.underlay.ip.into(),
            port: self.config.port,
            registry: RegistryView {
                url: self.registry.url(),
                connected: view.lost.is_none(),
                followed: view.is_followed(),
                revision: view.mirror.revision(),
                stale_for_s: view.stale_for().as_secs(),
                error: refusal.map(|lost| lost.reason),
                rejected: view
                    .rejected
                    .iter()
                    .take(REJECTED)
                    .map(|(row, why)| RejectedView {
                        row: row.to_string(),
                        why: why.clone(),
                    })
                    .collect(),
            },
            networks: view.mirror.networks().len(),
            endpoints: count(&view),
            paths: self.paths.count(),
            datapath: DatapathView {
                attach: self.datapath.attach_mode(),
                abi: ABI_VERSION,
                fast_path: fast_path_error.is_none(),
                fast_path_error,
                maps: maps.into_iter().map(named).collect(),
                counters: counters.into_iter().map(named).collect(),
                drops: DropTotals::of(drops),
            },
            problems: view.errors.iter().cloned().chain(unread).collect(),
            stalled: stalled.into_iter().map(StalledView::from).collect(),
        })
    }

    async fn drops(&self) -> Result<BTreeMap<String, u64>, OperationError> {
        let drops = self.maps.ask(Datapath::drops).await?;
        Ok(drops.into_iter().map(named).collect())
    }

    async fn drops_detail(&self, filter: DropsFilter) -> Result<DropsView, OperationError> {
        self.detail_drops(filter).await
    }

    async fn monitor(&self) -> Result<mpsc::Receiver<EventView>, OperationError> {
        self.events().await
    }

    async fn verify(&self, request: VerifyRequest) -> Result<VerifyView, OperationError> {
        self.check_reach().await?;
        let vni = match &request.vni {
            Some(network) => Some(self.vni_of(network).await?),
            None => None,
        };
        Verifier::new(&*self.registry).compare(Asked { vni }).await
    }

    async fn doctor(&self) -> Result<DoctorView, OperationError> {
        Ok(self.examine().await)
    }

    async fn doctor_cluster(&self) -> Result<ClusterView, OperationError> {
        self.examine_cluster().await
    }

    async fn ping(&self, request: PingRequest) -> Result<Pinged, OperationError> {
        self.check_reach().await?;
        self.send_ping(&request).await
    }

    async fn registry_adopt(&self, request: AdoptRequest) -> Result<AdoptView, OperationError> {
        self.adopt(request).await
    }

    async fn import_arpd(&self, request: ImportArpdRequest) -> Result<ImportView, OperationError> {
        let ImportArpdRequest { vni, dir } = request;
        let folder = tokio::task::spawn_blocking(move || arpd::Folder::read(&dir))
            .await
            .map_err(|error| OperationError::new(ErrorKind::Internal, error))?;
        self.check_reach().await?;
        let vni = self.vni_of(&vni).await?;
        let snapshot = self
            .registry
            .read(Scope::Network(vni))
            .await?
            .collect()
            .await?;
        let plan = arpd::plan(&folder, vni, self.config.port, &snapshot)
            .map_err(|error| OperationError::new(ErrorKind::Refused, error))?;
        self.commit(&plan.changes).await?;
        Ok(ImportView {
            vni,
            endpoints: plan.endpoints,
            vteps: plan.vteps,
        })
    }

    async fn down(&self) -> Result<(), OperationError> {
        if let Some(reconciling) = self.reconciling.lock().await.take() {
            reconciling.abort();
            // It ends cancelled; what it left half done goes now.
            let _ = reconciling.await;
        }
        if let Some(remembering) = self.remembering.lock().await.take() {
            // Its file is removed below.
            let _ = remembering.await;
        }
        if let Some(keeping) = self.keeping.lock().await.take() {
            keeping.abort();
            // Likewise: it would make the devices again.
            let _ = keeping.await;
        }
        let paths = InstancePaths::new(&self.config.instance);
        let mut errors = Vec::new();
        match Netns::current() {
            Ok(host) => {
                let platform = Arc::clone(&self.platform) as Arc<dyn Platform>;
                teardown::remove_from_host(&paths, platform, &host, &mut errors).await;
            }
            Err(error) => errors.push(error.to_string()),
        }
        let leaving = teardown::leave(&*self.registry, &self.config.node, &self.session);
        errors.extend(teardown::what_stays(&self.config.node, leaving).await);
        self.stop.send_replace(true);
        teardown::forget(&paths, &self.config.instance, &errors)
            .map_err(|error| OperationError::new(ErrorKind::Internal, format_args!("{error:#}")))
    }
}

impl Agent {
    /// Whether [`Operations::down`] has begun.
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

    /// Commits, and waits until this host's kernel is what came of it.
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

fn count(view: &View) -> EndpointCounts {
    let (local, remote) = view.mirror.counts();
    let own = view.mirror.local_endpoints();
    let states = own.map(|known| view.state_of(known.name()));
    states.fold(
        EndpointCounts {
            local,
            remote,
            ..EndpointCounts::default()
        },
        |counts, state| match state {
            EndpointState::Failed => EndpointCounts {
                failed: counts.failed + 1,
                ..counts
            },
            EndpointState::Pending => EndpointCounts {
                waiting: counts.waiting + 1,
                ..counts
            },
            _ => counts,
        },
    )
}

fn named<T>((name, value): (&str, T)) -> (String, T) {
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
