//! What is under way with interfaces beside the loop.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{sync::Semaphore, time::Instant};

use super::work::Work;
use crate::{
    model::Name,
    platform::{PlatformError, Port, PortSpec},
};

/// How many of the interfaces that failed before are made at the same time, beside the loop.
const RETRIES_AT_ONCE: usize = 8;

/// Its interface, or why it has none.
pub(super) type Made = Result<Port, PlatformError>;
pub(super) type Making = Work<Made>;

/// What is under way beside the loop.
pub(super) struct AtWork {
    /// Endpoints whose interfaces are being made.
    pub(super) making: BTreeSet<Name>,
    /// How many were, well or not.
    pub(super) made: u64,
    /// What the loop has not yet sent on its way.
    pub(super) unsent: Vec<Unsent>,
    pub(super) retries: Arc<Semaphore>,
    /// When namespaces without ports are looked for. `None`: at the next look at the host.
    pub(super) next_orphans: Option<Instant>,
    /// The removal of such ones that is not over yet.
    pub(super) orphans: Option<Work<Result<(), PlatformError>>>,
}

/// Work that took longer than the loop waits.
pub(super) enum Unsent {
    Making(PortSpec, Making),
    Removal(Name, Work<Result<(), PlatformError>>),
}

impl Default for AtWork {
    fn default() -> Self {
        Self {
            making: BTreeSet::new(),
            made: 0,
            unsent: Vec::new(),
            retries: Arc::new(Semaphore::new(RETRIES_AT_ONCE)),
            next_orphans: None,
            orphans: None,
        }
    }
}
