//! What the registry hands out and takes: snapshots, deltas and changes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Vtep;
use super::{
    Attachment, Endpoint, Mac, Name, Network, NetworkSettings, Node, Object, ObjectId, Rejected,
    Revision, Vni,
};

/// All desired state as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The revision that this is the state of.
    pub revision: Revision,
    /// Every network.
    pub networks: Vec<Network>,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every endpoint of every node.
    pub endpoints: Vec<Endpoint>,
    /// Every object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Object>,
}

/// What changed up to `revision`: the last word on each row, removals apart. A row that was removed
/// and made again is only among the put ones; apply removals first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The state after this delta is that of this revision.
    pub revision: Revision,
    /// Networks made or changed.
    pub networks: Vec<Network>,
    /// Networks removed.
    pub networks_removed: Vec<Vni>,
    /// Nodes made or changed.
    pub nodes: Vec<Node>,
    /// Nodes removed.
    pub nodes_removed: Vec<Name>,
    /// Endpoints made or changed.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints removed.
    pub endpoints_removed: Vec<Name>,
    /// Objects made or changed.
    pub objects: Vec<Object>,
    /// Objects removed.
    pub objects_removed: Vec<ObjectId>,
    /// Rows that were made or changed, and can't be read.
    pub rejected: Vec<Rejected>,
}

impl Delta {
    /// The networks that it speaks of.
    pub fn named_networks(&self) -> impl Iterator<Item = Vni> {
        let put = self.networks.iter().map(|network| network.vni);
        put.chain(self.networks_removed.iter().copied())
    }

    /// The nodes that it speaks of.
    pub fn named_nodes(&self) -> impl Iterator<Item = &Name> {
        let put = self.nodes.iter().map(|node| &node.name);
        put.chain(&self.nodes_removed)
    }

    /// The endpoints that it speaks of.
    pub fn named_endpoints(&self) -> impl Iterator<Item = &Name> {
        let put = self.endpoints.iter().map(|endpoint| &endpoint.name);
        put.chain(&self.endpoints_removed)
    }

    /// The objects that it speaks of.
    pub fn named_objects(&self) -> impl Iterator<Item = &ObjectId> {
        let put = self.objects.iter().map(|object| &object.id);
        put.chain(&self.objects_removed)
    }
}

/// One wish of a commit. A commit is all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes a network; its name and its VNI must be free.
    CreateNetwork(Network),
    /// Changes what of a network may change while traffic runs. It must exist. As it is already: nothing to
    /// do.
    SetNetwork(Vni, NetworkSettings),
    /// Removes a network; it must have no endpoints. Gone already: nothing to do.
    RemoveNetwork(Vni),
    /// Makes or updates a node; another node's VTEP is a conflict.
    PutNode(Node),
    /// Removes a node and every endpoint on it. Gone already: nothing to do.
    RemoveNode(Name),
    /// Removes a node and every endpoint on it, unless its session lives: it is for hosts that are gone
    /// for good. A node without an agent has no session. Gone already: nothing to do.
    RemoveSilentNode(Name),
    /// Takes a node's VTEP address away, which its host has no more, unless its session lives: it gets
    /// [`Vtep::discard`] in its place and keeps its endpoints. Gone already: nothing to do.
    ReleaseVtep(Name),
    /// Removes a node that no endpoint is on. One that has some stays, and nothing is wrong: a
    /// foreign VTEP may serve several networks, and each import knows only its own.
    RemoveEmptyNode(Name),
    /// Makes an endpoint; its name, MAC and addresses must be free, network and node must exist.
    CreateEndpoint(Endpoint),
    /// Puts an endpoint, which must exist, onto another node, which must too. It keeps its name, MAC
    /// and addresses, and its generation grows. There already: nothing to do.
    MoveEndpoint {
        /// The endpoint.
        name: Name,
        /// Where it lives from now on.
        node: Name,
        /// How it is connected there.
        attachment: Option<Attachment>,
    },
    /// Gives an endpoint another MAC or other addresses, if it is still of this generation, which grows. What
    /// it gives up is in quarantine as after a removal. Of another generation: refused.
    ReaddressEndpoint {
        /// The endpoint.
        name: Name,
        /// Its MAC from now on.
        mac: Mac,
        /// All its addresses from now on.
        addresses: Vec<IpNet>,
        /// The generation that was looked at.
        generation: Revision,
    },
    /// Removes an endpoint. Gone already: nothing to do.
    RemoveEndpoint(Name),
    /// Removes an endpoint if it is still of this generation: what somebody has made anew or moved
    /// since stays. For taking back what one has just made.
    RemoveGeneration(Name, Revision),
    /// Makes an object, if its revision is 0, or changes the one that is of this revision. What it claims must
    /// be free, what it refers to must exist. As it is already, whatever the revision: nothing to do.
    PutObject(Object),
    /// Removes an object. What refers to it goes with it or forbids it, as that says. Gone already: nothing to do.
    RemoveObject(ObjectId),
}
