//! The agent: wires the registry, the datapath and the platform together.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};

mod adopt;
pub mod api;
pub mod client;
mod clients;
mod cluster;
mod connections;
mod descriptors;
mod devices;
mod dhcp;
mod doctor;
mod explain;
#[cfg(test)]
pub(crate) mod fake;
mod first_gateway;
mod inquiries;
mod instance;
mod join;
mod last_known;
mod listing;
mod liveness;
mod map_reader;
mod metrics;
mod monitor;
pub mod offline;
pub mod offline_registry;
mod operations;
mod outside;
mod pacing;
mod paths;
mod ping;
mod pinned;
mod preflight;
mod prober;
mod run_dir;
pub mod server;
mod service;
mod sightings;
mod startup_retry;
mod teardown;
mod underlay;
mod verify;
mod watchdog;

use self::{
    adopt::AtStart,
    clients::Clients,
    devices::{Keeper, Problem},
    instance::{InstanceLock, InstanceRecord},
    join::Join,
    last_known::LastKnown,
    map_reader::MapReader,
    metrics::Sources,
    paths::Paths,
    prober::Prober,
    service::{Agent, Parts},
    sightings::Sightings,
    startup_retry::StartupRetry,
    underlay::Moved,
};
use crate::{
    config::{Config, InstancePaths},
    datapath::{self, Datapath, Kernel},
    model::{KINDS, Name, Node, SESSION_TTL, Session, Vtep},
    platform::{Linux, Platform, Underlay, require_shared},
    reconcile::{
        self, Observer, Reconciler,
        apply::Applier,
        cache::Limits,
        desired::Local,
        watchdog::{Part, Watchdog},
    },
    registry::{Registry, RegistryError, limited},
};

/// How long the registry may take over an answer: longer than etcd's own limits.
const ANSWER: Duration = Duration::from_secs(30);
/// How often an agent says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// For how long it is then believed to.
const ALIVE: Duration = SESSION_TTL;

/// How a run of the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// The underlay changed, and the programs were made for what it was: the agent has to be started
    /// anew with the same words. All that it held is closed; nothing is lost meanwhile, as at each start.
    StartAnew,
}

/// Runs the agent until it is told to stop. The datapath stays when it does.
pub async fn run(config: Config) -> anyhow::Result<Ending> {
    descriptors::raise_limit()?;
    run_dir::keep_files_private();
    let paths = InstancePaths::new(&config.instance);
    let claim = InstanceLock::lock(&paths, &config.instance)?;
    let is_first = InstanceRecord::read(&paths)?.is_none();
    match start(&config, &paths).await {
        Ok(started) => serve(config, started, &paths, claim).await,
        Err(error) => {
            if is_first {
                give_up(&config, &paths).await;
            }
            claim.release(&paths);
            if error.is::<Moved>() {
                tracing::warn!("{error}: starting anew");
                return Ok(Ending::StartAnew);
            }
            Err(error)
        }
    }
}

/// What an agent has once it may serve.
struct Started {
    underlay: Underlay,
    registry: Arc<dyn Registry>,
    platform: Arc<Linux>,
    datapath: Arc<Kernel>,
    keeper: Keeper,
    fast_path_problem: Problem,
    listener: UnixListener,
    metrics: Option<TcpListener>,
    node: Node,
    session: Session,
    last_known: LastKnown,
}

/// Looks at all that can be refused first, then makes what the agent needs. The registry comes
/// last: the others hear of a node that stands.
async fn start(config: &Config, paths: &InstancePaths) -> anyhow::Result<Started> {
    require_shared()?;
    let platform = Arc::new(Linux::new(
        config.instance.clone(),
        config.iface.clone(),
        config.local_ip,
    )?);
    let previous = InstanceRecord::read(paths)?;
    let kept = previous.as_ref().and_then(|previous| previous.vtep);
    let underlay = underlay::choose(&platform, kept).await?;
    tokio::task::spawn_blocking(datapath::require).await??;
    let mut record = InstanceRecord::of(config, underlay.ip).await?;
    if let Some(previous) = &previous {
        preflight::check_namespace(previous, &record, paths, config).await?;
    }
    let listener = server::listen(&paths.socket, config.socket_group.as_deref())?;
    let adoption = Arc::new(AtStart::new(config.clone(), Arc::clone(&platform) as _));
    let startup_retry = StartupRetry::new(
        config,
        previous.as_ref().map(|previous| &previous.registry),
        &listener,
        &adoption,
    );
    let vtep = Vtep {
        ip: underlay.ip.into(),
        port: config.port,
    };
    let refused = Mutex::default();
    let (registry, last_known) = startup_retry
        .until_done(|| async {
            let opening = preflight::open(config, previous.as_ref(), adoption.is_adopted());
            let registry = limited::open(&config.registry.url, ANSWER, opening).await?;
            let nodes = registry.nodes().await?;
            preflight::check_node(config, previous.as_ref(), vtep, &nodes)?;
            let last_known = LastKnown::read(paths, registry.identity())?;
            preflight::check_history(config, &last_known, &*registry, &*platform, &refused).await?;
            Ok((registry, last_known))
        })
        .await?;
    let metrics = match config.metrics {
        Some(address) => Some(metrics::listen(address).await?),
        None => None,
    };
    record.registry.identity = registry.identity();
    record.write(paths)?;
    // A port that is somebody else's is refused before anything is loaded.
    platform.ensure_vxlan(config.port).await?;
    let datapath = Arc::new(load(config, paths, &underlay).await?);
    let keeper = Keeper {
        platform: Arc::clone(&platform) as Arc<dyn Platform>,
        datapath: Arc::clone(&datapath) as Arc<dyn Datapath>,
        port: config.port,
    };
    let fast_path_problem = keeper.ensure().await?.problem;
    let session = record.session(&config.instance);
    let join = Join::new(config, vtep, underlay.mtu, &session, previous.is_none());
    let node = startup_retry
        .until_done(|| async {
            underlay::check(&platform).await?;
            join.attempt(&*registry).await
        })
        .await?;
    Ok(Started {
        underlay,
        registry,
        platform,
        datapath,
        keeper,
        fast_path_problem,
        listener,
        metrics,
        node,
        session,
        last_known,
    })
}

/// Takes away what a first start made before it failed; the log has what stays.
async fn give_up(config: &Config, paths: &InstancePaths) {
    if let Err(error) = teardown::undo(config, paths).await {
        tracing::warn!(%error, "run `overlay down` before the next start");
    }
}

#[expect(clippy::too_many_lines, reason = "it puts the parts together, once")]
async fn serve(
    config: Config,
    started: Started,
    paths: &InstancePaths,
    claim: InstanceLock,
) -> anyhow::Result<Ending> {
    let Started {
        underlay,
        registry,
        platform,
        datapath,
        keeper,
        fast_path_problem,
        listener,
        metrics: measured_at,
        node,
        session,
        last_known,
    } = started;
    let local = Local {
        node: node.name.clone(),
        vtep: node.vtep,
        underlay_mtu: underlay.mtu,
    };
    let here = local.clone();
    let applier = Applier::new(
        Arc::clone(&platform) as Arc<dyn Platform>,
        Arc::clone(&datapath) as Arc<dyn Datapath>,
        local,
    );
    let counters = metrics::counters(&*datapath)?;
    let maps = MapReader::new(Arc::clone(&datapath) as Arc<dyn Datapath>);
    let (announced, node) = watch::channel(node);
    let (reconciler, mut observer) = Reconciler::new(reconcile::Parts {
        registry: Arc::clone(&registry),
        applier,
        node,
        kinds: KINDS,
        limits: Limits {
            entries: usize::try_from(config.cache.entries)?,
            idle: config.cache.idle,
            negative_ttl: config.cache.negative_ttl,
            ..Limits::default()
        },
        pace: reconcile::Pace::default(),
        routes: platform.route_changes().await?,
        ports: platform
            .port_changes()
            .await
            .inspect_err(|error| tracing::warn!(%error, "changes inside are noticed late"))
            .ok(),
        misses: datapath.misses()?,
    });
    let followed = last_known.revision;
    let (inquiries, asked) = mpsc::channel(inquiries::WAITING);
    let mut reconciler = reconciler
        .measured_by(Arc::clone(&counters) as _)
        .handing_on(inquiries);
    if last_known != LastKnown::default() {
        reconciler = reconciler.after(last_known.handover());
    }
    let watchdog = Arc::clone(observer.watchdog());
    watchdog::start(Arc::clone(&watchdog)).context("no thread for the watchdog")?;
    let reconciling = tokio::spawn(reconciler.run());
    let mut living = tokio::spawn(heartbeat(
        Arc::clone(&registry),
        config.node.clone(),
        session.clone(),
        Arc::clone(&watchdog),
    ));
    let (problem, fast_path_problem) = watch::channel(fast_path_problem);
    let keeping =
        tokio::spawn(keeper.run(problem, observer.events().clone(), Arc::clone(&watchdog)));
    let watching = tokio::spawn(underlay::watch(
        Arc::clone(&platform),
        underlay,
        announced,
        watchdog,
    ));
    let announcing = tokio::spawn(announce(observer.clone(), config.clone(), underlay));
    let remembering = tokio::spawn(last_known::keep(
        observer.clone(),
        Arc::clone(&registry),
        paths.clone(),
        followed,
    ));
    let paths_to_hosts = Arc::<Paths>::default();
    let sightings = Arc::<Sightings>::default();
    let prober = Prober {
        paths: Arc::clone(&paths_to_hosts),
        sightings: Arc::clone(&sightings),
        datapath: Arc::clone(&datapath) as Arc<dyn Datapath>,
        observer: observer.clone(),
        node: config.node.clone(),
        mtu: underlay.mtu,
    };
    let probing = tokio::spawn(prober.run());
    let (leaving, way_out) = watch::channel(outside::WayOut::default());
    let outside = outside::Keeper {
        platform: Arc::clone(&platform),
        translator: Arc::clone(&datapath) as Arc<dyn datapath::Translator>,
        registry: Arc::clone(&registry),
        observer: observer.clone(),
        node: config.node.clone(),
        uplink: config.uplink.clone(),
        ports: config.snat_ports.clone(),
        way_out: leaving,
    };
    let outside = tokio::spawn(outside.run());
    let pacing = pacing::Keeper {
        platform: Arc::clone(&platform),
        pacer: Arc::clone(&datapath) as Arc<dyn datapath::Pacer>,
        observer: observer.clone(),
        way_out: way_out.clone(),
    };
    let pacing = tokio::spawn(pacing.run());
    let answers = Arc::<dhcp::Answers>::default();
    let server = dhcp::Server::new(
        Arc::clone(&datapath) as Arc<dyn Datapath>,
        observer.clone(),
        here,
        Arc::clone(&answers),
    )?;
    let answering_dhcp = tokio::spawn(server.run());
    let clients = Clients::start().context("no threads for clients")?;
    if let Some(listener) = measured_at {
        let sources = Sources {
            node: config.node.clone(),
            registry: Arc::clone(&registry),
            maps: maps.clone(),
            observer: observer.clone(),
            paths: Arc::clone(&paths_to_hosts),
            answers: Arc::clone(&answers),
            metrics: counters,
            tells_endpoints: config.metrics_endpoints,
        };
        let listener = listener.into_std()?;
        clients.spawn(async {
            metrics::serve(TcpListener::from_std(listener)?, sources).await;
            anyhow::Ok(())
        });
    }

    let (stop, mut stopped) = watch::channel(false);
    let agent = Arc::new(Agent::from(Parts {
        config,
        underlay,
        registry,
        platform,
        translator: Arc::clone(&datapath) as Arc<dyn datapath::Translator>,
        tracer: Arc::clone(&datapath) as Arc<dyn datapath::Tracer>,
        datapath,
        maps,
        observer: observer.clone(),
        way_out,
        session,
        fast_path_problem,
        paths: paths_to_hosts,
        sightings,
        answers,
        reconciling,
        keeping,
        remembering,
        stop: stop.clone(),
    }));
    let answering = tokio::spawn(Arc::clone(&agent).answer_inquiries(asked));
    let giving = Arc::clone(&agent);
    let giving = tokio::spawn(async move { giving.give_gateway().await });
    let mut asked_to_stop = stopped.clone();
    let (listener, operations) = (listener.into_std()?, Arc::clone(&agent) as _);
    let serving = clients.spawn(async move {
        let stop = async move {
            let _ = asked_to_stop.wait_for(|stop| *stop).await;
        };
        server::serve(UnixListener::from_std(listener)?, operations, stop).await;
        anyhow::Ok(())
    });
    let reason = tokio::select! {
        reason = shutdown_signal() => reason.map(|signal| {
            tracing::info!(signal, "stopping; the datapath stays");
            Ending::Stopped
        }),
        _ = stopped.wait_for(|stop| *stop) => Ok(Ending::Stopped),
        taken = &mut living => Err(taken.context("the heartbeat died")?),
        changed = watching => follow(paths, underlay, changed.context("the watch over the underlay died")?),
        () = reconciler_exited(&mut observer, &agent) => Err(anyhow::anyhow!("the reconciler died: see the log")),
    };
    stop.send_replace(true);
    serving.await.context("the agent's socket died")??;
    living.abort();
    announcing.abort();
    probing.abort();
    outside.abort();
    pacing.abort();
    answering_dhcp.abort();
    answering.abort();
    giving.abort();
    claim.release(paths);
    reason
}

/// Ends the agent for another underlay, and forgets this one's address: the next agent must not wait for it.
fn follow(paths: &InstancePaths, loaded: Underlay, now: Underlay) -> anyhow::Result<Ending> {
    tracing::warn!(
        "the underlay changed: it was interface {} with {} and MTU {}, and is {} with {} and MTU {}: \
         starting anew",
        loaded.ifindex,
        loaded.ip,
        loaded.mtu,
        now.ifindex,
        now.ip,
        now.mtu
    );
    if let Some(record) = InstanceRecord::read(paths)? {
        let record = InstanceRecord {
            vtep: Some(now.ip),
            ..record
        };
        record.write(paths)?;
    }
    Ok(Ending::StartAnew)
}

async fn load(
    config: &Config,
    paths: &InstancePaths,
    underlay: &Underlay,
) -> anyhow::Result<Kernel> {
    let settings = datapath::DatapathSettings {
        pins: paths.pins.clone(),
        underlay: config.iface.to_string(),
        underlay_ifindex: underlay.ifindex,
        vtep_ip: underlay.ip,
        vtep_port: config.port,
        strict_reserved: config.strict_reserved,
        fdb_entries: config.fdb_capacity,
        neighbor_entries: config.neighbor_capacity,
        log_drops: tracing::enabled!(target: "overlay_bpf", tracing::Level::DEBUG),
    };
    Ok(tokio::task::spawn_blocking(move || Kernel::load(settings)).await??)
}

/// Tells systemd and the log when the kernel is first what the registry wants.
async fn announce(mut observer: Observer, config: Config, underlay: Underlay) {
    loop {
        match timeout(startup_retry::EXTENSION / 2, observer.applied(1)).await {
            Ok(true) => break,
            Ok(false) => return,
            // It holds what the registry does not have, or has much to read: a restart would not help.
            Err(_) => startup_retry::ask_for_time("not ready yet: see `overlay status`"),
        }
    }
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tracing::info!(
        instance = %config.instance,
        node = %config.node,
        iface = %config.iface,
        vtep = %underlay.ip,
        port = config.port,
        "ready"
    );
}

/// Ends only if another host's agent has taken the node over, which it can once this one has not
/// been heard of for a while. Two that speak for one node would undo each other's work.
async fn heartbeat(
    registry: Arc<dyn Registry>,
    node: Name,
    session: Session,
    watchdog: Arc<Watchdog>,
) -> anyhow::Error {
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    watchdog.turned(Part::Registry);
    loop {
        beat.tick().await;
        let answer = registry.heartbeat(&node, &session).await;
        watchdog.turned(Part::Registry);
        match answer {
            Ok(()) => {}
            Err(error @ RegistryError::Conflict { .. }) => {
                return anyhow::Error::new(error)
                    .context("the registry has given this node to another host");
            }
            Err(error) => tracing::debug!(%error, "no heartbeat"),
        }
    }
}

/// Waits until the reconciler has ended of itself, and not because the instance is taken down.
async fn reconciler_exited(observer: &mut Observer, agent: &Agent) {
    observer.ended().await;
    if agent.is_going_down().await {
        std::future::pending::<()>().await;
    }
}

async fn shutdown_signal() -> anyhow::Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

/// The reconciler's task.
type Reconciling = JoinHandle<Result<(), RegistryError>>;
