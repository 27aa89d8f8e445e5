//! A write to the kernel's tables: it may stop half-way, and what it does is judged.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{kernel::Kernel, store::Inner};
use crate::model::{
    FdbKey, FdbRow, FdbTarget, NeighborKey, NeighborRow, Revision, Tables, Vni, Vtep, Wanted,
};

/// One write.
pub(super) struct Writing<'a> {
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
    pub(super) former_fdb: BTreeMap<FdbKey, Revision>,
    pub(super) former_neighbors: BTreeMap<NeighborKey, Revision>,
}

impl Writing<'_> {
    /// Removals first, and the tables in the order of the real one.
    pub(super) fn run(&mut self, put: &Tables, remove: &Tables) {
        self.remove(remove);
        for (vni, row) in &put.networks {
            if self.goes_on() {
                self.kernel.networks.insert(*vni, *row);
            }
        }
        for (ip, row) in &put.vteps {
            if self.goes_on() {
                self.kernel.vteps.insert(*ip, *row);
            }
        }
        for (key, row) in &put.neighbors {
            if self.goes_on() {
                self.put_neighbor(*key, *row);
            }
        }
        for (key, row) in &put.fdb {
            if self.goes_on() {
                self.put_fdb(*key, *row);
            }
        }
        for (ifindex, row) in &put.endpoints {
            if self.goes_on() {
                self.kernel.endpoints.insert(*ifindex, *row);
            }
        }
    }

    fn goes_on(&mut self) -> bool {
        let goes_on = self.left > 0;
        self.left = self.left.saturating_sub(1);
        goes_on
    }

    fn remove(&mut self, rows: &Tables) {
        for ifindex in rows.endpoints.keys() {
            if self.goes_on() {
                self.kernel.endpoints.remove(ifindex);
            }
        }
        for key in rows.fdb.keys() {
            if self.goes_on() {
                let removed = self.kernel.fdb.remove(key);
                let former = removed.map(|row| (*key, row.generation));
                self.former_fdb.extend(former);
                self.kernel.used.remove(key);
                self.kernel.tampered.remove(key);
            }
        }
        for key in rows.neighbors.keys() {
            if self.goes_on() {
                let removed = self.kernel.neighbors.remove(key);
                let former = removed.map(|row| (*key, row.generation));
                self.former_neighbors.extend(former);
                self.kernel.littered.remove(key);
            }
        }
        for ip in rows.vteps.keys() {
            if self.goes_on() {
                self.kernel.vteps.remove(ip);
            }
        }
        for vni in rows.networks.keys() {
            if self.goes_on() {
                self.kernel.networks.remove(vni);
            }
        }
    }

    fn put_neighbor(&mut self, key: NeighborKey, row: NeighborRow) {
        let wanted = Wanted::Ip(key.ip);
        let held = self.former_neighbors.get(&key).copied();
        self.judge(key.vni, wanted, held, row.generation);
        let said = (key.vni, key.ip, row.mac, row.generation);
        if !self.truth.ever.ips.contains(&said) {
            self.accuse(format!("{key:?} {row:?} was never true"));
        }
        let there = self
            .kernel
            .neighbors
            .get(&key)
            .map(|there| there.generation);
        if self.is_addition && there.is_some() && !self.kernel.littered.contains(&key) {
            self.accuse(format!("{key:?} is there and was added"));
        }
        match there {
            Some(newer) if newer > row.generation && !self.is_addition => {}
            None if self.kernel.neighbors.len() >= self.capacity => self.refused += 1,
            _ => {
                self.kernel.neighbors.insert(key, row);
                self.kernel.littered.remove(&key);
            }
        }
    }

    fn put_fdb(&mut self, key: FdbKey, row: FdbRow) {
        let wanted = Wanted::Mac(key.mac);
        let held = self.former_fdb.get(&key).copied();
        self.judge(key.vni, wanted, held, row.generation);
        if !self.was_true(&key, &row) {
            self.accuse(format!("{key:?} {row:?} was never true"));
        }
        let there = self.kernel.fdb.get(&key).map(|there| there.generation);
        if self.is_addition && there.is_some() && !self.kernel.tampered.contains(&key) {
            self.accuse(format!("{key:?} is there and was added"));
        }
        match there {
            Some(newer) if newer > row.generation && !self.is_addition => {}
            None if self.kernel.fdb.len() >= self.capacity => self.refused += 1,
            _ => {
                self.kernel.fdb.insert(key, row);
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
            FdbTarget::Local { .. } => nodes.any(|node| node.as_str() == super::world::ME),
            FdbTarget::Remote { vtep, port } => {
                let ip = vtep.into();
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
            self.accuse(format!(
                "{vni}/{wanted}: generation {put} took the place of {held}, which is true"
            ));
        }
    }

    fn accuse(&mut self, what: String) {
        self.kernel.violations.push(what);
    }
}
