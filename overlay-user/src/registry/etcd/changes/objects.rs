//! Objects: what they claim, what they refer to, and what goes along with what is removed.

use ipnet::IpNet;

use super::{
    super::{
        super::{
            object::{ObjectValue, going_along, is_news},
            rules,
        },
        keys,
        txn_plan::PlanError,
        values,
    },
    Claim, Work,
};
use crate::model::{self, Network, Object, ObjectId, Reference, Target};

impl Work<'_, '_> {
    pub(super) fn put_object(&mut self, object: &Object) -> Result<(), PlanError> {
        rules::check_object(object)?;
        let key = keys::object(&object.id);
        let targets = object.references.iter().filter_map(target_key);
        let claims = object.claims.iter().flat_map(|it| Claim::of(it).keys());
        let needed: Vec<String> = [key.clone()]
            .into_iter()
            .chain(targets)
            .chain(claims)
            .collect();
        self.planner.need(&needed)?;

        let previous = self.object(&object.id)?;
        if !is_news(object, previous.as_ref())? {
            return Ok(());
        }
        for reference in &object.references {
            let there = match target_key(reference) {
                Some(key) => self.planner.get(&key)?,
                None => None,
            };
            if there.is_none() {
                return Err(rules::missing_target(&reference.target).into());
            }
        }
        let (claims, references) = previous.map_or_else(Default::default, |previous| {
            (previous.claims, previous.references)
        });
        self.put_object_claims(object, &claims)?;
        let index = |reference: &Reference| {
            keys::reference(&reference.target, reference.on_removal, &object.id)
        };
        for previous in references
            .iter()
            .filter(|previous| !object.references.contains(previous))
        {
            self.planner.delete(index(previous));
        }
        for new in object
            .references
            .iter()
            .filter(|new| !references.contains(new))
        {
            self.planner.put(index(new), "");
        }
        self.planner
            .put(key, values::write(&ObjectValue::from(object))?);
        Ok(())
    }

    fn put_object_claims(
        &mut self,
        object: &Object,
        previous: &[model::Claim],
    ) -> Result<(), PlanError> {
        let owner = object.id.to_word();
        let is_in = |all: &[model::Claim], claim: &model::Claim| {
            all.iter().any(|other| other.slot() == claim.slot())
        };
        for claim in previous {
            if !is_in(&object.claims, claim) {
                self.give_up(Claim::of(claim), &owner);
            }
        }
        for claim in &object.claims {
            if is_in(previous, claim) {
                continue;
            }
            self.check_claim(&object.id, claim, previous)?;
            let keys = Claim::of(claim);
            if let Some(value) = self.planner.get(&keys.key)? {
                let owner = self.claimant(claim.slot().vni, &keys.key, &value)?;
                return Err(rules::conflict(keys.what, &keys.value, owner).into());
            }
            self.leave_quarantine(&keys, &owner)?;
            self.planner.put(keys.key, owner.as_str());
        }
        Ok(())
    }

    /// What no single key says: the network's rules, and that prefixes don't overlap.
    fn check_claim(
        &mut self,
        id: &ObjectId,
        claim: &model::Claim,
        previous: &[model::Claim],
    ) -> Result<(), PlanError> {
        if let model::Claim::Disjoint { space, prefix } = claim {
            let all = keys::all_disjoint(space);
            for key in self.planner.list(&all)? {
                let other = key.strip_prefix(&all).unwrap_or_default();
                // Anything else is not ours.
                let Ok(other) = other.parse::<IpNet>() else {
                    continue;
                };
                let is_own = previous.iter().any(|previous| keys::claim(previous) == key);
                if !is_own
                    && rules::overlap(prefix, &other)
                    && let Some(value) = self.planner.get(&key)?
                {
                    let owner = self.claimant(None, &key, &value)?;
                    let owner = format!("{owner} ({other})");
                    return Err(rules::conflict("prefix", prefix, owner).into());
                }
            }
        }
        if let Some(vni) = claim.slot().vni {
            let key = keys::network(vni);
            if let Some(value) = self.planner.get(&key)? {
                let network: Network = values::read(key.as_bytes(), &value)?;
                rules::check_claimed(id, claim, &network)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_object(&mut self, id: &ObjectId) -> Result<(), PlanError> {
        if self.planner.get(&keys::object(id))?.is_none() {
            return Ok(());
        }
        self.release(&id.to_string(), std::slice::from_ref(id))?;
        self.take_object(id)
    }

    /// Removes the objects that go along with these, each in a step of its own; refuses if another one refers
    /// to any of them. Whoever removes them has to [`Self::watch_referrers`] of each.
    pub(super) fn release(&mut self, called: &str, going: &[ObjectId]) -> Result<(), PlanError> {
        let lists: Vec<String> = going.iter().map(keys::references).collect();
        self.planner.need_lists(&lists)?;
        let along = going_along(called, going.to_vec(), |target| {
            let keys = self.planner.peek_list(&keys::references(target))?;
            let referrers = keys.iter().filter_map(|key| keys::referrer(key));
            Ok::<_, PlanError>(referrers.collect())
        })?;
        // What refers to others goes before them.
        for id in along.iter().rev() {
            self.take_object(id)?;
            self.planner.end_step()?;
            self.stay_silent()?;
        }
        Ok(())
    }

    /// Makes the step depend on nothing new referring to it.
    pub(super) fn watch_referrers(&mut self, target: &ObjectId) -> Result<(), PlanError> {
        self.planner.list(&keys::references(target)).map(drop)
    }

    /// Removes an object with all that speaks of it. What one that can't be read has claimed stays claimed,
    /// until a check finds that.
    fn take_object(&mut self, id: &ObjectId) -> Result<(), PlanError> {
        self.watch_referrers(id)?;
        let key = keys::object(id);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(());
        };
        if let Ok(value) = values::read::<ObjectValue>(key.as_bytes(), &value) {
            let object = value.into_object(id.clone(), 0);
            for claim in &object.claims {
                self.give_up(Claim::of(claim), &id.to_word());
            }
            for reference in &object.references {
                let Reference { target, on_removal } = reference;
                self.planner
                    .delete(keys::reference(target, *on_removal, id));
            }
        }
        self.planner.delete(key);
        Ok(())
    }

    fn object(&mut self, id: &ObjectId) -> Result<Option<Object>, PlanError> {
        let key = keys::object(id);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(None);
        };
        let value: ObjectValue = values::read(key.as_bytes(), &value)?;
        // What this commit itself has written is of no revision yet.
        let revision = self.planner.generation(&key).unwrap_or_default();
        Ok(Some(value.into_object(id.clone(), revision)))
    }
}

/// The key that is there as long as the target is.
fn target_key(reference: &Reference) -> Option<String> {
    Some(match reference.target.target() {
        Target::Network(vni) => keys::network(vni),
        Target::Node(name) => keys::node(&name),
        Target::Endpoint(name) => keys::endpoint_name(&name),
        Target::Object(id) => keys::object(&id),
        Target::Nothing => return None,
    })
}
