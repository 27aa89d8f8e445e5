//! Whether tunnel packets get to the other hosts.

use std::net::IpAddr;

use super::{
    super::api::{NodeState, PathState, VtepView},
    DoctorView, Finding, Own,
};
use crate::model::{Name, Vtep};

/// What to do where packets arrive changed.
pub(in crate::agent) const CHANGED: &str = "something between the hosts changes packets: look for a faulty device or \
                                            offload there (`ethtool -k` on both hosts)";

/// What to do where tunnel packets from an address do not get to a node's tunnel end.
pub(in crate::agent) fn let_through(from: IpAddr, to: Vtep, node: &Name) -> String {
    format!(
        "let UDP from {from} to port {} of {node} ({}) through the firewalls between",
        to.port, to.ip
    )
}

/// Names each host to which packets do not get, or only short ones, and which way they are lost.
pub(super) fn judge_paths(found: &mut DoctorView, own: &Own<'_>, vteps: &[VtepView]) {
    let mut are_well = true;
    for vtep in vteps {
        if let Some(finding) = finding(own, vtep) {
            found.find(finding);
            are_well = false;
        }
    }
    if are_well {
        found.pass("paths");
    }
}

fn finding(own: &Own<'_>, vtep: &VtepView) -> Option<Finding> {
    let path = vtep.path.as_ref()?;
    let (node, ip, port) = (&vtep.node, vtep.ip, vtep.port);
    let subject = format!("path to {node}");
    let own_vtep = own.vtep;
    match path.state {
        PathState::Unknown => None,
        // Of a host whose agent is gone it is known that something is wrong.
        PathState::Lost if vtep.state != NodeState::Alive => None,
        PathState::Lost => Some(Finding::problem(
            subject,
            format_args!(
                "no tunnel packet of {node} ({ip}) arrives here, though its agent is alive"
            ),
            format_args!(
                "let UDP from {ip} to port {} of this host through the firewalls between; `overlay vtep ls` \
                 on {node} says whether this host's packets arrive there",
                own_vtep.port
            ),
        )),
        PathState::OneWay => Some(Finding::problem(
            subject,
            format_args!(
                "this host's tunnel packets do not get to {node} ({ip}); those of {node} arrive here"
            ),
            format_args!(
                "let UDP from {} to port {port} of {node} through the firewalls between",
                own_vtep.ip
            ),
        )),
        PathState::Damaged => Some(Finding::problem(
            subject,
            format_args!("tunnel packets of {node} ({ip}) arrive here changed"),
            CHANGED,
        )),
        PathState::Ok => {
            let largest = path.largest?;
            path.is_narrow().then(|| {
                Finding::warning(
                    subject,
                    format_args!(
                        "it takes packets of up to {largest} bytes, and both hosts' interfaces {}",
                        path.expected
                    ),
                    "endpoints are told by ICMP, which costs their first packets: raise the MTU on the way, or \
                     give the networks a smaller one",
                )
            })
        }
    }
}
