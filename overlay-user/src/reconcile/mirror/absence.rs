//! What a reading of the registry does not have. A delta says that something was removed; a reading
//! only leaves it out, and so does a store that was restored to an old state or has lost rows.

use std::collections::{BTreeMap, BTreeSet};

use super::{EndpointRef, Mirror, OnFact, Record};
use crate::model::{
    Delta, Endpoint, Name, Network, Node, Object, ObjectId, Revision, RowId, Snapshot, Vni,
};

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

    /// One is withheld no more, and not because the registry has it again.
    pub(super) fn release(&mut self, name: &Name) {
        if self.names.remove(name) {
            self.version += 1;
            self.most = self.most.saturating_sub(1);
        }
    }

    fn extend(&mut self, names: impl IntoIterator<Item = Name>) {
        let previous = self.names.len();
        self.names.extend(names);
        self.version += u64::from(self.names.len() != previous);
        self.most = self.most.max(self.names.len());
    }
}

/// A previous state of the registry that is not believed. What is known stays in the places of its rows.
///
/// A registry that was put back need not lack a row to take something away: the row may say what once was. So
/// long as it may be in an older state, whatever is not as it is known is doubtful. If that state is not believed,
/// its rows stay doubtful: of endpoints those with its generations, of networks and nodes, which have none, the
/// same rows. What is made or changed after it is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubted {
    /// The older state's revision; 0: there is none.
    pub(super) until: Revision,
    pub(super) networks: BTreeMap<Vni, Network>,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) objects: BTreeMap<ObjectId, Object>,
}

impl Doubted {
    /// A delta's word on a network, a node or an object is none of the older state's.
    pub(super) fn heed(&mut self, delta: &Delta) {
        for vni in delta.named_networks() {
            self.networks.remove(&vni);
        }
        for name in delta.named_nodes() {
            self.nodes.remove(name);
        }
        for id in delta.named_objects() {
            self.objects.remove(id);
        }
    }
}

impl Mirror {
    /// Whether the registry is in an older state, or was, that is not believed.
    #[must_use]
    pub fn is_doubting(&self) -> bool {
        self.is_rolled_back() || self.doubted.until != 0
    }

    pub(super) fn is_doubtful_network(&self, row: &Network) -> bool {
        self.network(row.vni) != Some(row)
            && (self.is_rolled_back() || self.doubted.networks.get(&row.vni) == Some(row))
    }

    pub(super) fn is_doubtful_node(&self, row: &Node) -> bool {
        let doubted = self.doubted.nodes.get(&row.name);
        !self
            .node(&row.name)
            .is_some_and(|known| known.is_told_as(row))
            && (self.is_rolled_back() || doubted.is_some_and(|doubted| doubted.is_told_as(row)))
    }

    /// Also without a set-back that was noticed: in one history an endpoint's generations only grow.
    pub(super) fn is_doubtful(&self, row: &Endpoint) -> bool {
        let known = self.endpoint(&row.name);
        !known.is_some_and(|known| known.stands_as(row))
            && (self.is_of_older_state(row)
                || known.is_some_and(|known| known.generation() > row.generation))
    }

    /// Whether a row of an older state says otherwise than what is known, or claims an address of what is
    /// withheld. An endpoint that is looked up, and unknown, is taken to be where it was.
    pub(super) fn contradicts(&self, row: &Endpoint) -> bool {
        let by_ip = row.ips().filter_map(|ip| self.by_ip(row.vni, ip));
        let mut owners = by_ip.chain(self.by_mac(row.vni, row.mac));
        self.is_of_older_state(row)
            && match self.endpoint(&row.name) {
                Some(known) => !known.stands_as(row),
                None => owners.any(|owner| self.withheld.contains(owner.name())),
            }
    }

    fn is_of_older_state(&self, row: &Endpoint) -> bool {
        self.is_rolled_back() || row.generation <= self.doubted.until
    }

    /// Takes in what the older state says of the network and the node of an endpoint that was made since, if
    /// nothing else is known of them.
    pub(super) fn complete(&mut self, endpoint: &Endpoint, on_fact: OnFact<'_>) {
        if self.network(endpoint.vni).is_none()
            && let Some(network) = self.doubted.networks.remove(&endpoint.vni)
        {
            self.put_network(network, on_fact);
        }
        if self.node(&endpoint.node).is_none()
            && let Some(node) = self.doubted.nodes.remove(&endpoint.node)
        {
            self.put_node(node, on_fact);
        }
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

    /// Takes out of what is withheld those of which the reading would say nothing: their networks are on
    /// demand by now. Gives them.
    pub fn release_unexpected(&mut self) -> Vec<Name> {
        let Some(since) = &self.since else {
            return Vec::new();
        };
        let is_expected = |name: &&Name| {
            let record = self.endpoints.get(name);
            record.is_some_and(|record| self.is_expected(record, since))
        };
        let names = self.withheld().iter().filter(|name| !is_expected(name));
        let released: Vec<Name> = names.cloned().collect();
        for name in &released {
            self.withheld.release(name);
        }
        released
    }

    /// Ends the reading like [`Self::end_reading`], and holds what it did not have, unless a delta has removed
    /// it. `true`: it has seen all.
    pub fn withhold(&mut self, position: &mut usize, limit: usize, on_fact: OnFact<'_>) -> bool {
        let Some(since) = &self.since else {
            return true;
        };
        let Some(seen) = self.endpoints.walk(position, limit) else {
            let since = self.since.take().unwrap_or_default();
            let mut previous = since.waiting;
            previous.until = if self.is_rolled_back() {
                since.at
            } else {
                self.doubted.until
            };
            self.mark_degraded(previous);
            self.rolled_back_from = 0;
            return true;
        };
        let absent = seen
            .iter()
            .filter(|record| self.is_absent(record, since, None));
        let (told, absent): (Vec<Name>, Vec<Name>) = absent
            .map(|record| record.name.clone())
            .partition(|name| since.told.contains(name));
        let is_ahead = |record: &&&Record| {
            self.is_rolled_back() && record.generation > since.at && record.reading != self.reading
        };
        let ahead = seen.iter().filter(is_ahead);
        let ahead: Vec<Name> = ahead.map(|record| record.name.clone()).collect();
        self.ahead.extend(ahead);
        self.withheld.extend(absent);
        for name in told {
            self.remove(&name, on_fact);
        }
        false
    }

    pub(super) fn mark_degraded(&mut self, previous: Doubted) {
        self.withheld.version += u64::from(self.doubted != previous);
        self.doubted = previous;
    }

    /// What is withheld, with the networks and nodes that it needs: for [`Self::withhold_again`].
    #[must_use]
    pub fn held(&self) -> Snapshot {
        // What stands in the places of doubted rows is not in the registry either.
        let Doubted {
            networks,
            nodes,
            objects,
            until: _,
        } = &self.doubted;
        let vnis = networks.keys().copied().collect();
        let part = self.part(&self.withheld.names, vnis, nodes.keys().collect());
        Snapshot {
            objects: self.objects.some(objects.keys()),
            ..part
        }
    }

    /// What stands here in the places of rows that can't be read or break a rule, with the networks and
    /// nodes that it needs: for [`Self::recall`].
    #[must_use]
    pub fn in_places_of<'a>(&'a self, rows: impl Iterator<Item = &'a RowId>) -> Snapshot {
        let (mut names, mut vnis, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut objects = Vec::new();
        for row in rows {
            match row {
                RowId::Network(vni) => drop(vnis.insert(*vni)),
                RowId::Node(name) => drop(nodes.insert(name)),
                RowId::Endpoint(name) => drop(names.insert(name)),
                RowId::Object(id) => objects.push(id),
                RowId::Other(_) => {}
            }
        }
        Snapshot {
            objects: self.objects.some(objects),
            ..self.part(names, vnis, nodes)
        }
    }

    fn part<'a>(
        &'a self,
        endpoints: impl IntoIterator<Item = &'a Name>,
        mut vnis: BTreeSet<Vni>,
        mut nodes: BTreeSet<&'a Name>,
    ) -> Snapshot {
        let known = endpoints.into_iter().filter_map(|name| self.endpoint(name));
        let known: Vec<EndpointRef<'_>> = known.collect();
        vnis.extend(known.iter().map(EndpointRef::vni));
        nodes.extend(known.iter().map(EndpointRef::node));
        let networks = vnis.iter().filter_map(|vni| self.network(*vni));
        let nodes = nodes.iter().filter_map(|name| self.node(name));
        Snapshot {
            revision: self.revision,
            networks: networks.cloned().collect(),
            nodes: nodes.cloned().collect(),
            endpoints: known.iter().map(EndpointRef::to_endpoint).collect(),
            objects: Vec::new(),
        }
    }

    /// The older state that is not believed: its revision, its networks and nodes. For
    /// [`Self::withhold_again`].
    #[must_use]
    pub fn doubted(&self) -> Snapshot {
        Snapshot {
            revision: self.doubted.until,
            networks: self.doubted.networks.values().cloned().collect(),
            nodes: self.doubted.nodes.values().cloned().collect(),
            endpoints: Vec::new(),
            objects: self.doubted.objects.values().cloned().collect(),
        }
    }

    /// Holds what an earlier agent held, and doubts what it doubted, before anything is read.
    pub fn withhold_again(&mut self, held: Snapshot, doubted: Snapshot, on_fact: OnFact<'_>) {
        let (networks, nodes) = (doubted.networks.into_iter(), doubted.nodes.into_iter());
        let objects = doubted.objects.into_iter();
        self.doubted = Doubted {
            until: doubted.revision,
            networks: networks.map(|network| (network.vni, network)).collect(),
            nodes: nodes.map(|node| (node.name.clone(), node)).collect(),
            objects: objects.map(|object| (object.id.clone(), object)).collect(),
        };
        let names: Vec<Name> = held
            .endpoints
            .iter()
            .map(|held| held.name.clone())
            .collect();
        self.recall(held, on_fact);
        self.withheld.extend(names);
    }

    /// Takes in what an earlier agent knew, before anything is read: it stays if the first reading has rows
    /// for it, whether or not they can be read.
    pub fn recall(&mut self, known: Snapshot, on_fact: OnFact<'_>) {
        let Snapshot {
            networks,
            nodes,
            endpoints,
            objects,
            revision: _,
        } = known;
        for network in networks {
            self.put_network(network, on_fact);
        }
        for node in nodes {
            self.put_node(node, on_fact);
        }
        for endpoint in endpoints {
            let name = endpoint.name.clone();
            self.put(endpoint, self.no_reading(), on_fact);
            // The registry may have been put back meanwhile.
            self.ahead.insert(name);
        }
        for object in objects {
            self.put_object(object, on_fact);
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
            (RowId::Object(id), _) => self.hold_object(id),
            (RowId::Endpoint(name), _) => {
                self.withheld.remove(name);
                self.endpoints.mark(name, self.reading);
                if self.is_rolled_back() {
                    self.ahead.insert(name.clone());
                }
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

    /// Objects, networks and nodes that the reading did not have go, after the endpoints.
    pub(super) fn forget_absent(&mut self, on_fact: OnFact<'_>) {
        let Some(since) = self.since.take() else {
            return;
        };
        self.forget_absent_objects(&since, on_fact);
        let Some((networks, nodes)) = &since.present else {
            return;
        };
        let gone = self.networks.keys().filter(|vni| !networks.contains(vni));
        for vni in gone.copied().collect::<Vec<Vni>>() {
            if !since.is_outdated(&since.networks, &vni) {
                self.remove_network(vni, on_fact);
            }
        }
        let gone = self.nodes().filter(|node| !nodes.contains(&node.name));
        for name in gone.map(|node| node.name.clone()).collect::<Vec<_>>() {
            if !since.is_outdated(&since.nodes, &name) {
                self.remove_node(&name, on_fact);
            }
        }
    }
}
