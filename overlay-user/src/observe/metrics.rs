//! What an agent tells Prometheus.
//!
//! Two kinds of metrics: those that others keep are read at each scrape ([`Reading`]), those that
//! only exist as events are counted here as they happen ([`Metrics`]). Names follow
//! <https://prometheus.io/docs/practices/naming>: a unit, and `_total` on what only grows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector, proto::MetricFamily,
};

use crate::model::{MapUsage, Name, Revision, Traffic, Vni};

mod page;

use page::Page;

/// Upper bounds of the buckets for the time that a step of the control loop takes, seconds: one row
/// takes some tens of microseconds, a look at a million rows some seconds.
const DURATIONS: [f64; 14] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// The parts of the agent that a scrape asks. One that does not answer is left out of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The BPF maps.
    Datapath,
    /// The registry's nodes.
    Nodes,
}

impl Source {
    const ALL: [Self; 2] = [Self::Datapath, Self::Nodes];

    fn name(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Nodes => "nodes",
        }
    }
}

/// What is told of one agent at one moment.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Whether the kernel is what the registry wants.
    pub is_ready: bool,
    /// What could not be done and is tried again.
    pub problems: usize,
    /// The agent's parts, by name: for how long each has not turned, if that is too long, or zero.
    pub parts: BTreeMap<&'static str, Duration>,
    /// The registry, as this agent sees it.
    pub registry: RegistryReading,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are, by where they live.
    pub endpoints: Endpoints,
    /// The other nodes that have an agent; `None`: nobody could say.
    pub peers: Option<Peers>,
    /// Other hosts, by whether tunnel packets get there and back.
    pub paths: BTreeMap<&'static str, usize>,
    /// What was sent to DHCP clients and heard of them, by type.
    pub dhcp: BTreeMap<&'static str, u64>,
    /// Pools of external addresses: blocks that endpoints have, and that there are.
    pub pools: BTreeMap<Name, [u64; 2]>,
    /// The BPF maps; `None`: they could not be read.
    pub datapath: Option<DatapathReading>,
    /// What the control loop counts.
    pub control: LoopReading,
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, Default)]
pub struct RegistryReading {
    /// Whether it is in reach.
    pub is_connected: bool,
    /// How many of its rows are left out, because they can't be read or break a rule.
    pub rejected: usize,
    /// Whether the store that is there is followed: false for another one, and one that lost too much.
    pub is_followed: bool,
    /// The last revision heard of.
    pub revision: Revision,
    /// The last revision carried over to the kernel.
    pub applied: Revision,
    /// For how long it has been out of reach.
    pub stale_for: Duration,
}

/// Endpoints by where they live.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endpoints {
    /// On this node.
    pub local: usize,
    /// On others.
    pub remote: usize,
    /// Those of the local ones that could not be made.
    pub failed: usize,
}

/// The other nodes that have an agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peers {
    /// All of them.
    pub known: usize,
    /// Those that said lately that they live.
    pub alive: usize,
}

/// What the BPF maps count and hold.
#[derive(Debug, Clone, Default)]
pub struct DatapathReading {
    /// Dropped packets by reason; every reason is there.
    pub drops: BTreeMap<&'static str, u64>,
    /// The same as loss and noise.
    pub classes: BTreeMap<&'static str, u64>,
    /// Endpoints of this host of which packets were dropped, noise apart.
    pub endpoint_drops: Vec<EndpointDropSums>,
    /// What the programs count beside drops.
    pub counters: BTreeMap<&'static str, u64>,
    /// Every map that can fill up, by name.
    pub maps: BTreeMap<&'static str, MapUsage>,
    /// Traffic of the networks that have endpoints here.
    pub traffic: Vec<NetworkTraffic>,
    /// Traffic of each endpoint here, if that is told.
    pub endpoint_traffic: Vec<EndpointTraffic>,
}

/// How many packets of an endpoint were dropped.
#[derive(Debug, Clone)]
pub struct EndpointDropSums {
    /// The endpoint.
    pub endpoint: Name,
    /// Its network; `None`: the registry has it no more.
    pub vni: Option<Vni>,
    /// Of those that it sent.
    pub sent: u64,
    /// Of those that were for it.
    pub received: u64,
}

/// Traffic of one endpoint of this host.
#[derive(Debug, Clone)]
pub struct EndpointTraffic {
    /// The endpoint.
    pub endpoint: Name,
    /// Its network; `None`: the registry has it no more.
    pub vni: Option<Vni>,
    /// What it sent and got.
    pub traffic: Traffic,
}

/// Traffic of one network's endpoints on this host.
#[derive(Debug, Clone)]
pub struct NetworkTraffic {
    /// The network.
    pub vni: Vni,
    /// Its name; `None`: the registry has it no more.
    pub network: Option<Name>,
    /// What they sent and got.
    pub traffic: Traffic,
}

/// What the control loop counts, since it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopReading {
    /// Misses for which the registry knew the address: it was installed.
    pub resolved: u64,
    /// Misses for which it did not: nobody asks again for a while.
    pub negative: u64,
    /// Misses for which the registry gave no answer, or too late.
    pub failed: u64,
    /// Misses that found no place among those that wait for an answer.
    pub overflowed: u64,
    /// Cached endpoints that went because nobody talked to them.
    pub idle: u64,
    /// Cached endpoints that made room for others.
    pub evicted: u64,
    /// Endpoints in the cache.
    pub cached: usize,
    /// Endpoints that came to another node.
    pub moves: u64,
    /// Addresses that came to another MAC, and were announced.
    pub announced: u64,
    /// Changes that came later than a newer word on the same endpoint.
    pub fenced: u64,
    /// Readings of the registry as a whole.
    pub readings: u64,
    /// How long the last of them took until its rows were in.
    pub last_reading: Duration,
    /// Rows that were missing or wrong in the kernel's tables.
    pub mended: u64,
    /// Rows in the kernel's tables that nobody wanted.
    pub swept: u64,
}

/// Which agent this is.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// The version of its maps' layout.
    pub abi: u32,
    /// How its programs are attached.
    pub attach: &'static str,
}

/// Counts what happens in the agent, and prints all there is to tell.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    durations: HistogramVec,
    errors: IntCounterVec,
    scrape_errors: IntCounterVec,
}

impl Metrics {
    /// Everything at zero.
    pub fn new(build: &Build, causes: &[&str]) -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let info = Opts::new(
            "overlay_build_info",
            "The agent's version, the version of its maps' layout (ABI) and how its programs are \
             attached; always 1",
        );
        let info = IntGaugeVec::new(info, &["version", "abi", "attach"])?;
        info.with_label_values(&[build.version, &build.abi.to_string(), build.attach])
            .set(1);
        registry.register(Box::new(info))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "overlay_reconcile_duration_seconds",
                "Time that a step of the control loop took, by what it was for: change (the registry \
                 told of one), reading (of the whole registry, a page), miss, lookup (the registry \
                 answered whose an address is), routes or chore",
            )
            .buckets(DURATIONS.to_vec()),
            &["cause"],
        )?;
        let errors = counters(
            "overlay_reconcile_errors_total",
            "What went wrong in the steps of the control loop; each attempt counts",
            "cause",
        )?;
        let scrape_errors = counters(
            "overlay_scrape_errors_total",
            "Scrapes that lack a part of the page because its source gave no answer",
            "source",
        )?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(scrape_errors.clone()))?;
        let metrics = Self {
            registry,
            durations,
            errors,
            scrape_errors,
        };
        metrics.begin_at_zero(causes);
        Ok(Arc::new(metrics))
    }

    /// A series that is missing until its first event hides that event from `rate`.
    fn begin_at_zero(&self, causes: &[&str]) {
        for cause in causes {
            self.durations.with_label_values(&[*cause]);
            self.errors.with_label_values(&[*cause]);
        }
        for source in Source::ALL {
            self.scrape_errors.with_label_values(&[source.name()]);
        }
    }

    /// The control loop took a step of this kind, and so many things in it went wrong.
    pub fn step(&self, cause: &str, took: Duration, errors: usize) {
        self.durations
            .with_label_values(&[cause])
            .observe(took.as_secs_f64());
        self.errors
            .with_label_values(&[cause])
            .inc_by(errors.try_into().unwrap_or(u64::MAX));
    }

    /// A source had nothing to say to a scrape.
    pub fn failed(&self, source: Source) {
        self.scrape_errors.with_label_values(&[source.name()]).inc();
    }

    /// The page, in Prometheus' text format.
    pub fn render(&self, reading: &Reading) -> Result<String, prometheus::Error> {
        let mut families: Vec<MetricFamily> = self.registry.gather();
        families.extend(Page::of(reading).into_families());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }
}

fn counters(name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}

#[cfg(test)]
mod tests;
