//! What the first packet to an endpoint waits for where networks resolve on demand: two hosts with an
//! agent each, requesters on one, targets on the other, and a registry that holds many more.
//!
//! - `arping` asks for an address that the requester's host does not know: the answer is there once the
//!   agent has looked it up.
//! - `ping` sends a first packet: the requester's host looks the target up, and the target's host the
//!   requester, for the way back. The packet after it goes the fast path.
//!
//! Each target has an requester of its own, and between two rounds both hosts forget what they were told: so
//! both look up in each measurement.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::host::Host;
use super::{Backend, PREFIX, Programs, Resolve, Store, scale};
use crate::agent::Agent;
use crate::statistics::Percentiles;
use overlay_lab::OwnedNetns;
use overlay_lab::interrupt;
use overlay_lab::process;

/// Endpoints on each host.
const PAIRS: u8 = 50;
/// Rounds of each kind.
const ROUNDS: u32 = 10;
/// What else the registry holds.
const BACKGROUND: u32 = 100_000;
/// The networks that are measured.
const NETWORKS: [(Resolve, &str); 2] = [(Resolve::OnDemand, "900"), (Resolve::Proactive, "901")];
/// How soon the hosts forget.
const IDLE: &str = "1s";

/// What a registry makes the first packet wait for, microseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Missed {
    pub(super) registry: Backend,
    /// An ARP request for an unknown address until its answer.
    pub(super) arp_us: Percentiles,
    /// Round trip of the first packet, which both hosts have to look up.
    pub(super) first_us: Percentiles,
    /// Round trip of the second.
    pub(super) second_us: Percentiles,
    /// Round trip of the first packet on a proactive network.
    pub(super) proactive_first_us: Percentiles,
}

pub(super) fn measure(programs: &Programs<'_>, backend: Backend) -> Result<Missed> {
    eprintln!("{}: first packets", backend.name());
    let hosts = Host::pair("miss")?;
    let [one, two] = &hosts;
    let store = Store::new(backend, one)?;
    scale::fill(programs, one, &store, Resolve::OnDemand, 0..BACKGROUND)?;
    let url = store.url();
    let words = ["--cache-idle", IDLE];
    let agents = [
        one.start(programs.agent, &url, &words)?,
        two.start(programs.agent, &url, &words)?,
    ];
    for agent in &agents {
        agent.await_ready()?;
    }
    let [near, far] = &agents;
    for (resolve, vni) in NETWORKS {
        let name = format!("measured-{vni}");
        near.verb(&[
            "network",
            "create",
            &name,
            "--vni",
            vni,
            "--resolve",
            resolve.name(),
        ])?;
    }
    let [on_demand, proactive] = NETWORKS.map(|(_, vni)| Ends::add(vni, near, far));
    let (on_demand, proactive) = (on_demand?, proactive?);

    let (mut arp, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        on_demand.forget(&agents)?;
        for nth in 0..PAIRS {
            arp.push(on_demand.arping(nth)?);
        }
        on_demand.forget(&agents)?;
        for nth in 0..PAIRS {
            let [one, two] = on_demand.ping(nth)?;
            first.push(one);
            second.push(two);
        }
    }
    let mut proactive_first = Vec::new();
    for _ in 0..ROUNDS {
        proactive.forget_neighbors()?;
        for nth in 0..PAIRS {
            let [one, _] = proactive.ping(nth)?;
            proactive_first.push(one);
        }
    }
    let percentiles = |values| Percentiles::of(values).context("nothing was measured");
    Ok(Missed {
        registry: backend,
        arp_us: percentiles(arp)?,
        first_us: percentiles(first)?,
        second_us: percentiles(second)?,
        proactive_first_us: percentiles(proactive_first)?,
    })
}

/// The endpoints of one network.
struct Ends {
    vni: &'static str,
    requesters: Vec<OwnedNetns>,
    targets: Vec<OwnedNetns>,
}

impl Ends {
    fn add(vni: &'static str, near: &Agent, far: &Agent) -> Result<Self> {
        let add = |agent: &Agent, name: String, last: u8| {
            // Before the agent makes the namespace, so that it goes also if the agent fails half-way.
            let netns = OwnedNetns::adopt(&name);
            let address = format!("7.7.7.{last}/24");
            agent.verb(&["endpoint", "add", &name, "--vni", vni, "--ip", &address])?;
            anyhow::Ok(netns)
        };
        let requesters =
            (0..PAIRS).map(|nth| add(near, format!("{PREFIX}requester-{vni}-{nth}"), nth + 1));
        let targets =
            (0..PAIRS).map(|nth| add(far, format!("{PREFIX}target-{vni}-{nth}"), nth + 101));
        Ok(Self {
            vni,
            requesters: requesters.collect::<Result<_>>()?,
            targets: targets.collect::<Result<_>>()?,
        })
    }

    /// Waits until neither host knows the other's endpoints, and lets the endpoints forget too.
    fn forget(&self, agents: &[Agent; 2]) -> Result<()> {
        const LIMIT: Duration = Duration::from_mins(1);
        // A host's own endpoints on this network, and all on the proactive one.
        let left = 3 * u32::from(PAIRS);
        interrupt::wait_until("both hosts forget", LIMIT, || {
            let mut known = agents.iter();
            known.try_fold(true, |so, agent| Ok(so && agent.fdb_entries()? <= left))
        })?;
        self.forget_neighbors()
    }

    fn forget_neighbors(&self) -> Result<()> {
        for netns in self.requesters.iter().chain(&self.targets) {
            netns.try_ip("neigh flush all")?;
        }
        Ok(())
    }

    /// Asks for a target's address; microseconds until the answer.
    fn arping(&self, nth: u8) -> Result<f64> {
        let target = target(nth);
        let words = ["arping", "-f", "-c", "1", "-w", "3", "-I", "eth0", &target];
        let said = self.run(nth, &words)?;
        let line = said.lines().find_map(|line| line.strip_suffix("ms"));
        let milliseconds = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(milliseconds.with_context(|| format!("arping says {said}"))? * 1e3)
    }

    /// Sends two packets to a target; microseconds of their round trips.
    fn ping(&self, nth: u8) -> Result<[f64; 2]> {
        let target = target(nth);
        let words = ["ping", "-n", "-c", "2", "-i", "0.02", "-W", "3", &target];
        let said = self.run(nth, &words)?;
        let time = |line: &str| {
            let (_, time) = line.split_once(" time=")?;
            Some(time.strip_suffix(" ms")?.parse::<f64>().ok()? * 1e3)
        };
        let times: Vec<f64> = said.lines().filter_map(time).collect();
        <[f64; 2]>::try_from(times).map_err(|_| anyhow::anyhow!("ping says {said}"))
    }

    /// Runs a command in an requester's namespace.
    fn run(&self, requester: u8, words: &[&str]) -> Result<String> {
        let requester = self
            .requesters
            .get(usize::from(requester))
            .context("no requester")?;
        process::run(
            &format!("asking on network {}", self.vni),
            &requester.line(words),
        )
    }
}

/// A target's address.
fn target(nth: u8) -> String {
    format!("7.7.7.{}", nth + 101)
}
