//! Operations on nodes and their VTEPs: `overlay vtep`.

use std::time::SystemTime;

use crate::agent::service::Agent;
use crate::{
    agent::{
        api::{
            ErrorKind, ListVteps, NodeState, OperationError, PathView, RemoveVtep, VtepRemovedView,
            VtepView, vtep_view,
        },
        server::{Handle, Outcome},
    },
    model::{Change, Name, Node, SESSION_TTL, Vtep, VtepAddr},
    registry::Scope,
};

impl Handle<ListVteps> for Agent {
    async fn handle(&self, _: ListVteps) -> Outcome<ListVteps> {
        let mut nodes = self.registry.nodes().await?;
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(self.vteps_of(nodes))
    }
}

impl Handle<RemoveVtep> for Agent {
    /// Removes a node whose host is gone for good, and its endpoints' rows. Refused while it lives, by
    /// the registry too: its agent may start at the same moment.
    async fn handle(&self, RemoveVtep { vtep }: RemoveVtep) -> Outcome<RemoveVtep> {
        self.check_reach().await?;
        let nodes = self.registry.nodes().await?;
        let Some(node) = nodes
            .into_iter()
            .find(|node| vtep.is(&node.name, node.vtep.ip.into()))
        else {
            return Ok(None);
        };
        if let Some(reason) = why_not(&node, &self.config.node) {
            return Err(OperationError::new(ErrorKind::Refused, reason));
        }
        let endpoints = self.count_endpoints(&node.name).await?;
        self.commit(&[Change::RemoveSilentNode(node.name.clone())])
            .await?;
        Ok(Some(VtepRemovedView {
            node: node.name,
            ip: node.vtep.ip.into(),
            endpoints,
        }))
    }
}

impl Agent {
    /// These nodes, and what this host knows of the ways there.
    pub(in crate::agent) fn vteps_of(&self, nodes: Vec<Node>) -> Vec<VtepView> {
        let states = self.liveness.states(&nodes);
        nodes
            .into_iter()
            .map(|node| {
                let state = states.get(&node.name).copied();
                let path = self.path_to(node.vtep.ip);
                vtep_view(node, state.unwrap_or(NodeState::NoAgent)).with_path(path)
            })
            .collect()
    }

    /// What is known of the way to a VTEP. `None`: it is none that is tried.
    pub(in crate::agent) fn path_to(&self, ip: VtepAddr) -> Option<PathView> {
        self.paths.view(ip)
    }

    /// This host's tunnel end.
    pub(in crate::agent) fn vtep(&self) -> Vtep {
        Vtep {
            ip: self.underlay.ip.into(),
            port: self.config.port,
        }
    }

    async fn count_endpoints(&self, node: &Name) -> Result<usize, OperationError> {
        let mut pages = self
            .registry
            .read(Scope::Resident(node.clone()))
            .await?
            .endpoints;
        let mut count = 0;
        while let Some(page) = pages.recv().await {
            count += page?.iter().filter(|known| known.node == *node).count();
        }
        Ok(count)
    }
}

/// Why a node can't be removed by node `own`.
fn why_not(node: &Node, own: &Name) -> Option<String> {
    let Node { name, vtep, .. } = node;
    if name == own {
        return Some(format!(
            "node {name} is this host: take it away with `overlay down` here"
        ));
    }
    let heard = node
        .last_seen
        .and_then(|seen| SystemTime::now().duration_since(seen).ok())
        .unwrap_or_default();
    node.alive.then(|| {
        format!(
            "node {name} (VTEP {vtep}) is alive, last heard of {} s ago: take it away with `overlay \
             down` there, or stop its agent and try again in {} s",
            heard.as_secs(),
            SESSION_TTL.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_this_host_nor_one_that_lives_can_be_removed() {
        let vtep = Vtep {
            ip: "10.0.0.2".parse().unwrap(),
            port: 4789,
        };
        let silent = Node::new("h2".parse().unwrap(), vtep, true);
        let living = Node {
            alive: true,
            last_seen: Some(SystemTime::now()),
            ..silent.clone()
        };
        let own = "h1".parse().unwrap();
        assert_eq!(why_not(&silent, &own), None);
        let line = why_not(&living, &own).unwrap();
        assert!(line.contains("h2 (VTEP 10.0.0.2:4789) is alive"), "{line}");
        let line = why_not(&silent, &silent.name).unwrap();
        assert!(line.contains("is this host"), "{line}");
    }
}
