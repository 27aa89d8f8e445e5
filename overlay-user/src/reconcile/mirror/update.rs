//! Updates the mirror: deltas, reads of the registry, lookup results.

use std::collections::{BTreeMap, BTreeSet};

use super::{EndpointFact, Fact, Mirror, Move, OnFact, Record, absence::Doubted};
use crate::model::{Delta, Endpoint, Name, Network, Node, ObjectId, Resolve, Revision, Vni};

/// What a reading that was asked for must not undo, with the revisions of the deltas that said it.
#[derive(Debug, Default)]
pub(super) struct ChangesSinceRead {
    /// The mirror's revision when the reading was asked for.
    asked: Revision,
    /// The reading's own, once it has come.
    pub(super) at: Revision,
    pub(super) networks: BTreeMap<Vni, Revision>,
    pub(super) nodes: BTreeMap<Name, Revision>,
    pub(super) objects: BTreeMap<ObjectId, Revision>,
    /// Endpoints that were removed, or are held no more by this host.
    removed: BTreeMap<Name, Revision>,
    /// Endpoints that deltas removed which the reading is newer than: it leaves them out rightly.
    pub(super) told: BTreeSet<Name>,
    /// The networks and nodes that a reading of the whole has.
    pub(super) present: Option<(BTreeSet<Vni>, BTreeSet<Name>)>,
    /// The objects that a reading of the whole has.
    pub(super) present_objects: Option<BTreeSet<ObjectId>>,
    /// Rows of the reading that wait until it is believed.
    pub(super) waiting: Doubted,
    waiting_endpoints: Vec<Endpoint>,
    /// Whether it is.
    is_believed: bool,
}

impl ChangesSinceRead {
    fn note(&mut self, delta: &Delta) {
        let revision = delta.revision;
        let networks = delta.named_networks().map(|vni| (vni, revision));
        self.networks.extend(networks);
        let nodes = delta.named_nodes().map(|name| (name.clone(), revision));
        self.nodes.extend(nodes);
        let objects = delta.named_objects().map(|id| (id.clone(), revision));
        self.objects.extend(objects);
        let removed = delta.endpoints_removed.iter();
        self.removed
            .extend(removed.map(|name| (name.clone(), revision)));
    }

    /// Whether a delta that is newer than the reading spoke of it.
    pub(super) fn is_outdated<K: Ord>(&self, told: &BTreeMap<K, Revision>, key: &K) -> bool {
        told.get(key).is_some_and(|revision| *revision > self.at)
    }
}

impl Mirror {
    /// Takes a delta in. One that is no newer than the mirror only says which endpoints a reading leaves out
    /// rightly. Of on-demand networks it takes this node's endpoints, those that are held already, and those named in `admitted`.
    pub fn apply(
        &mut self,
        delta: Delta,
        admitted: &BTreeSet<Name>,
        on_fact: OnFact<'_>,
    ) -> Vec<Move> {
        let mut moves = Vec::new();
        if delta.revision <= self.revision {
            self.explain(delta.endpoints_removed, on_fact);
            return moves;
        }
        self.revision = delta.revision;
        self.doubted.heed(&delta);
        if let Some(since) = &mut self.since {
            since.note(&delta);
        }
        for id in delta.objects_removed {
            self.remove_object(&id, on_fact);
        }
        for vni in delta.networks_removed {
            self.remove_network(vni, on_fact);
        }
        for network in delta.networks {
            self.put_network(network, on_fact);
        }
        for name in delta.nodes_removed {
            self.remove_node(&name, on_fact);
        }
        for node in delta.nodes {
            self.put_node(node, on_fact);
        }
        for name in delta.endpoints_removed {
            let known = self.endpoints.get(&name);
            if known.is_some_and(|known| !self.is_newer(known, delta.revision)) {
                self.remove(&name, on_fact);
            }
        }
        for endpoint in delta.endpoints {
            let known = self.endpoints.get(&endpoint.name);
            if known.is_some_and(|known| self.is_newer(known, endpoint.generation)) {
                self.fenced += 1;
            } else if known.is_some()
                || endpoint.node == self.node
                || !self.is_on_demand(endpoint.vni)
                || admitted.contains(&endpoint.name)
            {
                self.complete(&endpoint, on_fact);
                moves.extend(self.put(endpoint, self.no_reading(), on_fact));
            } else if let Some(since) = &mut self.since {
                // It may have been elsewhere when the reading was made.
                since.removed.insert(endpoint.name, delta.revision);
            }
        }
        for object in delta.objects {
            self.put_object(object, on_fact);
        }
        moves
    }

    /// Takes in that endpoints were removed before the last reading, or the one under way, was made.
    fn explain(&mut self, removed: Vec<Name>, on_fact: OnFact<'_>) {
        for name in removed {
            if self.withheld.contains(&name) {
                self.remove(&name, on_fact);
            } else if let Some(since) = &mut self.since {
                since.told.insert(name);
            }
        }
    }

    /// Takes the answer to a question in that was asked when the mirror had revision `asked`.
    pub fn answer(
        &mut self,
        endpoint: Endpoint,
        asked: Revision,
        on_fact: OnFact<'_>,
    ) -> Option<Move> {
        let known = self.endpoints.get(&endpoint.name);
        // What a delta brought since may be newer than the answer.
        let is_overtaken =
            known.is_some_and(|known| self.is_newer(known, asked.max(endpoint.generation)));
        if is_overtaken || self.contradicts(&endpoint) {
            self.fenced += 1;
            return None;
        }
        self.put(endpoint, self.no_reading(), on_fact)
    }

    /// Forgets an endpoint.
    pub fn remove(&mut self, name: &Name, on_fact: OnFact<'_>) {
        self.withheld.release(name);
        self.ahead.remove(name);
        self.notify_of(name, on_fact);
        if let Some(removed) = self.endpoints.remove(name) {
            self.untrack(&removed);
        }
    }

    /// A reading is about to be asked for: what deltas say from now on may be newer than it.
    pub fn expect_reading(&mut self) {
        self.reading = self.reading.wrapping_add(1);
        self.since = Some(ChangesSinceRead {
            asked: self.revision.max(self.rolled_back_from),
            ..ChangesSinceRead::default()
        });
    }

    /// A reading of one network has come, as of `revision`; its endpoints follow. Of all else the deltas
    /// up to there are still to come. `false`: the registry is back at an older state, which only a reading of
    /// the whole can tell about.
    pub fn begin_reading_of_network(&mut self, revision: Revision) -> bool {
        let since = self.since.get_or_insert_default();
        since.at = revision;
        revision >= since.asked
    }

    /// The reading has come, as of `revision`; its endpoints follow. `false`: the registry is back at a
    /// previous state.
    pub fn begin_reading(
        &mut self,
        revision: Revision,
        networks: Vec<Network>,
        nodes: Vec<Node>,
        on_fact: OnFact<'_>,
    ) -> bool {
        let mut since = self.since.take().unwrap_or_default();
        since.at = revision;
        let is_same_history = revision >= since.asked;
        if !is_same_history {
            self.rolled_back_from = since.asked;
            self.revision = revision;
        }
        self.revision = self.revision.max(revision);

        let has_networks = networks.iter().map(|network| network.vni).collect();
        let has_nodes = nodes.iter().map(|node| node.name.clone()).collect();
        since.present = Some((has_networks, has_nodes));
        for network in networks {
            if since.is_outdated(&since.networks, &network.vni) {
                continue;
            }
            if self.is_doubtful_network(&network) {
                since.waiting.networks.insert(network.vni, network);
            } else {
                self.put_network(network, on_fact);
            }
        }
        for node in nodes {
            if since.is_outdated(&since.nodes, &node.name) {
                continue;
            }
            if self.is_doubtful_node(&node) {
                since.waiting.nodes.insert(node.name.clone(), node);
            } else {
                self.put_node(node, on_fact);
            }
        }
        self.since = Some(since);
        is_same_history
    }

    /// Takes some of the reading's endpoints in. Those that are doubtful wait for its end; in a reading of one
    /// network they change nothing.
    pub fn read(&mut self, page: Vec<Endpoint>, on_fact: OnFact<'_>) -> Vec<Move> {
        let mut moves = Vec::new();
        for endpoint in page {
            if self.is_overtaken(&endpoint.name) {
                continue;
            }
            let is_whole = self.is_reading_where(|since| since.present.is_some());
            let is_doubtful = if is_whole {
                self.is_doubtful(&endpoint)
            } else {
                self.contradicts(&endpoint)
            };
            match &mut self.since {
                Some(since) if is_doubtful && is_whole => since.waiting_endpoints.push(endpoint),
                _ if is_doubtful => self.endpoints.mark(&endpoint.name, self.reading),
                _ => moves.extend(self.put(endpoint, self.reading, on_fact)),
            }
        }
        moves
    }

    /// The reading is believed: takes in what waited for that, the networks and nodes first, then up to `limit`
    /// endpoints. `None`: nothing is left. After a set-back what this host had asked for is forgotten.
    pub fn believe(&mut self, limit: usize, on_fact: OnFact<'_>) -> Option<Vec<Move>> {
        let since = self.since.as_mut()?;
        let mut moves = Vec::new();
        if !std::mem::replace(&mut since.is_believed, true) {
            let Doubted {
                networks,
                nodes,
                objects,
                until: _,
            } = std::mem::take(&mut since.waiting);
            for network in networks.into_values() {
                if !self.is_reading_where(|since| since.is_outdated(&since.networks, &network.vni))
                {
                    self.put_network(network, on_fact);
                }
            }
            if self.is_doubting() {
                // By the modes that the networks have now.
                self.forget_cached(on_fact);
            }
            for node in nodes.into_values() {
                if !self.is_reading_where(|since| since.is_outdated(&since.nodes, &node.name)) {
                    self.put_node(node, on_fact);
                }
            }
            self.believe_objects(objects, on_fact);
            return Some(moves);
        }
        let waiting = &mut since.waiting_endpoints;
        if waiting.is_empty() {
            return None;
        }
        let endpoints = waiting.split_off(waiting.len().saturating_sub(limit));
        for endpoint in endpoints {
            if !self.is_overtaken(&endpoint.name) {
                moves.extend(self.put(endpoint, self.reading, on_fact));
            }
        }
        Some(moves)
    }

    /// Whether there is a reading under way of which this holds.
    fn is_reading_where(&self, of: impl FnOnce(&ChangesSinceRead) -> bool) -> bool {
        self.since.as_ref().is_some_and(of)
    }

    /// Whether more is known of an endpoint by now than the reading under way can tell; also if it is over.
    fn is_overtaken(&self, name: &Name) -> bool {
        self.since.as_ref().is_none_or(|since| {
            let known = self.endpoints.get(name);
            since.is_outdated(&since.removed, name)
                || known.is_some_and(|known| self.is_newer(known, since.at))
        })
    }

    /// Forgets what the reading did not have, of one network if it was of one: looks at up to `limit`
    /// endpoints from `*position` on, which it moves on. `true`: it has seen all, and the reading is over.
    pub fn end_reading(
        &mut self,
        position: &mut usize,
        limit: usize,
        scope: Option<Vni>,
        on_fact: OnFact<'_>,
    ) -> bool {
        let Some(since) = &self.since else {
            return true;
        };
        let Some(seen) = self.endpoints.walk(position, limit) else {
            self.forget_absent(on_fact);
            if scope.is_none() {
                self.rolled_back_from = 0;
                self.withheld.forget_most();
                self.mark_degraded(Doubted::default());
            }
            return true;
        };
        let absent = seen
            .iter()
            .filter(|record| self.is_absent(record, since, scope));
        let absent: Vec<Name> = absent.map(|record| record.name.clone()).collect();
        for name in absent {
            self.remove(&name, on_fact);
        }
        false
    }

    /// Whether the reading, of one network if it is one of that, should have had it and did not.
    pub(super) fn is_absent(
        &self,
        record: &Record,
        since: &ChangesSinceRead,
        scope: Option<Vni>,
    ) -> bool {
        // What is withheld, or here, is only to be missed in a whole reading.
        let is_of = |vni| {
            let is_whole_ones =
                self.withheld.contains(&record.name) || self.known(record).is_local();
            record.vni == vni && !is_whole_ones
        };
        scope.is_none_or(is_of)
            && record.reading != self.reading
            && self.is_expected(record, since)
            && !self.is_newer(record, since.at)
    }

    /// Whether the reading has it if the registry does: this host holds it whether or not anybody talks to
    /// it, or its network is in the reading no more.
    pub(super) fn is_expected(&self, record: &Record, since: &ChangesSinceRead) -> bool {
        let networks = since.present.as_ref().map(|(networks, _)| networks);
        let is_gone = networks.is_some_and(|networks| {
            !networks.contains(&record.vni) && !since.is_outdated(&since.networks, &record.vni)
        });
        is_gone || self.known(record).is_local() || !self.read_network_is_on_demand(record.vni)
    }

    /// A network as the reading under way has it.
    #[must_use]
    pub fn read_network(&self, vni: Vni) -> Option<&Network> {
        let waiting = self.since.as_ref().map(|since| &since.waiting.networks);
        let waiting = waiting.and_then(|networks| networks.get(&vni));
        waiting.or_else(|| self.network(vni))
    }

    fn read_network_is_on_demand(&self, vni: Vni) -> bool {
        self.read_network(vni)
            .is_some_and(|network| network.resolve == Resolve::OnDemand)
    }

    /// The reading could not be had whole: what it brought stays, and nothing is missing in it.
    pub fn abandon_reading(&mut self) {
        self.since = None;
    }

    /// Whether what is known is of a later generation, and of the same history of the registry. What a
    /// reading did not have may be of another one.
    fn is_newer(&self, known: &Record, than: Revision) -> bool {
        let is_of_another_history = self.is_rolled_back() && known.reading != self.reading;
        let is_held = self.withheld.contains(&known.name) || self.ahead.contains(&known.name);
        known.generation > than && !is_of_another_history && !is_held
    }

    /// Whether the registry was put back to an older state and was not read through since: it then is
    /// right in everything.
    pub(super) fn is_rolled_back(&self) -> bool {
        self.rolled_back_from != 0
    }

    /// The mark of what comes by itself. It does not count as seen by the reading, which may have it
    /// removed again; after a set-back it tells the present history from the previous.
    pub(super) fn no_reading(&self) -> u16 {
        if self.is_rolled_back() {
            self.reading
        } else {
            self.reading.wrapping_sub(1)
        }
    }

    pub(super) fn put(
        &mut self,
        endpoint: Endpoint,
        reading: u16,
        on_fact: OnFact<'_>,
    ) -> Option<Move> {
        self.withheld.remove(&endpoint.name);
        self.ahead.remove(&endpoint.name);
        if self
            .endpoint(&endpoint.name)
            .is_some_and(|known| known.is(&endpoint))
        {
            // What the reading has seen stays seen, whoever says it once more.
            if reading == self.reading {
                self.endpoints.mark(&endpoint.name, reading);
            }
            return None;
        }
        self.give_way(&endpoint, on_fact);
        self.notify_of(&endpoint.name, on_fact);
        let is_local = endpoint.node == self.node;
        let addresses = endpoint.addresses.into();
        let fact = EndpointFact {
            name: &endpoint.name,
            vni: endpoint.vni,
            mac: endpoint.mac,
            is_local,
            addresses: &addresses,
        };
        on_fact(self, &Fact::Endpoint(fact));
        let node = self.nodes.acquire(&endpoint.node);
        self.local += usize::from(is_local);
        *self.sizes.entry(endpoint.vni).or_default() += 1;
        let attachment = endpoint.attachment.filter(|_| is_local);
        let previous = self.endpoints.insert(Record {
            name: endpoint.name.clone(),
            addresses,
            generation: endpoint.generation,
            vni: endpoint.vni,
            node,
            mac: endpoint.mac,
            reading,
        });
        let mut moved = None;
        if let Some(previous) = previous {
            if previous.node != node {
                moved = self.nodes.name(previous.node).map(|from| Move {
                    endpoint: endpoint.name.clone(),
                    vni: endpoint.vni,
                    from: from.clone(),
                    to: endpoint.node.clone(),
                    generation: endpoint.generation,
                });
            }
            self.untrack(&previous);
        }
        if let Some(attachment) = attachment {
            self.attachments.insert(endpoint.name, attachment);
        }
        moved
    }

    /// What the registry does not have is held only as long as nobody else has its addresses there.
    fn give_way(&mut self, to: &Endpoint, on_fact: OnFact<'_>) {
        if self.withheld.is_empty() {
            return;
        }
        let by_ip = to.ips().filter_map(|ip| self.by_ip(to.vni, ip));
        let owners = by_ip.chain(self.by_mac(to.vni, to.mac));
        let withheld = owners.map(|owner| owner.name().clone());
        for name in withheld.collect::<BTreeSet<_>>() {
            if self.withheld.contains(&name) {
                self.remove(&name, on_fact);
            }
        }
    }

    /// Takes a record that went out of what is counted.
    fn untrack(&mut self, record: &Record) {
        self.attachments.remove(&record.name);
        self.local -= usize::from(self.nodes.name(record.node) == Some(&self.node));
        self.nodes.release(record.node);
        if let Some(size) = self.sizes.get_mut(&record.vni) {
            *size -= 1;
            if *size == 0 {
                self.sizes.remove(&record.vni);
            }
        }
    }

    /// Forgets the endpoints that this host had asked for.
    fn forget_cached(&mut self, on_fact: OnFact<'_>) {
        let cached = self.endpoints().filter(|known| !known.is_proactive());
        for name in cached.map(|known| known.name().clone()).collect::<Vec<_>>() {
            self.remove(&name, on_fact);
        }
    }

    pub(super) fn put_network(&mut self, network: Network, on_fact: OnFact<'_>) {
        let vni = network.vni;
        let previous = self.network(vni);
        if previous == Some(&network) {
            return;
        }
        let rows_change = previous.is_none_or(|previous| previous.resolve != network.resolve);
        let ports_change = previous.is_none_or(|previous| previous.mtu != network.mtu);
        self.tell_of_network(vni, rows_change, ports_change, on_fact);
        self.networks.insert(vni, network);
    }

    pub(super) fn remove_network(&mut self, vni: Vni, on_fact: OnFact<'_>) {
        if self.networks.contains_key(&vni) {
            self.tell_of_network(vni, true, true, on_fact);
            self.networks.remove(&vni);
        }
    }

    pub(super) fn put_node(&mut self, node: Node, on_fact: OnFact<'_>) {
        self.follow_mtu(&node.name, node.underlay_mtu(), on_fact);
        let previous = self.node(&node.name).map(|previous| previous.vtep);
        if previous != Some(node.vtep) {
            self.tell_of_node(&node.name, on_fact);
            on_fact(self, &Fact::Node(&node));
        }
        self.nodes.put(node);
    }

    pub(super) fn remove_node(&mut self, name: &Name, on_fact: OnFact<'_>) {
        self.follow_mtu(name, None, on_fact);
        self.tell_of_node(name, on_fact);
        self.nodes.remove(name);
    }

    /// A node's underlay is about to have this MTU: if the least of all changes with it, so do networks
    /// whose MTU is automatic, and their endpoints here.
    fn follow_mtu(&mut self, node: &Name, mtu: Option<u32>, on_fact: OnFact<'_>) {
        let others = self.nodes().filter(|other| other.name != *node);
        let least = others.filter_map(Node::underlay_mtu).chain(mtu).min();
        if least == self.underlay_mtu {
            return;
        }
        let is_automatic = |vni: Vni| self.network(vni).is_some_and(|network| network.mtu == 0);
        for network in self.networks().filter(|network| network.mtu == 0) {
            on_fact(self, &Fact::Network(network.vni));
        }
        for known in self.local_endpoints() {
            if is_automatic(known.vni()) {
                on_fact(self, &known.fact());
            }
        }
        self.underlay_mtu = least;
    }

    /// Tells of an endpoint as it is.
    pub(super) fn notify_of(&self, name: &Name, on_fact: OnFact<'_>) {
        if let Some(known) = self.endpoint(name) {
            on_fact(self, &known.fact());
        }
    }

    fn tell_of_network(&self, vni: Vni, rows: bool, ports: bool, on_fact: OnFact<'_>) {
        on_fact(self, &Fact::Network(vni));
        if rows && self.sizes.contains_key(&vni) {
            let its = self.endpoints().filter(|known| known.vni() == vni);
            its.for_each(|known| on_fact(self, &known.fact()));
        } else if ports {
            let its = self.local_endpoints().filter(|known| known.vni() == vni);
            its.for_each(|known| on_fact(self, &known.fact()));
        }
    }

    fn tell_of_node(&self, name: &Name, on_fact: OnFact<'_>) {
        if let Some(node) = self.node(name) {
            on_fact(self, &Fact::Node(node));
        }
        let Some(id) = self.nodes.id(name) else {
            return;
        };
        if *name != self.node && self.nodes.endpoints(id) > 0 {
            let its = self.endpoints.iter().filter(|record| record.node == id);
            its.for_each(|record| on_fact(self, &self.known(record).fact()));
        }
    }
}
