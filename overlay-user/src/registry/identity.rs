//! Which store is followed, so that another one found in its place changes nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::RegistryError;
use crate::model::RegistryId;

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

    /// Follows this store from now on. `None`: as after [`Self::new`].
    pub(super) fn replace(&self, identity: Option<RegistryId>) {
        *self.lock() = identity;
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
    fn only_the_store_that_is_followed_passes() {
        let (ours, other) = (RegistryId::random(), RegistryId::random());
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
