//! The kernel's tables, one file each: which rows a fact affects, and what each row shall be.
//!
//! A new table is a file here, one in `datapath/tables`, one in the ABI, and a line in
//! [`for_each_table`](crate::model).

mod endpoints;
mod fdb;
mod neighbors;
mod networks;
mod vteps;

use super::{
    desired::{Desired, Local},
    digest::Hash,
    mirror::Fact,
};
use crate::model::{Row, Rows, Vni};

/// A table whose rows follow from the registry's state and the host's.
pub trait Derived: Row {
    /// What identifies a row while its key is still open.
    type Id: Clone + Ord;

    /// Marks the rows that a fact affects.
    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Self::Id));

    /// What a row shall be. `None`: there shall be none.
    fn desired(desired: &Desired<'_>, id: &Self::Id) -> Option<(Self::Key, Self)>;

    /// Every row that shall be there.
    fn all(desired: &Desired<'_>) -> Rows<Self>;

    /// What the digest of its network counts the row as. `None`: it does not cover this table.
    fn hash(_local: &Local, _key: Self::Key, _row: &Self) -> Option<(Vni, Hash)> {
        None
    }
}
