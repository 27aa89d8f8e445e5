//! The neighbour table: whose MAC an address has.

use super::Derived;
use crate::{
    model::{NeighborKey, NeighborRow, Rows, Vni},
    reconcile::{
        desired::{Desired, Local},
        digest::{self, Hash},
        mirror::Fact,
    },
};

impl Derived for NeighborRow {
    type Id = NeighborKey;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(NeighborKey)) {
        if let Fact::Endpoint(endpoint) = fact {
            for ip in endpoint.ips() {
                mark(NeighborKey {
                    vni: endpoint.vni,
                    ip,
                });
            }
        }
    }

    fn desired(desired: &Desired<'_>, key: &NeighborKey) -> Option<(NeighborKey, Self)> {
        let owner = desired.mirror.by_ip(key.vni, key.ip)?;
        desired.target(&owner)?;
        let row = Self {
            mac: owner.mac(),
            generation: owner.generation(),
        };
        Some((*key, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let endpoints = desired.mirror.endpoints();
        let keys = endpoints.flat_map(|known| {
            let vni = known.vni();
            known.ips().map(move |ip| NeighborKey { vni, ip })
        });
        keys.filter_map(|key| Self::desired(desired, &key))
            .collect()
    }

    fn hash(_: &Local, key: NeighborKey, row: &Self) -> Option<(Vni, Hash)> {
        Some((key.vni, digest::of_neighbor(key, row.mac, row.generation)))
    }
}
