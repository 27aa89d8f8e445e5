//! What both backends do with objects: their stored value, and what goes along when something is removed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{RegistryError, rules};
use crate::model::{Claim, Object, ObjectId, OnRemoval, Reference, Revision};

/// An object without its kind, key and revision, which the backend has beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectValue {
    body: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    claims: Vec<Claim>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<Reference>,
}

impl From<&Object> for ObjectValue {
    fn from(object: &Object) -> Self {
        Self {
            body: object.body.clone(),
            claims: object.claims.clone(),
            references: object.references.clone(),
        }
    }
}

impl ObjectValue {
    pub(super) fn into_object(self, id: ObjectId, revision: Revision) -> Object {
        let Self {
            body,
            claims,
            references,
        } = self;
        Object {
            id,
            body,
            claims,
            references,
            revision,
        }
    }
}

/// Whether an object is to be written. Refuses one that is not as it was when it was looked at.
pub(super) fn is_news(object: &Object, previous: Option<&Object>) -> Result<bool, RegistryError> {
    match previous {
        Some(previous) if previous.is_same(object) => Ok(false),
        Some(previous) if previous.revision == object.revision && object.revision != 0 => Ok(true),
        Some(_) if object.revision == 0 => Err(rules::object_exists(&object.id)),
        Some(_) => Err(rules::object_changed_meanwhile(&object.id)),
        None if object.revision == 0 => Ok(true),
        None => Err(rules::missing_object(&object.id)),
    }
}

/// The objects that go when `going` do. Refused if another one that stays refers to any of them; `called` is
/// what the user wants to remove.
///
/// All that goes is found before anything is refused: what goes itself forbids nothing, whatever the order.
pub(super) fn going_along<E: From<RegistryError>>(
    called: &str,
    going: Vec<ObjectId>,
    mut referrers: impl FnMut(&ObjectId) -> Result<Vec<(ObjectId, OnRemoval)>, E>,
) -> Result<Vec<ObjectId>, E> {
    let mut seen: BTreeSet<ObjectId> = going.iter().cloned().collect();
    let (mut queue, mut along, mut staying) = (going, Vec::new(), Vec::new());
    while let Some(target) = queue.pop() {
        for (referrer, on_removal) in referrers(&target)? {
            match on_removal {
                OnRemoval::Restrict => staying.push((referrer, target.clone())),
                OnRemoval::Cascade => {
                    if seen.insert(referrer.clone()) {
                        along.push(referrer.clone());
                        queue.push(referrer);
                    }
                }
            }
        }
    }
    staying.retain(|(referrer, _)| !seen.contains(referrer));
    let Some((_, target)) = staying.first().cloned() else {
        return Ok(along);
    };
    let by = staying.into_iter();
    let by: Vec<ObjectId> = by
        .filter_map(|(referrer, of)| (of == target).then_some(referrer))
        .collect();
    let refusal = if along.contains(&target) {
        rules::still_referred(&format_args!("{target}, which goes with {called},"), &by)
    } else {
        rules::still_referred(&called, &by)
    };
    Err(refusal.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(word: &str) -> ObjectId {
        ObjectId::from_word(word).unwrap()
    }

    /// `references`: who refers to what, and whether that keeps the other.
    fn removal(of: &str, references: &[(&str, &str, bool)]) -> Result<Vec<String>, String> {
        let referrers = |target: &ObjectId| {
            let all = references.iter().filter(|(_, to, _)| id(to) == *target);
            Ok::<_, RegistryError>(
                all.map(|(from, _, keeps)| {
                    let on_removal = if *keeps {
                        OnRemoval::Restrict
                    } else {
                        OnRemoval::Cascade
                    };
                    (id(from), on_removal)
                })
                .collect(),
            )
        };
        let along = going_along("it", vec![id(of)], referrers);
        along
            .map(|along| along.iter().map(ObjectId::to_word).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_goes_takes_along_what_cascades_and_what_stays_forbids_it() {
        let chain = [("b/1", "a/1", false), ("c/1", "b/1", false)];
        assert_eq!(removal("a/1", &chain), Ok(vec!["b/1".into(), "c/1".into()]));
        assert_eq!(removal("c/1", &chain), Ok(vec![]));
        let kept = [
            ("b/1", "a/1", true),
            ("b/2", "a/1", true),
            ("b/3", "a/1", true),
        ];
        assert_eq!(
            removal("a/1", &kept[..1]).unwrap_err(),
            "it is still referred to by b 1: remove that one first"
        );
        assert_eq!(
            removal("a/1", &kept).unwrap_err(),
            "it is still referred to by b 1, b 2, ...: remove them first"
        );
        let indirectly = [("b/1", "a/1", false), ("c/1", "b/1", true)];
        assert_eq!(
            removal("a/1", &indirectly).unwrap_err(),
            "b 1, which goes with it, is still referred to by c 1: remove that one first"
        );
    }

    #[test]
    fn circles_end_and_the_order_does_not_matter() {
        let circle = [("b/1", "a/1", false), ("a/1", "b/1", false)];
        assert_eq!(removal("a/1", &circle), Ok(vec!["b/1".into()]));
        for references in [
            [
                ("b/1", "a/1", false),
                ("c/1", "b/1", true),
                ("c/1", "a/1", false),
            ],
            [
                ("c/1", "a/1", false),
                ("c/1", "b/1", true),
                ("b/1", "a/1", false),
            ],
        ] {
            let mut along = removal("a/1", &references).unwrap();
            along.sort_unstable();
            assert_eq!(along, ["b/1", "c/1"]);
        }
    }
}
