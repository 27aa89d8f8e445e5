//! Finds rows of the registry that contradict each other.
//!
//! Commits of agents can't cause that; other writers, partial restores and damage can.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Reading, Registry, RegistryError, Scope, rules};
use crate::model::{
    Claim, Endpoint, KINDS, Key, KnownKind, Name, Network, Object, ObjectId, Reference, Slot,
    Target, Vni,
};

/// Findings that are told one by one.
const TOLD: usize = 1000;

/// What can be done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Somebody has to decide which of two is right.
    ByHand,
    /// Nobody can miss it, or nobody can mind it: a check that repairs does so.
    Possible,
    /// Done.
    Done,
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// One line: what does not agree with what.
    pub what: String,
    /// What can be done about it.
    pub repair: Repair,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The first 1000.
    pub findings: Vec<Finding>,
    /// How many there are in all.
    pub count: u64,
}

impl Findings {
    /// Notes one more.
    pub fn add(&mut self, repair: Repair, what: String) {
        self.count += 1;
        if self.findings.len() < TOLD {
            self.findings.push(Finding { what, repair });
        }
    }

    fn extend(&mut self, more: Self) {
        self.count += more.count;
        let room = TOLD.saturating_sub(self.findings.len());
        self.findings.extend(more.findings.into_iter().take(room));
    }
}

/// Looks for duplicates, for rows that refer to what is not there or break a rule, and for what the
/// backend keeps beside the rows (claims, indexes) and does not agree with them. With `repair`,
/// mends what needs no decision.
///
/// Takes memory for the addresses of all endpoints.
pub async fn check(registry: &dyn Registry, repair: bool) -> Result<Findings, RegistryError> {
    check_with(registry, repair, KINDS).await
}

/// The same; objects of these kinds have to make sense too.
pub async fn check_with(
    registry: &dyn Registry,
    repair: bool,
    kinds: &[KnownKind],
) -> Result<Findings, RegistryError> {
    let mut findings = registry.audit(repair).await?;
    findings.extend(check_rows(registry, kinds).await?);
    Ok(findings)
}

async fn check_rows(
    registry: &dyn Registry,
    kinds: &[KnownKind],
) -> Result<Findings, RegistryError> {
    let Reading {
        networks,
        nodes,
        objects,
        rejected,
        endpoints: mut pages,
        ..
    } = registry.read(Scope::All).await?;
    let mut rows = Rows::default();
    let mut names = HashMap::new();
    for network in &networks {
        rows.refused(rules::check_network(network));
        if let Some(other) = names.insert(&network.name, network.vni) {
            rows.by_hand(format!(
                "networks {other} and {} have the same name {}",
                network.vni, network.name
            ));
        }
    }
    let mut vteps = HashMap::new();
    for node in &nodes {
        rows.refused(rules::check_node(node));
        if let Some(other) = vteps.insert(node.vtep.ip, &node.name) {
            rows.by_hand(format!(
                "nodes {other} and {} have the same VTEP {}",
                node.name, node.vtep.ip
            ));
        }
    }
    let networks: HashMap<Vni, &Network> = networks.iter().map(|net| (net.vni, net)).collect();
    let nodes: HashSet<&Name> = nodes.iter().map(|node| &node.name).collect();
    while let Some(page) = pages.recv().await {
        for endpoint in page? {
            rows.endpoint(&endpoint, &networks, &nodes);
        }
    }
    let ids: HashSet<&ObjectId> = objects.iter().map(|object| &object.id).collect();
    for object in &objects {
        rows.object(object, |target| match target.target() {
            Target::Network(vni) => networks.contains_key(&vni),
            Target::Node(name) => nodes.contains(&name),
            Target::Object(id) => ids.contains(&id),
            Target::Endpoint(_) | Target::Nothing => false,
        });
        if let Err(rejected) = object.check(kinds) {
            rows.by_hand(rejected.to_string());
        }
    }
    rows.prefixes(&objects);
    for rejected in rejected.take() {
        rows.by_hand(rejected.to_string());
    }
    Ok(rows.findings)
}

/// Rows so far: what has to be unique, and who has it.
#[derive(Default)]
struct Rows {
    findings: Findings,
    taken: HashMap<Unique, Owner>,
}

/// The owner of something. There are many endpoints: one takes no more memory than its name.
#[derive(Clone)]
enum Owner {
    Endpoint(Name),
    Object(Box<ObjectId>),
}

#[derive(PartialEq, Eq, Hash)]
enum Unique {
    Name(Name),
    Mac(Vni, crate::model::Mac),
    Ip(Vni, std::net::IpAddr),
    Slot(Box<Slot>),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::Object(id) => id.fmt(f),
        }
    }
}

impl std::fmt::Display for Unique {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "name {name}"),
            Self::Mac(vni, mac) => write!(f, "MAC {mac} in VNI {vni}"),
            Self::Ip(vni, ip) => write!(f, "IP {ip} in VNI {vni}"),
            Self::Slot(slot) => write!(f, "claim {} {}", slot.space, slot.value),
        }
    }
}

impl Rows {
    fn endpoint(
        &mut self,
        endpoint: &Endpoint,
        networks: &HashMap<Vni, &Network>,
        nodes: &HashSet<&Name>,
    ) {
        let Endpoint { name, vni, .. } = endpoint;
        match networks.get(vni) {
            Some(network) => self.refused(rules::check_addresses(endpoint, network)),
            None => self.by_hand(format!(
                "endpoint {name} is in network {vni}, which does not exist"
            )),
        }
        if !nodes.contains(&endpoint.node) {
            self.by_hand(format!(
                "endpoint {name} is on node {}, which does not exist",
                endpoint.node
            ));
        }
        let ips = endpoint.ips().map(|ip| Unique::Ip(*vni, ip));
        let others = [Unique::Name(name.clone()), Unique::Mac(*vni, endpoint.mac)];
        for unique in ips.chain(others) {
            self.take(unique, &Owner::Endpoint(name.clone()));
        }
    }

    /// After the endpoints. `exists` says so of all targets but those.
    fn object(&mut self, object: &Object, exists: impl Fn(&ObjectId) -> bool) {
        self.refused(rules::check_object(object));
        let id = &object.id;
        for Reference { target, .. } in &object.references {
            let is_there = match target.target() {
                Target::Endpoint(name) => self.taken.contains_key(&Unique::Name(name)),
                _ => exists(target),
            };
            if !is_there {
                self.by_hand(format!("{id} refers to {target}, which does not exist"));
            }
        }
        for claim in &object.claims {
            let unique = match claim {
                Claim::Ip { vni, ip } => Unique::Ip(*vni, *ip),
                Claim::Mac { vni, mac } => Unique::Mac(*vni, *mac),
                Claim::Unique { .. } | Claim::Disjoint { .. } => {
                    Unique::Slot(Box::new(claim.slot()))
                }
            };
            self.take(unique, &Owner::Object(Box::new(id.clone())));
        }
    }

    /// Prefixes of one space that overlap and are not the same.
    fn prefixes(&mut self, objects: &[Object]) {
        let mut spaces: HashMap<&Key, Vec<(&IpNet, &ObjectId)>> = HashMap::new();
        for object in objects {
            for claim in &object.claims {
                if let Claim::Disjoint { space, prefix } = claim {
                    spaces.entry(space).or_default().push((prefix, &object.id));
                }
            }
        }
        for (space, mut prefixes) in spaces {
            // A prefix comes right before those inside it.
            prefixes.sort_unstable();
            for pair in prefixes.windows(2) {
                if let [(outer, owner), (inner, id)] = pair
                    && outer != inner
                    && rules::overlap(outer, inner)
                {
                    self.by_hand(format!(
                        "prefixes {outer} of {owner} and {inner} of {id} overlap in {space}"
                    ));
                }
            }
        }
    }

    fn take(&mut self, unique: Unique, owner: &Owner) {
        match self.taken.entry(unique) {
            Entry::Vacant(free) => drop(free.insert(owner.clone())),
            Entry::Occupied(taken) => {
                let what = match (taken.get(), owner) {
                    (Owner::Endpoint(one), Owner::Endpoint(other)) => {
                        format!("endpoints {one} and {other} have the same {}", taken.key())
                    }
                    (one, other) => format!("{one} and {other} have the same {}", taken.key()),
                };
                self.findings.add(Repair::ByHand, what);
            }
        }
    }

    fn refused(&mut self, checked: Result<(), RegistryError>) {
        if let Err(refusal) = checked {
            self.by_hand(refusal.to_string());
        }
    }

    fn by_hand(&mut self, what: String) {
        self.findings.add(Repair::ByHand, what);
    }
}
