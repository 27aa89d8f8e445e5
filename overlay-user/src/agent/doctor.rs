//! `overlay doctor`: finds what is wrong with this host, and with its peers as the registry knows them.
//!
//! Facts are gathered first; what they mean is decided by functions of nothing else.

use std::{
    collections::BTreeMap,
    fmt::Display,
    time::{Duration, SystemTime},
};

use overlay_ebpf::abi::ABI_VERSION;
use tokio::time::{Instant, sleep, timeout};

mod clocks;
mod networks;
mod outside;
mod paths;
mod peers;
mod underlays;

use self::{
    clocks::judge_clocks, networks::judge_networks, paths::judge_paths, peers::judge_nodes,
    underlays::judge_underlays,
};
pub(super) use self::{
    networks::lost_at,
    paths::{CHANGED, let_through},
};
use super::{
    api::{DoctorView, Finding, VtepView},
    service::Agent,
};
use crate::{
    config::Config,
    datapath::{self, Before, Datapath, DatapathError},
    model::{IfName, MapUsage, Name, Network, NetworkTold, Node, RowId, Vtep, VtepAddr},
    platform::{Condition, Offloads, PlatformError, VxlanDevice},
    reconcile::{Lost, watchdog::Stalled},
    registry::RegistryError,
};

/// Longer than a registry in reach takes to tell the nodes.
const EXAMINATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than it takes to find out that nothing comes back.
const PATHS: Duration = Duration::from_secs(4);
/// How often it is looked whether all paths are known.
const POLL: Duration = Duration::from_millis(50);
/// A registry that takes so long makes every change slow.
const SLOW: Duration = Duration::from_secs(1);
/// Rows that are left out, and are told of one by one.
const ROWS: usize = 20;
/// A map or a pool that is so full wants a larger one soon, percent.
const NEARLY_FULL: u64 = 85;

/// What an examination brought to light.
pub(super) struct Examination {
    pub(super) found: DoctorView,
    /// The hosts, and how the ways there are; empty: the registry did not tell them.
    pub(super) vteps: Vec<VtepView>,
    /// Networks that do not get through to other hosts.
    pub(super) lost_networks: Vec<NetworkTold>,
}

impl Agent {
    /// Gathers the facts and judges them.
    pub(super) async fn examine(&self) -> DoctorView {
        self.examine_all().await.found
    }

    /// The same, and what was found of the ways to other hosts.
    pub(super) async fn examine_all(&self) -> Examination {
        let (mut vteps, mut lost_networks) = (Vec::new(), Vec::new());
        let mut found = DoctorView::default();
        judge_parts(&mut found, &self.observer.watchdog().stalled());
        judge_kernel(&mut found, kernel().await);
        let advice = "see the agent's log";
        match timeout(EXAMINATION_TIMEOUT, self.platform.inspect(self.config.port)).await {
            Ok(Ok(condition)) => judge_devices(&mut found, &condition, &self.config),
            Ok(Err(error)) => found.find(problem("devices", error, advice)),
            Err(_) => found.find(problem("devices", "the kernel does not answer", advice)),
        }
        if let Some(error) = &*self.fast_path_problem.borrow() {
            let advice = "remove what is in the way: the agent tries again by itself";
            found.find(problem("fast path", error, advice));
        }
        match self.maps.ask(Datapath::usage).await {
            Ok(usage) => judge_maps(&mut found, &usage),
            Err(error) => found.find(problem("maps", error, "start the agent again")),
        }
        match self.maps.ask(Datapath::others_before).await {
            Ok(others) => judge_programs(&mut found, &others),
            Err(error) => found.find(problem("programs", error, "see the agent's log")),
        }
        if let Ok(counters) = self.maps.ask(Datapath::counters).await {
            judge_punts(&mut found, self.answers.lost(&counters));
        }
        let used = self.translate(|it| Ok((it.mappings()?, it.flows()?)));
        if let Ok((mappings, flows)) = used.await {
            outside::judge_answers(&mut found, &mappings, &flows);
        }
        let (networks, lost) = {
            let view = self.observer.view().await;
            judge_endpoints(&mut found, view.failures(), &view.errors);
            judge_rows(&mut found, &view.rejected);
            let way_out = self.way_out.borrow().clone();
            outside::judge_way_out(&mut found, &way_out, outside::is_wanted(&view));
            outside::judge_pools(&mut found, &super::outside::pools(&view.mirror));
            outside::judge_gateways(&mut found, &view);
            let networks: Vec<Network> = view.mirror.networks().cloned().collect();
            (networks, view.refusal())
        };
        judge_mtu(
            &mut found,
            &networks,
            self.underlay.mtu.saturating_sub(VtepAddr::IPV4_OVERHEAD),
        );
        let asked = Instant::now();
        let answer = timeout(EXAMINATION_TIMEOUT, self.registry.nodes()).await;
        let url = self.registry.url();
        if let Some(nodes) = judge_registry(&mut found, &url, lost, answer.ok(), asked.elapsed()) {
            let own = Own {
                node: &self.config.node,
                version: env!("CARGO_PKG_VERSION"),
                abi: ABI_VERSION,
                vtep: self.vtep(),
                mtu: self.underlay.mtu,
            };
            judge_underlays(&mut found, &own, &nodes, &networks);
            let states = self.liveness.states(&nodes);
            judge_nodes(&mut found, &own, &nodes, &states);
            self.try_paths().await;
            vteps = self.vteps_of(nodes.clone());
            judge_paths(&mut found, &own, &vteps);
            lost_networks = self.lost_networks().await;
            judge_networks(&mut found, &lost_networks);
            judge_clocks(&mut found, &own, &nodes, SystemTime::now());
        }
        Examination {
            found: found.concluded(),
            vteps,
            lost_networks,
        }
    }
}

impl Agent {
    /// Tries the ways to all other hosts, and waits for what comes of it.
    async fn try_paths(&self) {
        self.paths.try_now();
        let known = async {
            while !self.paths.are_known() {
                sleep(POLL).await;
            }
        };
        // Where the longest packet is still looked for, what is known of it says enough.
        let _ = timeout(PATHS, known).await;
    }
}

/// What can be said while no agent runs: `why` nobody answers, and the kernel.
pub async fn without_agent(why: &impl Display) -> DoctorView {
    let mut found = DoctorView::default();
    found.find(problem(
        "agent",
        why,
        "traffic goes on with what the maps hold, and nothing follows the registry",
    ));
    judge_kernel(&mut found, kernel().await);
    found.concluded()
}

async fn kernel() -> Result<(), DatapathError> {
    let failed = |cause: String| {
        Err(DatapathError::Kernel {
            what: "asking the kernel for its features".to_owned(),
            cause,
        })
    };
    match timeout(
        EXAMINATION_TIMEOUT,
        tokio::task::spawn_blocking(datapath::require),
    )
    .await
    {
        Ok(Ok(required)) => required,
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed(format!(
            "no answer within {} s",
            EXAMINATION_TIMEOUT.as_secs()
        )),
    }
}

fn problem(subject: impl Display, message: impl Display, advice: impl Display) -> Finding {
    Finding::problem(subject, message, advice)
}

fn judge_kernel(found: &mut DoctorView, kernel: Result<(), DatapathError>) {
    match kernel {
        Ok(()) => found.pass("kernel"),
        Err(error) => found.find(problem(
            "kernel",
            error,
            "see Requirements in docs/operations.md",
        )),
    }
}

fn judge_parts(found: &mut DoctorView, stalled: &[Stalled]) {
    if stalled.is_empty() {
        return found.pass("agent's parts");
    }
    for stalled in stalled {
        let advice = if stalled.part.is_own() {
            "traffic goes on as it was; systemd starts the agent again by itself, without it do so"
        } else {
            "see whether the registry's disk or servers hang"
        };
        let part = stalled.part.name();
        found.find(problem(
            format_args!("agent's part {part}"),
            stalled,
            advice,
        ));
    }
}

fn judge_devices(found: &mut DoctorView, condition: &Condition, config: &Config) {
    match &condition.underlay {
        Ok(_) => found.pass("underlay"),
        Err(error) => found.find(underlay_problem(error)),
    }
    match condition.offloads {
        None => {}
        Some(offloads) => judge_offloads(found, &config.iface, offloads),
    }
    let unfit = match &condition.vxlan {
        VxlanDevice::Ready => return found.pass("VXLAN device"),
        VxlanDevice::Missing => "is missing",
        VxlanDevice::Unfit(why) => why,
    };
    found.find(problem(
        "VXLAN device",
        format_args!(
            "the device on UDP port {} {unfit}: received packets are not aggregated, which costs a \
             third of the speed",
            config.port
        ),
        "the agent makes it again: see `overlay status` (Problem) if it does not",
    ));
}

fn underlay_problem(error: &PlatformError) -> Finding {
    problem(
        "underlay",
        error,
        "the agent follows by itself once it is as it was",
    )
}

fn judge_offloads(found: &mut DoctorView, iface: &IfName, offloads: Offloads) {
    let missing: Vec<&str> = [
        (offloads.gro, "gro"),
        (offloads.tso, "tso"),
        (offloads.tunnel_segmentation, "tx-udp_tnl-segmentation"),
    ]
    .into_iter()
    .filter_map(|(is_on, feature)| (!is_on).then_some(feature))
    .collect();
    if missing.is_empty() {
        return found.pass("offloads");
    }
    let commands: Vec<_> = missing
        .iter()
        .map(|feature| format!("{feature} on"))
        .collect();
    found.find(Finding::warning(
        "offloads",
        format_args!(
            "the underlay's device works without {}: streams cost more CPU time",
            missing.join(", ")
        ),
        format_args!(
            "if the device can, run `ethtool -K {iface} {}`",
            commands.join(" ")
        ),
    ));
}

fn judge_maps(found: &mut DoctorView, usage: &BTreeMap<&'static str, MapUsage>) {
    let mut all_well = true;
    for (map, usage) in usage {
        let MapUsage {
            entries,
            capacity,
            refused,
            ..
        } = *usage;
        let advice = match *map {
            "fdb" => "start the agent with a larger --fdb-entries",
            "neighbors" => "start the agent with a larger --neighbor-entries",
            _ => "remove what is not needed, the build sets this limit",
        };
        if capacity > 0 && entries >= capacity {
            let message = format!("full ({entries} entries), {refused} were refused");
            found.find(problem(format_args!("map {map}"), message, advice));
            all_well = false;
        } else if entries * 100 >= capacity * NEARLY_FULL && capacity > 0 {
            let message = format!("holds {entries} of {capacity} entries");
            found.find(Finding::warning(format_args!("map {map}"), message, advice));
            all_well = false;
        }
    }
    if all_well {
        found.pass("maps");
    }
}

/// Questions to DHCP servers and routers that the agent did not get, since it started.
fn judge_punts(found: &mut DoctorView, lost: u64) {
    if lost == 0 {
        return found.pass("dhcp");
    }
    found.find(Finding::warning(
        "dhcp",
        format_args!(
            "{lost} questions of endpoints to DHCP servers and routers found no room on their way to the agent; \
             they ask again"
        ),
        "see whether the agent gets CPU time, and by `overlay drops` which endpoints ask so often",
    ));
}

fn judge_programs(found: &mut DoctorView, others: &[Before]) {
    if others.is_empty() {
        return found.pass("programs");
    }
    for before in others {
        let Before {
            interface,
            programs,
            is_attached,
        } = before;
        let subject = format!("interface {interface}");
        if !is_attached {
            found.find(problem(
                &subject,
                "has lost the agent's BPF program",
                "somebody took it off; the agent puts it back within half a minute",
            ));
        }
        if !programs.is_empty() {
            found.find(Finding::warning(
                &subject,
                format_args!(
                    "runs BPF programs before the agent's: {}; what they don't hand on never gets to it",
                    programs.join(", ")
                ),
                format_args!(
                    "see whether they end the chain (`bpftool net show dev {interface}`): they have \
                     to return TC_ACT_UNSPEC or to be attached behind it (BPF_F_AFTER)"
                ),
            ));
        }
    }
}

fn judge_endpoints<'a>(
    found: &mut DoctorView,
    failures: impl Iterator<Item = (&'a Name, &'a str)>,
    errors: &[String],
) {
    let mut failures = failures.peekable();
    if failures.peek().is_none() && errors.is_empty() {
        return found.pass("endpoints");
    }
    for (endpoint, reason) in failures {
        found.find(problem(
            format_args!("endpoint {endpoint}"),
            reason,
            format_args!("mend that, or remove it with `overlay endpoint rm {endpoint}`"),
        ));
    }
    for error in errors {
        found.find(problem(
            "agent",
            error,
            "it tries again at least every half minute; its log has more",
        ));
    }
}

/// Rows of the registry that are not followed.
fn judge_rows(found: &mut DoctorView, rejected: &BTreeMap<RowId, String>) {
    for (row, why) in rejected.iter().take(ROWS) {
        found.find(problem(
            "registry",
            format_args!("{row} is left out: {why}"),
            "correct or remove it; `overlay registry check` lists all such rows",
        ));
    }
}

/// `longest`: the longest IP packet that fits this host's underlay with its tunnel, bytes.
fn judge_mtu(found: &mut DoctorView, networks: &[Network], longest: u32) {
    let too_large: Vec<_> = networks
        .iter()
        .filter(|network| network.mtu > longest)
        .collect();
    for network in &too_large {
        found.find(problem(
            format_args!("network {}", network.name),
            format_args!(
                "its MTU of {} does not fit this host's underlay, which leaves {longest}",
                network.mtu
            ),
            format_args!(
                "raise the underlay's MTU to {} or more, or make the network anew with a smaller one",
                network.mtu.saturating_add(VtepAddr::IPV4_OVERHEAD)
            ),
        ));
    }
    if too_large.is_empty() {
        found.pass("MTU");
    }
}

/// Gives the nodes if the registry told them in time.
fn judge_registry(
    found: &mut DoctorView,
    url: &str,
    lost: Option<Lost>,
    answer: Option<Result<Vec<Node>, RegistryError>>,
    took: Duration,
) -> Option<Vec<Node>> {
    let advice = "make it reachable; until then traffic goes on, and changes are refused";
    if let Some(Lost {
        reason,
        since,
        is_foreign,
    }) = lost
    {
        let since = since.elapsed().as_secs();
        found.find(if is_foreign {
            problem(
                "registry",
                format_args!("{url} has not been followed for {since} s: {reason}"),
                "changes are refused until it is followed again",
            )
        } else {
            problem(
                "registry",
                format_args!("{url} has been out of reach for {since} s: {reason}"),
                advice,
            )
        });
        return None;
    }
    match answer {
        None => {
            let message = format!(
                "{url} has not answered within {} s",
                EXAMINATION_TIMEOUT.as_secs()
            );
            found.find(problem("registry", message, advice));
            None
        }
        Some(Err(error)) => {
            found.find(problem("registry", format_args!("{url}: {error}"), advice));
            None
        }
        Some(Ok(nodes)) if took >= SLOW => {
            found.find(Finding::warning(
                "registry",
                format_args!("{url} took {:.1} s to answer", took.as_secs_f64()),
                "look at its disk and its load",
            ));
            Some(nodes)
        }
        Some(Ok(nodes)) => {
            found.pass("registry");
            Some(nodes)
        }
    }
}

/// What peers are compared with.
struct Own<'a> {
    node: &'a Name,
    version: &'a str,
    abi: u32,
    vtep: Vtep,
    /// Its underlay's, bytes.
    mtu: u32,
}

#[cfg(test)]
mod tests;
