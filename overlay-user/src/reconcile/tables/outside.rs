//! The outside table: the external addresses that lead to endpoints.

use std::net::{IpAddr, Ipv4Addr};

use super::Derived;
use crate::{
    model::{Float, Name, Object, OutsideRow, Resource as _, Rows, SharedAddress},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for OutsideRow {
    type Id = Ipv4Addr;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Ipv4Addr)) {
        if let Fact::Object(object) = fact {
            let float = Float::known(object).map(|float| float.ip);
            let shared = || SharedAddress::known(object).map(|shared| shared.ip);
            if let Some(ip) = float.or_else(shared) {
                mark(ip);
            }
        }
    }

    /// Floats are known everywhere: a host that gets a packet for one that has moved sends it on. Addresses that are
    /// shared lead to endpoints of one host.
    fn desired(desired: &Desired<'_>, ip: &Ipv4Addr) -> Option<(Ipv4Addr, Self)> {
        let node = &desired.local.node;
        let float = desired.mirror.object(&Float::id(IpAddr::V4(*ip).into()));
        let shared = [false, true].map(|own| SharedAddress::key_of(*ip, node, own));
        let shared = shared.map(|key| desired.mirror.object(&SharedAddress::id(key)));
        let objects = [float].into_iter().chain(shared).flatten();
        let mut rows = objects.filter_map(|object| row_of(object, node));
        rows.find(|(its, _)| its == ip)
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let objects = desired.mirror.objects();
        objects
            .filter_map(|object| row_of(object, &desired.local.node))
            .collect()
    }
}

fn row_of(object: &Object, node: &Name) -> Option<(Ipv4Addr, OutsideRow)> {
    if let Some(Float { ip, vni, own, .. }) = Float::known(object) {
        return Some((ip, OutsideRow::Float { vni, own }));
    }
    let shared = SharedAddress::known(object).filter(|shared| shared.node == *node)?;
    let block = shared.block;
    let row = match shared.pool {
        Some(_) => OutsideRow::Shared { block },
        None => OutsideRow::Host { block },
    };
    Some((shared.ip, row))
}
