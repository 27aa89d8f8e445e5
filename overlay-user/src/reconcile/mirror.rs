//! The registry's state as this agent knows it.

use std::collections::BTreeMap;

use crate::model::{Delta, Endpoint, Name, Network, Node, Revision, Snapshot, Vni};

/// All desired state, indexed, as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    /// The revision that this is the state of.
    pub revision: Revision,
    /// Networks by VNI.
    pub networks: BTreeMap<Vni, Network>,
    /// Nodes by name.
    pub nodes: BTreeMap<Name, Node>,
    /// Endpoints by name.
    pub endpoints: BTreeMap<Name, Endpoint>,
}

/// What a delta did to the mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// A network or a node changed, on which any number of rows depend.
    pub everything: bool,
    /// Endpoints as they were before, where they were.
    pub before: Vec<Endpoint>,
    /// Endpoints as they are now, where they are.
    pub after: Vec<Endpoint>,
}

impl From<Snapshot> for Mirror {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            revision: snapshot.revision,
            networks: snapshot
                .networks
                .into_iter()
                .map(|network| (network.vni, network))
                .collect(),
            nodes: snapshot
                .nodes
                .into_iter()
                .map(|node| (node.name.clone(), node))
                .collect(),
            endpoints: snapshot
                .endpoints
                .into_iter()
                .map(|endpoint| (endpoint.name.clone(), endpoint))
                .collect(),
        }
    }
}

impl Mirror {
    /// Takes a delta in. One that is older than the mirror changes nothing, and an endpoint's older
    /// generation never overwrites a newer one.
    pub fn apply(&mut self, delta: Delta) -> Touched {
        let mut touched = Touched::default();
        if delta.revision <= self.revision {
            return touched;
        }
        self.revision = delta.revision;
        for vni in delta.networks_removed {
            touched.everything |= self.networks.remove(&vni).is_some();
        }
        for network in delta.networks {
            let same = self.networks.get(&network.vni) == Some(&network);
            touched.everything |= !same;
            self.networks.insert(network.vni, network);
        }
        for name in delta.nodes_removed {
            touched.everything |= self.nodes.remove(&name).is_some();
        }
        for node in delta.nodes {
            let same = self
                .nodes
                .get(&node.name)
                .is_some_and(|known| known.vtep == node.vtep);
            touched.everything |= !same;
            self.nodes.insert(node.name.clone(), node);
        }
        for name in delta.endpoints_removed {
            touched.before.extend(self.endpoints.remove(&name));
        }
        for endpoint in delta.endpoints {
            let known = self.endpoints.get(&endpoint.name);
            if known.is_some_and(|known| known.generation > endpoint.generation) {
                continue;
            }
            touched.after.push(endpoint.clone());
            touched
                .before
                .extend(self.endpoints.insert(endpoint.name.clone(), endpoint));
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vtep;

    fn endpoint(name: &str, generation: Revision) -> Endpoint {
        Endpoint {
            name: name.parse().unwrap(),
            vni: "42".parse().unwrap(),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: vec!["7.7.7.2/24".parse().unwrap()],
            node: "h1".parse().unwrap(),
            netns: None,
            ifname: None,
            generation,
        }
    }

    fn mirror() -> Mirror {
        let snapshot = Snapshot {
            revision: 5,
            endpoints: vec![endpoint("blue", 5)],
            ..Snapshot::default()
        };
        Mirror::from(snapshot)
    }

    #[test]
    fn a_delta_tells_what_was_and_what_is() {
        let mut mirror = mirror();
        let delta = Delta {
            revision: 6,
            endpoints: vec![endpoint("blue", 6)],
            ..Delta::default()
        };
        let touched = mirror.apply(delta);
        assert_eq!(touched.before, [endpoint("blue", 5)]);
        assert_eq!(touched.after, [endpoint("blue", 6)]);
        assert!(!touched.everything);
        assert_eq!(mirror.revision, 6);
    }

    #[test]
    fn a_delta_that_the_snapshot_contained_changes_nothing() {
        let mut mirror = mirror();
        let delta = Delta {
            revision: 5,
            endpoints_removed: vec!["blue".parse().unwrap()],
            ..Delta::default()
        };
        assert_eq!(mirror.apply(delta), Touched::default());
        assert_eq!(mirror.endpoints.len(), 1);
    }

    #[test]
    fn an_older_generation_never_overwrites_a_newer_one() {
        let mut mirror = mirror();
        let delta = Delta {
            revision: 7,
            endpoints: vec![endpoint("blue", 4)],
            ..Delta::default()
        };
        assert_eq!(mirror.apply(delta), Touched::default());
        assert_eq!(mirror.endpoints[&"blue".parse().unwrap()].generation, 5);
    }

    #[test]
    fn a_node_that_only_lives_on_touches_nothing() {
        let node = |ip: &str| {
            Node::new(
                "h2".parse().unwrap(),
                Vtep {
                    ip: ip.parse().unwrap(),
                    port: 4789,
                },
                true,
            )
        };
        let mut mirror = mirror();
        let put = |revision, ip| Delta {
            revision,
            nodes: vec![node(ip)],
            ..Delta::default()
        };
        assert!(mirror.apply(put(6, "10.0.0.2")).everything);
        assert!(!mirror.apply(put(7, "10.0.0.2")).everything);
        assert!(mirror.apply(put(8, "10.0.0.3")).everything);
    }
}
