//! The measurements: each drives one load through one pair of hosts and reads figures off it.

mod counters;
mod flood;
mod iperf;
mod slow_path;
mod sockperf;

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use super::lab::{End, Pair};
use super::underlay::Offloads;
use flood::Target;
use overlay_lab::interrupt;
use overlay_lab::process::Running;

/// What `--only` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Group {
    /// TCP throughput.
    Tcp,
    /// Small UDP packets: rate, and CPU time for each.
    Flood,
    /// TCP request and response: latency.
    Rr,
    /// What the programs leave to the kernel's VXLAN device.
    SlowPath,
}

impl Group {
    pub(super) const ALL: [Self; 4] = [Self::Tcp, Self::Flood, Self::Rr, Self::SlowPath];

    pub(super) fn measures(self) -> &'static [Measure] {
        match self {
            Self::Tcp => &[Measure::OneStream, Measure::EightStreams],
            Self::Flood => &[
                Measure::Flood,
                Measure::SocketFlood,
                Measure::SmallDatagrams,
            ],
            Self::Rr => &[Measure::RequestResponse],
            Self::SlowPath => &[Measure::Aggregates, Measure::Nested],
        }
    }
}

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// iperf3, TCP.
    OneStream,
    /// iperf3, TCP, in parallel.
    EightStreams,
    /// trafgen: raw frames as fast as one core makes them, up to the receiver's interface.
    Flood,
    /// The same up to a socket.
    SocketFlood,
    /// iperf3, UDP: as fast as one socket sends them.
    SmallDatagrams,
    /// sockperf ping-pong over TCP.
    RequestResponse,
    /// One socket that has the kernel cut its UDP datagrams, as QUIC does.
    Aggregates,
    /// iperf3, TCP, through a VXLAN device that the endpoints have.
    Nested,
}

/// One figure that a load gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    TcpOneStream,
    TcpEightStreams,
    FloodRate,
    FloodCpu,
    SocketFloodRate,
    SocketFloodCpu,
    DatagramRate,
    DatagramCpu,
    RrP50,
    RrP99,
    RrP999,
    UdpAggregates,
    TcpNested,
}

impl Metric {
    /// In the order of tables.
    pub(super) const ALL: [Self; 13] = [
        Self::TcpOneStream,
        Self::TcpEightStreams,
        Self::FloodRate,
        Self::FloodCpu,
        Self::SocketFloodRate,
        Self::SocketFloodCpu,
        Self::DatagramRate,
        Self::DatagramCpu,
        Self::RrP50,
        Self::RrP99,
        Self::RrP999,
        Self::UdpAggregates,
        Self::TcpNested,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::TcpOneStream => "TCP, one stream",
            Self::TcpEightStreams => "TCP, eight streams",
            Self::FloodRate => "64-byte UDP flood, trafgen",
            Self::FloodCpu => "flood, CPU per packet",
            Self::SocketFloodRate => "flood to a socket",
            Self::SocketFloodCpu => "flood to a socket, CPU per packet",
            Self::DatagramRate => "64-byte UDP, iperf3",
            Self::DatagramCpu => "iperf3 UDP, CPU per packet",
            Self::RrP50 => "TCP request/response, p50",
            Self::RrP99 => "TCP request/response, p99",
            Self::RrP999 => "TCP request/response, p99.9",
            Self::UdpAggregates => "UDP aggregates (UDP_SEGMENT)",
            Self::TcpNested => "TCP in the endpoints' own VXLAN",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::TcpOneStream | Self::TcpEightStreams | Self::UdpAggregates | Self::TcpNested => {
                "Gb/s"
            }
            Self::FloodRate | Self::SocketFloodRate | Self::DatagramRate => "kpps",
            Self::FloodCpu | Self::SocketFloodCpu | Self::DatagramCpu => "ns",
            Self::RrP50 | Self::RrP99 | Self::RrP999 => "us",
        }
    }

    pub(super) fn more_is_better(self) -> bool {
        matches!(self.unit(), "Gb/s" | "kpps")
    }
}

/// A figure in the metric's unit.
pub(super) type Reading = (Metric, f64);

/// Which CPUs run what. Everything that one packet needs on the way, its receiving side's softirqs
/// too, runs on the sender's: a veth hands the packet over on the CPU that sends.
#[derive(Debug, Clone)]
pub(super) struct Cores {
    client: String,
    server: String,
}

impl Cores {
    /// The first two that we may use.
    pub(super) fn choose() -> Result<Self> {
        let ours = sched_getaffinity(Pid::from_raw(0)).context("reading the CPUs we may use")?;
        let mut usable = (0..CpuSet::count()).filter(|&cpu| ours.is_set(cpu) == Ok(true));
        let mut next = || {
            usable
                .next()
                .map(|cpu| cpu.to_string())
                .context("the benchmark needs two CPUs: client and server run on different ones")
        };
        Ok(Self {
            client: next()?,
            server: next()?,
        })
    }
}

/// What a measurement may use.
pub(super) struct Conditions {
    pub(super) cores: Cores,
    /// How long the load is measured.
    pub(super) window: Duration,
}

impl Conditions {
    /// The window in whole seconds, as tools take it.
    fn seconds(&self) -> String {
        self.window.as_secs().to_string()
    }

    fn start_client(&self, end: &End, what: &str, words: &[&str]) -> Result<Running> {
        start(end, what, &self.cores.client, words)
    }

    fn start_server(&self, end: &End, what: &str, words: &[&str]) -> Result<Running> {
        start(end, what, &self.cores.server, words)
    }

    /// Waits for a client that runs for about the window.
    fn finish(&self, client: Running) -> Result<String> {
        const SLACK: Duration = Duration::from_secs(20);
        client.finish(self.window + SLACK)
    }
}

fn start(end: &End, what: &str, cpu: &str, words: &[&str]) -> Result<Running> {
    let line: Vec<_> = ["taskset", "--cpu-list", cpu]
        .into_iter()
        .chain(words.iter().copied())
        .collect();
    Running::start(what, &end.netns.line(&line))
}

/// Waits until somebody listens on this TCP port at `end`.
fn wait_for_listener(end: &End, port: u16, server: &Running) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(5);
    interrupt::wait_until(&format!("TCP port {port} listens"), LIMIT, || {
        server.check()?;
        end.netns.try_enter(|| counters::listens(port))
    })
}

impl Measure {
    /// Whether it is measured with these settings: the slow path is taken with some of them only.
    pub(super) fn runs_with(self, offloads: Offloads) -> bool {
        match self {
            // Cut apart before the underlay, they are aggregates no more.
            Self::Aggregates => offloads == Offloads::On,
            Self::Nested => offloads != Offloads::Off,
            _ => true,
        }
    }

    /// Runs the load once.
    pub(super) fn run(self, pair: &Pair, conditions: &Conditions) -> Result<Vec<Reading>> {
        /// The first second is left out.
        const WARM: &[&str] = &["-O", "1"];
        let Pair { client, server, .. } = pair;
        match self {
            Self::OneStream => iperf::tcp(client, server, conditions, Metric::TcpOneStream, WARM),
            Self::EightStreams => {
                let words = [WARM, &["-P", "8"]].concat();
                iperf::tcp(client, server, conditions, Metric::TcpEightStreams, &words)
            }
            Self::Flood => flood::run(pair, conditions, Target::Interface),
            Self::SocketFlood => flood::run(pair, conditions, Target::Socket),
            Self::SmallDatagrams => iperf::datagrams(pair, conditions),
            Self::RequestResponse => sockperf::run(pair, conditions),
            Self::Aggregates => slow_path::aggregates(pair, conditions),
            Self::Nested => slow_path::nested(pair, conditions),
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::OneStream => "TCP, one stream",
            Self::EightStreams => "TCP, eight streams",
            Self::Flood => "UDP flood",
            Self::SocketFlood => "UDP flood to a socket",
            Self::SmallDatagrams => "UDP, iperf3",
            Self::RequestResponse => "TCP request/response",
            Self::Aggregates => "UDP aggregates",
            Self::Nested => "TCP in a VXLAN of the endpoints",
        }
    }
}
