//! Changes a registry at a steady rate, and collects when each agent had each change.
//!
//! Every endpoint is added, then every one moved, then every one removed. Before the next kind of
//! change all agents have carried the previous one over. Prints a line a change: its kind, when its
//! commit began and ended, in microseconds since the kind's first, and for each process of agents,
//! in the order of the command line, how many of them had it, and when the first and the last did,
//! in microseconds since the commit's return.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_user::model::{Change, Endpoint, Mac, Name, Network, Node, Revision, Vni, Vtep};
use overlay_user::registry::{Registry, RegistrySettings, open};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::dataset::PORT;
use super::recording_datapath::now_ns;

/// Adds, moves and removes endpoints at a rate.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The registry.
    #[arg(long)]
    registry: String,
    /// Sockets of the agents' processes.
    #[arg(long, value_delimiter = ',')]
    agents: Vec<PathBuf>,
    /// Changes a second.
    #[arg(long)]
    rate: u32,
    /// Endpoints: so many adds, moves and removes.
    #[arg(long)]
    endpoints: u32,
}

const VNI: u32 = 42;
/// Where the endpoints are, and are moved to.
const NODES: [(&str, Ipv4Addr); 2] = [
    ("driver-1", Ipv4Addr::new(198, 19, 255, 1)),
    ("driver-2", Ipv4Addr::new(198, 19, 255, 2)),
];
/// Commits that may be under way: beyond it the registry is not as fast as the rate.
const UNDER_WAY: usize = 256;
/// The first bytes of the endpoints' addresses.
const PREFIX: u8 = 10;

/// One commit, in nanoseconds of `CLOCK_MONOTONIC`.
struct Committed {
    number: u32,
    begun_ns: u64,
    done_ns: u64,
    revision: Revision,
}

pub(super) async fn run(args: &Args) -> Result<()> {
    let registry = open(&RegistrySettings::new(args.registry.clone())).await?;
    let vni = Vni::try_from(VNI)?;
    let [before, after]: [Name; 2] = [NODES[0].0.parse()?, NODES[1].0.parse()?];
    let mut changes = vec![Change::CreateNetwork(Network::new("driven".parse()?, vni))];
    for (name, ip) in NODES {
        let vtep = Vtep {
            ip: ip.into(),
            port: PORT,
        };
        changes.push(Change::PutNode(Node::new(name.parse()?, vtep, false)));
    }
    registry.commit(&changes).await?;

    let mut agents = Vec::new();
    for socket in &args.agents {
        agents.push(Agents::connect(socket).await?);
    }
    let endpoints: Vec<Endpoint> = (0..args.endpoints)
        .map(|number| endpoint(number, vni, &before))
        .collect::<Result<_>>()?;
    let add = |endpoint: &Endpoint| Change::CreateEndpoint(endpoint.clone());
    let relocate = |endpoint: &Endpoint| Change::MoveEndpoint {
        name: endpoint.name.clone(),
        node: after.clone(),
        attachment: None,
    };
    let remove = |endpoint: &Endpoint| Change::RemoveEndpoint(endpoint.name.clone());
    let kinds = [
        ("add", endpoints.iter().map(add).collect()),
        ("move", endpoints.iter().map(relocate).collect()),
        ("remove", endpoints.iter().map(remove).collect()),
    ];
    for (kind, changes) in kinds {
        let commits = commit_all(&registry, changes, args.rate).await?;
        print(kind, &commits, &mut agents).await?;
    }
    Ok(())
}

/// Commits each change at its time; nobody waits for another's.
async fn commit_all(
    registry: &Arc<dyn Registry>,
    changes: Vec<Change>,
    rate: u32,
) -> Result<Vec<Committed>> {
    let mut tick = interval_at(Instant::now(), Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let slots = Arc::new(Semaphore::new(UNDER_WAY));
    let mut commits = JoinSet::new();
    for (number, change) in (0..).zip(changes) {
        tick.tick().await;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let registry = Arc::clone(registry);
        commits.spawn(async move {
            let begun_ns = now_ns();
            let revision = registry.commit(&[change]).await?;
            let done_ns = now_ns();
            drop(slot);
            anyhow::Ok(Committed {
                number,
                begun_ns,
                done_ns,
                revision,
            })
        });
    }
    let mut all = Vec::new();
    while let Some(commit) = commits.join_next().await {
        all.push(commit??);
    }
    all.sort_by_key(|commit| commit.number);
    Ok(all)
}

async fn print(kind: &str, commits: &[Committed], agents: &mut [Agents]) -> Result<()> {
    let last = commits.iter().map(|commit| commit.revision).max();
    let begun = commits.iter().map(|commit| commit.begun_ns).min();
    let (last, begun) = last.zip(begun).context("no change was committed")?;
    let mut lines: Vec<String> = commits
        .iter()
        .map(|commit| {
            let [from, to] = [commit.begun_ns, commit.done_ns].map(|ns| (ns - begun) / 1000);
            format!("{kind} {from} {to}")
        })
        .collect();
    for agents in agents {
        let seen = agents.settle(last).await?;
        ensure!(
            seen.len() == commits.len(),
            "{} of {} changes arrived",
            seen.len(),
            commits.len()
        );
        for ((line, commit), seen) in lines.iter_mut().zip(commits).zip(seen) {
            // It may be in a map before the commit's answer is here.
            let [first, last] =
                [seen.first_ns, seen.last_ns].map(|ns| ns.saturating_sub(commit.done_ns) / 1000);
            let _ = write!(line, " {} {first} {last}", seen.times);
        }
    }
    println!("{}", lines.join("\n"));
    Ok(())
}

/// A process of agents.
struct Agents {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    writes: tokio::net::unix::OwnedWriteHalf,
}

/// When its agents had an endpoint's change.
struct Seen {
    times: u32,
    first_ns: u64,
    last_ns: u64,
}

impl Agents {
    async fn connect(socket: &PathBuf) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connecting to the agents at {}", socket.display()))?;
        let (reads, writes) = stream.into_split();
        Ok(Self {
            lines: BufReader::new(reads).lines(),
            writes,
        })
    }

    /// Waits until all of them have carried `revision` over; what they saw, by endpoint.
    async fn settle(&mut self, revision: Revision) -> Result<Vec<Seen>> {
        let question = format!("settle {revision}\n");
        self.writes.write_all(question.as_bytes()).await?;
        let mut all = Vec::new();
        loop {
            let line = self.lines.next_line().await?;
            let line = line.context("the agents' process has ended")?;
            if line.is_empty() {
                return Ok(all);
            }
            let mut words = line.split(' ').map(str::parse::<u64>);
            let mut next = || words.next()?.ok();
            let (number, times, first_ns, last_ns) =
                (|| Some((next()?, next()?, next()?, next()?)))()
                    .with_context(|| format!("the agents say {line:?}"))?;
            ensure!(
                usize::try_from(number)? == all.len(),
                "endpoint {} did not arrive",
                all.len()
            );
            all.push(Seen {
                times: u32::try_from(times)?,
                first_ns,
                last_ns,
            });
        }
    }
}

/// The driver's endpoint of this number.
fn endpoint(number: u32, vni: Vni, node: &Name) -> Result<Endpoint> {
    let [_, b, c, d] = number.to_be_bytes();
    let ip = Ipv4Addr::new(PREFIX, b, c, d);
    Ok(Endpoint {
        name: format!("driven-{number}").parse()?,
        vni,
        mac: Mac::from_ipv4(ip),
        addresses: vec![format!("{ip}/8").parse()?],
        node: node.clone(),
        attachment: None,
        generation: 0,
    })
}

/// The number of the driver's endpoint with this MAC.
pub(super) fn number_of(mac: Mac) -> Option<u32> {
    match mac.octets() {
        [0x02, 0x42, PREFIX, b, c, d] => Some(u32::from_be_bytes([0, b, c, d])),
        _ => None,
    }
}
