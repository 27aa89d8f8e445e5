//! Nodes by number: an endpoint's record names its node in four bytes.

use std::collections::BTreeMap;

use slab::Slab;

use crate::model::{Name, Node};

/// A node's number; it lasts as long as the node is known or an endpoint names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(u32);

#[derive(Debug)]
struct NodeEntry {
    name: Name,
    /// `None`: an endpoint names it and the registry doesn't know it.
    node: Option<Node>,
    endpoints: usize,
}

/// The registry's nodes, and those that endpoints name.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: Slab<NodeEntry>,
    ids: BTreeMap<Name, NodeId>,
}

impl Nodes {
    pub(super) fn get(&self, name: &Name) -> Option<&Node> {
        self.ids.get(name).and_then(|id| self.node(*id))
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.known.get(id.0 as usize)?.node.as_ref()
    }

    /// The nodes that the registry knows, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.ids.values().filter_map(|id| self.node(*id))
    }

    pub(super) fn id(&self, name: &Name) -> Option<NodeId> {
        self.ids.get(name).copied()
    }

    pub(super) fn name(&self, id: NodeId) -> Option<&Name> {
        self.known.get(id.0 as usize).map(|known| &known.name)
    }

    /// How many endpoints name it.
    pub(super) fn endpoints(&self, id: NodeId) -> usize {
        self.known
            .get(id.0 as usize)
            .map_or(0, |known| known.endpoints)
    }

    /// Takes the registry's word on a node; gives what it was.
    pub(super) fn put(&mut self, node: Node) -> Option<Node> {
        let id = self.intern(&node.name);
        self.known.get_mut(id.0 as usize)?.node.replace(node)
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<Node> {
        let id = self.id(name)?;
        let removed = self.known.get_mut(id.0 as usize)?.node.take();
        self.retire(id);
        removed
    }

    /// The number of the node that an endpoint names. Pairs with [`Self::release`].
    pub(super) fn acquire(&mut self, name: &Name) -> NodeId {
        let id = self.intern(name);
        if let Some(known) = self.known.get_mut(id.0 as usize) {
            known.endpoints += 1;
        }
        id
    }

    /// An endpoint names it no more.
    pub(super) fn release(&mut self, id: NodeId) {
        if let Some(known) = self.known.get_mut(id.0 as usize) {
            known.endpoints -= 1;
            self.retire(id);
        }
    }

    fn intern(&mut self, name: &Name) -> NodeId {
        if let Some(id) = self.id(name) {
            return id;
        }
        let number = self.known.insert(NodeEntry {
            name: name.clone(),
            node: None,
            endpoints: 0,
        });
        #[expect(clippy::cast_possible_truncation, reason = "nodes are some thousands")]
        let id = NodeId(number as u32);
        self.ids.insert(name.clone(), id);
        id
    }

    fn retire(&mut self, id: NodeId) {
        let key = id.0 as usize;
        if self
            .known
            .get(key)
            .is_some_and(|known| known.node.is_none() && known.endpoints == 0)
        {
            let known = self.known.remove(key);
            self.ids.remove(&known.name);
        }
    }
}
