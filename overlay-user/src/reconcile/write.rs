//! Writes to the kernel's tables: large writes in the background, rows that a full table refuses, failures after
//! which the tables need a sweep.

use std::{collections::BTreeSet, panic::resume_unwind, sync::Arc, thread};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    apply::{Applier, SmallTablesDirty, on_kernel},
    desired::Desired,
    mirror::{EndpointRef, Mirror},
    plan::Plan,
    tables::Derived,
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{FdbKey, FdbTarget, Name, NeighborKey, Row, Rows, Tables},
};

/// The number of rows from which a write gets a thread: fewer are written in less time than that takes. Tests
/// take the same way with fewer.
pub(super) const BACKGROUND_THRESHOLD: usize = if cfg!(test) { 1 } else { 256 };

/// A write whose result is still outstanding.
pub(super) struct PendingWrite {
    batch: Arc<Batch>,
    written: Written,
}

/// Many rows.
struct Batch {
    plan: Plan,
    /// None of them has another one's place to take.
    is_addition: bool,
}

impl Batch {
    fn write(&self, datapath: &dyn Datapath) -> WriteResult {
        let Plan { put, remove } = &self.plan;
        if self.is_addition {
            debug_assert_eq!(self.plan.rows(), put.fdb.len() + put.neighbors.len());
            datapath.add(&put.fdb, &put.neighbors)
        } else {
            datapath.write(put, remove)
        }
    }
}

/// Keys of rows that a full table may have refused.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    fdb: BTreeSet<FdbKey>,
    neighbors: BTreeSet<NeighborKey>,
}

impl Overflow {
    fn extend(&mut self, refused: &Tables) {
        self.fdb.extend(refused.fdb.keys());
        self.neighbors.extend(refused.neighbors.keys());
    }

    /// The desired rows of these keys.
    fn rows(self, desired: &Desired<'_>) -> Tables {
        fn of<R: Derived<Id = <R as Row>::Key>>(
            desired: &Desired<'_>,
            keys: BTreeSet<R::Key>,
        ) -> Rows<R> {
            let rows = keys.into_iter();
            rows.filter_map(|key| R::desired(desired, &key)).collect()
        }
        Tables {
            fdb: of(desired, self.fdb),
            neighbors: of(desired, self.neighbors),
            ..Tables::default()
        }
    }
}

enum Written {
    InFlight(thread::JoinHandle<WriteResult>),
    Done(WriteResult),
}

type WriteResult = Result<(), DatapathError>;

impl Applier {
    /// Writes to the kernel's tables. After a failure, what they hold is looked at before long. Rows
    /// that a full one refuses are no failure yet: see [`Self::overflow`].
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), String> {
        let former = self.finish_write();
        if plan.is_empty() {
            return former;
        }
        self.has_written = true;
        let write = || self.datapath.write(&plan.put, &plan.remove);
        let written = if plan.rows() < BACKGROUND_THRESHOLD {
            write()
        } else {
            on_kernel(write)
        };
        let written = self.record_result(plan, written);
        former.and(written)
    }

    /// The same, while the loop goes on, for example with the next page of a reading. Gives what came of
    /// the write before it.
    pub(super) fn write_behind(&mut self, plan: Plan, is_addition: bool) -> Result<(), String> {
        let former = self.finish_write();
        self.has_written = true;
        let batch = Arc::new(Batch {
            plan,
            is_addition: is_addition && self.is_filling,
        });
        let written = match self.begin_write(&batch) {
            Some(thread) => Written::InFlight(thread),
            None => Written::Done(on_kernel(|| batch.write(&*self.datapath))),
        };
        self.pending = Some(PendingWrite { batch, written });
        former
    }

    /// Writes on a thread of its own, if there may be one: a runtime of one thread has none.
    fn begin_write(&self, batch: &Arc<Batch>) -> Option<thread::JoinHandle<WriteResult>> {
        if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
            return None;
        }
        let (datapath, batch) = (Arc::clone(&self.datapath), Arc::clone(batch));
        let work = move || batch.write(&*datapath);
        let thread = thread::Builder::new().name("write".to_owned());
        thread.spawn(work).ok()
    }

    /// Waits for the write that is under way, if one is.
    pub(super) fn finish_write(&mut self) -> Result<(), String> {
        let Some(PendingWrite { batch, written }) = self.pending.take() else {
            return Ok(());
        };
        let written = match written {
            Written::Done(written) => written,
            Written::InFlight(thread) => {
                on_kernel(|| thread.join()).unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        self.record_result(&batch.plan, written)
    }

    fn record_result(&mut self, plan: &Plan, written: WriteResult) -> Result<(), String> {
        let Err(error) = written else {
            return Ok(());
        };
        if let Some(refused) = error.refused_endpoints() {
            self.refused += usize::try_from(refused).unwrap_or(usize::MAX);
            self.overflow.extend(&plan.put);
            return Ok(());
        }
        if matches!(error, DatapathError::Full { .. }) {
            self.small_tables_dirty
                .get_or_insert(SmallTablesDirty::Full);
        } else {
            self.small_tables_dirty = Some(SmallTablesDirty::Failed);
            self.mark_dirty();
        }
        let error = error.to_string();
        let to = plan.put.fdb.values().filter_map(|row| match row.target {
            FdbTarget::Local { ifindex, .. } => Some(ifindex),
            FdbTarget::Remote { .. } => None,
        });
        let ifindexes = to.chain(plan.put.endpoints.keys().copied()).collect();
        self.mark_degraded_at(&ifindexes, &error);
        Err(error)
    }

    /// Marks the endpoints with these interfaces as degraded.
    pub(super) fn mark_degraded_at(&mut self, ifindexes: &BTreeSet<u32>, error: &str) {
        let its = ifindexes.iter();
        let names: Vec<Name> = its
            .filter_map(|ifindex| self.host.endpoints.at(*ifindex).cloned())
            .collect();
        self.mark_degraded(names, error);
    }

    /// Asks or tells the datapath something short, for which a large write under way may have to end.
    pub(super) fn on_datapath<T>(&self, work: impl FnOnce(&dyn Datapath) -> T) -> T {
        if self.pending.is_some() {
            on_kernel(|| work(&*self.datapath))
        } else {
            work(&*self.datapath)
        }
    }

    /// The tables may differ from the books.
    fn mark_dirty(&mut self) {
        self.needs_sweep = true;
        self.is_filling = false;
    }

    /// How many rows full tables have refused since [`Self::retry_overflow`], if any.
    pub(super) fn overflow(&self) -> Option<usize> {
        (self.refused > 0).then_some(self.refused)
    }

    /// Writes them again, now that there may be room. What finds none now is in doubt.
    pub(super) fn retry_overflow(&mut self, mirror: &Mirror) -> Result<(), String> {
        self.refused = 0;
        let put = std::mem::take(&mut self.overflow).rows(&self.desired(mirror));
        let written = on_kernel(|| self.datapath.write(&put, &Tables::default()));
        written.map_err(|error| {
            let owners = put
                .fdb
                .keys()
                .filter_map(|key| mirror.by_mac(key.vni, key.mac));
            let local = owners
                .filter(EndpointRef::is_local)
                .map(|known| known.name().clone());
            let error = error.to_string();
            self.mark_dirty();
            self.mark_degraded(local.collect::<Vec<_>>(), &error);
            error
        })
    }
}
