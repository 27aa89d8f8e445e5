//! What every backend refuses, and in which words.

use std::{fmt::Display, net::IpAddr};

use ipnet::IpNet;

use super::RegistryError;
use crate::model::{
    Claim, Endpoint, LONGEST_KEY, Name, Network, Node, Object, ObjectId, SESSION_TTL, Target, Vni,
    Vtep, ipam,
};

/// The longest body of an object, bytes of JSON.
const LONGEST_BODY: usize = 256 * 1024;

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
        check_subnet(&format_args!("endpoint {name}"), ip, network)?;
    }
    Ok(())
}

fn check_subnet(owner: &impl Display, ip: IpAddr, network: &Network) -> Result<(), RegistryError> {
    if network.allows(ip) {
        return Ok(());
    }
    let subnets: Vec<String> = network.subnets.iter().map(IpNet::to_string).collect();
    refused(format!(
        "IP {ip} of {owner} is outside the subnets of network {} ({}): choose an address inside",
        network.name,
        subnets.join(", "),
    ))
}

/// An object that the registry can hold the rules for: claims that agree with each other, addresses only of
/// networks that it refers to.
pub fn check_object(object: &Object) -> Result<(), RegistryError> {
    let Object {
        id,
        body,
        claims,
        references,
        ..
    } = object;
    if !matches!(id.target(), Target::Object(_)) {
        return refused(format!(
            "an object can't be a {}: it has its own verbs",
            id.kind
        ));
    }
    if id.key.as_str().len() > LONGEST_KEY {
        return refused(format!(
            "key {} is longer than {LONGEST_KEY} characters",
            id.key
        ));
    }
    let length = serde_json::to_vec(body).map_or(usize::MAX, |text| text.len());
    if length > LONGEST_BODY {
        return refused(format!(
            "{id} takes {length} bytes and {LONGEST_BODY} are allowed: divide it into several"
        ));
    }
    for (position, reference) in references.iter().enumerate() {
        let mut earlier = references.iter().take(position);
        if reference.target == *id || earlier.any(|other| other.target == reference.target) {
            return refused(format!("{id} can't refer to {} that way", reference.target));
        }
    }
    for (position, claim) in claims.iter().enumerate() {
        let mut earlier = claims.iter().take(position);
        if let Some(other) = earlier.find(|other| are_in_conflict(other, claim)) {
            let ((_, other), (what, value)) = (other.called(), claim.called());
            return refused(format!("{id} claims {what} {value} and {other} at once"));
        }
        check_claim(id, claim)?;
        if let Some(vni) = claim.slot().vni
            && !references
                .iter()
                .any(|reference| reference.target.target() == Target::Network(vni))
        {
            return refused(format!(
                "{id} claims an address of network {vni} and does not refer to it"
            ));
        }
    }
    Ok(())
}

fn check_claim(id: &ObjectId, claim: &Claim) -> Result<(), RegistryError> {
    match claim {
        Claim::Ip { ip, .. } if !ipam::is_assignable(*ip) => refused(format!(
            "IP {ip} of {id} is no address that an interface can have: choose another"
        )),
        Claim::Disjoint { prefix, .. } if *prefix != prefix.trunc() => refused(format!(
            "prefix {prefix} of {id} has host bits set: write {}",
            prefix.trunc()
        )),
        _ => Ok(()),
    }
}

/// An address that an object claims, inside the network's subnets.
pub(super) fn check_claimed(
    id: &ObjectId,
    claim: &Claim,
    network: &Network,
) -> Result<(), RegistryError> {
    match claim {
        Claim::Ip { ip, .. } => check_subnet(id, *ip, network),
        _ => Ok(()),
    }
}

/// Whether no two objects can have these.
pub(super) fn are_in_conflict(one: &Claim, other: &Claim) -> bool {
    match (one, other) {
        (
            Claim::Disjoint { space, prefix },
            Claim::Disjoint {
                space: other_space,
                prefix: other_prefix,
            },
        ) => space == other_space && overlap(prefix, other_prefix),
        _ => one.slot() == other.slot(),
    }
}

/// Whether two prefixes have an address in common.
pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
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

/// Something that an object refers to.
pub(super) fn missing_target(target: &ObjectId) -> RegistryError {
    match target.target() {
        Target::Network(vni) => missing_network(vni),
        Target::Node(name) => missing_node(&name),
        Target::Endpoint(name) => missing_endpoint(&name),
        Target::Object(_) | Target::Nothing => {
            missing("object", target, "make that one first".to_owned())
        }
    }
}

/// An object that was to be changed, and that nobody has made or somebody has removed.
pub(super) fn missing_object(id: &ObjectId) -> RegistryError {
    missing("object", id, "somebody may have removed it".to_owned())
}

/// An object that was to be made, and is there in another way.
pub(super) fn object_exists(id: &ObjectId) -> RegistryError {
    conflict("key", &id.key, format!("another {}", id.kind))
}

/// An object was to be changed that somebody has changed since it was looked at.
pub(super) fn object_changed_meanwhile(id: &ObjectId) -> RegistryError {
    RegistryError::Refused(format!(
        "{id} was changed by somebody else meanwhile: look at it and try again"
    ))
}

/// What can't be removed because of the objects that refer to it; `called` is that in words.
pub(super) fn still_referred(called: &impl Display, by: &[ObjectId]) -> RegistryError {
    let names: Vec<String> = by.iter().take(2).map(ToString::to_string).collect();
    let (more, which) = match by.len() {
        1 => ("", "that one"),
        2 => ("", "them"),
        _ => (", ...", "them"),
    };
    RegistryError::Refused(format!(
        "{called} is still referred to by {}{more}: remove {which} first",
        names.join(", ")
    ))
}

/// Whose an address or a claim was, from the word that stands for it.
pub(super) fn called(owner: &str) -> String {
    ObjectId::from_word(owner).map_or_else(|| format!("endpoint {owner}"), |id| id.to_string())
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
