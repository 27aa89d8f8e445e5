//! The router ports table: the gateway of each network that a router joins.

use std::net::IpAddr;

use super::Derived;
use crate::{
    model::{Resource as _, RouterPort, RouterPortRow, Rows, Vni},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for RouterPortRow {
    type Id = Vni;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Vni)) {
        if let Fact::Object(object) = fact
            && let Some(port) = RouterPort::known(object)
        {
            mark(port.vni);
        }
    }

    fn desired(desired: &Desired<'_>, vni: &Vni) -> Option<(Vni, Self)> {
        let object = desired.mirror.object(&RouterPort::id((*vni).into()))?;
        Some((*vni, row_of(&RouterPort::of(object).ok()?)))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let ports = desired.mirror.objects().filter_map(RouterPort::known);
        ports.map(|port| (port.vni, row_of(&port))).collect()
    }
}

fn row_of(port: &RouterPort) -> RouterPortRow {
    let mut row = RouterPortRow {
        router: port.router_id,
        mac: port.mac,
        ipv4: None,
        ipv6: None,
    };
    for gateway in port.gateways() {
        match gateway {
            IpAddr::V4(ip) => row.ipv4 = Some(ip),
            IpAddr::V6(ip) => row.ipv6 = Some(ip),
        }
    }
    row
}
