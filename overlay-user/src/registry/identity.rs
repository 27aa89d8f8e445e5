//! Which store is followed, so that another one found in its place changes nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::RegistryError;
use crate::model::RegistryId;

/// An identity that no other registry has: 122 random bits.
#[must_use]
pub(super) fn random() -> RegistryId {
    Uuid::new_v4().into()
}

/// The identity of the store that this process follows; shared by all that use the backend.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<Option<RegistryId>>);

impl Followed {
    /// `None`: the first store that is found.
    pub(super) fn new(expected: Option<RegistryId>) -> Self {
        Self(Mutex::new(expected))
    }

    /// The identity, once it is known.
    pub(super) fn get(&self) -> Option<RegistryId> {
        *self.lock()
    }

    /// Follows this store, and again the previous one if what is given back is dropped before it is kept.
    /// `None`: as after [`Self::new`].
    pub(super) fn adopt(&self, identity: Option<RegistryId>) -> Adoption<'_> {
        let previous = std::mem::replace(&mut *self.lock(), identity);
        Adoption {
            followed: self,
            previous,
            is_kept: false,
        }
    }

    /// Follows this store, if none is followed yet.
    pub(super) fn follow_first(&self, identity: RegistryId) {
        self.lock().get_or_insert(identity);
    }

    /// Refuses a store with another identity, or with none; `registry` is what it is called: `registry
    /// etcd://10.0.0.1:2379`.
    pub(super) fn check(
        &self,
        registry: &str,
        found: Option<RegistryId>,
    ) -> Result<(), RegistryError> {
        match self.get() {
            Some(expected) if found != Some(expected) => Err(foreign(registry, found, expected)),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<RegistryId>> {
        // One word is replaced by another: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another store is followed, as long as nothing goes wrong.
#[must_use = "dropped, it puts the previous store back"]
pub(super) struct Adoption<'a> {
    followed: &'a Followed,
    previous: Option<RegistryId>,
    is_kept: bool,
}

impl Adoption<'_> {
    /// It is followed for good.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Adoption<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            *self.followed.lock() = self.previous;
        }
    }
}

fn foreign(registry: &str, found: Option<RegistryId>, expected: RegistryId) -> RegistryError {
    let what = match found {
        Some(found) => format!("has identity {found}"),
        None => "has no identity, as if it was emptied,".to_owned(),
    };
    RegistryError::Foreign(format!(
        "{registry} is not the one that this host follows: it {what} and not {expected}; nothing is \
         removed and traffic goes on; bring the right one back, or see what `overlay registry adopt` \
         would remove"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adoption_that_fails_leaves_the_previous_store_followed() {
        let (ours, other) = (random(), random());
        let followed = Followed::new(Some(ours));
        for identity in [None, Some(other)] {
            let adoption = followed.adopt(identity);
            assert_eq!(followed.get(), identity);
            drop(adoption);
            assert_eq!(followed.get(), Some(ours));
        }
        followed.adopt(Some(other)).keep();
        assert_eq!(followed.get(), Some(other));
    }

    #[test]
    fn only_the_store_that_is_followed_passes() {
        let (ours, other) = (random(), random());
        let followed = Followed::default();
        followed.check("registry r", None).unwrap();
        followed.check("registry r", Some(other)).unwrap();
        followed.follow_first(ours);
        followed.check("registry r", Some(ours)).unwrap();
        for found in [None, Some(other)] {
            let line = followed.check("registry r", found).unwrap_err().to_string();
            assert!(line.contains("overlay registry adopt"), "{line}");
            assert!(
                line.contains(&ours.to_string()) && !line.contains('\n'),
                "{line}"
            );
        }
    }
}
