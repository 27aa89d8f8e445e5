//! `overlay doctor --cluster`: asks every host for the state of its paths, and puts the matrix together.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use overlay_ebpf::abi::ABI_VERSION;

use super::{
    api::{
        ClusterHost, ClusterPath, ClusterView, DoctorView, Finding, NodeState, OperationError,
        PathState, VtepView, Way,
    },
    doctor::{CHANGED, let_through, lost_at},
    service::Agent,
};
use crate::model::{Answer, Inquiry, Name, PathView, PathsTold, Vtep};

/// How long hosts have to probe their paths and report.
const PATHS_TIMEOUT: Duration = Duration::from_secs(20);
/// Clocks may differ by so much before the times that hosts tell each other mislead, milliseconds.
const SKEW_MS: i64 = 5000;

/// What every host said, by its name.
type Told = BTreeMap<Name, PathsTold>;

impl Agent {
    /// Every pair of hosts, as both ends see it.
    pub(super) async fn examine_cluster(&self) -> Result<ClusterView, OperationError> {
        self.check_reach().await?;
        let mut nodes = self.registry.nodes().await?;
        nodes.retain(|node| node.agent);
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let alive: BTreeSet<Name> = nodes
            .iter()
            .filter(|node| node.alive)
            .map(|node| node.name.clone())
            .collect();
        let asked_ms = Timestamp::now().as_millisecond();
        let reports = self
            .inquire(Inquiry::Paths, PATHS_TIMEOUT, |reports| {
                let told: BTreeSet<&Name> = reports.iter().map(|report| &report.node).collect();
                alive.iter().all(|node| told.contains(node))
            })
            .await?;
        let answered_ms = Timestamp::now().as_millisecond();
        let told: Told = reports
            .into_iter()
            .filter_map(|report| match report.answer {
                Some(Answer::Paths(told)) => Some((report.node, *told)),
                _ => None,
            })
            .collect();
        Ok(judge(&self.vteps_of(nodes), &told, (asked_ms, answered_ms)))
    }
}

/// The verdict over what hosts said between two moments of this host's clock.
fn judge(vteps: &[VtepView], told: &Told, between: (i64, i64)) -> ClusterView {
    let mut found = DoctorView::default();
    let hosts: Vec<ClusterHost> = vteps
        .iter()
        .map(|vtep| host(vtep, told.get(&vtep.node), between))
        .collect();
    judge_hosts(&mut found, &hosts, told);
    let mut paths = Vec::new();
    for from in vteps {
        for to in vteps {
            if from.node == to.node {
                continue;
            }
            let path = one_way(&from.node, &to.node, told);
            judge_path(&mut found, from, to, &path);
            paths.push(path);
        }
    }
    for (node, said) in told {
        judge_networks(&mut found, node, said);
    }
    let DoctorView {
        healthy, findings, ..
    } = found.concluded();
    ClusterView {
        healthy,
        hosts,
        paths,
        findings,
    }
}

/// `clock_ms`: by how much the host's clock is ahead of this one's, as far as that is not explained by when it
/// was asked and when its answer was there.
fn host(vtep: &VtepView, told: Option<&PathsTold>, (asked, answered): (i64, i64)) -> ClusterHost {
    ClusterHost {
        node: vtep.node.clone(),
        vtep: vtep.ip,
        state: vtep.state,
        answered: told.is_some(),
        version: told
            .map(|told| told.version.clone())
            .or_else(|| vtep.version.clone()),
        abi: told.map(|told| told.abi).or(vtep.abi),
        clock_ms: told.map(|told| match told.at_ms {
            at if at < asked => at - asked,
            at if at > answered => at - answered,
            _ => 0,
        }),
    }
}

fn judge_hosts(found: &mut DoctorView, hosts: &[ClusterHost], told: &Told) {
    for host in hosts {
        let ClusterHost { node, .. } = host;
        let subject = format!("host {node}");
        match host.state {
            NodeState::Alive if !host.answered => found.find(Finding::problem(
                &subject,
                "its agent lives and does not answer",
                format_args!(
                    "see `overlay status` there; if it is older than this one, upgrade it"
                ),
            )),
            NodeState::Alive | NodeState::NoAgent => {}
            NodeState::Silent | NodeState::Down => found.find(Finding::problem(
                &subject,
                "its agent does not run: it follows nothing, and nobody can say what gets there",
                format_args!("start it; if the host is gone for good, `overlay vtep rm {node}`"),
            )),
        }
        if let Some(abi) = host.abi
            && abi != ABI_VERSION
        {
            found.find(Finding::problem(
                &subject,
                format_args!("its datapath has ABI version {abi}, this host's {ABI_VERSION}"),
                "bring both to one version",
            ));
        }
        if let Some(version) = &host.version
            && version != env!("CARGO_PKG_VERSION")
        {
            found.find(Finding::warning(
                &subject,
                format_args!(
                    "runs version {version}, this host {}",
                    env!("CARGO_PKG_VERSION")
                ),
                "bring both to the newer one at a time that suits",
            ));
        }
        if let Some(clock) = host.clock_ms
            && clock.abs() >= SKEW_MS
        {
            found.find(Finding::warning(
                &subject,
                format_args!(
                    "its clock is {} s {} this host's: nothing depends on it but the times that people read",
                    clock.abs() / 1000,
                    if clock > 0 { "ahead of" } else { "behind" }
                ),
                "set both clocks by NTP",
            ));
        }
        for problem in told.get(node).into_iter().flat_map(|told| &told.problems) {
            found.find(Finding::problem(
                &subject,
                problem,
                "see `overlay doctor` there",
            ));
        }
    }
}

/// What both ends' words come to for the packets of `from` to `to`.
fn one_way(from: &Name, to: &Name, told: &Told) -> ClusterPath {
    let sees = |who: &Name, whom: &Name| -> Option<&PathView> {
        let paths = &told.get(who)?.paths;
        paths
            .iter()
            .find(|path| path.node == *whom)
            .map(|told| &told.path)
    };
    let (sender, receiver) = (sees(from, to), sees(to, from));
    let way = match (
        sender.map(|path| path.state),
        receiver.map(|path| path.state),
    ) {
        // What arrives changed, the receiver sees.
        (_, Some(PathState::Damaged)) => Way::Damaged,
        (Some(PathState::Ok), _) | (_, Some(PathState::Ok | PathState::OneWay)) => Way::Ok,
        // Where the other end says nothing, it may be this way or the other.
        (Some(PathState::OneWay | PathState::Lost), _) | (_, Some(PathState::Lost)) => Way::Lost,
        // What comes back is changed: the way there is not known to fail.
        (Some(PathState::Damaged | PathState::Unknown) | None, _) => Way::Unknown,
    };
    // Round trips, and what is lost of them, say nothing of one direction where only one is well.
    let known = sender
        .or(receiver)
        .filter(|path| path.state == PathState::Ok);
    ClusterPath {
        from: from.clone(),
        to: to.clone(),
        way,
        rtt_us: known.and_then(|path| path.rtt_us),
        loss: known.and_then(|path| path.loss),
        largest: known.and_then(|path| path.largest),
        expected: sender.or(receiver).map(|path| path.expected),
    }
}

fn judge_path(found: &mut DoctorView, from: &VtepView, to: &VtepView, path: &ClusterPath) {
    let subject = format!("path {} -> {}", from.node, to.node);
    let is_down = [from, to]
        .iter()
        .any(|vtep| matches!(vtep.state, NodeState::Silent | NodeState::Down));
    match path.way {
        // Of a host that is off it is known that something is wrong.
        Way::Lost if is_down => {}
        Way::Lost => found.find(Finding::problem(
            subject,
            format_args!("tunnel packets of {} do not get to {}", from.node, to.node),
            let_through(
                from.ip,
                Vtep {
                    ip: to.ip.into(),
                    port: to.port,
                },
                &to.node,
            ),
        )),
        Way::Damaged => found.find(Finding::problem(
            subject,
            format_args!(
                "tunnel packets of {} arrive at {} changed",
                from.node, to.node
            ),
            CHANGED,
        )),
        Way::Ok | Way::Unknown => {
            if let Some((largest, expected)) = path.narrow() {
                found.find(Finding::warning(
                    &subject,
                    format_args!(
                        "it takes packets of up to {largest} bytes, and both hosts' interfaces {expected}"
                    ),
                    "raise the MTU on the way, or give the networks a smaller one",
                ));
            }
            if let Some(loss) = path.loss.filter(|loss| *loss >= 5) {
                found.find(Finding::warning(
                    &subject,
                    format_args!("{loss} % of the echoes are lost"),
                    "look for full queues and errors on both interfaces (`ip -s link`) and between",
                ));
            }
        }
    }
}

fn judge_networks(found: &mut DoctorView, node: &Name, said: &PathsTold) {
    for told in &said.networks {
        let (message, advice) = lost_at(told);
        found.find(Finding::problem(
            format_args!("path {node} -> {} in {}", told.node, told.network),
            format_args!(
                "an echo of {} to {}: {message}",
                told.pinged.from, told.pinged.to
            ),
            advice,
        ));
    }
}

#[cfg(test)]
mod tests;
