//! Removes an instance: programs, interfaces, namespaces, and its rows in the registry.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::instance::{InstanceLock, InstanceRecord};
use crate::{
    config::{Config, InstancePaths},
    datapath,
    model::{Change, Name, Session},
    platform::{Inventory, Linux, Platform, forget_lasting, netns::Netns},
    registry::{self, Registry, RegistryError},
};

/// For how long a registry that does not answer holds `down` up.
const LEAVING: Duration = Duration::from_secs(10);

/// Removes what an agent of `instance` left behind; for when none runs. Nothing there: nothing to
/// do.
pub async fn down(instance: &Name) -> anyhow::Result<()> {
    let paths = InstancePaths::new(instance);
    let claim = InstanceLock::lock(&paths, instance)?;
    let Some(record) = InstanceRecord::read(&paths)? else {
        datapath::remove(&paths.pins)?;
        return forget(&paths, instance, &[]).map(|()| drop(claim));
    };
    let mut errors = Vec::new();
    let session = record.session(instance);
    let name = instance;
    let (instance, iface) = (instance.clone(), record.iface.clone());
    if let Some(host) = Netns::with_identity(&record.netns).await? {
        let platform = host
            .run(move || Linux::new(instance, iface, None).map_err(io::Error::other))
            .await?;
        remove_from_host(&paths, Arc::new(platform), &host, &mut errors).await;
    } else {
        // Its links went with it, but not the namespaces that they led to.
        errors.extend(error_of(datapath::remove(&paths.pins)));
        let platform = Linux::new(instance, iface, None)?;
        errors.extend(error_of(platform.forget_host().await));
    }
    let leaving = async {
        match registry::open_existing(&record.registry).await {
            Ok(registry) => leave(&*registry, &record.node, &session).await,
            Err(error) => left(&record.node, Err(error)),
        }
    };
    errors.extend(what_stays(&record.node, leaving).await);
    // The claim last: whoever has it next begins after this.
    forget(&paths, name, &errors).map(|()| drop(claim))
}

/// What [`down`] takes away.
#[derive(Debug)]
pub struct Doomed {
    /// What is on the host, if its network namespace is there.
    pub host: Inventory,
    /// The folder on bpffs, if there is one.
    pub pins: Option<PathBuf>,
    /// The node, whose rows go with those of its endpoints.
    pub node: Name,
    /// The registry that has them.
    pub registry: String,
}

impl Doomed {
    /// Looks at what there is. `None`: nothing.
    pub async fn find(instance: &Name) -> anyhow::Result<Option<Self>> {
        let paths = InstancePaths::new(instance);
        let Some(record) = InstanceRecord::read(&paths)? else {
            return Ok(None);
        };
        let host = match Netns::with_identity(&record.netns).await? {
            Some(netns) => {
                let (instance, iface) = (instance.clone(), record.iface.clone());
                let linux =
                    netns.run(move || Linux::new(instance, iface, None).map_err(io::Error::other));
                linux.await?.inventory().await?
            }
            None => Inventory::default(),
        };
        Ok(Some(Self {
            host,
            pins: paths.pins.exists().then_some(paths.pins),
            node: record.node,
            registry: record.registry.url,
        }))
    }
}

/// Takes the node's rows out of the registry, unless another host's agent has its name by now.
pub(super) async fn leave(
    registry: &dyn Registry,
    node: &Name,
    session: &Session,
) -> Result<(), RegistryError> {
    let removal = [Change::RemoveNode(node.clone())];
    let done = match registry.heartbeat(node, session).await {
        Ok(()) => registry.commit(&removal).await.map(drop),
        refused => refused,
    };
    left(node, done)
}

/// What came of leaving: in another host's rows, or in another registry, is nothing to be removed.
fn left(node: &Name, done: Result<(), RegistryError>) -> Result<(), RegistryError> {
    match done {
        Err(RegistryError::Conflict { .. }) => {
            tracing::info!(%node, "another host has the node by now: its rows stay");
            Ok(())
        }
        Err(RegistryError::Foreign(why)) => {
            tracing::warn!(%node, %why, "the registry that had the node is not there: nothing is removed from it");
            Ok(())
        }
        done => done,
    }
}

/// What stays in the registry, in a line, if `leaving` fails or takes too long: this host's share
/// is done by then, and must not wait for a registry that is away.
pub(super) async fn what_stays(
    node: &Name,
    leaving: impl Future<Output = Result<(), RegistryError>>,
) -> Option<String> {
    let why = match timeout(LEAVING, leaving).await {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it has not answered within {} s", LEAVING.as_secs()),
    };
    Some(format!(
        "node {node} and its endpoints stay in the registry ({why})"
    ))
}

/// Removes what an agent with this configuration made on this host, and the instance's files. The
/// registry is left alone.
pub(super) async fn undo(config: &Config, paths: &InstancePaths) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    if paths.record.exists() {
        let platform = Linux::new(
            config.instance.clone(),
            config.iface.clone(),
            config.local_ip,
        )?;
        remove_from_host(paths, Arc::new(platform), &Netns::current()?, &mut errors).await;
    }
    finish(paths, &errors)
}

/// The host's share of it: goes on past errors and notes each. Interfaces go first, and their programs
/// with them: without one an endpoint's frames would pass to the host's own stack.
pub(super) async fn remove_from_host(
    paths: &InstancePaths,
    platform: Arc<dyn Platform>,
    host: &Netns,
    errors: &mut Vec<String>,
) {
    // Twice: what was being made just now may have come after the first time.
    for _ in 0..2 {
        remove_ports(&*platform, errors).await;
    }
    errors.extend(error_of(datapath::remove(&paths.pins)));
    let pins = paths.pins.clone();
    let detached = host
        .run(move || datapath::detach_filters(&pins).map_err(io::Error::other))
        .await;
    errors.extend(error_of(detached));
    errors.extend(error_of(platform.remove_orphan_namespaces().await));
    errors.extend(error_of(platform.remove_vxlan().await));
}

async fn remove_ports(platform: &dyn Platform, errors: &mut Vec<String>) {
    match platform.ports().await {
        Ok(ports) => {
            for port in ports {
                if let Err(error) = platform.remove_port(&port.endpoint).await {
                    errors.push(error.to_string());
                    let stays = BTreeSet::from([port.host_ifindex]);
                    errors.extend(error_of(platform.set_ports_up(&stays, false).await));
                }
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
}

/// Forgets the instance, with what a reboot would leave of it, if all is gone; otherwise as [`finish`].
pub(super) fn forget(
    paths: &InstancePaths,
    instance: &Name,
    errors: &[String],
) -> anyhow::Result<()> {
    finish(paths, errors)?;
    if let Err(error) = forget_lasting(instance) {
        tracing::warn!(%error, "a reboot leaves records of namespaces that are others'");
    }
    Ok(())
}

/// Removes the instance's files if all is gone; otherwise says what is not, and `down` can be tried again.
fn finish(paths: &InstancePaths, errors: &[String]) -> anyhow::Result<()> {
    if errors.is_empty() {
        for file in [&paths.last_known, &paths.record, &paths.socket, &paths.lock] {
            remove_file(file)?;
        }
        return Ok(());
    }
    bail!(
        "not everything could be removed: {}: run `overlay down` again",
        errors.join("; ")
    )
}

pub(super) fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn error_of<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<String> {
    result.err().map(|error| error.to_string())
}
