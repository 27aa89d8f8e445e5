//! Reports changes of endpoints and nodes, and repairs, as events and log lines.

use tokio::time::Instant;

use super::{
    Reconciler, View,
    apply::Applier,
    status::{PortState, Repair},
};
use crate::model::{Delta, Event, Name};

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
            let before = match &state {
                Some(state) => view.endpoints.insert(endpoint.clone(), state.clone()),
                None => view.endpoints.remove(&endpoint),
            };
            if let Some(event) = event_of(endpoint, before.as_ref(), state.as_ref()) {
                self.events.tell(event);
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

/// The event of a change of an endpoint's state, if it is one.
fn event_of(
    endpoint: Name,
    before: Option<&PortState>,
    after: Option<&PortState>,
) -> Option<Event> {
    let Some(after) = after else {
        return before.map(|_| Event::Gone { endpoint });
    };
    if before.is_some_and(|before| before.reason() == after.reason()) {
        return None;
    }
    Some(Event::Endpoint {
        endpoint,
        error: after.reason().map(str::to_owned),
    })
}
