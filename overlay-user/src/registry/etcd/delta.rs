//! Folds the events of a watch response into one delta, by revision.

use std::collections::{BTreeMap, HashMap};

use etcd_client::{Event, EventType, KeyValue};

use super::{
    super::WatchEvent,
    keys::{self, State},
    read::{self, to_revision},
    rejected::row_of,
    store_error::StoreError,
    values::{self, NodeValue},
};
use crate::model::{
    Delta, Endpoint, Name, Network, Node, Object, ObjectId, Rejected, Revision, Vni,
};

/// The last word on rows of one kind.
type Last<K, V> = BTreeMap<K, Option<V>>;

/// Events so far.
#[derive(Debug, Default)]
pub(super) struct DeltaBuilder {
    revision: Revision,
    networks: Last<Vni, Network>,
    nodes: Last<Name, Node>,
    /// With the revision of the last word: an endpoint that is removed in one network and made in
    /// another by one transaction has two keys, in whatever order.
    endpoints: HashMap<Name, (Revision, Option<Endpoint>)>,
    objects: Last<ObjectId, Object>,
    rejected: Vec<Rejected>,
    others: Vec<WatchEvent>,
}

impl DeltaBuilder {
    /// Takes an event in; notes a value that can't be read.
    pub(super) fn add(&mut self, event: &Event) -> Result<(), StoreError> {
        let Some(kv) = event.kv() else {
            return Ok(());
        };
        match self.take(event, kv) {
            Err(StoreError::Row(why)) => {
                self.rejected.push(Rejected::new(row_of(kv.key()), why));
                Ok(())
            }
            taken => taken,
        }
    }

    fn take(&mut self, event: &Event, kv: &KeyValue) -> Result<(), StoreError> {
        let revision = to_revision(kv.mod_revision());
        self.revision = self.revision.max(revision);
        let is_put = event.event_type() == EventType::Put;
        match keys::parse(kv.key()) {
            Some(State::Endpoint(_, name)) => {
                self.add_endpoint(name, revision, is_put.then_some(kv))?;
            }
            Some(State::Network(vni)) => {
                let network = read_if(is_put, kv)?;
                self.networks.insert(vni, network);
            }
            Some(State::Node(name)) => {
                let value: Option<NodeValue> = read_if(is_put, kv)?;
                let node = value.map(|value| value.into_node(name.clone()));
                self.nodes.insert(name, node);
            }
            Some(State::Object(id)) => {
                let object = is_put.then(|| read::object(kv)).transpose()?;
                self.objects.insert(id, object);
            }
            Some(State::Alive(name)) => match (is_put, kv.version()) {
                (true, 1) => self.others.push(WatchEvent::Alive(name)),
                // The same node by its next agent.
                (true, _) => {}
                (false, _) => self.others.push(WatchEvent::Silent(name)),
            },
            Some(State::Question) => {
                // A question that this version does not know gets no answer.
                if is_put && let Ok(question) = values::read(kv.key(), kv.value()) {
                    self.others.push(WatchEvent::Question(question));
                }
            }
            // A key of some later version says nothing to this one, and the follower has looked at the
            // identity.
            Some(State::Identity | State::Tick) | None => {}
        }
        Ok(())
    }

    fn add_endpoint(
        &mut self,
        name: Name,
        revision: Revision,
        put: Option<&KeyValue>,
    ) -> Result<(), StoreError> {
        let endpoint = put.map(read::endpoint).transpose()?;
        let last = self.endpoints.get(&name);
        if endpoint.is_some() || last.is_none_or(|(last, _)| *last < revision) {
            self.endpoints.insert(name, (revision, endpoint));
        }
        Ok(())
    }

    /// What the events come to, the delta first. `None` for it: there was no event.
    pub(super) fn finish(self) -> (Revision, Vec<WatchEvent>) {
        let mut delta = Delta {
            revision: self.revision,
            rejected: self.rejected,
            ..Delta::default()
        };
        for (vni, network) in self.networks {
            match network {
                Some(network) => delta.networks.push(network),
                None => delta.networks_removed.push(vni),
            }
        }
        for (name, node) in self.nodes {
            match node {
                Some(node) => delta.nodes.push(node),
                None => delta.nodes_removed.push(name),
            }
        }
        for (name, (_, endpoint)) in self.endpoints {
            match endpoint {
                Some(endpoint) => delta.endpoints.push(endpoint),
                None => delta.endpoints_removed.push(name),
            }
        }
        for (id, object) in self.objects {
            match object {
                Some(object) => delta.objects.push(object),
                None => delta.objects_removed.push(id),
            }
        }
        let mut events = vec![WatchEvent::Delta(delta)];
        events.extend(self.others);
        (self.revision, events)
    }
}

fn read_if<T: serde::de::DeserializeOwned>(
    is_put: bool,
    kv: &KeyValue,
) -> Result<Option<T>, StoreError> {
    if is_put {
        values::read(kv.key(), kv.value()).map(Some)
    } else {
        Ok(None)
    }
}
