//! Objects of the kinds that this binary knows. Others stay in the registry, and do nothing here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fact, Mirror, OnFact, update::ChangesSinceRead};
use crate::model::{
    Block, Dhcp, Kind, KnownKind, Object, ObjectId, Resource as _, RouterPort, Vni,
};

/// The objects.
#[derive(Debug)]
pub(super) struct Objects {
    kinds: &'static [KnownKind],
    all: BTreeMap<ObjectId, Object>,
    /// Kinds that are not known, of which there were objects.
    unknown: BTreeSet<Kind>,
}

impl Objects {
    pub(super) const fn new(kinds: &'static [KnownKind]) -> Self {
        Self {
            kinds,
            all: BTreeMap::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// Those of these that there are.
    pub(super) fn some<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) -> Vec<Object> {
        let found = ids.into_iter().filter_map(|id| self.all.get(id));
        found.cloned().collect()
    }
}

impl Mirror {
    /// The kinds whose objects it holds.
    #[must_use]
    pub fn kinds(&self) -> &'static [KnownKind] {
        self.objects.kinds
    }

    /// An object.
    #[must_use]
    pub fn object(&self, id: &ObjectId) -> Option<&Object> {
        self.objects.all.get(id)
    }

    /// Every object, by kind and key.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.all.values()
    }

    pub(super) fn put_object(&mut self, object: Object, on_fact: OnFact<'_>) {
        let kind = &object.id.kind;
        if !kind.is_known(self.objects.kinds) {
            if self.objects.unknown.insert(kind.clone()) {
                tracing::warn!(%kind, "objects of this kind do nothing here: this version does not know it");
            }
            return;
        }
        if self.object(&object.id) == Some(&object) {
            return;
        }
        self.tell_of_object(&object.id, on_fact);
        on_fact(self, &Fact::Object(&object));
        self.tell_of_served(&object, on_fact);
        self.tell_of_limited(&object, on_fact);
        self.objects.all.insert(object.id.clone(), object);
    }

    pub(super) fn remove_object(&mut self, id: &ObjectId, on_fact: OnFact<'_>) {
        self.tell_of_object(id, on_fact);
        if let Some(object) = self.object(id) {
            self.tell_of_limited(object, on_fact);
        }
        self.objects.all.remove(id);
    }

    fn tell_of_object(&self, id: &ObjectId, on_fact: OnFact<'_>) {
        if let Some(object) = self.object(id) {
            on_fact(self, &Fact::Object(object));
            self.tell_of_served(object, on_fact);
        }
    }

    /// Tells of the endpoints of this host whose interfaces and rows an object has a say in.
    fn tell_of_served(&self, object: &Object, on_fact: OnFact<'_>) {
        if let Some(block) = Block::known(object).filter(|block| block.ports_in_endpoint) {
            self.notify_of(&block.endpoint, on_fact);
        }
        let Some(vni) = served_by(object) else {
            return;
        };
        for known in self.local_endpoints().filter(|known| known.vni() == vni) {
            on_fact(self, &known.fact());
        }
    }

    /// Takes the objects of a reading of the whole in, after its networks and nodes. Those that are doubtful wait
    /// for its end.
    pub fn read_objects(&mut self, objects: Vec<Object>, on_fact: OnFact<'_>) {
        let Some(mut since) = self.since.take() else {
            return;
        };
        let present = objects.iter().map(|object| object.id.clone());
        since.present_objects = Some(present.collect());
        for object in objects {
            if since.is_outdated(&since.objects, &object.id) {
                continue;
            }
            if self.is_doubtful_object(&object) {
                since.waiting.objects.insert(object.id.clone(), object);
            } else {
                self.put_object(object, on_fact);
            }
        }
        self.since = Some(since);
    }

    fn is_doubtful_object(&self, row: &Object) -> bool {
        row.id.kind.is_known(self.objects.kinds)
            && self.object(&row.id) != Some(row)
            && (self.is_rolled_back() || self.doubted.objects.get(&row.id) == Some(row))
    }

    /// The reading is believed: takes in what waited for that.
    pub(super) fn believe_objects(
        &mut self,
        objects: BTreeMap<ObjectId, Object>,
        on_fact: OnFact<'_>,
    ) {
        for object in objects.into_values() {
            let since = self.since.as_ref();
            if since.is_none_or(|since| !since.is_outdated(&since.objects, &object.id)) {
                self.put_object(object, on_fact);
            }
        }
    }

    /// What the reading under way has, and can't be read, stays as it was.
    pub(super) fn hold_object(&mut self, id: &ObjectId) {
        let present = self.since.as_mut();
        if let Some(present) = present.and_then(|since| since.present_objects.as_mut()) {
            present.insert(id.clone());
        }
    }

    /// Objects that the reading did not have go.
    pub(super) fn forget_absent_objects(&mut self, since: &ChangesSinceRead, on_fact: OnFact<'_>) {
        let Some(present) = &since.present_objects else {
            return;
        };
        let ids = self.objects.all.keys();
        let gone = ids.filter(|id| !present.contains(id) && !since.is_outdated(&since.objects, id));
        for id in gone.cloned().collect::<Vec<_>>() {
            self.remove_object(&id, on_fact);
        }
    }
}

/// The network whose endpoints have a default route, or are answered, by an object.
fn served_by(object: &Object) -> Option<Vni> {
    let port = RouterPort::known(object).map(|port| port.vni);
    port.or_else(|| Dhcp::known(object).map(|dhcp| dhcp.vni))
}
