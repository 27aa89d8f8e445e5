//! The registry's state as this agent knows it: all networks and nodes, the objects of kinds that it knows, and
//! of the endpoints those that belong into this host's maps.
//!
//! Three things change it, and none may undo what another knew better. A *delta* is the last word
//! on what it names, as of its revision. A *reading* is the whole as of one revision; it takes a
//! while, and deltas that come meanwhile may be newer. An *answer* to a question about one endpoint
//! may be newer than both. Generations and revisions say which is which.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::model::{
    Attachment, Endpoint, KINDS, KnownKind, Mac, Name, Network, Node, Resolve, Revision, Vni,
};

mod absence;
mod fact;
mod index;
mod limited;
mod nodes;
mod objects;
mod store;
mod update;

pub use self::{
    absence::Absent,
    fact::{EndpointFact, Fact},
};
use self::{
    absence::{Doubted, Withheld},
    nodes::Nodes,
    objects::Objects,
    store::{Record, Store},
    update::ChangesSinceRead,
};

/// Called with each fact before it changes, while the mirror still holds what was.
pub type OnFact<'a> = &'a mut dyn FnMut(&Mirror, &Fact<'_>);

/// An endpoint that went to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The endpoint.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// Where it was.
    pub from: Name,
    /// Where it is.
    pub to: Name,
    /// The generation with which it moved.
    pub generation: Revision,
}

/// All that is known, as of one revision.
#[derive(Debug)]
pub struct Mirror {
    /// This host.
    node: Name,
    revision: Revision,
    networks: BTreeMap<Vni, Network>,
    nodes: Nodes,
    /// The least of the nodes' underlays, bytes.
    underlay_mtu: Option<u32>,
    endpoints: Store,
    objects: Objects,
    /// Of this node's endpoints alone: the namespace and the interface in it.
    attachments: BTreeMap<Name, Attachment>,
    /// How many of the endpoints are on this node.
    local: usize,
    /// How many endpoints each network has here.
    sizes: BTreeMap<Vni, usize>,
    /// Counts the readings.
    reading: u16,
    /// What deltas said since the reading under way was asked for, with their revisions.
    since: Option<ChangesSinceRead>,
    /// The highest revision of a history that the registry was put back from, until it was read through
    /// once in the present one; 0: there is none. Readings may fail half-way.
    rolled_back_from: Revision,
    withheld: Withheld,
    doubted: Doubted,
    /// Endpoints that are held with generations of a history from which the registry was put back: whatever
    /// it says of them is newer.
    ahead: BTreeSet<Name>,
    /// How many endpoints came too late.
    fenced: u64,
}

/// An endpoint as the mirror holds it.
#[derive(Debug, Clone, Copy)]
pub struct EndpointRef<'a> {
    mirror: &'a Mirror,
    record: &'a Record,
}

impl<'a> EndpointRef<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'a Name {
        &self.record.name
    }

    /// Its network.
    #[must_use]
    pub fn vni(&self) -> Vni {
        self.record.vni
    }

    /// Its MAC.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.record.mac
    }

    /// Its addresses with their prefix lengths.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> + use<'a> {
        self.record.addresses.iter()
    }

    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.addresses().map(|address| address.addr())
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &'a Name {
        // Every record's node is interned for as long as the record is there.
        self.mirror
            .nodes
            .name(self.record.node)
            .unwrap_or(&self.mirror.node)
    }

    /// Its node, if the registry knows it.
    #[must_use]
    pub fn known_node(&self) -> Option<&'a Node> {
        self.mirror.nodes.node(self.record.node)
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Revision {
        self.record.generation
    }

    /// Whether it is on this node.
    #[must_use]
    pub fn is_local(&self) -> bool {
        *self.node() == self.mirror.node
    }

    /// How it is connected to this node, if it is on it. The registry has that of the others.
    #[must_use]
    pub fn attachment(&self) -> Option<&'a Attachment> {
        self.mirror.attachments.get(self.name())
    }

    /// Whether this host holds it whether or not anybody talks to it: it is here, or its network is
    /// proactive.
    #[must_use]
    pub fn is_proactive(&self) -> bool {
        self.is_local() || !self.mirror.is_on_demand(self.vni())
    }

    /// The same as a value. A remote one comes without its attachment.
    #[must_use]
    pub fn to_endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name().clone(),
            vni: self.vni(),
            mac: self.mac(),
            addresses: self.addresses().collect(),
            node: self.node().clone(),
            attachment: self.attachment().cloned(),
            generation: self.generation(),
        }
    }

    /// Whether it is the same, as far as this host holds it.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.generation() == endpoint.generation && self.stands_as(endpoint)
    }

    /// Whether it is the same whatever its generation, as far as this host holds it.
    fn stands_as(&self, endpoint: &Endpoint) -> bool {
        let attachment = endpoint.attachment.as_ref();
        (self.vni(), self.mac()) == (endpoint.vni, endpoint.mac)
            && *self.node() == endpoint.node
            && self.attachment() == attachment.filter(|_| self.is_local())
            && self.addresses().eq(endpoint.addresses.iter().copied())
    }

    /// What it claims.
    pub(super) fn fact(&self) -> Fact<'a> {
        Fact::Endpoint(EndpointFact {
            name: self.name(),
            vni: self.vni(),
            mac: self.mac(),
            is_local: self.is_local(),
            addresses: &self.record.addresses,
        })
    }
}

impl Mirror {
    /// Nothing is known yet; `node` is this host.
    #[must_use]
    pub fn new(node: Name) -> Self {
        Self::with_kinds(node, KINDS)
    }

    /// The same; of objects it holds those of these kinds.
    #[must_use]
    pub fn with_kinds(node: Name, kinds: &'static [KnownKind]) -> Self {
        Self {
            objects: Objects::new(kinds),
            node,
            revision: 0,
            networks: BTreeMap::new(),
            nodes: Nodes::default(),
            underlay_mtu: None,
            endpoints: Store::default(),
            attachments: BTreeMap::new(),
            local: 0,
            sizes: BTreeMap::new(),
            reading: 0,
            since: None,
            rolled_back_from: 0,
            withheld: Withheld::default(),
            doubted: Doubted::default(),
            ahead: BTreeSet::new(),
            fenced: 0,
        }
    }

    /// The last revision that was taken in; of a reading under way, its own.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A network.
    #[must_use]
    pub fn network(&self, vni: Vni) -> Option<&Network> {
        self.networks.get(&vni)
    }

    /// Every network, by VNI.
    #[must_use]
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Network> {
        self.networks.values()
    }

    /// Whether the host holds of this network only what its endpoints talk to.
    #[must_use]
    pub fn is_on_demand(&self, vni: Vni) -> bool {
        self.network(vni)
            .is_some_and(|network| network.resolve == Resolve::OnDemand)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Every node, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// The least MTU of the nodes' underlays, bytes, whether or not they live; `None`: none tells its.
    #[must_use]
    pub fn underlay_mtu(&self) -> Option<u32> {
        self.underlay_mtu
    }

    /// An endpoint by its name.
    #[must_use]
    pub fn endpoint(&self, name: &Name) -> Option<EndpointRef<'_>> {
        self.endpoints.get(name).map(|record| self.known(record))
    }

    /// Every endpoint that this host holds, in no order.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointRef<'_>> {
        self.endpoints.iter().map(|record| self.known(record))
    }

    /// This node's endpoints that are connected to it, by name.
    pub fn local_endpoints(&self) -> impl Iterator<Item = EndpointRef<'_>> {
        self.attachments
            .keys()
            .filter_map(|name| self.endpoint(name))
    }

    /// The endpoint that has a MAC.
    #[must_use]
    pub fn by_mac(&self, vni: Vni, mac: Mac) -> Option<EndpointRef<'_>> {
        let owner = self.endpoints.owner_of_mac(vni, mac);
        owner.map(|record| self.known(record))
    }

    /// The endpoint that has an address.
    #[must_use]
    pub fn by_ip(&self, vni: Vni, ip: IpAddr) -> Option<EndpointRef<'_>> {
        let owner = self.endpoints.owner_of_ip(vni, ip);
        owner.map(|record| self.known(record))
    }

    /// How many endpoints this host holds: on this node, and elsewhere.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.local, self.endpoints.len() - self.local)
    }

    /// How many endpoints came with an older generation than the one that was there.
    #[must_use]
    pub fn fenced(&self) -> u64 {
        self.fenced
    }

    fn known<'a>(&'a self, record: &'a Record) -> EndpointRef<'a> {
        EndpointRef {
            mirror: self,
            record,
        }
    }
}

#[cfg(test)]
mod tests;
