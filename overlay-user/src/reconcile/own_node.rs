//! This node's own row in the registry.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Reconciler, wake::Completion};
use crate::model::{Change, Node};

impl Reconciler {
    /// This node with the VTEP that its programs were made for.
    pub(super) fn own_node(&self) -> Node {
        Node::new(self.node.clone(), self.applier.local().vtep, true)
    }

    /// Puts this node's record into the registry, if somebody removed it or took its address
    /// away. With another address it is another host's by now, as the next heartbeat finds out.
    pub(super) async fn put_node_back(&mut self, now: Instant) {
        if self.is_joining || now < self.next_joining || !self.reader.is_settled() {
            return;
        }
        let view = self.view.read().await;
        let known = view.mirror.node(&self.node);
        let own = self.applier.local().vtep;
        let is_anothers = |known: &Node| known.vtep.ip != own.ip && !known.vtep.is_discard();
        let stays = |known: &Node| known.is_told_as(&self.announced.borrow()) || is_anothers(known);
        if known.is_some_and(stays) || view.refuses() {
            return;
        }
        let is_missing = known.is_none();
        drop(view);
        let node = self.announced.borrow().clone();
        tracing::warn!(node = %node.name, vtep = %node.vtep, is_missing, "telling the registry of this node");
        self.is_joining = true;
        let registry = Arc::clone(&self.registry);
        self.wake.spawn_request(async move {
            let joined = registry.commit(&[Change::PutNode(node)]).await;
            Completion::Joined(joined.map(drop))
        });
    }
}
