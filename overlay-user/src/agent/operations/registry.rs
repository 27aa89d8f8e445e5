//! Follows the registry that is there: `overlay registry adopt`.

use crate::agent::service::Agent;
use crate::agent::{
    adopt::AtStart,
    api::AdoptRegistry,
    server::{Handle, Outcome},
};

impl Handle<AdoptRegistry> for Agent {
    async fn handle(&self, request: AdoptRegistry) -> Outcome<AdoptRegistry> {
        self.adopt(request).await
    }
}

/// An agent that waits at its start has this operation alone.
impl Handle<AdoptRegistry> for AtStart {
    async fn handle(&self, request: AdoptRegistry) -> Outcome<AdoptRegistry> {
        self.adopt(request).await
    }
}
