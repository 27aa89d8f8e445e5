//! This node's own row in the registry.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{Reconciler, wake::Completion};
use crate::model::{Change, Name, Node};

/// The pause between two attempts to put this node back into a registry that refuses it.
const REJOIN: Duration = Duration::from_secs(5);

/// This node, and whether it is on its way back into the registry.
#[derive(Debug)]
pub(super) struct OwnNode {
    pub(super) name: Name,
    /// What the registry should have of it.
    announced: watch::Receiver<Node>,
    is_joining: bool,
    next_joining: Instant,
}

impl OwnNode {
    pub(super) fn new(now: Instant, announced: watch::Receiver<Node>) -> Self {
        let name = announced.borrow().name.clone();
        Self {
            name,
            announced,
            is_joining: false,
            next_joining: now,
        }
    }

    /// The registry has answered.
    pub(super) fn joined(&mut self) {
        self.is_joining = false;
        self.next_joining = Instant::now() + REJOIN;
    }
}

impl Reconciler {
    /// This node with the VTEP that its programs were made for.
    pub(super) fn own_node(&self) -> Node {
        Node::new(self.own_node.name.clone(), self.applier.local().vtep, true)
    }

    /// Puts this node's record into the registry, if somebody removed it or took its address
    /// away. With another address it is another host's by now, as the next heartbeat finds out.
    pub(super) async fn put_node_back(&mut self, now: Instant) {
        if self.own_node.is_joining || now < self.own_node.next_joining || !self.reader.is_settled()
        {
            return;
        }
        let view = self.view.read().await;
        let known = view.mirror.node(&self.own_node.name);
        let own = self.applier.local().vtep;
        let is_anothers = |known: &Node| known.vtep.ip != own.ip && !known.vtep.is_discard();
        let stays = |known: &Node| {
            known.is_told_as(&self.own_node.announced.borrow()) || is_anothers(known)
        };
        if known.is_some_and(stays) || view.refuses() {
            return;
        }
        let is_missing = known.is_none();
        drop(view);
        let node = self.own_node.announced.borrow().clone();
        tracing::warn!(node = %node.name, vtep = %node.vtep, is_missing, "telling the registry of this node");
        self.own_node.is_joining = true;
        let registry = Arc::clone(&self.registry);
        self.wake.spawn_request(async move {
            let joined = registry.commit(&[Change::PutNode(node)]).await;
            Completion::Joined(joined.map(drop))
        });
    }
}
