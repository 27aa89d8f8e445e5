//! Many agents' control loops in one process: each with a registry's connection, a session and a
//! reconcile loop of its own, as the agent puts them together, and maps that tell when they were
//! written.
//!
//! A socket serves the driver: `settle REVISION` waits until all loops have carried that revision
//! over and answers with what was recorded since the last time, a line an endpoint: its number, how
//! many loops wrote or removed it, and when the first and the last did (nanoseconds of
//! `CLOCK_MONOTONIC`, as in the driver). An empty line ends the answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_user::datapath::{self, Datapath, Kernel};
use overlay_user::model::{Change, KINDS, Name, Node, Session, Vtep};
use overlay_user::reconcile::apply::Applier;
use overlay_user::reconcile::cache::Limits;
use overlay_user::reconcile::desired::Local;
use overlay_user::reconcile::{Observer, Pace, Parts, Reconciler};
use overlay_user::registry::{Registry, RegistrySettings, open};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::dataset;
use super::fake::{NoPlatform, Tabled};
use super::recording_datapath::{Recording, RecordingDatapath};

/// How often an agent says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Runs the control loops of agents until it is told to end.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The registry.
    #[arg(long)]
    registry: String,
    /// Number of the first agent.
    #[arg(long)]
    first: u32,
    /// How many there are.
    #[arg(long)]
    count: u32,
    /// Endpoints that the driver makes.
    #[arg(long)]
    endpoints: u32,
    /// Where the driver finds this process.
    #[arg(long)]
    socket: PathBuf,
    /// Gives each agent BPF maps under a folder of this name and its number; their underlays are the devices
    /// `u0`, `u1` and so on.
    #[arg(long)]
    pins: Option<String>,
}

pub(super) async fn run(args: &Args) -> Result<()> {
    let recording = Arc::new(Recording::new(args.endpoints));
    let mut observers = Vec::new();
    for number in args.first..args.first + args.count {
        let datapath: Arc<dyn Datapath> = match &args.pins {
            Some(pins) => Arc::new(RecordingDatapath::new(
                load(pins, number).await?,
                &recording,
            )),
            None => Arc::new(RecordingDatapath::new(Tabled::default(), &recording)),
        };
        observers.push(start(args, number, datapath).await?);
    }
    let listener = UnixListener::bind(&args.socket).context("making the driver's socket")?;
    loop {
        let (driver, _) = listener.accept().await?;
        serve(driver, &mut observers, &recording).await?;
    }
}

/// Real maps and programs.
async fn load(pins: &str, number: u32) -> Result<Kernel> {
    let underlay = format!("u{number}");
    let settings = datapath::DatapathSettings {
        pins: format!("{pins}-{number}").into(),
        underlay_ifindex: nix::net::if_::if_nametoindex(underlay.as_str())
            .with_context(|| format!("looking for the device {underlay}"))?,
        underlay,
        vtep_ip: dataset::agent_ip(number),
        vtep_port: dataset::PORT,
        strict_reserved: false,
        fdb_entries: 1 << 18,
        neighbor_entries: 1 << 18,
        log_drops: false,
    };
    let loaded = tokio::task::spawn_blocking(move || Kernel::load(settings)).await?;
    Ok(loaded?)
}

/// Puts one agent together; it goes on by itself.
async fn start(args: &Args, number: u32, datapath: Arc<dyn Datapath>) -> Result<Observer> {
    let registry = open(&RegistrySettings::new(args.registry.clone())).await?;
    let name: Name = format!("agent-{number}").parse()?;
    let vtep = Vtep {
        ip: dataset::agent_ip(number).into(),
        port: dataset::PORT,
    };
    let node = Node::new(name.clone(), vtep, true);
    let session = Session::new(format!("bench-{number}"));
    registry.heartbeat(&name, &session).await?;
    registry.commit(&[Change::PutNode(node.clone())]).await?;
    tokio::spawn(live(Arc::clone(&registry), name.clone(), session));
    let local = Local {
        node: name,
        vtep,
        underlay_mtu: 1500,
    };
    let misses = datapath.misses()?;
    let (changes, routes) = mpsc::channel(1);
    let (reconciler, observer) = Reconciler::new(Parts {
        registry,
        applier: Applier::new(Arc::new(NoPlatform), datapath, local),
        node: watch::channel(node).1,
        kinds: KINDS,
        limits: Limits::default(),
        pace: Pace::default(),
        routes,
        ports: None,
        misses,
    });
    tokio::spawn(async move {
        // No route changes, and nobody stops telling.
        let _changes = changes;
        if let Err(error) = reconciler.run().await {
            eprintln!("agent {number}: {error}");
        }
    });
    Ok(observer)
}

async fn live(registry: Arc<dyn Registry>, node: Name, session: Session) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        beat.tick().await;
        if let Err(error) = registry.heartbeat(&node, &session).await {
            eprintln!("{node}: {error}");
        }
    }
}

/// Answers one driver until it goes.
async fn serve(
    driver: UnixStream,
    observers: &mut [Observer],
    recording: &Recording,
) -> Result<()> {
    let (reads, mut writes) = driver.into_split();
    let mut lines = BufReader::new(reads).lines();
    while let Some(line) = lines.next_line().await? {
        let revision = line
            .strip_prefix("settle ")
            .and_then(|revision| revision.parse().ok())
            .with_context(|| format!("the driver says {line:?}"))?;
        for observer in &mut *observers {
            observer.applied(revision).await;
        }
        let answer = recording.take() + "\n";
        writes.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
