//! The router ports table: who answers for each network that a router joins, or that answers DHCP.

use std::collections::BTreeSet;

use super::Derived;
use crate::{
    model::{Dhcp, Resource as _, RouterPort, RouterPortRow, Rows, Vni, responder},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for RouterPortRow {
    type Id = Vni;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Vni)) {
        match fact {
            Fact::Object(object) => {
                let port = RouterPort::known(object).map(|port| port.vni);
                if let Some(vni) = port.or_else(|| Dhcp::known(object).map(|dhcp| dhcp.vni)) {
                    mark(vni);
                }
            }
            // Of its subnets.
            Fact::Network(vni) => mark(*vni),
            Fact::Endpoint(_) | Fact::Node(_) => {}
        }
    }

    fn desired(desired: &Desired<'_>, vni: &Vni) -> Option<(Vni, Self)> {
        let mirror = desired.mirror;
        let port = mirror.object(&RouterPort::id((*vni).into()));
        let port = port.and_then(RouterPort::known);
        let is_on = mirror.object(&Dhcp::id_of(*vni)).is_some_and(Dhcp::is_on);
        let served = mirror.network(*vni).filter(|_| is_on);
        Some((*vni, responder(port.as_ref(), served)?))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let vnis = desired.mirror.objects().filter_map(|object| {
            let port = RouterPort::known(object).map(|port| port.vni);
            port.or_else(|| Dhcp::known(object).map(|dhcp| dhcp.vni))
        });
        let vnis: BTreeSet<Vni> = vnis.collect();
        let rows = vnis.iter().filter_map(|vni| Self::desired(desired, vni));
        rows.collect()
    }
}
