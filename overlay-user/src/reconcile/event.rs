//! What happens in the control loop, as it happens: for `overlay monitor`.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::model::{Name, Revision, Vni, Wanted};

/// Events that a slow listener may be behind before it loses some. It is told how many.
const BACKLOG: usize = 4096;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A frame of an on-demand network found no row.
    Miss {
        /// The network.
        vni: Vni,
        /// What was looked for.
        wanted: Wanted,
        /// The endpoint of this host that asked, if it is known.
        asker: Option<Name>,
    },
    /// The registry knew whose it is, and the rows are in.
    Resolved {
        /// The network.
        vni: Vni,
        /// What was looked for.
        wanted: Wanted,
        /// Whose it is.
        endpoint: Name,
        /// Where that is.
        node: Name,
        /// From the miss to the row, microseconds.
        micros: u64,
    },
    /// The registry knows nobody who has it.
    Unresolved {
        /// The network.
        vni: Vni,
        /// What was looked for.
        wanted: Wanted,
    },
    /// The registry gave no answer in time, or an error.
    LookupFailed {
        /// The network.
        vni: Vni,
        /// What was looked for.
        wanted: Wanted,
        /// Why.
        reason: String,
    },
    /// An endpoint went out of the on-demand cache.
    Dropped {
        /// The endpoint.
        endpoint: Name,
        /// Its network.
        vni: Vni,
        /// Why.
        reason: DropCause,
    },
    /// An endpoint that this host has rows of is on another node.
    Moved {
        /// The endpoint.
        endpoint: Name,
        /// Its network.
        vni: Vni,
        /// Where it was.
        from: Name,
        /// Where it is.
        to: Name,
        /// With which generation.
        generation: Revision,
    },
    /// An endpoint of this node stands.
    EndpointReady {
        /// The endpoint.
        endpoint: Name,
    },
    /// An endpoint of this node can't be made.
    EndpointFailed {
        /// The endpoint.
        endpoint: Name,
        /// Why.
        reason: String,
    },
    /// An endpoint that stood or failed on this node is not wanted here any more.
    EndpointGone {
        /// The endpoint.
        endpoint: Name,
    },
    /// Somebody changed what the agent made on this host, and it was put back.
    Repaired {
        /// The endpoint that it is of, if of one.
        endpoint: Option<Name>,
        /// What it was, in a line.
        what: String,
    },
    /// A node's agent says again that it lives.
    NodeAlive {
        /// The node.
        node: Name,
    },
    /// A node's agent says nothing any more.
    NodeSilent {
        /// The node.
        node: Name,
    },
    /// The registry is out of reach; the datapath goes on as it is.
    RegistryLost {
        /// Why.
        reason: String,
    },
    /// The registry is in reach again.
    RegistryRestored,
    /// The registry was read as a whole, or a network of it.
    RegistryRead {
        /// As of which revision.
        revision: Revision,
        /// How many endpoints came.
        endpoints: u64,
        /// How long it took until their rows were in, milliseconds.
        millis: u64,
    },
    /// The kernel's tables differed from what they shall be, and were mended.
    Mended {
        /// Rows that were missing or wrong.
        put: u64,
        /// Rows that nobody wants.
        removed: u64,
    },
    /// Something could not be done; it is tried again.
    Failed {
        /// What and why, in a line.
        reason: String,
    },
}

/// Why an endpoint went out of the on-demand cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// Nobody talked to it for a while.
    Idle,
    /// Another needed the place.
    Evicted,
}

/// Where events come out.
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
    pub fn tell(&self, event: Event) {
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
        Event::EndpointReady { endpoint } => tracing::info!(%endpoint, "endpoint stands"),
        Event::EndpointGone { endpoint } => tracing::info!(%endpoint, "endpoint is gone from here"),
        Event::Moved {
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
        Event::NodeAlive { node } => tracing::info!(%node, "node lives"),
        Event::NodeSilent { node } => tracing::info!(%node, "node is silent"),
        _ => {}
    }
}
