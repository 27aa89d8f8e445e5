//! What a change makes of the kernel's rows. Pure.

use std::collections::BTreeMap;

use super::{desired::Desired, digest::RowDigests, mirror::Fact, tables::Derived};
use crate::model::{Row, Rows, Tables, for_each_table};

/// Rows of one table that a change in progress affects, as they were before it.
#[derive(Debug)]
pub struct Before<R: Derived>(BTreeMap<R::Id, Option<(R::Key, R)>>);

impl<R: Derived> Default for Before<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Derived> Before<R> {
    /// Records a row as it is, unless it is recorded.
    pub fn record(&mut self, desired: &Desired<'_>, id: R::Id) {
        let Self(rows) = self;
        rows.entry(id)
            .or_insert_with_key(|id| R::desired(desired, id));
    }

    /// What identifies the rows.
    pub fn ids(&self) -> impl Iterator<Item = &R::Id> {
        self.0.keys()
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = (&R::Id, Option<&R>)> {
        let rows = self.0.iter();
        rows.map(|(id, before)| (id, before.as_ref().map(|(_, row)| row)))
    }

    /// Whether a write of these rows overwrites none: they are a large table's and were not there.
    fn is_addition(&self) -> bool {
        self.0
            .values()
            .all(|before| R::IS_LARGE && before.is_none())
    }

    /// The rows to put and those to remove first. Their digests are kept up to date.
    fn into_rows(self, desired: &Desired<'_>, digests: &mut RowDigests) -> (Rows<R>, Rows<R>) {
        let (mut put, mut remove) = (Rows::<R>::new(), Rows::<R>::new());
        for (id, before) in self.0 {
            let after = R::desired(desired, &id);
            if before == after {
                continue;
            }
            let hash = |row: Option<&(R::Key, R)>| {
                row.and_then(|(key, row)| R::hash(desired.local, *key, row))
            };
            let (old, new) = (hash(before.as_ref()), hash(after.as_ref()));
            if let Some((vni, _)) = old.or(new) {
                digests.replace(vni, old.map(|(_, hash)| hash), new.map(|(_, hash)| hash));
            }
            match (before, after) {
                (Some((key, before)), Some((same, after))) if key == same => {
                    push_change(key, Some(before), Some(after), &mut put, &mut remove);
                }
                (before, after) => {
                    remove.extend(before);
                    put.extend(after);
                }
            }
        }
        (put, remove)
    }
}

macro_rules! change_set {
    ($($(#[$_:meta])* $table:ident: $row:ty,)+) => {
        /// Rows affected by a change in progress, with their previous values.
        #[derive(Debug, Default)]
        pub struct ChangeSet {
            $(pub(super) $table: Before<$row>,)+
        }

        impl ChangeSet {
            /// Records the rows that a fact affects; to be called before it changes.
            pub fn record_before(&mut self, desired: &Desired<'_>, fact: &Fact<'_>) {
                $(<$row>::affected(fact, &mut |id| self.$table.record(desired, id));)+
            }

            /// Whether nothing was recorded.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                $(self.$table.0.is_empty())&&+
            }

            /// Whether the change writes rows of endpoints alone, and overwrites none.
            #[must_use]
            pub fn is_addition(&self) -> bool {
                $(self.$table.is_addition())&&+
            }

            /// What the change makes of its rows, now that it is done. Their digests are kept up to date.
            pub fn into_plan(self, desired: &Desired<'_>, digests: &mut RowDigests) -> Plan {
                let mut plan = Plan::default();
                $((plan.put.$table, plan.remove.$table) = self.$table.into_rows(desired, digests);)+
                plan
            }
        }

        impl Plan {
            /// The difference: `actual` with the plan carried out is `desired`.
            #[must_use]
            pub fn between(desired: &Tables, actual: &Tables) -> Self {
                let mut plan = Self::default();
                $((plan.put.$table, plan.remove.$table) =
                    difference::<$row>(&desired.$table, &actual.$table);)+
                plan
            }
        }
    };
}
for_each_table!(change_set);

/// What turns one state of the tables into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows to write.
    pub put: Tables,
    /// Rows to remove first.
    pub remove: Tables,
}

impl Plan {
    /// How many rows it writes and removes.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.put.rows() + self.remove.rows()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}

/// Plans that a row takes the place of another, or none of one. A row that goes back to an older
/// generation, the one of two claimants that is left for example, must be removed first.
pub(super) fn push_change<R: Row>(
    key: R::Key,
    before: Option<R>,
    after: Option<R>,
    put: &mut Rows<R>,
    remove: &mut Rows<R>,
) {
    let must_go = |row: &R| after.is_none_or(|after| row.generation() > after.generation());
    remove.extend(before.filter(must_go).map(|row| (key, row)));
    put.extend(after.map(|row| (key, row)));
}

/// The rows to put and those to remove first, to make `actual` what is desired.
fn difference<R: Row>(desired: &Rows<R>, actual: &Rows<R>) -> (Rows<R>, Rows<R>) {
    let (mut put, mut remove) = (Rows::<R>::new(), Rows::<R>::new());
    for (key, before) in actual {
        let after = desired.get(key);
        if after != Some(before) {
            push_change(*key, Some(*before), after.copied(), &mut put, &mut remove);
        }
    }
    let missing = desired.iter().filter(|(key, _)| !actual.contains_key(key));
    put.extend(missing.map(|(key, row)| (*key, *row)));
    (put, remove)
}

#[cfg(test)]
mod tests;
