//! What a reading of the registry does not have. A delta says that something was removed; a reading
//! only leaves it out, and so does a store that was restored to an old state or has lost rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
};

use super::{Known, Mirror, Witness};
use crate::model::{Endpoint, Name, Network, Node, RowId, Snapshot, Vni};

/// Endpoints that a reading leaves out, of those that this host holds whatever its endpoints talk to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absent {
    /// On this node.
    pub local: usize,
    /// On this node, with those that the reading has.
    pub known_local: usize,
    /// On all nodes.
    pub all: usize,
    /// On all nodes, with those that the reading has.
    pub known: usize,
}

impl Absent {
    /// Whether that is more than half of what this host has, or of what it knows.
    #[must_use]
    pub fn is_suspicious(self) -> bool {
        self.local * 2 > self.known_local || self.all * 2 > self.known
    }
}

/// Endpoints that the last reading did not have, and that are held as they were all the same.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    names: BTreeSet<Name>,
    /// How many they were at most, until a reading is believed.
    most: usize,
    /// Grows with each change.
    version: u64,
}

impl Withheld {
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names.contains(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.version += u64::from(self.names.remove(name));
    }

    /// A reading is believed: what may be left out from now on is counted anew.
    pub(super) fn forget_most(&mut self) {
        self.most = 0;
    }

    /// These rows are doubted from now on.
    fn doubt(&mut self, doubted: &mut Doubted, rows: Doubted) {
        self.version += u64::from(*doubted != rows);
        *doubted = rows;
    }

    fn extend(&mut self, names: impl IntoIterator<Item = Name>) {
        let former = self.names.len();
        self.names.extend(names);
        self.version += u64::from(self.names.len() != former);
        self.most = self.most.max(self.names.len());
    }
}

/// Rows of a reading that is not believed, or not yet. What is known stays in their places.
///
/// A registry that was put back need not lack a row to take something away: the row may say what once was. So
/// long as the registry may be in a former state, whatever is not as it is known is doubtful; and afterwards
/// the same rows are, until that state is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubted {
    pub(super) networks: BTreeMap<Vni, Network>,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) endpoints: BTreeMap<Name, Endpoint>,
}

impl Doubted {
    /// The networks and nodes.
    pub(super) fn take_frame(&mut self) -> (Vec<Network>, Vec<Node>) {
        let (networks, nodes) = (take(&mut self.networks), take(&mut self.nodes));
        (
            networks.into_values().collect(),
            nodes.into_values().collect(),
        )
    }

    /// Up to `limit` endpoints.
    pub(super) fn take_endpoints(&mut self, limit: usize) -> Vec<Endpoint> {
        let next = std::iter::from_fn(|| self.endpoints.pop_first());
        next.take(limit).map(|(_, endpoint)| endpoint).collect()
    }
}

impl Mirror {
    pub(super) fn is_doubtful_network(&self, row: &Network) -> bool {
        self.network(row.vni) != Some(row)
            && (self.is_set_back() || self.doubted.networks.get(&row.vni) == Some(row))
    }

    pub(super) fn is_doubtful_node(&self, row: &Node) -> bool {
        let doubted = self.doubted.nodes.get(&row.name);
        !self
            .node(&row.name)
            .is_some_and(|known| known.is_told_as(row))
            && (self.is_set_back() || doubted.is_some_and(|doubted| doubted.is_told_as(row)))
    }

    /// Also without a set-back that was noticed: in one history an endpoint's generations only grow.
    pub(super) fn is_doubtful(&self, row: &Endpoint) -> bool {
        let known = self.endpoint(&row.name);
        !known.is_some_and(|known| known.stands_as(row))
            && (self.is_set_back()
                || self.doubted.endpoints.get(&row.name) == Some(row)
                || known.is_some_and(|known| known.generation() > row.generation))
    }

    /// Counts what the reading did not have, and no delta has removed: looks at up to `limit` endpoints
    /// from `*position` on, which it moves on. `true`: it has seen all.
    pub fn count_absent(&self, position: &mut usize, limit: usize, absent: &mut Absent) -> bool {
        let Some(since) = &self.since else {
            return true;
        };
        let Some(seen) = self.endpoints.walk(position, limit) else {
            return true;
        };
        for record in seen {
            let known = self.known(record);
            if !self.is_expected(record, since) || since.told.contains(&record.name) {
                continue;
            }
            let is_absent = self.is_absent(record, since, None);
            let is_local = known.is_local();
            absent.known += 1;
            absent.all += usize::from(is_absent);
            absent.known_local += usize::from(is_local);
            absent.local += usize::from(is_local && is_absent);
        }
        false
    }

    /// Ends the reading like [`Self::end_reading`], and holds what it did not have. `true`: it has seen all.
    pub fn withhold(&mut self, position: &mut usize, limit: usize) -> bool {
        let Some(since) = &self.since else {
            return true;
        };
        let Some(seen) = self.endpoints.walk(position, limit) else {
            let waited = self.since.take().map(|since| since.waiting);
            self.withheld
                .doubt(&mut self.doubted, waited.unwrap_or_default());
            self.set_back_from = 0;
            return true;
        };
        let absent = seen
            .into_iter()
            .filter(|record| self.is_absent(record, since, None));
        let absent: Vec<Name> = absent.map(|record| record.name.clone()).collect();
        self.withheld.extend(absent);
        false
    }

    /// What is withheld, with the networks and nodes that it needs: for [`Self::withhold_again`].
    #[must_use]
    pub fn held(&self) -> Snapshot {
        self.part(&self.withheld.names, BTreeSet::new(), BTreeSet::new())
    }

    /// What stands here in the places of rows that can't be read or break a rule, with the networks and
    /// nodes that it needs: for [`Self::recall`].
    #[must_use]
    pub fn in_places_of<'a>(&'a self, rows: impl Iterator<Item = &'a RowId>) -> Snapshot {
        let (mut names, mut vnis, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for row in rows {
            match row {
                RowId::Network(vni) => drop(vnis.insert(*vni)),
                RowId::Node(name) => drop(nodes.insert(name)),
                RowId::Endpoint(name) => drop(names.insert(name)),
                RowId::Other(_) => {}
            }
        }
        self.part(names, vnis, nodes)
    }

    fn part<'a>(
        &'a self,
        endpoints: impl IntoIterator<Item = &'a Name>,
        mut vnis: BTreeSet<Vni>,
        mut nodes: BTreeSet<&'a Name>,
    ) -> Snapshot {
        let known = endpoints.into_iter().filter_map(|name| self.endpoint(name));
        let known: Vec<Known<'_>> = known.collect();
        vnis.extend(known.iter().map(Known::vni));
        nodes.extend(known.iter().map(Known::node));
        let networks = vnis.iter().filter_map(|vni| self.network(*vni));
        let nodes = nodes.iter().filter_map(|name| self.node(name));
        Snapshot {
            revision: self.revision,
            networks: networks.cloned().collect(),
            nodes: nodes.cloned().collect(),
            endpoints: known.iter().map(Known::to_endpoint).collect(),
        }
    }

    /// The rows that are not believed while something is withheld: for [`Self::withhold_again`].
    #[must_use]
    pub fn doubted(&self) -> Snapshot {
        let Doubted {
            networks,
            nodes,
            endpoints,
        } = self.doubted.clone();
        Snapshot {
            revision: self.revision,
            networks: networks.into_values().collect(),
            nodes: nodes.into_values().collect(),
            endpoints: endpoints.into_values().collect(),
        }
    }

    /// Holds what an earlier agent held, and doubts what it doubted, before anything is read.
    pub fn withhold_again(&mut self, held: Snapshot, doubted: Snapshot) {
        let (networks, nodes) = (doubted.networks.into_iter(), doubted.nodes.into_iter());
        let endpoints = doubted.endpoints.into_iter();
        self.doubted = Doubted {
            networks: networks.map(|network| (network.vni, network)).collect(),
            nodes: nodes.map(|node| (node.name.clone(), node)).collect(),
            endpoints: endpoints.map(|it| (it.name.clone(), it)).collect(),
        };
        let names: Vec<Name> = held
            .endpoints
            .iter()
            .map(|held| held.name.clone())
            .collect();
        self.recall(held);
        self.withheld.extend(names);
    }

    /// Takes in what an earlier agent knew, before anything is read: it stays if the first reading has rows
    /// for it, whether or not they can be read.
    pub fn recall(&mut self, known: Snapshot) {
        let Snapshot {
            networks,
            nodes,
            endpoints,
            ..
        } = known;
        // Nothing is written yet, and the first reading has all rows compared.
        let nobody: Witness<'_> = &mut |_, _| ();
        for network in networks {
            self.put_network(network, nobody);
        }
        for node in nodes {
            self.put_node(node, nobody);
        }
        for endpoint in endpoints {
            self.put(endpoint, self.no_reading(), nobody);
        }
    }

    /// Endpoints that the last reading did not have, and that are held as they were.
    #[must_use]
    pub fn withheld(&self) -> &BTreeSet<Name> {
        &self.withheld.names
    }

    /// Grows with each change of [`Self::withheld`].
    #[must_use]
    pub fn withheld_version(&self) -> u64 {
        self.withheld.version
    }

    /// What the reading under way has, and cannot be read or breaks a rule, stays as it was.
    pub fn hold(&mut self, row: &RowId) {
        let present = self.since.as_mut().and_then(|since| since.present.as_mut());
        match (row, present) {
            (RowId::Network(vni), Some((networks, _))) => drop(networks.insert(*vni)),
            (RowId::Node(name), Some((_, nodes))) => drop(nodes.insert(name.clone())),
            (RowId::Endpoint(name), _) => {
                self.withheld.remove(name);
                self.endpoints.mark(name, self.reading);
            }
            _ => {}
        }
    }

    /// Whether more than half of what was withheld still is: what others make meanwhile does not make the
    /// loss a smaller share.
    #[must_use]
    pub fn is_withholding(&self) -> bool {
        self.withheld.names.len() * 2 > self.withheld.most
    }

    /// Networks and nodes that the reading did not have go, after the endpoints.
    pub(super) fn forget_absent(&mut self, witness: Witness<'_>) {
        let Some(since) = self.since.take() else {
            return;
        };
        let Some((networks, nodes)) = &since.present else {
            return;
        };
        let gone = self.networks.keys().filter(|vni| !networks.contains(vni));
        for vni in gone.copied().collect::<Vec<Vni>>() {
            if !since.is_outdated(&since.networks, &vni) {
                self.remove_network(vni, witness);
            }
        }
        let gone = self.nodes().filter(|node| !nodes.contains(&node.name));
        for name in gone.map(|node| node.name.clone()).collect::<Vec<_>>() {
            if !since.is_outdated(&since.nodes, &name) {
                self.remove_node(&name, witness);
            }
        }
    }
}
