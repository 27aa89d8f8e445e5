//! What every backend refuses, and in which words.

use std::fmt::Display;

use ipnet::IpNet;

use super::RegistryError;
use crate::model::{Endpoint, Name, Network, Node, SESSION_TTL, Vni, Vtep, ipam};

/// Subnets as routing knows them, none inside another: an address has one prefix length.
pub fn check_network(network: &Network) -> Result<(), RegistryError> {
    for (position, subnet) in network.subnets.iter().enumerate() {
        if *subnet != subnet.trunc() {
            return refused(format!(
                "subnet {subnet} of network {} has host bits set: write {}",
                network.name,
                subnet.trunc()
            ));
        }
        let overlaps = |other: &&IpNet| other.contains(subnet) || subnet.contains(*other);
        if let Some(other) = network.subnets.iter().take(position).find(overlaps) {
            return refused(format!(
                "subnets {other} and {subnet} of network {} overlap: leave one out",
                network.name
            ));
        }
    }
    Ok(())
}

/// A VTEP that packets can be sent to.
pub fn check_node(node: &Node) -> Result<(), RegistryError> {
    let Node { name, vtep, .. } = node;
    if !ipam::is_assignable(vtep.ip.ip()) || vtep.port == 0 {
        return refused(format!(
            "VTEP {vtep} of node {name} is not allowed: a unicast address and a port from 1 to 65535 are needed"
        ));
    }
    Ok(())
}

/// Addresses that an interface can have, each once, inside the network's subnets.
pub fn check_addresses(endpoint: &Endpoint, network: &Network) -> Result<(), RegistryError> {
    let name = &endpoint.name;
    for (position, ip) in endpoint.ips().enumerate() {
        if !ipam::is_assignable(ip) {
            return refused(format!(
                "IP {ip} of endpoint {name} is no address that an interface can have: choose another"
            ));
        }
        if endpoint.ips().take(position).any(|earlier| earlier == ip) {
            return refused(format!(
                "endpoint {name} names IP {ip} twice: leave one out"
            ));
        }
        if !network.allows(ip) {
            let subnets: Vec<String> = network.subnets.iter().map(IpNet::to_string).collect();
            return refused(format!(
                "IP {ip} of endpoint {name} is outside the subnets of network {} ({}): choose an address inside",
                network.name,
                subnets.join(", "),
            ));
        }
    }
    Ok(())
}

/// A network that still has `count` endpoints; `examples` are the first of them.
pub(super) fn network_in_use(
    network: &str,
    vni: Vni,
    count: u64,
    examples: &[String],
) -> RegistryError {
    let (noun, more) = match count {
        1 => ("endpoint", ""),
        2 => ("endpoints", ""),
        _ => ("endpoints", ", ..."),
    };
    RegistryError::Refused(format!(
        "network {network} (VNI {vni}) still has {count} {noun} ({}{more}): remove them first with `overlay endpoint rm`",
        examples.join(", "),
    ))
}

pub(super) fn conflict(what: &'static str, value: &impl Display, owner: String) -> RegistryError {
    RegistryError::Conflict {
        what,
        value: value.to_string(),
        owner,
    }
}

/// A node that another host's agent has; `vtep` is ` (VTEP 10.0.0.1)`, or empty if it is unknown.
pub(super) fn node_taken(node: &Name, vtep: &str) -> RegistryError {
    let owner = format!("another host{vtep}, whose agent is alive");
    conflict("node name", node, owner)
}

/// A node that can't be removed or lose its address because its agent lives.
pub(super) fn node_alive(node: &Name, vtep: Option<Vtep>) -> RegistryError {
    let vtep = vtep.map(|vtep| format!(" (VTEP {vtep})"));
    RegistryError::Refused(format!(
        "node {node}{} is alive: take it away with `overlay down` there, or stop its agent and try again \
         in {} s",
        vtep.unwrap_or_default(),
        SESSION_TTL.as_secs()
    ))
}

pub(super) fn missing_network(vni: Vni) -> RegistryError {
    let advice = format!("make it with `overlay network create NAME --vni {vni}`");
    missing("network", &vni, advice)
}

pub(super) fn missing_node(node: &Name) -> RegistryError {
    let advice = "start its agent, which registers it".to_owned();
    missing("node", node, advice)
}

pub(super) fn missing_endpoint(name: &Name) -> RegistryError {
    let advice = "see `overlay endpoint ls` for those that do".to_owned();
    missing("endpoint", name, advice)
}

/// An endpoint was to be changed that somebody has changed since it was looked at.
pub(super) fn changed_meanwhile(name: &Name) -> RegistryError {
    RegistryError::Refused(format!(
        "endpoint {name} was changed by somebody else meanwhile: look at it with `overlay endpoint show {name}` \
         and try again"
    ))
}

fn missing(what: &'static str, value: &impl Display, advice: String) -> RegistryError {
    RegistryError::Missing {
        what,
        value: value.to_string(),
        advice,
    }
}

fn refused<T>(line: String) -> Result<T, RegistryError> {
    Err(RegistryError::Refused(line))
}
