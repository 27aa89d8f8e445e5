//! A resource: an object whose kind this binary knows.
//!
//! A new kind is a type that implements [`Resource`] and a line in [`KINDS`](super::KINDS). The backends, the backups, the
//! checks and the mirror need nothing else.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Claim, Key, Kind, Object, ObjectId, Reference, Rejected, RowId};

/// Desired state that is neither network, node nor endpoint. Resources are few: every reader gets all of them.
///
/// Its fields are its object's body. Fields that it does not have stay as they are, but for those of list
/// entries: a list is one value.
pub trait Resource: Serialize + DeserializeOwned {
    /// What it is, for example `router`: see [`Kind`].
    const KIND: Kind;

    /// Which one it is: who has what it claims.
    fn key(&self) -> Key;

    /// What it alone has.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// What has to exist for it to.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }

    /// Whether it makes sense in itself; why not, in a line.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The name of the one with this key.
    #[must_use]
    fn id(key: Key) -> ObjectId {
        ObjectId {
            kind: Self::KIND,
            key,
        }
    }

    /// Its object, before it is made.
    fn to_object(&self) -> Result<Object, String> {
        self.check()?;
        Ok(Object {
            id: Self::id(self.key()),
            body: fields(self)?,
            claims: self.claims(),
            references: self.references(),
            revision: 0,
        })
    }

    /// From its object.
    fn of(object: &Object) -> Result<Self, String> {
        let body = Value::Object(object.body.clone());
        let resource: Self = serde_json::from_value(body).map_err(|error| error.to_string())?;
        resource.check()?;
        if resource.key() == object.id.key {
            Ok(resource)
        } else {
            Err(format!("its fields are those of key {}", resource.key()))
        }
    }

    /// From an object that may be of another kind. `None`: it is, or it makes no sense.
    #[must_use]
    fn known(object: &Object) -> Option<Self> {
        (object.id.kind == Self::KIND).then(|| Self::of(object).ok())?
    }

    /// `previous` with what this says. What a newer binary has added to it stays: fields, claims, references.
    fn update(&self, previous: &Object) -> Result<Object, String> {
        let (known, new) = (Self::of(previous)?, self.to_object()?);
        let mut body = previous.body.clone();
        replace(&mut body, &fields(&known)?, new.body);
        Ok(Object {
            body,
            claims: replaced(&previous.claims, &known.claims(), new.claims),
            references: replaced(&previous.references, &known.references(), new.references),
            revision: previous.revision,
            id: new.id,
        })
    }
}

fn fields(resource: &impl Serialize) -> Result<Map<String, Value>, String> {
    match serde_json::to_value(resource) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("a resource is a structure".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts `new` in the place of `known`, and leaves alone what is beside it.
pub(crate) fn replace(
    body: &mut Map<String, Value>,
    known: &Map<String, Value>,
    new: Map<String, Value>,
) {
    body.retain(|name, _| !known.contains_key(name) || new.contains_key(name));
    for (name, value) in new {
        match (body.get_mut(&name), known.get(&name), value) {
            (Some(Value::Object(body)), Some(Value::Object(known)), Value::Object(new)) => {
                replace(body, known, new);
            }
            (_, _, value) => drop(body.insert(name, value)),
        }
    }
}

fn replaced<T: PartialEq + Clone>(all: &[T], known: &[T], new: Vec<T>) -> Vec<T> {
    let unknown = all
        .iter()
        .filter(|one| !known.contains(one) && !new.contains(one));
    let unknown: Vec<T> = unknown.cloned().collect();
    new.into_iter().chain(unknown).collect()
}

/// A kind that this binary knows: its objects are followed if they make sense.
#[derive(Clone)]
pub struct KnownKind {
    kind: Kind,
    check: fn(&Object) -> Result<(), String>,
}

impl KnownKind {
    /// That of a resource.
    #[must_use]
    pub const fn of<R: Resource>() -> Self {
        Self {
            kind: R::KIND,
            check: |object| R::of(object).map(drop),
        }
    }
}

impl fmt::Debug for KnownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl Kind {
    /// Whether it is among `kinds`.
    #[must_use]
    pub fn is_known(&self, kinds: &[KnownKind]) -> bool {
        kinds.iter().any(|known| known.kind == *self)
    }
}

impl Object {
    /// Whether it makes sense as far as its kind is known.
    pub fn check(&self, kinds: &[KnownKind]) -> Result<(), Rejected> {
        let mut kinds = kinds.iter();
        let known = kinds.find(|known| known.kind == self.id.kind);
        let checked = known.map_or(Ok(()), |known| (known.check)(self));
        checked.map_err(|why| Rejected::new(RowId::Object(self.id.clone()), why))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::model::Name;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Router {
        name: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<u32>,
        limits: Limits,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Limits {
        flows: u32,
    }

    impl Resource for Router {
        const KIND: Kind = Kind::new("router");

        fn key(&self) -> Key {
            (&self.name).into()
        }

        fn claims(&self) -> Vec<Claim> {
            vec![unique(&self.limits.flows.to_string())]
        }

        fn check(&self) -> Result<(), String> {
            if self.mtu == Some(0) {
                return Err("no packet fits".to_owned());
            }
            Ok(())
        }
    }

    fn unique(value: &str) -> Claim {
        Claim::Unique {
            space: "flows".parse().unwrap(),
            value: value.parse().unwrap(),
            quarantine_s: 0,
        }
    }

    fn router(mtu: Option<u32>, flows: u32) -> Router {
        Router {
            name: "r1".parse().unwrap(),
            mtu,
            limits: Limits { flows },
        }
    }

    #[test]
    fn a_resource_is_its_object() {
        let object = router(Some(1400), 7).to_object().unwrap();
        assert_eq!(object.id.to_string(), "router r1");
        assert_eq!(Router::of(&object), Ok(router(Some(1400), 7)));
        assert!(router(Some(0), 7).to_object().is_err());
    }

    #[test]
    fn what_a_newer_binary_has_added_stays() {
        let mut previous = router(Some(1400), 7).to_object().unwrap();
        previous.revision = 9;
        previous.body.insert("color".to_owned(), "red".into());
        previous.body["limits"]["packets"] = 3.into();
        previous.claims.push(unique("other"));
        let updated = router(None, 8).update(&previous).unwrap();
        assert_eq!(
            Value::Object(updated.body),
            serde_json::json!({"name": "r1", "color": "red", "limits": {"flows": 8, "packets": 3}})
        );
        assert_eq!(updated.claims, [unique("8"), unique("other")]);
        assert_eq!(updated.revision, 9);
    }

    #[test]
    fn an_object_of_a_known_kind_has_to_make_sense() {
        let kinds = [KnownKind::of::<Router>()];
        let good = router(None, 7).to_object().unwrap();
        assert_eq!(good.check(&kinds), Ok(()));
        for body in [
            serde_json::json!({}),
            serde_json::json!({"name": "r1", "mtu": 0, "limits": {"flows": 1}}),
            serde_json::json!({"name": "r2", "limits": {"flows": 1}}),
        ] {
            let Value::Object(body) = body else {
                unreachable!()
            };
            let bad = Object {
                body,
                ..good.clone()
            };
            let rejected = bad.check(&kinds).unwrap_err();
            assert!(
                rejected.to_string().starts_with("router r1 is left out: "),
                "{rejected}"
            );
            assert_eq!(bad.check(&[]), Ok(()));
        }
    }
}
