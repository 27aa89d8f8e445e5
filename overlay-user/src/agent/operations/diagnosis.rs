//! Looks at hosts and the paths between them: `overlay verify`, `doctor`, `ping`, `explain` and `monitor`.

use crate::agent::service::Agent;
use crate::agent::{
    api::{Examine, ExamineCluster, Explain, Monitor, SendPing, Verify},
    server::{Handle, Outcome},
    verify::{Asked, Verifier},
};

impl Handle<Verify> for Agent {
    async fn handle(&self, request: Verify) -> Outcome<Verify> {
        self.check_reach().await?;
        let vni = match &request.vni {
            Some(network) => Some(self.vni_of(network).await?),
            None => None,
        };
        Verifier::new(&*self.registry).compare(Asked { vni }).await
    }
}

impl Handle<Examine> for Agent {
    async fn handle(&self, _: Examine) -> Outcome<Examine> {
        Ok(self.examine().await)
    }
}

impl Handle<ExamineCluster> for Agent {
    async fn handle(&self, _: ExamineCluster) -> Outcome<ExamineCluster> {
        self.examine_cluster().await
    }
}

impl Handle<SendPing> for Agent {
    async fn handle(&self, request: SendPing) -> Outcome<SendPing> {
        self.check_reach().await?;
        self.send_ping(&request).await
    }
}

impl Handle<Explain> for Agent {
    async fn handle(&self, request: Explain) -> Outcome<Explain> {
        self.check_reach().await?;
        self.explain(&request).await
    }
}

impl Handle<Monitor> for Agent {
    async fn handle(&self, _: Monitor) -> Outcome<Monitor> {
        self.events().await
    }
}
