//! Commits endpoints to a registry one by one and takes the time until each is in an agent's pinned
//! FDB.
//!
//! The endpoints belong to a node without an agent. So every agent that watches the registry makes
//! them a row of its FDB, and none makes interfaces for them: what is measured is the way from the
//! commit over the watch to the map, without the kernel's time for a veth.
//!
//! Prints one line per endpoint: microseconds that the commit took, and microseconds from its return
//! to the first look that found the entry.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::prctl;
use overlay_ebpf::abi::{ABI_VERSION, FdbEntry, FdbKey, map};
use overlay_user::model::{Change, Endpoint, Mac, Name, Node, Vni, Vtep};
use overlay_user::registry;

/// Takes the time from a registry's commit to an agent's map.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The registry that the agent watches.
    #[arg(long)]
    registry: String,
    /// Where the agent keeps its pins.
    #[arg(long)]
    pins: PathBuf,
    /// A network that the agent knows.
    #[arg(long)]
    vni: u32,
    /// How many endpoints to add.
    #[arg(long)]
    count: u16,
}

/// Pause between two looks at the map: short beside what is measured, and long enough to leave the
/// CPU to the agents.
const LOOK: Duration = Duration::from_micros(20);
/// An entry that is not there by then is lost.
const LIMIT: Duration = Duration::from_secs(5);
/// Pauses between two commits are spread evenly below this, so that they fall into every phase of
/// whatever ticks in an agent.
const LONGEST_PAUSE: Duration = Duration::from_millis(30);
/// The node that the endpoints belong to. Documentation addresses (RFC 5737), as the hosts'.
const VTEP: Vtep = Vtep {
    ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200)),
    port: 4789,
};

pub(super) async fn run(args: &Args) -> Result<()> {
    // Sleeps of microseconds otherwise last 50 more.
    prctl::set_timerslack(1).context("asking for exact sleeps")?;

    let vni = Vni::try_from(args.vni)?;
    let fdb = open_fdb(&args.pins)?;
    let registry = registry::open(&registry::Settings::new(args.registry)).await?;
    let node: Name = "stopwatch".parse()?;
    let present = Change::PutNode(Node::new(node.clone(), VTEP, false));
    registry.commit(&[present]).await?;

    let mut out = std::io::stdout().lock();
    for number in 0..args.count {
        tokio::time::sleep(LONGEST_PAUSE.mul_f64(fastrand::f64())).await;
        let endpoint = endpoint(number, vni, &node)?;
        let key = FdbKey::new(vni.get(), endpoint.mac.octets());

        let begin = Instant::now();
        registry.commit(&[Change::CreateEndpoint(endpoint)]).await?;
        let committed = Instant::now();
        let seen = wait_for(&fdb, &key)?;
        writeln!(
            out,
            "{} {}",
            committed.duration_since(begin).as_micros(),
            seen.duration_since(committed).as_micros()
        )?;
    }
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

/// Looks until the entry is there; when that was.
fn wait_for(fdb: &Fdb, key: &FdbKey) -> Result<Instant> {
    let end = Instant::now() + LIMIT;
    loop {
        let found = fdb.get(key, 0).is_ok();
        let now = Instant::now();
        if found {
            return Ok(now);
        }
        if now >= end {
            bail!("an endpoint was not in the map after {} s", LIMIT.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// A remote endpoint with addresses of its own.
fn endpoint(number: u16, vni: Vni, node: &Name) -> Result<Endpoint> {
    let [high, low] = number.to_be_bytes();
    let ip = Ipv4Addr::new(10, 1, high, low);
    Ok(Endpoint {
        name: format!("stopwatch-{number}").parse()?,
        vni,
        mac: Mac::from_ipv4(ip),
        addresses: vec![format!("{ip}/16").parse()?],
        node: node.clone(),
        netns: None,
        ifname: None,
        generation: 0,
    })
}
