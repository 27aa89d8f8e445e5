//! Writes the kernel's tables: large writes in the background, rows that a full table refuses, failures after
//! which the tables need a sweep.

use std::{collections::BTreeSet, panic::resume_unwind, sync::Arc, thread};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task,
};

use super::{desired::Desired, plan::Plan, tables::Derived};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{FdbKey, FdbTarget, NeighborKey, Row, Rows, Tables},
};

/// The number of rows from which a write gets a thread: fewer are written in less time than that takes. Tests
/// take the same way with fewer.
pub(super) const BACKGROUND_THRESHOLD: usize = if cfg!(test) { 1 } else { 256 };

/// Writes the kernel's tables, and knows how far they can be trusted.
pub(super) struct Writer {
    pub(super) datapath: Arc<dyn Datapath>,
    /// Whether rows were written since the flag was last taken.
    pub(super) has_written: bool,
    /// The tables may differ from the digests: a write failed, or a previous agent left its rows.
    pub(super) needs_sweep: bool,
    /// The maps were empty at the start, and hold nothing but what the digests count.
    pub(super) is_filling: bool,
    /// Why the small tables need a repair.
    pub(super) small_tables_dirty: Option<SmallTablesDirty>,
    pending: Option<PendingWrite>,
    /// Rows of writes that a full table refused in part, and the number of refused rows.
    overflow: Overflow,
    refused: usize,
    /// Failures whose endpoints are not marked yet.
    hits: Vec<Hit>,
}

/// Why the small tables need a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SmallTablesDirty {
    /// They were not read yet: a previous agent wrote them.
    Unread,
    /// One is full: every check of the host tries again.
    Full,
    /// A write failed.
    Failed,
}

/// A failed write, and the interfaces whose endpoints it was about.
pub(super) struct Hit {
    pub(super) ifindexes: BTreeSet<u32>,
    /// Why, in a line.
    pub(super) reason: String,
}

/// A write whose result is still outstanding.
struct PendingWrite {
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
struct Overflow {
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

impl Writer {
    /// Nothing is written yet.
    pub(super) fn new(datapath: Arc<dyn Datapath>) -> Self {
        let is_blank = is_blank(&*datapath);
        Self {
            datapath,
            has_written: false,
            // What a previous agent left has to be looked through; a million rows take seconds.
            needs_sweep: !is_blank,
            is_filling: is_blank,
            small_tables_dirty: Some(SmallTablesDirty::Unread),
            pending: None,
            overflow: Overflow::default(),
            refused: 0,
            hits: Vec::new(),
        }
    }

    /// Whether a write is under way.
    pub(super) fn is_writing(&self) -> bool {
        self.pending.is_some()
    }

    /// Writes to the kernel's tables. After a failure, what they hold is looked at before long. Rows
    /// that a full one refuses are no failure yet: see [`Self::overflow`].
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), String> {
        let previous = self.finish();
        if plan.is_empty() {
            return previous;
        }
        self.has_written = true;
        let write = || self.datapath.write(&plan.put, &plan.remove);
        let written = if plan.rows() < BACKGROUND_THRESHOLD {
            write()
        } else {
            on_kernel(write)
        };
        let written = self.record_result(plan, written);
        previous.and(written)
    }

    /// The same, while the loop goes on, for example with the next page of a reading. Gives what came of
    /// the write before it.
    pub(super) fn write_behind(&mut self, plan: Plan, is_addition: bool) -> Result<(), String> {
        let previous = self.finish();
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
        previous
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
    pub(super) fn finish(&mut self) -> Result<(), String> {
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
        self.hits.push(Hit {
            ifindexes: to.chain(plan.put.endpoints.keys().copied()).collect(),
            reason: error.clone(),
        });
        Err(error)
    }

    /// The endpoints' interfaces that failed writes were about, since the last call.
    pub(super) fn take_hits(&mut self) -> Vec<Hit> {
        std::mem::take(&mut self.hits)
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
    pub(super) fn mark_dirty(&mut self) {
        self.needs_sweep = true;
        self.is_filling = false;
    }

    /// How many rows full tables have refused since [`Self::retry_overflow`], if any.
    pub(super) fn overflow(&self) -> Option<usize> {
        (self.refused > 0).then_some(self.refused)
    }

    /// Writes them again, now that there may be room. After a failure: keys of rows that may have found none, and why.
    pub(super) fn retry_overflow(
        &mut self,
        desired: &Desired<'_>,
    ) -> Result<(), (Vec<FdbKey>, String)> {
        self.refused = 0;
        let put = std::mem::take(&mut self.overflow).rows(desired);
        let written = on_kernel(|| self.datapath.write(&put, &Tables::default()));
        written.map_err(|error| {
            self.mark_dirty();
            (put.fdb.into_keys().collect(), error.to_string())
        })
    }
}

/// Whether no map holds anything.
fn is_blank(datapath: &dyn Datapath) -> bool {
    let usage = datapath.usage().unwrap_or_default();
    !usage.is_empty() && usage.values().all(|usage| usage.entries == 0)
}
/// Makes system calls that take their time, and lets the runtime's other threads take over its
/// other tasks meanwhile. A runtime of one thread has none. Few calls are made without that: to hand over
/// takes longer.
pub(crate) fn on_kernel<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => task::block_in_place(work),
        _ => work(),
    }
}
