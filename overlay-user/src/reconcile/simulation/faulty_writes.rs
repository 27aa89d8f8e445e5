//! A write to the kernel's tables: it may stop half-way, and what it does is judged.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{kernel::Kernel, store::Inner};
use crate::model::{
    BlockRow, EndpointRow, FdbKey, FdbRow, FdbTarget, FloatRow, MeterRow, NeighborKey, NeighborRow,
    NetworkRow, OutsideRow, Revision, RouteRow, RouterPortRow, Row, Rows, Tables, Vni, Vtep,
    VtepRow, Wanted, for_each_table,
};

/// One write.
pub(super) struct FaultyWrites<'a> {
    pub(super) kernel: &'a mut Kernel,
    /// The registry as it is, and what it ever said.
    pub(super) truth: &'a Inner,
    /// Rows that each of the large tables takes.
    pub(super) capacity: usize,
    /// How many rows it still writes or removes.
    pub(super) left: usize,
    /// The agent is sure that the large tables have none of the keys.
    pub(super) is_addition: bool,
    /// How many found no place.
    pub(super) refused: u64,
    /// The generations of rows that it removed.
    pub(super) previous_fdb: BTreeMap<FdbKey, Revision>,
    pub(super) previous_neighbors: BTreeMap<NeighborKey, Revision>,
}

/// A row that the simulated kernel takes.
trait Simulated: Row {
    fn table(tables: &mut Tables) -> &mut Rows<Self>;

    /// Writes it over whatever is there.
    fn put(self, key: Self::Key, faulty_writes: &mut FaultyWrites<'_>) {
        Self::table(&mut faulty_writes.kernel.tables).insert(key, self);
    }

    /// It is gone.
    fn removed(self, _key: Self::Key, _writing: &mut FaultyWrites<'_>) {}
}

impl Simulated for NetworkRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.networks
    }
}

impl Simulated for RouterPortRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.router_ports
    }
}

impl Simulated for RouteRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.routes
    }
}

impl Simulated for OutsideRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.outside
    }
}

impl Simulated for FloatRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.floats
    }
}

impl Simulated for BlockRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.blocks
    }
}

impl Simulated for MeterRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.meters
    }
}

impl Simulated for VtepRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.vteps
    }
}

impl Simulated for EndpointRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.endpoints
    }
}

impl Simulated for NeighborRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.neighbors
    }

    fn put(self, key: NeighborKey, faulty_writes: &mut FaultyWrites<'_>) {
        faulty_writes.put_neighbor(key, self);
    }

    fn removed(self, key: NeighborKey, faulty_writes: &mut FaultyWrites<'_>) {
        faulty_writes
            .previous_neighbors
            .insert(key, self.generation);
        faulty_writes.kernel.littered.remove(&key);
    }
}

impl Simulated for FdbRow {
    fn table(tables: &mut Tables) -> &mut Rows<Self> {
        &mut tables.fdb
    }

    fn put(self, key: FdbKey, faulty_writes: &mut FaultyWrites<'_>) {
        faulty_writes.put_fdb(key, self);
    }

    fn removed(self, key: FdbKey, faulty_writes: &mut FaultyWrites<'_>) {
        faulty_writes.previous_fdb.insert(key, self.generation);
        faulty_writes.kernel.used.remove(&key);
        faulty_writes.kernel.tampered.remove(&key);
    }
}

macro_rules! run {
    ($($(#[$_:meta])* $table:ident: $row:ty,)+) => {
        impl FaultyWrites<'_> {
            /// Removals first, and the tables in the order of the real one.
            pub(super) fn run(&mut self, put: &Tables, remove: &Tables) {
                let removals: [&dyn Fn(&mut Self); _] =
                    [$(&|this| this.remove_rows(&remove.$table)),+];
                removals.into_iter().rev().for_each(|remove| remove(self));
                $(self.put_rows(&put.$table);)+
            }
        }
    };
}
for_each_table!(run);

impl FaultyWrites<'_> {
    fn put_rows<R: Simulated>(&mut self, rows: &Rows<R>) {
        for (key, row) in rows {
            if self.goes_on() {
                row.put(*key, self);
            }
        }
    }

    fn remove_rows<R: Simulated>(&mut self, rows: &Rows<R>) {
        for key in rows.keys() {
            if self.goes_on()
                && let Some(row) = R::table(&mut self.kernel.tables).remove(key)
            {
                row.removed(*key, self);
            }
        }
    }

    fn goes_on(&mut self) -> bool {
        let goes_on = self.left > 0;
        self.left = self.left.saturating_sub(1);
        goes_on
    }

    fn put_neighbor(&mut self, key: NeighborKey, row: NeighborRow) {
        let wanted = Wanted::Ip(key.ip);
        let held = self.previous_neighbors.get(&key).copied();
        self.judge(key.vni, wanted, held, row.generation);
        let said = (key.vni, key.ip, row.mac, row.generation);
        if !self.truth.ever.ips.contains(&said) {
            self.violation(format!("{key:?} {row:?} was never true"));
        }
        let there = self
            .kernel
            .tables
            .neighbors
            .get(&key)
            .map(|there| there.generation);
        if self.is_addition && there.is_some() && !self.kernel.littered.contains(&key) {
            self.violation(format!("{key:?} is there and was added"));
        }
        match there {
            Some(newer) if newer > row.generation && !self.is_addition => {}
            None if self.kernel.tables.neighbors.len() >= self.capacity => self.refused += 1,
            _ => {
                self.kernel.tables.neighbors.insert(key, row);
                self.kernel.littered.remove(&key);
            }
        }
    }

    fn put_fdb(&mut self, key: FdbKey, row: FdbRow) {
        let wanted = Wanted::Mac(key.mac);
        let held = self.previous_fdb.get(&key).copied();
        self.judge(key.vni, wanted, held, row.generation);
        if !self.was_true(&key, &row) {
            self.violation(format!("{key:?} {row:?} was never true"));
        }
        let there = self
            .kernel
            .tables
            .fdb
            .get(&key)
            .map(|there| there.generation);
        if self.is_addition && there.is_some() && !self.kernel.tampered.contains(&key) {
            self.violation(format!("{key:?} is there and was added"));
        }
        match there {
            Some(newer) if newer > row.generation && !self.is_addition => {}
            None if self.kernel.tables.fdb.len() >= self.capacity => self.refused += 1,
            _ => {
                self.kernel.tables.fdb.insert(key, row);
                self.kernel.used.insert(key, Instant::now());
                self.kernel.tampered.remove(&key);
            }
        }
    }

    /// Whether the registry ever said so.
    fn was_true(&self, key: &FdbKey, row: &FdbRow) -> bool {
        let ever = &self.truth.ever;
        let nodes = ever.macs.get(&(key.vni, key.mac, row.generation));
        let mut nodes = nodes.into_iter().flatten();
        match row.target {
            FdbTarget::Local { .. } => nodes.any(|node| node.as_str() == super::names::ME),
            FdbTarget::Remote { vtep, port } => {
                let ip = vtep;
                let vteps = |node| ever.vteps.get(node).into_iter().flatten();
                nodes.any(|node| vteps(node).any(|vtep| *vtep == Vtep { ip, port }))
            }
        }
    }

    /// Judges a row that is put where one was removed for it: an older generation must not take the
    /// place of one that is true. Generations of two histories don't compare.
    fn judge(&mut self, vni: Vni, wanted: Wanted, held: Option<Revision>, put: Revision) {
        let owner = self.truth.state.owner(vni, wanted);
        let true_now = owner.map(|owner| owner.generation);
        if let Some(held) = held
            && self.truth.history == 0
            && held > put
            && true_now == Some(held)
        {
            self.violation(format!(
                "{vni}/{wanted}: generation {put} took the place of {held}, which is true"
            ));
        }
    }

    fn violation(&mut self, what: String) {
        self.kernel.violations.push(what);
    }
}
