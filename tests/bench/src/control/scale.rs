//! One agent and a registry that grows: how long the agent takes to converge on it after its start,
//! what it takes of memory and CPU, what one further change costs it, and what a packet does.

use std::net::{Ipv4Addr, UdpSocket};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::host::Host;
use super::{Backend, PREFIX, Programs, Resolve, Store};
use crate::agent::Agent;
use crate::instrument::{Timed, timed};
use crate::statistics::Percentiles;
use crate::usage::Usage;
use overlay_lab::OwnedNetns;
use overlay_lab::interrupt;
use overlay_lab::process::Running;

/// VNIs that the endpoints are spread over.
const NETWORKS: u32 = 1000;
/// The VNI of the first of them.
const FIRST_VNI: u32 = 1000;
/// Endpoints that are added, moved and removed to take the cost of a change.
const CHANGES: u32 = 300;
/// Until then after its start an agent has looked through its tables once; the next time is far off.
const SETTLED: Duration = Duration::from_secs(35);
/// For how long an agent without changes is looked at: at least one of its periodic looks at the host.
const IDLE: Duration = Duration::from_secs(40);
/// Remote endpoints that are talked to where networks resolve on demand, if there are as many.
const ACTIVE: u32 = 4000;
/// Local endpoints that talk to them, each on a network of its own.
const TALKERS: u32 = 5;
/// Addresses that a talker asks for at once: the kernel's table of neighbours holds few.
const AT_ONCE: usize = 100;
/// Runs of the program of each kind.
const LOOKUPS: u32 = 20_000;

/// What one size of the registry makes of the agent.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sized {
    pub(super) registry: Backend,
    pub(super) resolve: Resolve,
    pub(super) endpoints: u32,
    /// What filling the registry took, from the size before, seconds.
    pub(super) filled_s: f64,
    /// The registry's server's resident memory after the agent has converged, MiB; a file has none.
    pub(super) server_mib: Option<f64>,
    /// From the agent's start until the kernel is what the registry wants, seconds.
    pub(super) convergence_s: f64,
    /// The agent's CPU time until then, seconds.
    pub(super) convergence_cpu_s: f64,
    /// Remote endpoints in its maps.
    pub(super) in_maps: u32,
    /// The agent's resident memory after its idle time, MiB.
    pub(super) resident_mib: f64,
    /// The most that it was, MiB.
    pub(super) peak_mib: f64,
    /// What the kernel accounts to its maps, MiB.
    pub(super) maps_mib: f64,
    /// The agent's share of one CPU while nothing changes, percent.
    pub(super) idle_percent: f64,
    /// From a change's commit to the map, microseconds. Nothing where networks resolve on demand and
    /// nobody has asked for what changes.
    pub(super) change_us: Option<Percentiles>,
    /// The agent's CPU time for one change, microseconds.
    pub(super) change_cpu_us: f64,
    /// The program behind an endpoint, for a frame to the same remote one each time, nanoseconds.
    pub(super) same_ns: Option<Percentiles>,
    /// For frames to others each time.
    pub(super) other_ns: Option<Percentiles>,
}

/// A registry that is filled further and further, and the host whose agent reads it.
struct Fixture<'a> {
    programs: &'a Programs<'a>,
    host: Host,
    store: Store,
    backend: Backend,
    resolve: Resolve,
}

pub(super) fn measure(
    programs: &Programs<'_>,
    backend: Backend,
    resolve: Resolve,
    sizes: &[u32],
) -> Result<Vec<Sized>> {
    let host = Host::build("scale")?;
    let store = Store::new(backend, &host)?;
    let fixture = Fixture {
        programs,
        host,
        store,
        backend,
        resolve,
    };
    // What an agent does on demand follows what is talked to: the largest registry tells.
    let sizes = match resolve {
        Resolve::Proactive => sizes,
        Resolve::OnDemand => sizes
            .get(sizes.len().saturating_sub(1)..)
            .unwrap_or_default(),
    };
    let mut filled = 0;
    sizes
        .iter()
        .map(|&size| {
            eprintln!("{}, {}: {size} endpoints", backend.name(), resolve.name());
            let filled_s = fill(
                programs,
                &fixture.host,
                &fixture.store,
                resolve,
                filled..size,
            )?;
            filled = size;
            fixture.look(size, filled_s)
        })
        .collect()
}

impl Fixture<'_> {
    /// Runs a verb of the instrument on the host; gives what it printed.
    fn instrument(&self, verb: &str, words: &[&str], limit: Duration) -> Result<String> {
        let url = self.store.url();
        let mut line = vec![&self.programs.instrument, verb];
        // This one looks at an agent alone.
        if verb != "lookup" {
            line.extend(["--registry", &url]);
        }
        line.extend(words);
        Running::start(verb, &self.host.netns.line(&line))?.finish(limit)
    }

    /// Starts an agent on so many endpoints and takes its measures.
    fn look(&self, endpoints: u32, filled_s: f64) -> Result<Sized> {
        // A tenth more than there is: the changes need room too.
        let entries = (endpoints + endpoints / 10 + CHANGES).to_string();
        let url = self.store.url();
        let mut words = Vec::new();
        if self.resolve == Resolve::Proactive {
            words.extend(["--fdb-entries", &entries, "--neighbor-entries", &entries]);
        }
        let agent = self.host.start(self.programs.agent, &url, &words)?;
        let convergence = agent.await_ready()?;
        let converged = agent.usage()?;
        let talkers = Talkers::add(&agent)?;
        let in_maps = match self.resolve {
            Resolve::Proactive => endpoints,
            Resolve::OnDemand => talkers.talk(&agent, endpoints)?,
        };
        let maps_mib = agent.map_memory_mib()?;
        interrupt::sleep(SETTLED)?;
        let settled = agent.usage()?;
        interrupt::sleep(IDLE)?;
        let idle = agent.usage()?;
        let change_us = self.changes(&agent)?;
        let busy = agent.usage()?;
        let [same_ns, other_ns] = match self.resolve {
            Resolve::Proactive => self.lookups(&agent, endpoints)?.map(Some),
            Resolve::OnDemand => [None, None],
        };
        let cpu = |from: Usage, to: Usage| to.cpu_s - from.cpu_s;
        Ok(Sized {
            registry: self.backend,
            resolve: self.resolve,
            endpoints,
            filled_s,
            server_mib: self.store.server()?.map(|server| server.resident_mib),
            convergence_s: convergence.as_secs_f64(),
            convergence_cpu_s: converged.cpu_s,
            in_maps,
            resident_mib: idle.resident_mib,
            peak_mib: busy.peak_mib,
            maps_mib,
            idle_percent: cpu(settled, idle) / IDLE.as_secs_f64() * 100.0,
            change_us,
            change_cpu_us: cpu(idle, busy) * 1e6 / f64::from(3 * CHANGES),
            same_ns,
            other_ns,
        })
    }

    /// Adds, moves and removes endpoints one by one; the times from commit to map.
    fn changes(&self, agent: &Agent) -> Result<Option<Percentiles>> {
        const LIMIT: Duration = Duration::from_mins(5);
        let pins = agent.pins();
        let (pins, vni, count) = (
            pins.to_string_lossy(),
            FIRST_VNI.to_string(),
            CHANGES.to_string(),
        );
        let mut words = vec!["--pins", &pins, "--vni", &vni, "--count", &count];
        if self.resolve == Resolve::OnDemand {
            words.push("--unseen");
        }
        let timed: Vec<Timed> = timed(&self.instrument("stopwatch", &words, LIMIT)?)?;
        if self.resolve == Resolve::OnDemand {
            return Ok(None);
        }
        let to_map = timed.iter().map(|change| change.to_map_us).collect();
        let percentiles = Percentiles::of(to_map);
        percentiles
            .context("the stopwatch measured nothing")
            .map(Some)
    }

    /// What the program takes for frames to the same endpoint, and to others.
    fn lookups(&self, agent: &Agent, endpoints: u32) -> Result<[Percentiles; 2]> {
        const LIMIT: Duration = Duration::from_mins(2);
        let pins = agent.pins();
        let [networks, endpoints, count] =
            [NETWORKS, endpoints, LOOKUPS].map(|number| number.to_string());
        let mut words = vec!["--networks", &networks, "--endpoints", &endpoints];
        let pins = pins.to_string_lossy();
        words.extend(["--count", &count, "--pins", &pins]);
        let output = self.instrument("lookup", &words, LIMIT)?;
        let of_kind = |wanted: &str| {
            let runs = output.lines().filter_map(|line| line.split_once(' '));
            let runs = runs.filter(|(kind, _)| *kind == wanted);
            let ns = runs.map(|(_, ns)| ns.parse().ok()).collect::<Option<_>>();
            ns.and_then(Percentiles::of)
                .context("the instrument's figures are malformed")
        };
        Ok([of_kind("same")?, of_kind("other")?])
    }
}

/// Adds endpoints with these numbers to a registry; seconds that it took.
pub(super) fn fill(
    programs: &Programs<'_>,
    host: &Host,
    store: &Store,
    resolve: Resolve,
    numbers: Range<u32>,
) -> Result<f64> {
    const LIMIT: Duration = Duration::from_hours(1);
    let begun = Instant::now();
    let url = store.url();
    let [from, to, networks] =
        [numbers.start, numbers.end, NETWORKS].map(|number| number.to_string());
    let mut line = vec![&programs.instrument, "fill", "--registry", &url];
    line.extend(["--from", &from, "--to", &to, "--networks", &networks]);
    line.extend(["--resolve", resolve.name()]);
    Running::start("filling the registry", &host.netns.line(&line))?.finish(LIMIT)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Local endpoints, each on one of the first networks.
struct Talkers(Vec<OwnedNetns>);

impl Talkers {
    fn add(agent: &Agent) -> Result<Self> {
        let mut talkers = Vec::new();
        for number in 0..TALKERS {
            let name = format!("{PREFIX}talker-{number}");
            // Before the agent makes the namespace, so that it goes also if the agent fails half-way.
            talkers.push(OwnedNetns::adopt(&name));
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 255, 0, 1)) + number);
            let (vni, address) = ((FIRST_VNI + number).to_string(), format!("{ip}/8"));
            agent.verb(&["endpoint", "add", &name, "--vni", &vni, "--ip", &address])?;
        }
        Ok(Self(talkers))
    }

    /// Sends a datagram to each of [`ACTIVE`] endpoints; gives how many the maps have then.
    fn talk(&self, agent: &Agent, endpoints: u32) -> Result<u32> {
        const LIMIT: Duration = Duration::from_secs(30);
        let each = (ACTIVE / TALKERS).min(endpoints / NETWORKS);
        for (first, talker) in (0..).zip(&self.0) {
            let peers: Vec<Ipv4Addr> = (0..each)
                .map(|nth| Ipv4Addr::from((10 << 24) + first + nth * NETWORKS))
                .collect();
            for peers in peers.chunks(AT_ONCE) {
                let before = agent.fdb_entries()?;
                talker.try_enter(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    for peer in peers {
                        socket.send_to(b"?", (*peer, 9))?;
                    }
                    Ok(())
                })?;
                let wanted = before + u32::try_from(peers.len())?;
                interrupt::wait_until("what was asked for is in the maps", LIMIT, || {
                    Ok(agent.fdb_entries()? >= wanted)
                })?;
                talker.try_ip("neigh flush all")?;
            }
        }
        Ok(each * TALKERS)
    }
}
