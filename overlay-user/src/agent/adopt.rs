//! `overlay registry adopt`: what following the registry that is there would remove, and doing so.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::{
    api::{AdoptRequest, AdoptView, ErrorKind, OperationError},
    claim::Record,
    operations::{Agent, COMMIT, no_answer},
};
use crate::{
    config::InstancePaths,
    model::{Name, RegistryId, Snapshot, Vni},
    reconcile::{View, mirror::Known},
    registry,
};

impl Agent {
    /// Compares the registry with what this host knows; follows it if that is confirmed.
    pub(super) async fn adopt(&self, request: AdoptRequest) -> Result<AdoptView, OperationError> {
        let former = self.registry.identity();
        let found = timeout(COMMIT, registry::peek(&self.config.registry)).await;
        let (identity, snapshot) = found.map_err(|_| silent())??;
        let mut view = compare(&*self.observer.view().await, &snapshot);
        (view.identity, view.former) = (identity, former);
        if !request.confirmed {
            return Ok(view);
        }
        if request.identity != identity {
            return Err(OperationError::new(
                ErrorKind::Conflict,
                "the registry that is there is another one by now: nothing was changed, look again",
            ));
        }
        if identity.is_none() || identity != former {
            let adopted = timeout(COMMIT, self.registry.adopt(identity)).await;
            adopted.map_err(|_| no_answer())??;
        }
        // Also where it is followed already: an attempt before this one may have come no further.
        self.remember(self.registry.identity())?;
        tracing::warn!(
            identity = ?self.registry.identity(),
            endpoints = view.endpoints.len(),
            "the registry is followed as it is"
        );
        self.observer.adopt().await;
        view.adopted = true;
        Ok(view)
    }

    /// The next agent expects it too.
    fn remember(&self, identity: Option<RegistryId>) -> Result<(), OperationError> {
        let paths = InstancePaths::new(&self.config.instance);
        let write = || -> anyhow::Result<()> {
            if let Some(mut record) = Record::read(&paths)? {
                record.registry.identity = identity;
                record.write(&paths)?;
            }
            Ok(())
        };
        write().map_err(|error| OperationError::new(ErrorKind::Internal, format_args!("{error:#}")))
    }
}

fn silent() -> OperationError {
    OperationError::new(
        ErrorKind::Unavailable,
        format_args!(
            "the registry has not answered within {} s: nothing was changed, try again",
            COMMIT.as_secs()
        ),
    )
}

/// What this host knows and the registry does not have.
fn compare(view: &View, snapshot: &Snapshot) -> AdoptView {
    let mirror = &view.mirror;
    let names: BTreeSet<&Name> = snapshot.endpoints.iter().map(|it| &it.name).collect();
    let vnis: BTreeSet<Vni> = snapshot.networks.iter().map(|it| it.vni).collect();
    let nodes: BTreeSet<&Name> = snapshot.nodes.iter().map(|it| &it.name).collect();
    let gone = mirror.endpoints().filter(|it| !names.contains(it.name()));
    let (local, remote): (Vec<_>, Vec<_>) = gone.partition(Known::is_local);
    let mut endpoints: Vec<Name> = local.iter().map(|it| it.name().clone()).collect();
    endpoints.sort_unstable();
    let gone_networks = mirror.networks().filter(|it| !vnis.contains(&it.vni));
    let gone_nodes = mirror.nodes().filter(|it| !nodes.contains(&it.name));
    AdoptView {
        adopted: false,
        identity: None,
        former: None,
        endpoints,
        remote_endpoints: remote.len(),
        networks: gone_networks.map(|it| it.name.clone()).collect(),
        nodes: gone_nodes.map(|it| it.name.clone()).collect(),
    }
}
