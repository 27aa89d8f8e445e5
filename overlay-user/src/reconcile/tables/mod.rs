//! The kernel's tables, one file each: which rows a fact affects, and the desired value of each.
//!
//! A new table is a file here, one in `datapath/tables`, one in the ABI, and a line in
//! [`for_each_table`](crate::model).

mod blocks;
mod endpoints;
mod fdb;
mod floats;
mod meters;
mod neighbors;
mod networks;
mod outside;
mod router_ports;
mod routes;
mod vteps;

use super::{
    desired::{Desired, Local},
    digest::Hash,
    mirror::Fact,
};
use crate::model::{Row, Rows, Tables, Vni, for_each_table};

/// A table whose rows follow from the registry's state and the host's.
pub trait Derived: Row {
    /// What identifies a row while its key is still open.
    type Id: Clone + Ord;

    /// Marks the rows that a fact affects.
    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Self::Id));

    /// The desired row. `None`: none is desired.
    fn desired(desired: &Desired<'_>, id: &Self::Id) -> Option<(Self::Key, Self)>;

    /// Every desired row.
    fn all(desired: &Desired<'_>) -> Rows<Self>;

    /// What the digest of its network counts the row as. `None`: it does not cover this table.
    fn hash(_local: &Local, _key: Self::Key, _row: &Self) -> Option<(Vni, Hash)> {
        None
    }
}

impl Desired<'_> {
    /// The desired row of a key.
    #[must_use]
    pub fn row<R: Derived<Id = <R as Row>::Key>>(&self, key: R::Key) -> Option<R> {
        R::desired(self, &key).map(|(_, row)| row)
    }
}

macro_rules! of_tables {
    ($($(#[$_:meta])* $table:ident: $row:ty,)+) => {
        impl Desired<'_> {
            /// The tables that don't have rows for each endpoint of the registry; the others are empty.
            #[must_use]
            pub fn small_tables(&self) -> Tables {
                let mut tables = Tables::default();
                $(if !<$row>::IS_LARGE {
                    tables.$table = <$row>::all(self);
                })+
                tables
            }

            /// Adds the rows that follow from a fact.
            pub(super) fn put(&self, fact: &Fact<'_>, tables: &mut Tables) {
                $(<$row>::affected(fact, &mut |id| {
                    tables.$table.extend(<$row>::desired(self, &id));
                });)+
            }
        }
    };
}
for_each_table!(of_tables);
