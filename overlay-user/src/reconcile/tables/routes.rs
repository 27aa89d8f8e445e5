//! The routes table: where each router sends packets.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Derived;
use crate::{
    model::{
        Object, Outside, Resource as _, Route, RouteKey, RouteRow, RouteTarget, RouteWay, Router,
        RouterPort, Rows, Vni,
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
    if let Some(router) = Router::known(object) {
        return rows_of_router(&router);
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
        (RouteTarget::Outside, _) => RouteWay::Outside,
        _ => RouteWay::Blackhole,
    };
    vec![(key, RouteRow { way })]
}

/// The default routes of a router that leads out of the overlay.
fn rows_of_router(router: &Router) -> Vec<(RouteKey, RouteRow)> {
    if router.outside == Outside::None {
        return Vec::new();
    }
    let defaults: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
    let row = |prefix| {
        let key = RouteKey {
            router: router.id,
            prefix,
        };
        let way = RouteWay::Outside;
        (key, RouteRow { way })
    };
    defaults.map(row).into()
}

/// Whether a prefix means something outside: a unicast one of global scope (RFC 4291 section 2.5.4), and no unique local
/// one.
fn is_global(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(prefix) if prefix.network().segments()[0] & 0xe000 == 0x2000)
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
    let outside = port.prefixes().filter(is_global).map(|prefix| {
        let key = RouteKey {
            router: RouteKey::OUTSIDE,
            prefix,
        };
        let way = RouteWay::Connected { vni: port.vni };
        (key, RouteRow { way })
    });
    let outside = outside.filter(|_| port.outside == Outside::Host);
    let translated = port.translated().into_iter().flat_map(|[inside, outside]| {
        let row = |router, own: Ipv6Net, prefix| {
            let key = RouteKey {
                router,
                prefix: own.into(),
            };
            let way = RouteWay::Translated {
                vni: port.vni,
                prefix,
            };
            (key, RouteRow { way })
        };
        [
            row(RouteKey::inside(port.vni), inside, outside),
            row(RouteKey::OUTSIDE, outside, inside),
        ]
    });
    let translated = translated.filter(|_| port.outside == Outside::Host);
    own.chain(subnets)
        .chain(outside)
        .chain(translated)
        .collect()
}
