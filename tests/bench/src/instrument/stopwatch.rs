//! Times single commits from the registry to an agent's pinned FDB.
//!
//! The endpoints belong to nodes without an agent. So every agent that watches the registry makes
//! them a row of its FDB, and none makes interfaces for them: what is measured is the way from the
//! commit over the watch to the map, without the kernel's time for a veth.
//!
//! Prints one line per change: its kind, microseconds that the commit took, and microseconds from its
//! return to the first look that found it carried out.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::prctl;
use overlay_ebpf::abi::{ABI_VERSION, FdbEntry, FdbKey, map};
use overlay_user::model::{Change, Endpoint, Mac, Name, Node, Vni, Vtep};
use overlay_user::registry::{Registry, RegistrySettings, open};

/// Takes the time from a registry's commit to an agent's map.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The registry that the agent watches.
    #[arg(long)]
    registry: String,
    /// Where the agent keeps its pins.
    #[arg(long)]
    pins: PathBuf,
    /// A network that the agent knows.
    #[arg(long)]
    vni: u32,
    /// How many endpoints to add, to move and to remove.
    #[arg(long)]
    count: u16,
    /// Does not wait for the map: the network resolves on demand, and nobody asked.
    #[arg(long)]
    unseen: bool,
}

/// Pause between two looks at the map: short beside what is measured, and long enough to leave the
/// CPU to the agents.
const LOOK: Duration = Duration::from_micros(20);
/// A change that is not there by then is lost.
const LIMIT: Duration = Duration::from_secs(5);
/// Pauses between two commits are spread evenly below this, so that they fall into every phase of
/// whatever ticks in an agent.
const LONGEST_PAUSE: Duration = Duration::from_millis(30);
/// The nodes that the endpoints belong to before and after they are moved. Documentation addresses
/// (RFC 5737), as the hosts'.
const NODES: [(&str, Ipv4Addr); 2] = [
    ("stopwatch-1", Ipv4Addr::new(192, 0, 2, 200)),
    ("stopwatch-2", Ipv4Addr::new(192, 0, 2, 201)),
];

pub(super) async fn run(args: &Args) -> Result<()> {
    // Sleeps of microseconds otherwise last 50 more.
    prctl::set_timerslack(1).context("asking for exact sleeps")?;

    let vni = Vni::try_from(args.vni)?;
    let fdb = if args.unseen {
        None
    } else {
        Some(open_fdb(&args.pins)?)
    };
    let registry = open(&RegistrySettings::new(args.registry.clone())).await?;
    let [before, after]: [Name; 2] = [NODES[0].0.parse()?, NODES[1].0.parse()?];
    let present = NODES.map(|(name, ip)| {
        let vtep = Vtep {
            ip: ip.into(),
            port: 4789,
        };
        Ok(Change::PutNode(Node::new(name.parse()?, vtep, false)))
    });
    let present: Result<Vec<Change>> = present.into_iter().collect();
    registry.commit(&present?).await?;

    let endpoints: Vec<Endpoint> = (0..args.count)
        .map(|number| endpoint(number, vni, &before))
        .collect::<Result<_>>()?;
    for endpoint in &endpoints {
        let change = Change::CreateEndpoint(endpoint.clone());
        time("add", &*registry, fdb.as_ref(), endpoint, change).await?;
    }
    for endpoint in &endpoints {
        let change = Change::MoveEndpoint {
            name: endpoint.name.clone(),
            node: after.clone(),
            attachment: None,
        };
        time("move", &*registry, fdb.as_ref(), endpoint, change).await?;
    }
    for endpoint in &endpoints {
        let change = Change::RemoveEndpoint(endpoint.name.clone());
        time("remove", &*registry, fdb.as_ref(), endpoint, change).await?;
    }
    Ok(())
}

/// Commits one change after a pause and prints how long it takes.
async fn time(
    kind: &str,
    registry: &dyn Registry,
    fdb: Option<&Fdb>,
    endpoint: &Endpoint,
    change: Change,
) -> Result<()> {
    tokio::time::sleep(LONGEST_PAUSE.mul_f64(fastrand::f64())).await;
    let is_removal = matches!(change, Change::RemoveEndpoint(_));
    let key = FdbKey::new(endpoint.vni.get(), endpoint.mac.octets());

    let begin = Instant::now();
    let revision = registry.commit(&[change]).await?;
    let committed = Instant::now();
    let seen = match fdb {
        Some(fdb) => look_until(|| match fdb.get(&key, 0) {
            Ok(entry) => !is_removal && entry.generation >= revision,
            Err(_) => is_removal,
        })?,
        None => committed,
    };
    writeln!(
        std::io::stdout(),
        "{kind} {} {}",
        committed.duration_since(begin).as_micros(),
        seen.duration_since(committed).as_micros()
    )?;
    Ok(())
}

type Fdb = HashMap<MapData, FdbKey, FdbEntry>;

fn open_fdb(pins: &Path) -> Result<Fdb> {
    let path = pins
        .join(format!("v{ABI_VERSION}"))
        .join("maps")
        .join(map::FDB);
    let data = MapData::from_pin(&path)
        .with_context(|| format!("opening the agent's map {}", path.display()))?;
    HashMap::try_from(Map::HashMap(data)).context("the FDB is not of this build's shape")
}

/// Looks until it is so; when that was.
fn look_until(mut is_so: impl FnMut() -> bool) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    loop {
        let found = is_so();
        let now = Instant::now();
        if found {
            return Ok(now);
        }
        if now >= end {
            bail!("a change was not in the map after {} s", LIMIT.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// A remote endpoint with addresses of its own.
fn endpoint(number: u16, vni: Vni, node: &Name) -> Result<Endpoint> {
    let [high, low] = number.to_be_bytes();
    let ip = Ipv4Addr::new(11, 1, high, low);
    Ok(Endpoint {
        name: format!("stopwatch-{number}").parse()?,
        vni,
        mac: Mac::from_ipv4(ip),
        addresses: vec![format!("{ip}/16").parse()?],
        node: node.clone(),
        attachment: None,
        generation: 0,
    })
}
