//! Reports changes of endpoints and nodes, and repairs, as events and log lines.

use tokio::time::Instant;

use super::{Reconciler, View, apply::Applier, event::Event, status::PortState};
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
        for (endpoint, state) in self.applier.drain_changes(&view.mirror) {
            match state {
                None => self.looks.remove(&endpoint),
                Some(_) => self.looks.insert(&endpoint, now),
            }
            let before = view.endpoints.remove(&endpoint);
            match state {
                Some(state) => {
                    view.endpoints.insert(endpoint.clone(), state.clone());
                    let was_ready = before
                        .as_ref()
                        .is_some_and(|state| state.reason().is_none());
                    match state.reason() {
                        None if !was_ready => self.events.tell(Event::EndpointReady { endpoint }),
                        Some(reason)
                            if before.as_ref().and_then(PortState::reason) != Some(reason) =>
                        {
                            let reason = reason.to_owned();
                            self.events.tell(Event::EndpointFailed { endpoint, reason });
                        }
                        _ => {}
                    }
                }
                None if before.is_some() => self.events.tell(Event::EndpointGone { endpoint }),
                None => {}
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
