//! A registry each of whose answers has a time limit, whatever its backend waits for.
//!
//! A file on a disk or a server that hangs gives no error of its own: without a limit, whoever asks
//! would wait for as long as it hangs.

use std::{collections::BTreeSet, future::Future, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::timeout};

use super::{Findings, Reading, Registry, RegistryError, Scope, WatchEvent};
use crate::model::{
    Change, Endpoint, Kind, Name, Node, Object, Question, QuestionId, RegistryId, Report, Revision,
    Session, Vni, Wanted, ipam::Block,
};

/// The registry at `url` that `opening` opens, which is limited too.
pub async fn open(
    url: &str,
    limit: Duration,
    opening: impl Future<Output = Result<Arc<dyn Registry>, RegistryError>>,
) -> Result<Arc<dyn Registry>, RegistryError> {
    let registry = in_time(limit, url, opening).await?;
    Ok(Arc::new(Limited { registry, limit }))
}

struct Limited {
    registry: Arc<dyn Registry>,
    limit: Duration,
}

async fn in_time<T>(
    limit: Duration,
    url: &str,
    answer: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        Err(RegistryError::Unavailable(format!(
            "registry {url} has not answered within {} s: see whether its disk or its servers hang",
            limit.as_secs()
        )))
    })
}

impl Limited {
    async fn limit<T>(
        &self,
        answer: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        in_time(self.limit, &self.registry.url(), answer).await
    }
}

#[async_trait]
impl Registry for Limited {
    /// The limit is for the beginning: the pages come as fast as they are taken.
    async fn read(&self, scope: Scope) -> Result<Reading, RegistryError> {
        self.limit(self.registry.read(scope)).await
    }

    async fn find(&self, vni: Vni, wanted: Wanted) -> Result<Option<Endpoint>, RegistryError> {
        self.limit(self.registry.find(vni, wanted)).await
    }

    async fn find_endpoint(&self, name: &Name) -> Result<Option<Endpoint>, RegistryError> {
        self.limit(self.registry.find_endpoint(name)).await
    }

    async fn taken(&self, vni: Vni, block: Block) -> Result<BTreeSet<IpAddr>, RegistryError> {
        self.limit(self.registry.taken(vni, block)).await
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.limit(self.registry.nodes()).await
    }

    async fn objects(&self, kind: &Kind) -> Result<Vec<Object>, RegistryError> {
        self.limit(self.registry.objects(kind)).await
    }

    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError> {
        self.limit(self.registry.watch()).await
    }

    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError> {
        self.limit(self.registry.commit(changes)).await
    }

    /// Not limited: its caller watches it, and another one beside it would only wait behind it.
    async fn heartbeat(&self, node: &Name, session: &Session) -> Result<(), RegistryError> {
        self.registry.heartbeat(node, session).await
    }

    async fn ask(&self, question: &Question) -> Result<(), RegistryError> {
        self.limit(self.registry.ask(question)).await
    }

    async fn publish(&self, report: &Report) -> Result<(), RegistryError> {
        self.limit(self.registry.publish(report)).await
    }

    async fn reports(&self, question: Option<QuestionId>) -> Result<Vec<Report>, RegistryError> {
        self.limit(self.registry.reports(question)).await
    }

    /// Not limited: it looks at everything.
    async fn audit(&self, repair: bool) -> Result<Findings, RegistryError> {
        self.registry.audit(repair).await
    }

    async fn adopt(&self, identity: Option<RegistryId>) -> Result<(), RegistryError> {
        self.limit(self.registry.adopt(identity)).await
    }

    fn identity(&self) -> Option<RegistryId> {
        self.registry.identity()
    }

    fn url(&self) -> String {
        self.registry.url()
    }
}
