//! The part of the page that is read anew at each scrape.

use std::time::Duration;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{
    DatapathReading, EndpointDropSums, EndpointTraffic, LoopReading, NetworkTraffic, Reading,
};
use crate::model::{MapUsage, Traffic};

/// Counters of the programs that make one family: the beginning of their names, the family's name,
/// the label that takes the rest, and help.
const COUNTERS: [(&str, &str, &str, &str); 8] = [
    (
        "misses_",
        "overlay_misses_total",
        "outcome",
        "Frames of on-demand networks for an address that is not in the maps, by outcome: raised \
         (the agent was told), lost (it was not, its queue being full) or put off because too many \
         came of one endpoint (limited_endpoint), network (limited_network) or CPU (limited)",
    ),
    (
        "slow_",
        "overlay_slow_path_packets_total",
        "cause",
        "Packets that took the longer way, by cause: route (the kernel's routing table was asked), queue \
         (they went through the queue of the endpoint's interface), send_* (the VXLAN device encapsulated \
         them) or receive_* (it unpacked them)",
    ),
    (
        "too_big_",
        "overlay_too_big_packets_total",
        "outcome",
        "Packets too long for the network or the path, by outcome: answered (the sender was told by \
         ICMP) or limited (it was told too often before)",
    ),
    (
        "router_",
        "overlay_router_packets_total",
        "outcome",
        "Packets of endpoints here to a gateway, by outcome: forwarded (into another network), answered (refused, and the \
         sender was told by ICMP) or limited (it was told too often before)",
    ),
    (
        "outside_",
        "overlay_outside_packets_total",
        "outcome",
        "Packets between endpoints here and the outside, by outcome: sent, received, or hairpin (from one external \
         address of this host to another)",
    ),
    (
        "nat_",
        "overlay_nat_events_total",
        "event",
        "Address translation here: opened (an external port was given out), early (one ended before its time because its \
         endpoint ran short of ports), flows_full (a flow found no room among those that were answered) or \
         flows_limited (one whose endpoint has as many of these as it may)",
    ),
    (
        "punts_",
        "overlay_punts_total",
        "outcome",
        "Questions of endpoints here to DHCP servers and routers, by outcome: raised (the agent was told), lost (it was not, its \
         queue being full) or limited (their endpoint, its network or one CPU had too many)",
    ),
    (
        "echo_",
        "overlay_echoes_total",
        "outcome",
        "Echoes by which hosts try the way of tunnel packets: answered (another host's) or received \
         (answers to this host's)",
    ),
];

/// Families of metrics, each with a sample at least.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<MetricFamily>);

/// One sample: labels by name, and the value.
type Sample<const LABELS: usize> = ([(&'static str, String); LABELS], u64);

impl Page {
    /// All that `reading` says.
    pub(super) fn of(reading: &Reading) -> Self {
        let mut page = Self::default();
        page.agent(reading);
        page.registry(reading);
        page.control(&reading.control);
        page.counters(
            "overlay_dhcp_answers_total",
            "What was sent to endpoints, or heard of them, by type: offer, ack, nak, release and decline of DHCPv4, \
             advertise and reply of DHCPv6, router_advertisement, or ignored (malformed, or for somebody else)",
            (reading.dhcp.iter()).map(|(kind, count)| ([("type", (*kind).to_owned())], *count)),
        );
        let pools = |value: fn(&[u64; 2]) -> u64| {
            let pools = reading.pools.iter();
            pools.map(move |(pool, blocks)| ([("pool", pool.to_string())], value(blocks)))
        };
        page.gauges(
            "overlay_pool_used_blocks",
            "Blocks of ports that endpoints of all hosts have of a pool",
            pools(|[used, _]| *used),
        );
        page.gauges(
            "overlay_pool_blocks",
            "Blocks of ports that a pool has",
            pools(|[_, blocks]| *blocks),
        );
        if let Some(datapath) = &reading.datapath {
            page.datapath(datapath);
            page.traffic(&datapath.traffic);
            page.endpoint_traffic(&datapath.endpoint_traffic);
        }
        page
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.0
    }

    fn agent(&mut self, reading: &Reading) {
        self.gauge(
            "overlay_ready",
            "1: the kernel is what the registry wants, 0: something is missing there",
            reading.is_ready.into(),
        );
        self.gauge(
            "overlay_reconcile_problems",
            "What could not be carried over to the kernel and is tried again",
            wide(reading.problems),
        );
        self.gauges(
            "overlay_stalled_seconds",
            "For how long a part of the agent has not turned, if that is too long; 0 while it turns",
            reading
                .parts
                .iter()
                .map(|(part, since)| ([("part", (*part).to_owned())], since.as_secs())),
        );
        self.gauge(
            "overlay_networks",
            "Networks in the registry",
            wide(reading.networks),
        );
        let endpoints = reading.endpoints;
        self.gauges(
            "overlay_endpoints",
            "Endpoints in the registry, by where they live: local (on this node) or remote",
            [("local", endpoints.local), ("remote", endpoints.remote)]
                .map(|(location, count)| ([("location", location.to_owned())], wide(count))),
        );
        self.gauge(
            "overlay_endpoints_failed",
            "Endpoints of this node that could not be made",
            wide(endpoints.failed),
        );
        if let Some(peers) = reading.peers {
            self.gauge(
                "overlay_peers",
                "Other nodes in the registry that have an agent",
                wide(peers.known),
            );
            self.gauge(
                "overlay_peers_alive",
                "Those of them whose agent said lately that it lives",
                wide(peers.alive),
            );
        }
        self.gauges(
            "overlay_paths",
            "Other hosts by whether tunnel packets get there and back: ok, one_way (theirs arrive, this \
             host's do not), lost (theirs do not arrive) or unknown (not tried yet)",
            reading
                .paths
                .iter()
                .map(|(state, count)| ([("state", (*state).to_owned())], wide(*count))),
        );
    }

    fn registry(&mut self, reading: &Reading) {
        let registry = &reading.registry;
        self.gauge(
            "overlay_registry_connected",
            "1: the registry is in reach, 0: it is not",
            registry.is_connected.into(),
        );
        self.gauge(
            "overlay_registry_followed",
            "1: the registry's word counts, 0: it is another one, or has lost too much",
            registry.is_followed.into(),
        );
        self.gauge(
            "overlay_registry_rejected_rows",
            "Rows of the registry that are left out: they can't be read, or break a rule",
            wide(registry.rejected),
        );
        self.seconds(
            "overlay_registry_stale_seconds",
            "For how long the registry has been out of reach; 0 while it is in reach",
            registry.stale_for,
        );
        self.gauge(
            "overlay_registry_revision",
            "The registry's last revision that this agent heard of",
            registry.revision,
        );
        self.gauge(
            "overlay_registry_applied_revision",
            "The registry's last revision that this agent carried over to the kernel",
            registry.applied,
        );
    }

    fn control(&mut self, control: &LoopReading) {
        self.counters(
            "overlay_misses_answered_total",
            "Misses that the agent took up, by outcome: resolved, negative (nobody has the address), \
             failed (the registry gave no answer, or too late) or overflowed (too many waited)",
            [
                ("resolved", control.resolved),
                ("negative", control.negative),
                ("failed", control.failed),
                ("overflowed", control.overflowed),
            ]
            .map(|(outcome, count)| ([("outcome", outcome.to_owned())], count)),
        );
        self.gauge(
            "overlay_cache_entries",
            "Endpoints of on-demand networks that this host holds",
            wide(control.cached),
        );
        self.counters(
            "overlay_cache_removals_total",
            "Endpoints of on-demand networks that went, by cause: idle (nobody talked to them) or \
             full (others needed their place)",
            [("idle", control.idle), ("full", control.evicted)]
                .map(|(cause, count)| ([("cause", cause.to_owned())], count)),
        );
        self.counter(
            "overlay_endpoint_moves_total",
            "Endpoints that came to another node",
            control.moves,
        );
        self.counter(
            "overlay_neighbor_announcements_total",
            "Addresses that came to another MAC, of which the endpoints of this host were told",
            control.announced,
        );
        self.counter(
            "overlay_fenced_changes_total",
            "Changes that came later than a newer word on the same endpoint, and were not carried out",
            control.fenced,
        );
        self.counters(
            "overlay_mended_rows_total",
            "Rows of the kernel's tables that differed from the intended ones, by kind: wrong (or \
             missing) or unwanted",
            [("wrong", control.mended), ("unwanted", control.swept)]
                .map(|(kind, count)| ([("kind", kind.to_owned())], count)),
        );
        self.counter(
            "overlay_registry_readings_total",
            "Readings of the registry as a whole",
            control.readings,
        );
        self.seconds(
            "overlay_registry_reading_seconds",
            "Time that the last reading of the registry took until its rows were in the kernel",
            control.last_reading,
        );
    }

    fn datapath(&mut self, datapath: &DatapathReading) {
        self.counters(
            "overlay_dropped_packets_total",
            "Packets that were dropped, by reason",
            datapath
                .drops
                .iter()
                .map(|(reason, count)| ([("reason", (*reason).to_owned())], *count)),
        );
        self.counters(
            "overlay_dropped_packets_by_class_total",
            "Packets that were dropped, by whether anybody misses them: loss, or noise (what hosts send to all of \
             a link when it or an address comes up)",
            datapath
                .classes
                .iter()
                .map(|(class, count)| ([("class", (*class).to_owned())], *count)),
        );
        self.counters(
            "overlay_endpoint_dropped_packets_total",
            "Packets of this host's endpoints that were dropped, noise apart, by direction: sent by them or \
             received for them. Endpoints of which nothing was dropped are missing",
            datapath.endpoint_drops.iter().flat_map(endpoint_drops),
        );
        let maps = |value: fn(&MapUsage) -> u64| {
            datapath
                .maps
                .iter()
                .map(move |(map, usage)| ([("map", (*map).to_owned())], value(usage)))
        };
        self.gauges(
            "overlay_map_entries",
            "Entries in a BPF map",
            maps(|usage| usage.entries),
        );
        self.gauges(
            "overlay_map_capacity_entries",
            "Entries that a BPF map can hold",
            maps(|usage| usage.capacity),
        );
        self.counters(
            "overlay_map_refused_rows_total",
            "Rows that a BPF map did not take because it was full",
            maps(|usage| usage.refused),
        );
        self.counters(
            "overlay_map_stale_rows_total",
            "Rows that were not written because the BPF map held a newer generation",
            maps(|usage| usage.stale),
        );
        for (prefix, name, label, help) in COUNTERS {
            let members = datapath.counters.iter();
            self.counters(
                name,
                help,
                members.filter_map(|(counter, value)| {
                    let rest = counter.strip_prefix(prefix)?;
                    Some(([(label, rest.to_owned())], *value))
                }),
            );
        }
        self.rates(datapath);
    }

    fn rates(&mut self, datapath: &DatapathReading) {
        let count = |counter| datapath.counters.get(counter).copied().unwrap_or_default();
        self.counter(
            "overlay_rate_marks_total",
            "Packets that were marked for congestion because their endpoint is close to its limit",
            count("rate_marked"),
        );
        self.counter(
            "overlay_rate_drops_total",
            "Frames that were dropped because their endpoint is over its limit; an aggregate counts once",
            datapath.drops.get("rate").copied().unwrap_or_default(),
        );
        self.counter(
            "overlay_rate_dropped_bytes_total",
            "Bytes of the packets in them, as they would have been on the wire",
            count("rate_dropped_bytes"),
        );
    }

    fn endpoint_traffic(&mut self, endpoints: &[EndpointTraffic]) {
        self.counters(
            "overlay_endpoint_packets_total",
            "Packets of each endpoint on this host by direction: sent or received by it. Each segment of an \
             aggregate counts",
            directions_of_endpoints(endpoints, |it| [it.tx_packets, it.rx_packets]),
        );
        self.counters(
            "overlay_endpoint_bytes_total",
            "Bytes of these packets, Ethernet headers included and tunnel headers not",
            directions_of_endpoints(endpoints, |it| [it.tx_bytes, it.rx_bytes]),
        );
    }

    fn traffic(&mut self, networks: &[NetworkTraffic]) {
        self.counters(
            "overlay_network_packets_total",
            "Packets of the endpoints on this host, by network and direction: sent or received by \
             them. Each segment of an aggregate counts",
            directions(networks, |traffic| [traffic.tx_packets, traffic.rx_packets]),
        );
        self.counters(
            "overlay_network_bytes_total",
            "Bytes of these packets, Ethernet headers included and tunnel headers not",
            directions(networks, |traffic| [traffic.tx_bytes, traffic.rx_bytes]),
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.gauges(name, help, [([], value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [([], value)]);
    }

    fn seconds(&mut self, name: &str, help: &str, time: Duration) {
        let mut metric = Metric::default();
        set_gauge(&mut metric, time.as_secs_f64());
        self.add((name, help), MetricType::GAUGE, vec![metric]);
    }

    fn gauges<const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<LABELS>>,
    ) {
        self.family((name, help), MetricType::GAUGE, samples, set_gauge);
    }

    fn counters<const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<LABELS>>,
    ) {
        self.family(
            (name, help),
            MetricType::COUNTER,
            samples,
            |metric, value| {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            },
        );
    }

    /// Adds a family; the format has none without samples.
    fn family<const LABELS: usize>(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<LABELS>>,
        set: impl Fn(&mut Metric, f64),
    ) {
        let metrics: Vec<_> = samples
            .into_iter()
            .map(|(labels, value)| {
                let mut metric = Metric::from_label(labels.map(label).into());
                set(&mut metric, float(value));
                metric
            })
            .collect();
        if !metrics.is_empty() {
            self.add((name, help), kind, metrics);
        }
    }

    fn add(&mut self, (name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

/// A sample for each direction in which packets of the endpoint were dropped.
fn endpoint_drops(drops: &EndpointDropSums) -> impl Iterator<Item = Sample<3>> {
    let vni = drops.vni.map(|vni| vni.to_string()).unwrap_or_default();
    let endpoint = drops.endpoint.to_string();
    [("sent", drops.sent), ("received", drops.received)]
        .into_iter()
        .filter(|(_, packets)| *packets > 0)
        .map(move |(direction, packets)| {
            let labels = [
                ("vni", vni.clone()),
                ("endpoint", endpoint.clone()),
                ("direction", direction.to_owned()),
            ];
            (labels, packets)
        })
}

/// Two samples for each network: of what its endpoints sent, and of what they got.
fn directions(
    networks: &[NetworkTraffic],
    values: impl Fn(&Traffic) -> [u64; 2],
) -> impl Iterator<Item = Sample<3>> {
    networks.iter().flat_map(move |network| {
        let name = network.network.as_ref().map(ToString::to_string);
        let labels = [
            ("vni", network.vni.to_string()),
            ("network", name.unwrap_or_default()),
        ];
        both_ways(&labels, values(&network.traffic))
    })
}

/// The same for each endpoint.
fn directions_of_endpoints(
    endpoints: &[EndpointTraffic],
    values: impl Fn(&Traffic) -> [u64; 2],
) -> impl Iterator<Item = Sample<3>> {
    endpoints.iter().flat_map(move |endpoint| {
        let vni = endpoint.vni.map(|vni| vni.to_string());
        let labels = [
            ("vni", vni.unwrap_or_default()),
            ("endpoint", endpoint.endpoint.to_string()),
        ];
        both_ways(&labels, values(&endpoint.traffic))
    })
}

/// A sample of what was sent and one of what was received.
fn both_ways(
    [first, second]: &[(&'static str, String); 2],
    [sent, received]: [u64; 2],
) -> [Sample<3>; 2] {
    [("sent", sent), ("received", received)].map(|(direction, value)| {
        let labels = [
            first.clone(),
            second.clone(),
            ("direction", direction.to_owned()),
        ];
        (labels, value)
    })
}

fn set_gauge(metric: &mut Metric, value: f64) {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
}

fn label((name, value): (&'static str, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn wide(count: usize) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

/// Prometheus knows no other numbers.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53; above that a rate is off by one part in 2^53"
)]
fn float(value: u64) -> f64 {
    value as f64
}
