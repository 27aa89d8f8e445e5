//! Sweeps the FDB and the neighbour table row by row, without a copy.
//!
//! It repairs wrong rows, removes unwanted ones, and finds missing ones by counting.

use std::collections::BTreeMap;

use super::{
    apply::Applier,
    cache::Lookup,
    desired::Desired,
    digest::{DigestByNetwork, Hash, Survey},
    mirror::{EndpointRef, Mirror},
    plan::{self, Plan},
    tables::Derived,
    writer::on_kernel,
};
use crate::{
    datapath::DatapathError,
    model::{FdbRow, Installed, NeighborRow, Row, Rows, Subject, Tables, Vni, Wanted},
};

/// How many wrong rows a look gathers before they are mended: bounds its memory.
const AT_ONCE: usize = 100_000;

/// How many looks a sweep takes at most. Tables that nobody else writes are right after the first or
/// the second, but for every [`AT_ONCE`] wrong rows there is one more.
const LOOKS: usize = 64;

/// How many endpoints' rows are written in one go.
const CHUNK: usize = 1000;

/// What a sweep found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Rows that were missing or wrong, and were written.
    pub put: u64,
    /// Rows that nobody wants, and were removed.
    pub removed: u64,
    /// Rows of on-demand networks that this agent has not asked the registry for: a previous one has.
    pub unknown: Vec<Lookup>,
    /// What could not be done.
    pub error: Option<String>,
}

/// One look at the tables.
#[derive(Debug, Default)]
struct Look {
    actual: DigestByNetwork,
    /// How many of its desired rows each network has, right or wrong.
    present: BTreeMap<Vni, u64>,
    /// What mends the wrong ones, or as many as fit.
    plan: Plan,
    wrong: usize,
    unknown: Vec<Lookup>,
    /// How many of those there may be.
    room: usize,
}

impl Applier {
    /// Corrects both tables. Up to `room` rows of on-demand networks that the mirror
    /// doesn't know stay until it is known what to make of them. The loop makes room for what
    /// a full table refuses.
    pub fn sweep(&mut self, mirror: &Mirror, room: usize) -> Sweep {
        let mut sweep = Sweep::default();
        // What it finds and leaves, the books don't have.
        self.writer.is_filling = false;
        for _ in 0..LOOKS {
            let look = match on_kernel(|| self.look(mirror, room)) {
                Ok(look) => look,
                Err(error) => {
                    sweep.error.get_or_insert(error.to_string());
                    return sweep;
                }
            };
            let short = self.short_networks(&look.present);
            self.digests.installed = look.actual;
            sweep.unknown = look.unknown;
            if look.wrong == 0 && short.is_empty() {
                self.mark_clean();
                self.orphaned.clear();
                return sweep;
            }
            if sweep.error.is_some() {
                return sweep;
            }
            sweep.put += (look.plan.put.fdb.len() + look.plan.put.neighbors.len()) as u64;
            sweep.removed += (look.plan.remove.fdb.len() + look.plan.remove.neighbors.len()) as u64;
            sweep.put += short.values().sum::<u64>();
            let mended = self.write(&look.plan);
            let of_short = mirror
                .endpoints()
                .filter(|known| short.contains_key(&known.vni()));
            let mended = mended.and(self.rewrite(mirror, of_short));
            let is_full = || self.writer.overflow().map(|_| "a map is full".to_owned());
            sweep.error = mended.err().or_else(is_full);
        }
        sweep.error = Some("somebody else changes the maps while they are compared".to_owned());
        sweep
    }

    /// Writes the rows of these endpoints, whether or not they are there already.
    pub(super) fn rewrite<'a>(
        &mut self,
        mirror: &Mirror,
        endpoints: impl Iterator<Item = EndpointRef<'a>>,
    ) -> Result<(), String> {
        let mut endpoints = endpoints.peekable();
        let mut result = Ok(());
        while endpoints.peek().is_some() {
            let mut plan = Plan::default();
            for known in endpoints.by_ref().take(CHUNK) {
                self.desired(mirror).put(&known.fact(), &mut plan.put);
            }
            result = result.and(self.write(&plan));
        }
        result
    }

    fn look(&self, mirror: &Mirror, room: usize) -> Result<Look, DatapathError> {
        let desired = self.desired(mirror);
        let may_ask = |vni, wanted| {
            let lookup = Lookup { vni, wanted };
            let is_open = mirror.is_on_demand(vni) && !self.orphaned.contains(&lookup);
            is_open.then_some(lookup)
        };
        let mut look = Look {
            room,
            ..Look::default()
        };
        self.writer.datapath.for_each_fdb(&mut |key, row: FdbRow| {
            let lookup = || may_ask(key.vni, Wanted::Mac(key.mac));
            look.compare(&desired, key, row, lookup, |tables| &mut tables.fdb);
        })?;
        self.writer
            .datapath
            .for_each_neighbor(&mut |key, row: NeighborRow| {
                let lookup = || may_ask(key.vni, Wanted::Ip(key.ip));
                look.compare(&desired, key, row, lookup, |tables| &mut tables.neighbors);
            })?;
        Ok(look)
    }

    /// How many rows each network lacks that lacks any.
    fn short_networks(&self, present: &BTreeMap<Vni, u64>) -> BTreeMap<Vni, u64> {
        let intended = self.digests.intended.iter();
        intended
            .map(|(vni, tally)| {
                (
                    vni,
                    tally.rows - present.get(&vni).unwrap_or(&0).min(&tally.rows),
                )
            })
            .filter(|(_, missing)| *missing > 0)
            .collect()
    }

    /// What the maps hold, to answer a question: read from the maps, and from nothing else.
    pub fn survey(&self, subject: &Subject) -> Result<Survey, DatapathError> {
        let mut survey = Survey::new(subject);
        on_kernel(|| {
            self.writer.datapath.for_each_fdb(&mut |key, row| {
                survey.see(Installed::Fdb {
                    key,
                    vtep: self.local.vtep_of(&row),
                    generation: row.generation,
                });
            })?;
            self.writer.datapath.for_each_neighbor(&mut |key, row| {
                survey.see(Installed::Neighbor {
                    key,
                    mac: row.mac,
                    generation: row.generation,
                });
            })
        })?;
        Ok(survey)
    }
}

impl Look {
    /// Compares a row with the desired one. Before a row is removed that is not desired, `lookup` asks the registry.
    fn compare<R: Derived<Id = <R as Row>::Key>>(
        &mut self,
        desired: &Desired<'_>,
        key: R::Key,
        row: R,
        lookup: impl FnOnce() -> Option<Lookup>,
        table: fn(&mut Tables) -> &mut Rows<R>,
    ) {
        let intended = desired.row::<R>(key);
        if let Some((vni, hash)) = R::hash(desired.local, key, &row) {
            self.count(vni, hash, intended.is_some());
        }
        if intended.is_none()
            && self.unknown.len() < self.room
            && let Some(lookup) = lookup()
        {
            self.unknown.push(lookup);
        } else if intended != Some(row) && self.may_mend() {
            let Plan { put, remove } = &mut self.plan;
            plan::push_change(key, Some(row), intended, table(put), table(remove));
        }
    }

    fn count(&mut self, vni: Vni, row: Hash, is_wanted: bool) {
        self.actual.replace(vni, None, Some(row));
        if is_wanted {
            *self.present.entry(vni).or_default() += 1;
        }
    }

    /// Counts a wrong row; `false`: there is no room for what mends it in this look.
    fn may_mend(&mut self) -> bool {
        self.wrong += 1;
        self.wrong <= AT_ONCE
    }
}
