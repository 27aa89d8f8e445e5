//! The routes table: where each router sends packets.

use ipnet::IpNet;

use super::Derived;
use crate::{
    model::{
        Object, Resource as _, Route, RouteKey, RouteRow, RouteTarget, RouteWay, RouterPort, Rows,
        Vni,
    },
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for RouteRow {
    type Id = RouteKey;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(RouteKey)) {
        if let Fact::Object(object) = fact {
            for (key, _) in rows_of(object) {
                mark(key);
            }
        }
    }

    /// A route that is made beside those to the networks stands back behind them: they are where the packets' hosts
    /// are.
    fn desired(desired: &Desired<'_>, key: &RouteKey) -> Option<(RouteKey, Self)> {
        let rows = desired.mirror.objects().flat_map(rows_of);
        let rows = rows.filter(|(its, _)| its == key);
        let row = rows.map(|(_, row)| row).min_by_key(RouteRow::rank)?;
        Some((*key, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let mut all = Rows::<Self>::new();
        for (key, row) in desired.mirror.objects().flat_map(rows_of) {
            let held = all.entry(key).or_insert(row);
            if row.rank() < held.rank() {
                *held = row;
            }
        }
        all
    }
}

/// The rows that an object asks for.
fn rows_of(object: &Object) -> Vec<(RouteKey, RouteRow)> {
    if let Some(port) = RouterPort::known(object) {
        return rows_of_port(&port);
    }
    let Some(route) = Route::known(object) else {
        return Vec::new();
    };
    let key = RouteKey {
        router: route.router_id,
        prefix: route.prefix.trunc(),
    };
    let way = match (route.target, route.vni) {
        (RouteTarget::Via(next_hop), Some(vni)) => RouteWay::Via { vni, next_hop },
        _ => RouteWay::Blackhole,
    };
    vec![(key, RouteRow { way })]
}

fn rows_of_port(port: &RouterPort) -> Vec<(RouteKey, RouteRow)> {
    let row = |prefix: IpNet, way: fn(Vni) -> RouteWay| {
        let key = RouteKey {
            router: port.router_id,
            prefix,
        };
        (key, RouteRow { way: way(port.vni) })
    };
    let addresses = port.addresses.iter().map(|address| address.addr().into());
    let own = addresses.map(|host: IpNet| row(host, |vni| RouteWay::Local { vni }));
    let subnets = port
        .prefixes()
        .map(|subnet| row(subnet, |vni| RouteWay::Connected { vni }));
    own.chain(subnets).collect()
}
