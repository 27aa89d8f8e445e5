//! One agent and a registry that grows: how long the agent takes to converge on it after its start,
//! what it takes of memory and CPU, and what one further change costs it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::agent::Agent;
use super::host::Host;
use super::{Backend, Programs, Store};
use crate::bench::instrument::{Timed, timed};
use crate::bench::interrupt;
use crate::bench::process::Running;
use crate::bench::statistics::Percentiles;

/// VNIs that the endpoints are spread over.
const NETWORKS: u32 = 1000;
/// The VNI of the first of them.
const FIRST_VNI: u32 = 1000;
/// Endpoints that are added, moved and removed to take the cost of a change.
const CHANGES: u32 = 300;
/// For how long an agent without changes is looked at: several of its periodic looks at the whole.
const IDLE: Duration = Duration::from_secs(70);

/// What one size of the registry makes of the agent.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sized {
    pub(super) registry: Backend,
    pub(super) endpoints: u32,
    /// What filling the registry took, from the size before, seconds.
    pub(super) filled_s: f64,
    /// The registry's server's resident memory after the agent has converged, MiB; a file has none.
    pub(super) server_mib: Option<f64>,
    /// From the agent's start until the kernel is what the registry wants, seconds.
    pub(super) convergence_s: f64,
    /// The agent's CPU time until then, seconds.
    pub(super) convergence_cpu_s: f64,
    /// The agent's resident memory after its idle time, MiB.
    pub(super) resident_mib: f64,
    /// The most that it was, MiB.
    pub(super) peak_mib: f64,
    /// What the kernel accounts to its maps, MiB.
    pub(super) maps_mib: f64,
    /// The agent's share of one CPU while nothing changes, percent.
    pub(super) idle_percent: f64,
    /// From a change's commit to the map, microseconds.
    pub(super) change_us: Percentiles,
    /// The agent's CPU time for one change, microseconds.
    pub(super) change_cpu_us: f64,
}

pub(super) fn measure(
    programs: &Programs<'_>,
    backend: Backend,
    sizes: &[u32],
) -> Result<Vec<Sized>> {
    let host = Host::build("scale")?;
    let store = Store::new(backend, &host)?;
    let mut results = Vec::new();
    let mut filled = 0;
    for &size in sizes {
        eprintln!("{}: {size} endpoints", backend.name());
        let filled_s = fill(programs, &host, &store, filled..size)?;
        filled = size;
        let mut result = converge(programs, &host, &store, size)?;
        result.filled_s = filled_s;
        result.registry = backend;
        results.push(result);
    }
    Ok(results)
}

fn fill(
    programs: &Programs<'_>,
    host: &Host,
    store: &Store,
    numbers: std::ops::Range<u32>,
) -> Result<f64> {
    const LIMIT: Duration = Duration::from_mins(30);
    let begun = std::time::Instant::now();
    let [from, to, networks] =
        [numbers.start, numbers.end, NETWORKS].map(|number| number.to_string());
    let words = ["--from", &from, "--to", &to, "--networks", &networks];
    programs.run(host, store, "fill", &words, LIMIT)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn converge(programs: &Programs<'_>, host: &Host, store: &Store, endpoints: u32) -> Result<Sized> {
    // A tenth more than there is: the changes need room too.
    let entries = (endpoints + endpoints / 10 + CHANGES).to_string();
    let words = [
        "--registry",
        &store.url(),
        "--fdb-entries",
        &entries,
        "--neighbor-entries",
        &entries,
    ];
    let agent = Agent::start(programs.agent, host, &words)?;
    let convergence = agent.await_ready()?;
    let converged = agent.usage()?;
    let maps_mib = agent.map_memory_mib()?;
    interrupt::sleep(IDLE)?;
    let idle = agent.usage()?;
    let timed = changes(programs, host, store, &agent)?;
    let busy = agent.usage()?;
    let to_map = timed.iter().map(|change| change.to_map_us).collect();
    let change_cpu = (busy.cpu_s - idle.cpu_s) / f64::from(3 * CHANGES);
    Ok(Sized {
        registry: Backend::Sqlite,
        endpoints,
        filled_s: 0.0,
        server_mib: store.server()?.map(|server| server.resident_mib),
        convergence_s: convergence.as_secs_f64(),
        convergence_cpu_s: converged.cpu_s,
        resident_mib: idle.resident_mib,
        peak_mib: busy.peak_mib,
        maps_mib,
        idle_percent: (idle.cpu_s - converged.cpu_s) / IDLE.as_secs_f64() * 100.0,
        change_us: Percentiles::of(to_map).context("the stopwatch measured nothing")?,
        change_cpu_us: change_cpu * 1e6,
    })
}

/// Adds, moves and removes endpoints one by one; the times from commit to map.
fn changes(
    programs: &Programs<'_>,
    host: &Host,
    store: &Store,
    agent: &Agent,
) -> Result<Vec<Timed>> {
    const LIMIT: Duration = Duration::from_mins(5);
    let pins = agent.pins();
    let words = [
        "--pins",
        &pins.to_string_lossy(),
        "--vni",
        &FIRST_VNI.to_string(),
        "--count",
        &CHANGES.to_string(),
    ];
    timed(&programs.run(host, store, "stopwatch", &words, LIMIT)?)
}

impl Programs<'_> {
    /// Runs a verb of the instrument on `host`; gives what it printed.
    fn run(
        &self,
        host: &Host,
        store: &Store,
        verb: &str,
        words: &[&str],
        limit: Duration,
    ) -> Result<String> {
        let url = store.url();
        let mut line = vec![self.instrument()?, verb, "--registry", &url];
        line.extend(words);
        Running::start(verb, &host.netns.command(&line)?)?.finish(limit)
    }
}
