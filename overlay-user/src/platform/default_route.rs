//! Default routes in namespaces that the agent made: by the gateway of the endpoint's network.
//!
//! Ours yields: it is set where there is no other, and has a metric that all others come before.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use nix::errno::Errno;

use super::{Context, PlatformError, errno, linux::Linux, netlink::Netlink, netns_port::NetnsPort};

/// The protocol of our routes, by which they are told from others': nobody has this number
/// (`include/uapi/linux/rtnetlink.h`, `etc/iproute2/rt_protos` of iproute2).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(79);
/// More than those who set routes choose by themselves.
const METRIC: u32 = 20_000;

/// A default route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DefaultRoute {
    gateway: IpAddr,
    /// The interface that it leads through.
    index: u32,
}

impl Linux {
    /// Makes the default routes through an endpoint's interface those that `spec` says, as far as there are no
    /// others in its namespace, which the agent made.
    pub(super) async fn set_default_routes(
        &self,
        inner: &Netlink,
        index: u32,
        spec: &NetnsPort<'_>,
    ) -> Result<(), PlatformError> {
        let setting = || format!("setting the default route of endpoint {}", spec.endpoint);
        let (records, endpoint) = (&self.records.routes, spec.endpoint.as_str());
        if spec.gateways.is_empty() && !records.has(endpoint).context(setting)? {
            return Ok(());
        }
        let gateways: Vec<_> = spec.gateways.iter().map(ToString::to_string).collect();
        if !gateways.is_empty() {
            records
                .put(endpoint, &gateways.join("\n"))
                .context(setting)?;
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let is_of = |ip: &&IpAddr| ip.is_ipv6() == (family == AddressFamily::Inet6);
            let wanted = spec.gateways.iter().find(is_of);
            let wanted = wanted.map(|gateway| DefaultRoute {
                gateway: *gateway,
                index,
            });
            let set = inner.set_default_route(family, index, wanted, spec);
            set.await.context(setting)?;
        }
        if gateways.is_empty() {
            records.remove(endpoint).context(setting)?;
        }
        Ok(())
    }
}

impl Netlink {
    async fn set_default_route(
        &self,
        family: AddressFamily,
        index: u32,
        wanted: Option<DefaultRoute>,
        spec: &NetnsPort<'_>,
    ) -> io::Result<()> {
        // There may be any number of routes, and of ours few.
        let own = self.default_routes(family, Some(PROTOCOL)).await?;
        let own: Vec<_> = own.iter().filter_map(DefaultRoute::of).collect();
        let mut is_there = false;
        for route in own.into_iter().filter(|route| route.index == index) {
            if Some(route) == wanted {
                is_there = true;
            } else {
                self.delete_route(&route).await?;
            }
        }
        match wanted {
            Some(route) if !is_there => {
                let all = self.default_routes(family, None).await?;
                let is_others = |route: &RouteMessage| route.header.protocol != PROTOCOL;
                if all.iter().any(is_others) {
                    return Ok(());
                }
                self.add_route(&route, is_on_link(&route, spec)).await
            }
            _ => Ok(()),
        }
    }

    /// The default routes of the main table; those of a protocol alone.
    async fn default_routes(
        &self,
        family: AddressFamily,
        protocol: Option<RouteProtocol>,
    ) -> io::Result<Vec<RouteMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = RouteHeader::RT_TABLE_MAIN;
        question.header.protocol = protocol.unwrap_or(RouteProtocol::Unspec);
        let question = RouteNetlinkMessage::GetRoute(question);
        let listed = match self.list_some(question).await {
            // The table is made with its first route.
            Err(error) if errno(&error) == Errno::ENOENT => Vec::new(),
            listed => listed?,
        };
        let routes = listed
            .iter()
            .filter_map(|payload| RouteMessage::parse(payload.as_slice()).ok());
        Ok(routes
            .filter(|route| {
                let header = &route.header;
                header.destination_prefix_length == 0
                    && header.table == RouteHeader::RT_TABLE_MAIN
                    && !header.flags.contains(RouteFlags::Cloned)
                    && protocol.is_none_or(|protocol| header.protocol == protocol)
            })
            .collect())
    }

    async fn add_route(&self, route: &DefaultRoute, is_on_link: bool) -> io::Result<()> {
        let mut message = route.message();
        if is_on_link {
            message.header.flags |= RouteFlags::Onlink;
        }
        let message = RouteNetlinkMessage::NewRoute(message);
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL).await {
            // Another endpoint in the namespace was faster.
            Err(error) if errno(&error) == Errno::EEXIST => Ok(()),
            added => added.map(drop),
        }
    }

    async fn delete_route(&self, route: &DefaultRoute) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        match self.request(message, 0).await {
            Err(error) if errno(&error) == Errno::ESRCH => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

/// Whether the gateway is in none of the endpoint's subnets: the kernel takes it only if it is told that it is there.
fn is_on_link(route: &DefaultRoute, spec: &NetnsPort<'_>) -> bool {
    !spec
        .addresses
        .iter()
        .any(|address| address.contains(&route.gateway) && address.addr() != route.gateway)
}

impl DefaultRoute {
    /// `None`: it has no gateway or several, and so is none of ours.
    fn of(route: &RouteMessage) -> Option<Self> {
        let (mut gateway, mut index) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
                RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
                RouteAttribute::Oif(oif) => index = Some(*oif),
                _ => {}
            }
        }
        Some(Self {
            gateway: gateway?,
            index: index?,
        })
    }

    /// It as the kernel is told of it. Each interface's has a metric of its own, so that a namespace with several has all
    /// of them.
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let (family, gateway) = match self.gateway {
            IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
        };
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = PROTOCOL;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Gateway(gateway),
            RouteAttribute::Oif(self.index),
            RouteAttribute::Priority(METRIC.saturating_add(self.index)),
        ];
        message
    }
}
