//! Objects come, change and go: of the kind that the host knows, and of another.

use super::{
    names::name,
    run::Simulation,
    store::{KINDS, Rule},
};
use crate::model::{Kind, Object, ObjectId, Resource as _};

/// How many objects of a kind there are at most.
const OBJECTS: usize = 3;

impl Simulation {
    pub(super) fn change_objects(&mut self) {
        let number = self.rng.within(..OBJECTS);
        let removes = self.rng.of_256(80);
        let rule = Rule {
            name: name(&format!("r{number}")),
        };
        let mut object = rule.to_object().unwrap();
        if self.rng.of_256(80) {
            let kind: Kind = "riddle".parse().unwrap();
            object.id.kind = kind;
        } else if self.rng.of_256(40) {
            // One that makes no sense: what was there stays.
            object.body.clear();
        }
        self.note(|| format!("{} changes", object.id));
        self.store.change(|inner| {
            inner.commit(|delta| {
                if removes {
                    delta.objects_removed.push(object.id);
                } else {
                    delta.objects.push(object);
                }
            });
        });
    }

    /// What the host has of the registry's objects: those of its kind that make sense.
    pub(super) async fn judge_objects(&mut self) {
        let state = self.store.lock().state.clone();
        let view = self.observer.view().await;
        let is_followed =
            |object: &&Object| object.id.kind.is_known(KINDS) && object.check(KINDS).is_ok();
        let mut wrong = Vec::new();
        let followed = state.objects.values().filter(is_followed);
        for object in followed {
            if view.mirror.object(&object.id) != Some(object) {
                let known = view.mirror.object(&object.id);
                wrong.push(format!("{known:?} instead of {object:?}"));
            }
        }
        // What makes no sense keeps the place of what did.
        for object in view.mirror.objects() {
            if !state.objects.contains_key(&object.id) {
                wrong.push(format!("{} is not in the registry", object.id));
            }
        }
        let rejected = state
            .objects
            .values()
            .filter(|object| object.id.kind.is_known(KINDS) && object.check(KINDS).is_err());
        let rejected: Vec<&ObjectId> = rejected.map(|object| &object.id).collect();
        let named = view.rejected.keys().filter_map(|row| match row {
            crate::model::RowId::Object(id) => Some(id),
            _ => None,
        });
        let named: Vec<&ObjectId> = named.collect();
        if named != rejected {
            wrong.push(format!(
                "{named:?} are named as left out instead of {rejected:?}"
            ));
        }
        drop(view);
        self.violations.extend(wrong);
    }
}
