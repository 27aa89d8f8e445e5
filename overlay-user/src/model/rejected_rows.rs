//! The rows that a reading leaves out, as they turn up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Rejected, RowId, Vni};

/// Rows that a reading could not read. Complete once its last page has come.
#[derive(Debug, Clone, Default)]
pub struct RejectedRows(Arc<Mutex<Vec<Rejected>>>);

impl RejectedRows {
    /// Notes one.
    pub fn push(&self, rejected: Rejected) {
        self.lock().push(rejected);
    }

    /// Notes several.
    pub fn extend(&self, rejected: Vec<Rejected>) {
        self.lock().extend(rejected);
    }

    /// Gives those so far, and forgets them.
    #[must_use]
    pub fn take(&self) -> Vec<Rejected> {
        std::mem::take(&mut self.lock())
    }

    /// The networks among those so far.
    #[must_use]
    pub fn networks(&self) -> Vec<Vni> {
        let rejected = self.lock();
        let networks = rejected.iter().filter_map(|rejected| match rejected.row {
            RowId::Network(vni) => Some(vni),
            _ => None,
        });
        networks.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Rejected>> {
        // Each change is a single step: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
