//! The networks table: what holds for every endpoint of a network.

use super::Derived;
use crate::{
    model::{NetworkRow, Rows, Vni},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for NetworkRow {
    type Id = Vni;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Vni)) {
        if let Fact::Network(vni) = fact {
            mark(*vni);
        }
    }

    fn desired(desired: &Desired<'_>, vni: &Vni) -> Option<(Vni, Self)> {
        let network = desired.mirror.network(*vni)?;
        let row = Self {
            mtu: desired.usable_mtu(network),
            on_demand: desired.mirror.is_on_demand(*vni),
        };
        Some((*vni, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let networks = desired.mirror.networks();
        networks
            .filter_map(|network| Self::desired(desired, &network.vni))
            .collect()
    }
}
