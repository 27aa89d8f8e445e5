//! Checks what earlier agents have left, before a start takes it over.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::sync::Mutex;

use super::{ALIVE, instance::InstanceRecord, last_known::LastKnown};
use crate::{
    config::{Config, InstancePaths},
    datapath,
    model::{Endpoint, Name, Node, Revision, Vtep},
    platform::{Platform, PlatformError, netns::Netns},
    registry::{self, Registry, RegistryError, Scope},
};

/// Refuses a start in another network namespace than that in which the instance's datapath is. If
/// that namespace is gone, forgets the datapath, which went with it.
pub(super) async fn check_namespace(
    previous: &InstanceRecord,
    now: &InstanceRecord,
    paths: &InstancePaths,
    config: &Config,
) -> anyhow::Result<()> {
    if previous.netns == now.netns {
        return Ok(());
    }
    if Netns::with_identity(&previous.netns).await?.is_some() {
        bail!(
            "instance {instance} has its datapath in another network namespace: take it down with \
             `overlay --instance {instance} down` first, or start the agent there",
            instance = config.instance
        );
    }
    datapath::remove(&paths.pins)?;
    Ok(())
}

/// Opens the registry: the same one as before, if the URL is the same. It then has to be there, unless
/// `is_adopted`: what this host has is not held against a new one that is empty.
pub(super) async fn open(
    config: &Config,
    previous: Option<&InstanceRecord>,
    is_adopted: bool,
) -> Result<Arc<dyn Registry>, RegistryError> {
    let settings = &config.registry;
    match previous.map(|previous| &previous.registry) {
        Some(previous) if previous.url == settings.url && !is_adopted => {
            let settings = registry::RegistrySettings {
                identity: previous.identity,
                ..settings.clone()
            };
            registry::open_existing(&settings).await
        }
        _ => registry::open(settings).await,
    }
}

/// A registry that was refused because it was put back: when, at which revision, and why.
type Refused = Option<(Instant, Revision, String)>;

/// How long a refused one is not read again at the same revision: a thousand hosts may wait for another.
const REFUSED: Duration = Duration::from_mins(1);

/// Does not follow a registry that was put back to an older state while no agent ran, and lacks more than
/// half of this host's endpoints now or has them elsewhere.
pub(super) async fn check_history(
    config: &Config,
    last_known: &LastKnown,
    registry: &dyn Registry,
    platform: &dyn Platform,
    refused: &Mutex<Refused>,
) -> anyhow::Result<()> {
    if last_known.revision == 0 {
        return Ok(());
    }
    let mut reading = registry.read(Scope::Resident(config.node.clone())).await?;
    if reading.revision >= last_known.revision {
        return Ok(());
    }
    let mut refused = refused.lock().await;
    let is_same = |(at, revision, _): &&(Instant, Revision, String)| {
        *revision == reading.revision && at.elapsed() < REFUSED
    };
    if let Some((.., why)) = refused.as_ref().filter(is_same) {
        return Err(RegistryError::Foreign(why.clone()).into());
    }
    let mut absent = standing(platform).await?;
    // What was held before is held in any case.
    for held in &last_known.held.endpoints {
        absent.remove(&held.name);
    }
    let all = absent.len();
    while let Some(page) = reading.endpoints.recv().await {
        take_out(&mut absent, &page?, &config.node);
    }
    if absent.len() * 2 <= all {
        return Ok(());
    }
    let why = format!(
        "the registry was put back from revision {} to {}, and has lost {} of the {all} endpoints of this \
         host or has them elsewhere: put a backup back that has them, or see what `overlay registry \
         adopt` would remove",
        last_known.revision,
        reading.revision,
        absent.len()
    );
    *refused = Some((Instant::now(), reading.revision, why.clone()));
    Err(RegistryError::Foreign(why).into())
}

/// Endpoints that stand on this host, with the namespaces that they are recorded to be in.
pub(super) async fn standing(
    platform: &dyn Platform,
) -> Result<BTreeMap<Name, Option<Name>>, PlatformError> {
    let mut places = platform.port_namespaces().await?;
    let ports = platform.ports().await?.into_iter();
    let standing = ports.map(|port| {
        let place = places.remove(&port.endpoint);
        (port.endpoint, place)
    });
    Ok(standing.collect())
}

/// Takes out those that one of these rows of the registry has on this node, where they stand.
pub(super) fn take_out(
    standing: &mut BTreeMap<Name, Option<Name>>,
    rows: &[Endpoint],
    node: &Name,
) {
    for row in rows.iter().filter(|row| row.node == *node) {
        let place = standing.get(&row.name);
        if place.is_some_and(|place| place.is_none() || place.as_ref() == row.netns()) {
            standing.remove(&row.name);
        }
    }
}

/// Refuses a registry that does not know what this instance has made, which would all be removed;
/// a second node for one host; and another host's node.
pub(super) fn check_node(
    config: &Config,
    previous: Option<&InstanceRecord>,
    vtep: Vtep,
    nodes: &[Node],
) -> anyhow::Result<()> {
    let known = |name: &Name| nodes.iter().find(|node| node.name == *name);
    let Config { instance, node, .. } = config;
    let url = &config.registry.url;
    if let Some(InstanceRecord { node: previous, .. }) = previous
        && previous != node
        && known(previous).is_some()
    {
        bail!(
            "instance {instance} is node {previous} in the registry: start it with --node {previous}, \
             or take that away with `overlay --instance {instance} down` first"
        );
    }
    if let Some(previous) = previous
        && previous.registry.url != *url
        && known(&previous.node).is_none()
    {
        bail!(
            "registry {url} does not know node {}, which this instance was with registry {}: start \
             it with that one, or take the instance down with `overlay --instance {instance} down` \
             first",
            previous.node,
            previous.registry.url
        );
    }
    let is_ours = previous.is_some_and(|previous| previous.node == *node);
    match known(node) {
        Some(other) if !is_ours && other.vtep != vtep && other.alive => bail!(
            "node {node} is alive with VTEP {}: choose another name with --node, or stop its agent and \
             try again in {} s",
            other.vtep,
            ALIVE.as_secs()
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config() -> Config {
        let settings = Settings {
            iface: Some("u0".parse().unwrap()),
            node: Some("h1".parse().unwrap()),
            ..Settings::default()
        };
        Config::load(settings, None).unwrap()
    }

    fn previous(node: &str) -> InstanceRecord {
        InstanceRecord {
            node: node.parse().unwrap(),
            iface: "u0".parse().unwrap(),
            registry: config().registry,
            netns: String::new(),
            vtep: None,
            port: None,
        }
    }

    fn vtep(ip: &str) -> Vtep {
        Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        }
    }

    fn registry(node: &str, ip: &str, alive: bool) -> [Node; 1] {
        [Node {
            alive,
            ..Node::new(node.parse().unwrap(), vtep(ip), true)
        }]
    }

    #[track_caller]
    fn refused(
        config: &Config,
        previous: Option<&InstanceRecord>,
        registry: &[Node],
        parts: &[&str],
    ) {
        let line = check_node(config, previous, vtep("10.0.0.1"), registry)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn an_instance_keeps_its_node_until_it_is_down() {
        let stale = registry("h0", "10.0.0.1", false);
        refused(
            &config(),
            Some(&previous("h0")),
            &stale,
            &["h0", "--node", "down"],
        );
        check_node(&config(), Some(&previous("h0")), vtep("10.0.0.1"), &[]).unwrap();
    }

    #[test]
    fn an_instance_moves_to_a_registry_only_if_that_knows_it() {
        let other = Config {
            registry: registry::RegistrySettings::new("sqlite:///other.db".to_owned()),
            ..config()
        };
        let moved = registry("h1", "10.0.0.1", false);
        refused(
            &other,
            Some(&previous("h1")),
            &[],
            &["other.db", "h1", "down"],
        );
        check_node(&other, Some(&previous("h1")), vtep("10.0.0.1"), &moved).unwrap();
        check_node(&other, None, vtep("10.0.0.1"), &[]).unwrap();
    }

    #[test]
    fn a_living_node_of_another_host_is_not_taken_over() {
        let another = registry("h1", "10.0.0.2", true);
        refused(
            &config(),
            None,
            &another,
            &["h1", "10.0.0.2:4789", "--node"],
        );
        let silent = registry("h1", "10.0.0.2", false);
        check_node(&config(), None, vtep("10.0.0.1"), &silent).unwrap();
        // The same host with another address.
        check_node(&config(), Some(&previous("h1")), vtep("10.0.0.1"), &another).unwrap();
    }
}
