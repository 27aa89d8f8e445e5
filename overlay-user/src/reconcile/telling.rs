//! Tells what has become of endpoints, what was put back, and which nodes come and go.

use tokio::time::Instant;

use super::{
    Reconciler, View,
    apply::{Applier, Standing},
    event::Event,
};
use crate::model::{Delta, Name};

/// What somebody changed on this host, and the agent put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repair {
    /// The endpoint that it was of, if of one.
    pub(super) endpoint: Option<Name>,
    /// What it was, in a line.
    pub(super) what: String,
}

impl Applier {
    /// Notes what was put back.
    pub(super) fn note_repair(&mut self, endpoint: Option<Name>, what: String) {
        self.repairs.push(Repair { endpoint, what });
    }
}

impl Reconciler {
    /// Tells what was put back since the last time.
    pub(super) fn tell_of_repairs(&mut self) {
        for Repair { endpoint, what } in std::mem::take(&mut self.applier.repairs) {
            self.events.tell(Event::Repaired { endpoint, what });
        }
    }

    /// Takes in what has become of this node's endpoints.
    pub(super) fn drain_changes(&mut self, view: &mut View) {
        let now = Instant::now();
        for (endpoint, standing) in self.applier.drain_changes(&view.mirror) {
            match standing {
                Standing::Gone => self.looks.remove(&endpoint),
                Standing::Ready(_) | Standing::Failed(_) => self.looks.insert(&endpoint, now),
            }
            let former_port = view.ports.remove(&endpoint);
            let former_failure = view.failures.remove(&endpoint);
            match standing {
                Standing::Ready(ifindex) => {
                    view.ports.insert(endpoint.clone(), ifindex);
                    if former_port.is_none() {
                        self.events.tell(Event::EndpointReady { endpoint });
                    }
                }
                Standing::Failed(reason) => {
                    view.failures.insert(endpoint.clone(), reason.clone());
                    if former_failure.as_ref() != Some(&reason) {
                        self.events.tell(Event::EndpointFailed { endpoint, reason });
                    }
                }
                Standing::Gone if former_port.is_some() || former_failure.is_some() => {
                    self.events.tell(Event::EndpointGone { endpoint });
                }
                Standing::Gone => {}
            }
        }
    }

    /// Writes into the log which nodes come, change their VTEPs and go; those who listen hear of them from the
    /// registry.
    pub(super) async fn log_nodes(&mut self, delta: &Delta) {
        let view = self.view.read().await;
        for node in &delta.nodes {
            let known = view.mirror.node(&node.name);
            if known.is_none_or(|known| known.vtep != node.vtep) {
                tracing::info!(node = %node.name, vtep = %node.vtep, "a node has come, or its VTEP has changed");
            }
        }
        for node in &delta.nodes_removed {
            tracing::info!(%node, "a node has gone");
        }
    }
}
