//! `overlay registry adopt`: shows what following the present registry would remove, and follows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::timeout;

use super::{
    api::{AdoptRegistry, AdoptView, ErrorKind, OperationError},
    instance::InstanceRecord,
    preflight::{standing, take_out},
    service::{Agent, COMMIT, no_answer},
    teardown::remove_file,
};
use crate::{
    config::{Config, InstancePaths},
    model::{Name, RegistryId, Snapshot, Vni},
    platform::Platform,
    reconcile::{View, mirror::EndpointRef},
    registry,
};

impl Agent {
    /// Compares the registry with what this host knows; follows it if that is confirmed.
    pub(super) async fn adopt(&self, request: AdoptRegistry) -> Result<AdoptView, OperationError> {
        let previous = self.registry.identity();
        let (identity, snapshot) = peek(&self.config).await?;
        let mut view = compare(&*self.observer.view().await, &snapshot);
        (view.identity, view.former) = (identity, previous);
        if !request.confirmed {
            return Ok(view);
        }
        check(request, identity)?;
        if identity.is_none() || identity != previous {
            let adopted = timeout(COMMIT, self.registry.adopt(identity)).await;
            adopted.map_err(|_| no_answer())??;
        }
        // Also where it is followed already: an attempt before this one may have come no further.
        remember(&self.config.instance, self.registry.identity())?;
        tracing::warn!(
            identity = ?self.registry.identity(),
            endpoints = view.endpoints.len(),
            "the registry is followed as it is"
        );
        self.observer.adopt().await;
        view.adopted = true;
        Ok(view)
    }
}

/// The same of an agent that waits at its start. It knows of this host's endpoints alone.
pub(super) struct AtStart {
    config: Config,
    platform: Arc<dyn Platform>,
    is_adopted: AtomicBool,
}

impl AtStart {
    pub(super) fn new(config: Config, platform: Arc<dyn Platform>) -> Self {
        Self {
            config,
            platform,
            is_adopted: AtomicBool::new(false),
        }
    }

    /// Whether the registry is to be followed whatever it does not have.
    pub(super) fn is_adopted(&self) -> bool {
        self.is_adopted.load(Ordering::Relaxed)
    }

    /// Compares the registry with what this host has; has it followed if that is confirmed.
    pub(super) async fn adopt(&self, request: AdoptRegistry) -> Result<AdoptView, OperationError> {
        let paths = InstancePaths::new(&self.config.instance);
        let record = InstanceRecord::read(&paths).map_err(internal)?;
        let (identity, snapshot) = peek(&self.config).await?;
        let standing = standing(&*self.platform).await;
        let mut gone = standing.map_err(|error| internal(error.into()))?;
        take_out(&mut gone, &snapshot.endpoints, &self.config.node);
        let mut view = AdoptView {
            adopted: false,
            identity,
            former: record.and_then(|record| record.registry.identity),
            endpoints: gone.into_keys().collect(),
            remote_endpoints: None,
            networks: Vec::new(),
            nodes: Vec::new(),
        };
        if request.confirmed {
            check(request, identity)?;
            remove_file(&paths.last_known).map_err(internal)?;
            remember(&self.config.instance, identity)?;
            self.is_adopted.store(true, Ordering::Relaxed);
            view.adopted = true;
        }
        Ok(view)
    }
}

/// What is there now.
async fn peek(config: &Config) -> Result<(Option<RegistryId>, Snapshot), OperationError> {
    match timeout(COMMIT, registry::peek(&config.registry)).await {
        Ok(found) => Ok(found?),
        Err(_) => Err(OperationError::new(
            ErrorKind::Unavailable,
            format_args!(
                "the registry has not answered within {} s: nothing was changed, try again",
                COMMIT.as_secs()
            ),
        )),
    }
}

/// Refuses another registry than the one that was shown.
fn check(request: AdoptRegistry, identity: Option<RegistryId>) -> Result<(), OperationError> {
    if request.identity == identity {
        return Ok(());
    }
    Err(OperationError::new(
        ErrorKind::Conflict,
        "the registry that is there is another one by now: nothing was changed, look again",
    ))
}

/// The next agent expects this registry too.
fn remember(instance: &Name, identity: Option<RegistryId>) -> Result<(), OperationError> {
    let paths = InstancePaths::new(instance);
    let write = || -> anyhow::Result<()> {
        if let Some(mut record) = InstanceRecord::read(&paths)? {
            record.registry.identity = identity;
            record.write(&paths)?;
        }
        Ok(())
    };
    write().map_err(internal)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn internal(error: anyhow::Error) -> OperationError {
    OperationError::new(ErrorKind::Internal, format_args!("{error:#}"))
}

/// What this host knows and the registry does not have. What is here is not had elsewhere.
fn compare(view: &View, snapshot: &Snapshot) -> AdoptView {
    let mirror = &view.mirror;
    let rows = snapshot.endpoints.iter();
    let nodes_of: BTreeMap<&Name, &Name> = rows.map(|row| (&row.name, &row.node)).collect();
    let vnis: BTreeSet<Vni> = snapshot.networks.iter().map(|it| it.vni).collect();
    let nodes: BTreeSet<&Name> = snapshot.nodes.iter().map(|it| &it.name).collect();
    let stays = |known: &EndpointRef<'_>| {
        let node = nodes_of.get(known.name());
        node.is_some_and(|node| !known.is_local() || *node == known.node())
    };
    let gone = mirror.endpoints().filter(|known| !stays(known));
    let (local, remote): (Vec<_>, Vec<_>) = gone.partition(EndpointRef::is_local);
    let mut endpoints: Vec<Name> = local.iter().map(|it| it.name().clone()).collect();
    endpoints.sort_unstable();
    let gone_networks = mirror.networks().filter(|it| !vnis.contains(&it.vni));
    let gone_nodes = mirror.nodes().filter(|it| !nodes.contains(&it.name));
    AdoptView {
        adopted: false,
        identity: None,
        former: None,
        endpoints,
        remote_endpoints: Some(remote.len()),
        networks: gone_networks.map(|it| it.name.clone()).collect(),
        nodes: gone_nodes.map(|it| it.name.clone()).collect(),
    }
}
