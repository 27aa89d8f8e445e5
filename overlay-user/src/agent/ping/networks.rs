//! Which networks do not get through to another host, though that host's own packets do.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};

use super::USUAL;
use crate::{
    agent::{api::PathState, service::Agent},
    model::{Endpoint, Name, NetworkTold, Node, Vni},
};

/// Ways that are tried at most: one for each network and host.
const MOST: usize = 512;
/// How many at once.
const AT_ONCE: usize = 32;

/// A network that this host has in common with another, by an endpoint of either.
struct Shared {
    network: Name,
    from: Name,
    to: Endpoint,
    node: Node,
}

impl Agent {
    /// Tries each network that this host has in common with another by an echo of an endpoint to one there. Gives
    /// those that do not get through.
    pub(in crate::agent) async fn lost_networks(&self) -> Vec<NetworkTold> {
        let shared = self.shared_networks().await;
        let tries = stream::iter(shared).map(|shared| self.try_network(shared));
        tries
            .buffer_unordered(AT_ONCE)
            .filter_map(|told| async { told })
            .collect()
            .await
    }

    async fn try_network(&self, shared: Shared) -> Option<NetworkTold> {
        let Shared {
            network,
            from,
            to,
            node,
        } = shared;
        let name = node.name.clone();
        // What can't be tried, because it is gone or not ready, is nothing that was lost.
        let route = self.route_inside(&from, &to, node).await.ok()?;
        // Once is no loss.
        if self.any_back(&route, &[USUAL]).await.ok()?.is_some() {
            return None;
        }
        let pinged = self.ping_once(&route, USUAL).await.ok()?;
        pinged.lost.as_ref()?;
        Some(NetworkTold {
            node: name,
            network,
            pinged,
        })
    }

    async fn shared_networks(&self) -> Vec<Shared> {
        let view = self.observer.view().await;
        let senders: BTreeMap<Vni, Name> = view
            .mirror
            .local_endpoints()
            .filter(|local| view.ifindex(local.name()).is_some())
            .map(|local| (local.vni(), local.name().clone()))
            .collect();
        let mut seen = BTreeSet::new();
        let mut shared = Vec::new();
        for known in view.mirror.endpoints().filter(|known| !known.is_local()) {
            let Some(from) = senders.get(&known.vni()) else {
                continue;
            };
            let Some(node) = known.known_node().filter(|node| self.is_reached(node)) else {
                continue;
            };
            if !seen.insert((known.vni(), node.name.clone())) {
                continue;
            }
            let Some(network) = view.mirror.network(known.vni()) else {
                continue;
            };
            shared.push(Shared {
                network: network.name.clone(),
                from: from.clone(),
                to: known.to_endpoint(),
                node: node.clone(),
            });
            if shared.len() == MOST {
                break;
            }
        }
        shared
    }

    /// Whether an agent runs there, or ran, and the host's own packets get there and back.
    fn is_reached(&self, node: &Node) -> bool {
        let path = self.path_to(node.vtep.ip);
        node.agent && path.is_some_and(|path| path.state == PathState::Ok)
    }
}
