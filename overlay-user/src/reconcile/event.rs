//! Events of the control loop, as they happen: for `overlay monitor`.

use tokio::sync::broadcast;

use crate::model::{Event, RegistryChange};

/// Events that a slow listener may be behind before it loses some. It is told how many.
const BACKLOG: usize = 4096;

/// The channel of events.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Events {
    /// Whether anybody listens: an event that costs something to make is not made for nobody.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells those who listen, if anybody does. Never waits for them.
    pub fn tell(&self, event: impl Into<Event>) {
        let event = event.into();
        log(&event);
        // Nobody listens most of the time.
        let _ = self.0.send(event);
    }

    /// Events from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

/// Writes into the log what happens to this host's endpoints and to its peers. What goes wrong, and what happens
/// to the registry, is logged where it does.
fn log(event: &Event) {
    match event {
        Event::Endpoint {
            endpoint,
            error: None,
        } => tracing::info!(%endpoint, "endpoint stands"),
        Event::Gone { endpoint } => tracing::info!(%endpoint, "endpoint is gone from here"),
        Event::Move {
            endpoint,
            vni,
            from,
            to,
            generation,
        } => tracing::info!(%endpoint, %vni, %from, %to, generation, "endpoint has moved"),
        Event::Repaired {
            endpoint: Some(endpoint),
            what,
        } => tracing::warn!(%endpoint, what, "somebody changed the endpoint: put back"),
        Event::Repaired {
            endpoint: None,
            what,
        } => tracing::warn!(what, "somebody changed what the agent made: put back"),
        Event::Registry {
            change: RegistryChange::NodeAlive { node },
        } => tracing::info!(%node, "node lives"),
        Event::Registry {
            change: RegistryChange::NodeSilent { node },
        } => tracing::info!(%node, "node is silent"),
        _ => {}
    }
}
