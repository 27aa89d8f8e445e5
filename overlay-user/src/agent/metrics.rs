//! Serves the agent's metrics: `GET /metrics`, and nothing else.

use std::{collections::BTreeMap, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use overlay_ebpf::abi::ABI_VERSION;
use tokio::{net::TcpListener, time::timeout};

use super::{
    api::{PathState, drop_totals},
    connections::{self, Limits},
    descriptors,
    dhcp::Answers,
    map_reader::MapReader,
    outside,
    paths::Paths,
};
use crate::{
    datapath::{AttachMode, Datapath, DatapathError},
    model::{DropClass, MapUsage, Name, PortCounts, Traffic, Vni},
    observe::metrics::{
        Build, DatapathReading, EndpointDropSums, EndpointTraffic, Endpoints, LoopReading, Metrics,
        NetworkTraffic, Peers, Reading, RegistryReading, Source,
    },
    reconcile::{
        Observer, View,
        meter::{Cause, Meter},
        watchdog::{Part, Stalled},
    },
    registry::Registry,
};

/// How long a scrape waits for the registry. Prometheus itself gives up after 10 s.
const NODES_TIMEOUT: Duration = Duration::from_secs(2);
/// Scrapes at once.
const CONNECTIONS: usize = 32;
/// How long a scrape may take, the reader's share included.
const LIFETIME: Duration = Duration::from_secs(30);

/// What a scrape asks.
#[derive(Clone)]
pub(super) struct Sources {
    pub node: Name,
    pub registry: Arc<dyn Registry>,
    pub maps: MapReader,
    pub observer: Observer,
    pub paths: Arc<Paths>,
    pub answers: Arc<Answers>,
    pub metrics: Arc<Metrics>,
    /// Whether each endpoint's traffic is told.
    pub tells_endpoints: bool,
}

/// Opens the port that the metrics are served on.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("can't serve metrics on {address}: choose another address with --metrics")
    })
}

/// Every counter of a new agent.
pub(super) fn counters(datapath: &dyn Datapath) -> anyhow::Result<Arc<Metrics>> {
    let attach = match datapath.attach_mode() {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    };
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        attach,
    };
    let causes = Cause::ALL.map(Cause::name);
    Ok(Metrics::new(&build, &causes)?)
}

impl Meter for Metrics {
    fn step(&self, cause: Cause, took: Duration, errors: usize) {
        Metrics::step(self, cause.name(), took, errors);
    }
}

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, sources: Sources) {
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(sources);
    let limits = Limits {
        connections: descriptors::share(CONNECTIONS),
        // Anybody may connect.
        idle: Duration::ZERO,
        lifetime: Some(LIFETIME),
    };
    connections::serve(listener, router, limits, pending()).await;
}

async fn page(State(sources): State<Sources>) -> Response {
    let reading = sources.read().await;
    match sources.metrics.render(&reading) {
        Ok(page) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be printed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl Sources {
    async fn read(&self) -> Reading {
        let (maps, peers) = tokio::join!(self.maps(), self.peers());
        let stalled = self.observer.watchdog().stalled();
        let view = self.observer.view().await;
        let datapath = maps.map(|maps| maps.reading(&view, self.tells_endpoints));
        let (local, remote) = view.mirror.counts();
        Reading {
            is_ready: view.is_ready() && stalled.is_empty(),
            parts: parts(&stalled),
            problems: view.errors.len(),
            registry: RegistryReading {
                is_connected: view.lost.is_none(),
                rejected: view.rejected.len(),
                is_followed: view.is_followed(),
                revision: view.mirror.revision(),
                applied: view.applied,
                stale_for: view.stale_for(),
            },
            networks: view.mirror.networks().len(),
            endpoints: Endpoints {
                local,
                remote,
                failed: view.failures().count(),
            },
            peers,
            paths: self.paths(),
            dhcp: self.answers.counts().collect(),
            pools: outside::pools(&view.mirror),
            datapath,
            control: control(&view),
        }
    }

    /// How many paths are in each state; every state is there.
    fn paths(&self) -> BTreeMap<&'static str, usize> {
        let count = self.paths.count();
        PathState::ALL
            .into_iter()
            .map(|state| (state.key(), count.get(&state).copied().unwrap_or_default()))
            .collect()
    }

    async fn maps(&self) -> Option<Maps> {
        match self.maps.ask(Maps::read).await {
            Ok(maps) => return Some(maps),
            Err(error) => tracing::debug!(%error, "no metrics of the maps"),
        }
        self.metrics.failed(Source::Datapath);
        None
    }

    async fn peers(&self) -> Option<Peers> {
        match timeout(NODES_TIMEOUT, self.registry.nodes()).await {
            Ok(Ok(nodes)) => {
                let peers = nodes
                    .iter()
                    .filter(|node| node.agent && node.name != self.node);
                let (known, alive) = peers.fold((0, 0), |(known, alive), peer| {
                    (known + 1, alive + usize::from(peer.alive))
                });
                return Some(Peers { known, alive });
            }
            Ok(Err(error)) => tracing::debug!(%error, "no metrics of the nodes"),
            Err(_) => tracing::debug!("no metrics of the nodes: the registry is slow"),
        }
        self.metrics.failed(Source::Nodes);
        None
    }
}

/// For how long each part has been stalled.
fn parts(stalled: &[Stalled]) -> BTreeMap<&'static str, Duration> {
    let turning = Part::ALL.map(|part| (part.name(), Duration::ZERO));
    let stalled = stalled.iter().map(|one| (one.part.name(), one.since));
    turning.into_iter().chain(stalled).collect()
}

fn control(view: &View) -> LoopReading {
    let counters = view.counters;
    LoopReading {
        resolved: counters.resolved,
        negative: counters.unresolved,
        failed: counters.failed_lookups + counters.timeouts,
        overflowed: counters.overflows,
        idle: counters.idle,
        evicted: counters.evicted,
        cached: view.cached,
        moves: counters.moves,
        announced: counters.announced,
        fenced: counters.fenced,
        readings: counters.readings,
        last_reading: counters.last_reading,
        mended: counters.mended,
        swept: counters.swept,
    }
}

/// What the datapath says.
struct Maps {
    drops: BTreeMap<&'static str, u64>,
    counters: BTreeMap<&'static str, u64>,
    usage: BTreeMap<&'static str, MapUsage>,
    traffic: BTreeMap<Vni, Traffic>,
    port_counts: BTreeMap<u32, PortCounts>,
}

impl Maps {
    fn read(datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        Ok(Self {
            drops: datapath.drops()?,
            counters: datapath.counters()?,
            usage: datapath.usage()?,
            traffic: datapath.traffic()?,
            port_counts: datapath.port_counts(None)?,
        })
    }

    /// The same, with the names of networks and endpoints.
    fn reading(self, view: &View, tells_endpoints: bool) -> DatapathReading {
        let name_of = |vni: &Vni| {
            view.mirror
                .network(*vni)
                .map(|network| network.name.clone())
        };
        let totals = drop_totals(self.drops.iter().map(|(reason, count)| (*reason, *count)));
        let classes = [
            (DropClass::Loss.name(), totals.loss),
            (DropClass::Noise.name(), totals.noise),
        ];
        let endpoint_drops = view.ready().filter_map(|(endpoint, port)| {
            let drops = &self.port_counts.get(&port)?.drops;
            Some(EndpointDropSums {
                vni: view.mirror.endpoint(endpoint).map(|known| known.vni()),
                endpoint: endpoint.clone(),
                sent: drops.sent.values().sum(),
                received: drops.received.values().sum(),
            })
        });
        let ports = view.ready().filter(|_| tells_endpoints);
        let endpoint_traffic = ports.filter_map(|(endpoint, port)| {
            Some(EndpointTraffic {
                vni: view.mirror.endpoint(endpoint).map(|known| known.vni()),
                endpoint: endpoint.clone(),
                traffic: self.port_counts.get(&port)?.traffic?,
            })
        });
        DatapathReading {
            endpoint_traffic: endpoint_traffic.collect(),
            endpoint_drops: endpoint_drops.collect(),
            classes: classes.into(),
            drops: self.drops,
            counters: self.counters,
            maps: self.usage,
            traffic: self
                .traffic
                .into_iter()
                .map(|(vni, traffic)| NetworkTraffic {
                    vni,
                    network: name_of(&vni),
                    traffic,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_ebpf::abi::{Counter, DropReason};

    use super::*;

    const RULES: &str = include_str!("../../packaging/prometheus/overlay.rules.yml");

    #[test]
    fn alert_rules_name_only_drop_reasons_that_there_are() {
        let known: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        let named: BTreeSet<_> = RULES
            .split("reason=")
            .skip(1)
            .filter_map(|rest| rest.trim_start_matches(['~', '"']).split('"').next())
            .flat_map(|reasons| reasons.split('|'))
            .collect();
        assert!(named.len() > 3 && named.is_subset(&known), "{named:?}");
    }

    #[test]
    fn alert_rules_name_no_reason_that_is_noise() {
        let noise = DropReason::ALL.iter().filter(|reason| reason.is_noise());
        for reason in noise {
            assert!(!RULES.contains(reason.name()), "{}", reason.name());
        }
    }

    #[test]
    fn every_counter_of_the_programs_is_on_the_page() {
        let counters = Counter::ALL.iter().map(|counter| (counter.name(), 7));
        let reading = Reading {
            datapath: Some(DatapathReading {
                counters: counters.collect(),
                ..DatapathReading::default()
            }),
            ..Reading::default()
        };
        let metrics = Metrics::new(
            &Build {
                version: "0",
                abi: 0,
                attach: "tcx",
            },
            &[],
        )
        .unwrap();
        let page = metrics.render(&reading).unwrap();
        let there = page.lines().filter(|line| line.ends_with(" 7")).count();
        assert_eq!(there, Counter::ALL.len(), "{page}");
    }
}
