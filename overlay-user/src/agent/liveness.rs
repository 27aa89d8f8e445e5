//! Tells which nodes live, which are silent, and which have been silent for too long.
//!
//! That a node is silent is the registry's word ([`Node::alive`]). For how long it has been is
//! measured here, by a clock that does not jump.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::api::NodeState;
use crate::model::{Name, Node};

/// Since when nodes have been silent.
#[derive(Debug)]
pub(super) struct Liveness {
    grace: Duration,
    silent: Mutex<BTreeMap<Name, Instant>>,
}

impl Liveness {
    /// Nodes that have been silent for longer than `grace` are down.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            silent: Mutex::default(),
        }
    }

    /// Takes in what the registry says of all nodes, and gives how each stands.
    pub(super) fn states(&self, nodes: &[Node]) -> BTreeMap<Name, NodeState> {
        let now = Instant::now();
        let mut silent = self.silent();
        silent.retain(|name, _| nodes.iter().any(|node| node.name == *name && !node.alive));
        nodes
            .iter()
            .map(|node| (node.name.clone(), self.state(node, &mut silent, now)))
            .collect()
    }

    fn state(&self, node: &Node, silent: &mut BTreeMap<Name, Instant>, now: Instant) -> NodeState {
        if !node.agent {
            return NodeState::NoAgent;
        }
        if node.alive {
            return NodeState::Alive;
        }
        let since = *silent
            .entry(node.name.clone())
            .or_insert_with(|| first_noticed(node, now));
        if now.duration_since(since) >= self.grace {
            NodeState::Down
        } else {
            NodeState::Silent
        }
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<Name, Instant>> {
        // Each change of the map is a single step: a panic elsewhere leaves nothing half done.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a node that is found silent became so. What it said last, by the wall clock, serves only
/// for those that were silent before this agent looked.
fn first_noticed(node: &Node, now: Instant) -> Instant {
    let age = node
        .last_seen
        .and_then(|seen| SystemTime::now().duration_since(seen).ok());
    age.and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vtep;

    fn node(alive: bool) -> Node {
        let vtep = Vtep {
            ip: "10.0.0.2".parse().unwrap(),
            port: 4789,
        };
        Node {
            alive,
            ..Node::new("h2".parse().unwrap(), vtep, true)
        }
    }

    fn state_of(liveness: &Liveness, node: Node) -> NodeState {
        let name = node.name.clone();
        *liveness.states(&[node]).get(&name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_down_after_the_grace_time_and_comes_back_at_once() {
        let liveness = Liveness::new(Duration::from_mins(1));
        assert_eq!(state_of(&liveness, node(true)), NodeState::Alive);
        assert_eq!(state_of(&liveness, node(false)), NodeState::Silent);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(state_of(&liveness, node(false)), NodeState::Silent);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(state_of(&liveness, node(false)), NodeState::Down);
        assert_eq!(state_of(&liveness, node(true)), NodeState::Alive);
        assert_eq!(state_of(&liveness, node(false)), NodeState::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_silent_for_long_before_the_first_look_is_down() {
        tokio::time::advance(Duration::from_hours(1)).await;
        let liveness = Liveness::new(Duration::from_mins(1));
        let seen = SystemTime::now() - Duration::from_mins(2);
        let old = Node {
            last_seen: Some(seen),
            ..node(false)
        };
        assert_eq!(state_of(&liveness, old), NodeState::Down);
    }

    #[test]
    fn nobody_can_say_whether_a_foreign_vtep_lives() {
        let foreign = Node {
            agent: false,
            ..node(false)
        };
        assert_eq!(
            state_of(&Liveness::new(Duration::ZERO), foreign),
            NodeState::NoAgent
        );
    }
}
