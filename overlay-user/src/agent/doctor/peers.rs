//! Checks the registry's records of this node and the others against each other.

use std::{collections::BTreeMap, time::SystemTime};

use super::{DoctorView, Finding, Own, problem};
use crate::{
    agent::api::NodeState,
    model::{Name, Node, SESSION_TTL},
};

/// Examines what the registry says of this node, and of the others.
pub(super) fn judge_nodes(
    found: &mut DoctorView,
    own: &Own<'_>,
    nodes: &[Node],
    states: &BTreeMap<Name, NodeState>,
) {
    match nodes.iter().find(|node| node.name == *own.node) {
        Some(node) if node.vtep.ip != own.vtep.ip => {
            let holder = nodes.iter().find(|node| node.vtep.ip == own.vtep.ip);
            let holder = holder.map_or_else(String::new, |holder| {
                format!("; node {} has it", holder.name)
            });
            found.find(problem(
                "claim",
                format_args!(
                    "the registry does not have VTEP address {} for this node, so nobody sends to it{holder}",
                    own.vtep.ip
                ),
                "each host needs an address of its own; the agent claims it again as soon as it is free",
            ));
        }
        Some(node) if node.alive => found.pass("session"),
        Some(_) => found.find(problem(
            "session",
            format_args!(
                "the registry has not heard of this node for {} s",
                SESSION_TTL.as_secs()
            ),
            "others take its endpoints for down: see the agent's log",
        )),
        None => found.find(problem(
            "session",
            "the registry does not know this node",
            "the agent puts it back at its next look at the whole",
        )),
    }
    let mut all_well = true;
    for node in nodes.iter().filter(|node| node.name != *own.node) {
        for finding in peer(own, node, states.get(&node.name).copied()) {
            found.find(finding);
            all_well = false;
        }
    }
    if all_well {
        found.pass("peers");
    }
}

fn peer(own: &Own<'_>, node: &Node, state: Option<NodeState>) -> Vec<Finding> {
    let subject = format!("peer {}", node.name);
    let mut findings = Vec::new();
    let last_seen = node
        .last_seen
        .and_then(|seen| SystemTime::now().duration_since(seen).ok());
    let ago = last_seen.map_or_else(
        || "it was never heard of".to_owned(),
        |age| format!("it was last heard of {} s ago", age.as_secs()),
    );
    match state {
        Some(NodeState::Down) => findings.push(problem(
            &subject,
            format_args!("down: {ago}"),
            format_args!(
                "start its agent; if the host is gone for good, `overlay endpoint move` what has to run, then \
                 `overlay vtep rm {}`",
                node.name
            ),
        )),
        Some(NodeState::Silent) => findings.push(Finding::warning(
            &subject,
            format_args!("silent: {ago}"),
            "its endpoints count as up until the grace time is over: see whether its agent runs",
        )),
        _ => {}
    }
    if node.vtep.is_discard() {
        findings.push(problem(
            &subject,
            "has no VTEP address: its host has lost it, or another one has it now, and its endpoints are out \
             of reach",
            format_args!(
                "see `overlay doctor` there; if the host is gone for good, `overlay vtep rm {}`",
                node.name
            ),
        ));
    }
    if node.vtep.ip.ipv4().is_none() && !node.vtep.is_discard() {
        findings.push(problem(
            &subject,
            format_args!(
                "its VTEP {} has an IPv6 address, and this host's tunnels go over IPv4: its endpoints are out of \
                 reach from here",
                node.vtep.ip
            ),
            "give its host an IPv4 address on the underlay, and name that by --local-ip there",
        ));
    }
    if node.vtep.port != own.vtep.port {
        findings.push(problem(
            &subject,
            format_args!(
                "its VTEP is on UDP port {}, this host's on {}: firewalls and NICs know one of them",
                node.vtep.port, own.vtep.port
            ),
            "start both agents with the same --port",
        ));
    }
    if let Some(abi) = node.abi
        && abi != own.abi
    {
        findings.push(problem(
            &subject,
            format_args!(
                "its datapath has ABI version {abi}, this host's {}",
                own.abi
            ),
            format_args!("upgrade {}", if abi < own.abi { "it" } else { "this host" }),
        ));
    }
    match node.version.as_deref() {
        Some(version) if line_of(version) != line_of(own.version) => findings.push(problem(
            &subject,
            format_args!("runs version {version}, this host {}", own.version),
            "upgrade the older one: only versions that differ in the last number fit each other",
        )),
        Some(version) if version != own.version => findings.push(Finding::warning(
            &subject,
            format_args!("runs version {version}, this host {}", own.version),
            "they fit each other; bring both to the newer one at a time that suits",
        )),
        None if node.agent => findings.push(problem(
            &subject,
            format_args!(
                "has told no version: it is older than this host's {}",
                own.version
            ),
            "upgrade it",
        )),
        _ => {}
    }
    findings
}

/// All of a version but its last number.
fn line_of(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(line, _)| line)
}
