//! The kernel's routing table: which way VTEPs are, and when that changes.

use std::{io, net::Ipv4Addr};

use netlink_packet_core::Parseable as _;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::{errno, events, netlink::Netlink, netns::Netns};

/// Whatever can change a next hop of IPv4. Links are not among them: the routes over one that goes
/// down end with it, and come back with it.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Nexthop,
];

impl Netlink {
    /// The next hop from `source` to `destination` through the interface with this index: a
    /// router, or the destination itself. `None`: there is no route, or one that a next hop alone
    /// does not describe.
    pub(super) async fn next_hop(
        &self,
        ifindex: u32,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> io::Result<Option<Ipv4Addr>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        question.header.destination_prefix_length = 32;
        question.header.source_prefix_length = 32;
        // The route itself and not one path of it: several paths are told as such.
        question.header.flags = RouteFlags::FibMatch;
        question.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(destination)),
            RouteAttribute::Source(RouteAddress::Inet(source)),
            RouteAttribute::Oif(ifindex),
        ];
        let answer = self.request(RouteNetlinkMessage::GetRoute(question), 0);
        match answer.await {
            Ok(messages) => {
                let Some(message) = messages.first() else {
                    return Ok(None);
                };
                let route = RouteMessage::parse(message.as_slice());
                let route = route.map_err(io::Error::other)?;
                Ok(describe(&route, ifindex, destination))
            }
            Err(error) if is_no_route(errno(&error)) => Ok(None),
            Err(error) => Err(error),
        }
    }
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
    events::changes(netns, &GROUPS, |_| true).await
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
