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

/// Upper bounds of the buckets for the time that carrying a change over takes, seconds: one row
/// takes some tens of microseconds, a million rows some seconds.
const DURATIONS: [f64; 14] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// What of the registry was carried over to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// All there is.
    Whole,
    /// A single change.
    Delta,
}

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
    /// The registry, as this agent sees it.
    pub registry: RegistryReading,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are, by where they live.
    pub endpoints: Endpoints,
    /// The other nodes that have an agent; `None`: nobody could say.
    pub peers: Option<Peers>,
    /// The BPF maps; `None`: they could not be read.
    pub datapath: Option<DatapathReading>,
    /// What became of misses.
    pub cache: CacheReading,
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, Default)]
pub struct RegistryReading {
    /// Whether it is in reach.
    pub is_connected: bool,
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
    /// What the programs count beside drops.
    pub counters: BTreeMap<&'static str, u64>,
    /// Every map that can fill up, by name.
    pub maps: BTreeMap<&'static str, MapUsage>,
    /// Traffic of the networks that have endpoints here.
    pub traffic: Vec<NetworkTraffic>,
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

/// What the agent did for networks that are resolved on demand, since it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheReading {
    /// Misses for which the registry knew the address: it was installed.
    pub resolved: u64,
    /// Misses for which it did not: nobody asks again for a while.
    pub negative: u64,
    /// Misses for which the registry could not be asked.
    pub failed: u64,
    /// Entries that went because nobody used them.
    pub idle: u64,
    /// Entries that made room for others in a full map.
    pub evicted: u64,
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
    /// Everything at zero. `version` is the agent's, `abi` that of its maps, `attach` how its
    /// programs are attached.
    pub fn new(version: &str, abi: u32, attach: &str) -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let build = Opts::new(
            "overlay_build_info",
            "The agent's version, the version of its maps' layout (ABI) and how its programs are \
             attached; always 1",
        );
        let build = IntGaugeVec::new(build, &["version", "abi", "attach"])?;
        build
            .with_label_values(&[version, &abi.to_string(), attach])
            .set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "overlay_reconcile_duration_seconds",
                "Time from hearing of a change to the kernel being what it wants, by how much was \
                 looked at: delta (one change) or whole (everything)",
            )
            .buckets(DURATIONS.to_vec()),
            &["scope"],
        )?;
        let errors = counters(
            "overlay_reconcile_errors_total",
            "What could not be carried over to the kernel; each attempt counts",
            "scope",
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
        metrics.begin_at_zero();
        Ok(Arc::new(metrics))
    }

    /// A series that is missing until its first event hides that event from `rate`.
    fn begin_at_zero(&self) {
        for carried in [Carried::Whole, Carried::Delta] {
            self.durations.with_label_values(&[carried.name()]);
            self.errors.with_label_values(&[carried.name()]);
        }
        for source in Source::ALL {
            self.scrape_errors.with_label_values(&[source.name()]);
        }
    }

    /// Something was carried over to the kernel in this time; `errors` of it could not be.
    pub fn carried(&self, what: Carried, took: Duration, errors: usize) {
        let scope = [what.name()];
        self.durations
            .with_label_values(&scope)
            .observe(took.as_secs_f64());
        self.errors
            .with_label_values(&scope)
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

impl Carried {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Delta => "delta",
        }
    }
}

fn counters(name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}

#[cfg(test)]
mod tests;
