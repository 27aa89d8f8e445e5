//! The kernel's routing table: which way VTEPs are, and when that changes.

use std::{io, net::Ipv4Addr};

use futures_util::StreamExt as _;
use netlink_packet_core::Parseable as _;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::{runtime, sync::mpsc};

use super::{errno, netlink::Netlink, netns::Netns};

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
                Ok(describe(&route.map_err(io::Error::other)?, destination))
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

fn describe(route: &RouteMessage, destination: Ipv4Addr) -> Option<Ipv4Addr> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut next_hop = destination;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => next_hop = *router,
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    Some(next_hop)
}

/// See [`super::Platform::route_changes`].
pub(super) async fn changes(netns: &Netns) -> io::Result<mpsc::Receiver<()>> {
    let runtime = runtime::Handle::current();
    let (connection, _, mut messages) = netns
        .run(move || {
            let _registers_the_socket = runtime.enter();
            rtnetlink::new_multicast_connection(&GROUPS)
        })
        .await?;
    // One that waits says as much as many.
    let (sender, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        let listening = async {
            while messages.next().await.is_some() {
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = connection => {}
            () = sender.closed() => {}
        }
    });
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.kind = kind;
        route.attributes = attributes;
        route
    }

    const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

    #[test]
    fn on_a_shared_link_the_destination_is_its_own_next_hop() {
        let direct = route(RouteType::Unicast, vec![RouteAttribute::Oif(2)]);
        assert_eq!(describe(&direct, DESTINATION), Some(DESTINATION));
    }

    #[test]
    fn a_gateway_is_the_next_hop() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(ROUTER));
        let routed = route(RouteType::Unicast, vec![gateway]);
        assert_eq!(describe(&routed, DESTINATION), Some(ROUTER));
    }

    #[test]
    fn routes_that_a_next_hop_does_not_describe_are_left_to_the_kernel() {
        for kind in [
            RouteType::BlackHole,
            RouteType::Unreachable,
            RouteType::Local,
        ] {
            assert_eq!(describe(&route(kind, vec![]), DESTINATION), None);
        }
        let paths = route(RouteType::Unicast, vec![RouteAttribute::MultiPath(vec![])]);
        assert_eq!(describe(&paths, DESTINATION), None);
    }
}
