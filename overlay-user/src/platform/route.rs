//! The kernel's routing table: which way VTEPs are, how long packets may be on it, and when that changes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::Parseable as _;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::{errno, events, netlink::Netlink, netns::Netns, path_mtu::Listener};
use crate::model::VtepPath;

/// Whatever can change a next hop of IPv4. Links are not among them: the routes over one that goes
/// down end with it, and come back with it.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Nexthop,
];

impl Netlink {
    /// The way from `source` to `destination` through the interface with this index.
    pub(super) async fn path(
        &self,
        ifindex: u32,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> io::Result<VtepPath> {
        // The route itself and not one path of it: several paths are told as such.
        let route = self.route(ifindex, source, destination, RouteFlags::FibMatch);
        let next_hop = route
            .await?
            .and_then(|route| describe(&route, ifindex, destination))
            .map(IpAddr::from);
        // What routers said of the path stands beside the route.
        let entry = self.route(ifindex, source, destination, RouteFlags::empty());
        let mtu = entry.await?.as_ref().and_then(mtu_of);
        Ok(VtepPath { next_hop, mtu })
    }

    /// What the kernel's routing table says. `None`: there is no route.
    async fn route(
        &self,
        ifindex: u32,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        flags: RouteFlags,
    ) -> io::Result<Option<RouteMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        question.header.destination_prefix_length = 32;
        question.header.source_prefix_length = 32;
        question.header.flags = flags;
        question.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(destination)),
            RouteAttribute::Source(RouteAddress::Inet(source)),
            RouteAttribute::Oif(ifindex),
        ];
        let answer = self.request(RouteNetlinkMessage::GetRoute(question), 0);
        match answer.await {
            Ok(messages) => {
                let route = messages.first().map(Vec::as_slice).map(RouteMessage::parse);
                route.transpose().map_err(io::Error::other)
            }
            Err(error) if is_no_route(errno(&error)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The MTU that a route has for itself, or that a router told of. `None`: it is the interface's.
fn mtu_of(route: &RouteMessage) -> Option<u16> {
    let metrics = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok(),
        _ => None,
    })
}

/// What `fib_lookup` says of destinations that it can't or may not reach.
fn is_no_route(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL | Errno::EAGAIN
    )
}

/// The next hop of a route, if the route alone says which one it is.
///
/// A route that refers to a nexthop object names neither interface nor router where
/// `net.ipv4.nexthop_compat_mode` is 0, whether the object is one next hop or a group of many
/// (`fib_dump_info` in `net/ipv4/fib_semantics.c`). So the destination counts as on-link only if the route
/// names the interface and no router.
fn describe(route: &RouteMessage, ifindex: u32, destination: Ipv4Addr) -> Option<Ipv4Addr> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut next_hop, mut is_through_us) = (destination, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => is_through_us = *index == ifindex,
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => next_hop = *router,
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    is_through_us.then_some(next_hop)
}

/// See [`super::Platform::route_changes`].
///
/// What the kernel says is not parsed: whatever comes is a change, of kinds that no library knows too
/// (`RTM_NEWNEXTHOP`).
pub(super) async fn changes(netns: &Netns) -> io::Result<mpsc::Receiver<()>> {
    let mut routes = events::changes(netns, &GROUPS, |_| true).await?;
    let mut listener = match Listener::open(netns).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "what routers say of a path's MTU is noticed within half a minute");
            return Ok(routes);
        }
    };
    let (sender, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                change = routes.recv() => if change.is_none() { return },
                heard = listener.heard() => if let Err(error) = heard {
                    tracing::debug!(%error, "a word of a router was not heard");
                },
                () = sender.closed() => return,
            }
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    });
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteVia;

    use super::*;

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.kind = kind;
        route.attributes = attributes;
        route
    }

    const UNDERLAY: u32 = 2;
    const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

    fn next_hop(attributes: Vec<RouteAttribute>) -> Option<Ipv4Addr> {
        describe(
            &route(RouteType::Unicast, attributes),
            UNDERLAY,
            DESTINATION,
        )
    }

    #[test]
    fn on_a_shared_link_the_destination_is_its_own_next_hop() {
        let direct = vec![RouteAttribute::Oif(UNDERLAY)];
        assert_eq!(next_hop(direct), Some(DESTINATION));
    }

    #[test]
    fn a_gateway_is_the_next_hop() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(ROUTER));
        // By a nexthop object too, where the kernel says what is in it.
        for routed in [
            vec![gateway.clone(), RouteAttribute::Oif(UNDERLAY)],
            vec![
                RouteAttribute::NhId(7),
                gateway,
                RouteAttribute::Oif(UNDERLAY),
            ],
        ] {
            assert_eq!(next_hop(routed), Some(ROUTER));
        }
    }

    #[test]
    fn a_route_that_does_not_say_where_it_leads_is_not_taken_for_on_link() {
        assert_eq!(next_hop(vec![RouteAttribute::NhId(7)]), None);
        assert_eq!(next_hop(vec![]), None);
        assert_eq!(next_hop(vec![RouteAttribute::Oif(UNDERLAY + 1)]), None);
    }

    #[test]
    fn routes_that_a_next_hop_does_not_describe_are_left_to_the_kernel() {
        for kind in [
            RouteType::BlackHole,
            RouteType::Unreachable,
            RouteType::Local,
        ] {
            let route = route(kind, vec![RouteAttribute::Oif(UNDERLAY)]);
            assert_eq!(describe(&route, UNDERLAY, DESTINATION), None);
        }
        for attribute in [
            RouteAttribute::MultiPath(vec![]),
            RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())),
        ] {
            assert_eq!(
                next_hop(vec![attribute, RouteAttribute::Oif(UNDERLAY)]),
                None
            );
        }
    }
}
