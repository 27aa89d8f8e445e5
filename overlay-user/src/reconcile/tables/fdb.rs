//! The FDB: the way to each endpoint, here or in a tunnel.

use super::Derived;
use crate::{
    model::{FdbKey, FdbRow, Rows, Vni},
    reconcile::{
        desired::{Desired, Local},
        digest::Hash,
        mirror::Fact,
    },
};

impl Derived for FdbRow {
    type Id = FdbKey;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(FdbKey)) {
        if let Fact::Endpoint(endpoint) = fact {
            mark(FdbKey {
                vni: endpoint.vni,
                mac: endpoint.mac,
            });
        }
    }

    fn desired(desired: &Desired<'_>, key: &FdbKey) -> Option<(FdbKey, Self)> {
        let owner = desired.mirror.by_mac(key.vni, key.mac)?;
        let row = Self {
            target: desired.target(&owner)?,
            generation: owner.generation(),
            ages: !owner.is_proactive(),
        };
        Some((*key, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let endpoints = desired.mirror.endpoints();
        let keys = endpoints.map(|known| FdbKey {
            vni: known.vni(),
            mac: known.mac(),
        });
        keys.filter_map(|key| Self::desired(desired, &key))
            .collect()
    }

    fn hash(local: &Local, key: FdbKey, row: &Self) -> Option<(Vni, Hash)> {
        Some((key.vni, local.hash_of(key, row)))
    }
}
