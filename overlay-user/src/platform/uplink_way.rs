//! Where packets go that leave by the uplink, as far as a subnet and a router say it all.
//!
//! What is more than that stays the kernel's: rules, several routers, routes of several paths, blackholes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::Parseable as _;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{Context as _, PlatformError, netlink::Netlink};
use crate::model::UplinkWay;

/// Most routes that are looked at: one who has more than these has them for a reason.
const MOST: usize = 256;

/// The tables that each kernel begins with, which its first rules name (`linux/rtnetlink.h`).
const TABLES: [u32; 3] = [255, 254, 253];

/// The way out of an interface. It may list nothing else by this socket afterwards.
pub(super) async fn of(
    netlink: &Netlink,
    ifindex: u32,
) -> Result<Option<UplinkWay>, PlatformError> {
    let what = || "listing routes".to_owned();
    let mut question = RuleMessage::default();
    question.header.family = AddressFamily::Inet;
    let rules = netlink.list_at_most(RouteNetlinkMessage::GetRule(question), TABLES.len());
    let Some(rules) = rules.await.context(what)? else {
        return Ok(None);
    };
    let rules = rules.iter().map(|rule| RuleMessage::parse(rule));
    if !rules.flatten().all(|rule| is_usual(&rule)) {
        return Ok(None);
    }
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    let routes = netlink.list_at_most(RouteNetlinkMessage::GetRoute(question), MOST);
    let Some(routes) = routes.await.context(what)? else {
        return Ok(None);
    };
    let routes: Result<Vec<_>, _> = routes.iter().map(|it| RouteMessage::parse(it)).collect();
    Ok(routes.ok().and_then(|routes| describe(&routes, ifindex)))
}

/// Whether a rule is one of those that each kernel begins with.
fn is_usual(rule: &RuleMessage) -> bool {
    rule.header.action == RuleAction::ToTable
        && rule.attributes.iter().all(|attribute| match attribute {
            RuleAttribute::Table(table) => TABLES.contains(table),
            RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => true,
            // As the kernel says that there is none.
            RuleAttribute::SuppressPrefixLen(len) => *len == u32::MAX,
            _ => false,
        })
}

/// What the routes of the main table make of it.
fn describe(listed: &[RouteMessage], ifindex: u32) -> Option<UplinkWay> {
    let (mut subnet, mut router) = (None, None);
    for it in listed {
        match (table(it), it.header.kind) {
            (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast) => {}
            // The host's own addresses, which nothing is sent out for.
            (_, RouteType::Local | RouteType::Broadcast | RouteType::Multicast) => continue,
            _ => return None,
        }
        match leads(it, ifindex) {
            Leads::Elsewhere => {}
            Leads::OnLink(net) if subnet.is_none() => subnet = Some(net),
            Leads::ToRouter(ip) if router.is_none() => router = Some(ip),
            Leads::OnLink(_) | Leads::ToRouter(_) | Leads::Unclear => return None,
        }
    }
    let subnet: Ipv4Net = subnet?;
    let is_on_link = router.is_none_or(|router| subnet.contains(&router));
    is_on_link.then_some(UplinkWay { subnet, router })
}

/// Where a route leads.
enum Leads {
    /// By another interface.
    Elsewhere,
    /// To what is on the link.
    OnLink(Ipv4Net),
    /// All that no other route is for to a router.
    ToRouter(Ipv4Addr),
    /// None of these.
    Unclear,
}

fn leads(route: &RouteMessage, ifindex: u32) -> Leads {
    let (mut destination, mut router, mut device) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => router = Some(*ip),
            RouteAttribute::Table(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::CacheInfo(_)
            | RouteAttribute::Metrics(_)
            | RouteAttribute::Preference(_) => {}
            _ => return Leads::Unclear,
        }
    }
    let len = route.header.destination_prefix_length;
    if route.header.tos != 0 {
        return Leads::Unclear;
    }
    match (device, destination, router) {
        (Some(device), ..) if device != ifindex => Leads::Elsewhere,
        (Some(_), None, Some(router)) if len == 0 => Leads::ToRouter(router),
        (Some(_), Some(ip), None) => Ipv4Net::new(ip, len).map_or(Leads::Unclear, Leads::OnLink),
        _ => Leads::Unclear,
    }
}

fn table(route: &RouteMessage) -> u8 {
    let tables = route.attributes.iter();
    let mut named = tables.filter_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(u8::try_from(*table).unwrap_or_default()),
        _ => None,
    });
    named.next().unwrap_or(route.header.table)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{route::RouteMetric, rule::RuleHeader};

    use super::*;

    const UPLINK: u32 = 2;
    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn route(kind: RouteType, len: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.kind = kind;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.destination_prefix_length = len;
        route.attributes = attributes;
        route
    }

    fn on_link(ifindex: u32, net: &str) -> RouteMessage {
        let net: Ipv4Net = net.parse().unwrap();
        let destination = RouteAttribute::Destination(RouteAddress::Inet(net.network()));
        let attributes = vec![destination, RouteAttribute::Oif(ifindex)];
        route(RouteType::Unicast, net.prefix_len(), attributes)
    }

    fn default_by(ifindex: u32, router: Ipv4Addr) -> RouteMessage {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(router));
        let attributes = vec![gateway, RouteAttribute::Oif(ifindex)];
        route(RouteType::Unicast, 0, attributes)
    }

    fn usual() -> Vec<RouteMessage> {
        vec![on_link(UPLINK, "192.0.2.0/24"), default_by(UPLINK, ROUTER)]
    }

    fn with(another: RouteMessage) -> Option<UplinkWay> {
        describe(&[usual(), vec![another]].concat(), UPLINK)
    }

    #[test]
    fn one_subnet_and_one_router_are_the_way() {
        let subnet = "192.0.2.0/24".parse().unwrap();
        let way = |router| Some(UplinkWay { subnet, router });
        assert_eq!(describe(&usual(), UPLINK), way(Some(ROUTER)));
        assert_eq!(describe(&usual()[..1], UPLINK), way(None));
        // What goes by other interfaces, and the host's own addresses, don't matter.
        assert_eq!(with(on_link(UPLINK + 1, "10.0.0.0/8")), way(Some(ROUTER)));
        let mut own = on_link(UPLINK, "192.0.2.7/32");
        own.header.kind = RouteType::Local;
        own.header.table = 255;
        assert_eq!(with(own), way(Some(ROUTER)));
    }

    #[test]
    fn more_than_a_subnet_and_a_router_is_left_to_the_kernel() {
        let router = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 2)));
        let mut by_another = on_link(UPLINK, "10.0.0.0/8");
        by_another.attributes.push(router);
        let mut of_a_class = on_link(UPLINK, "10.0.0.0/8");
        of_a_class.header.tos = 8;
        let mut object = default_by(UPLINK, ROUTER);
        object.attributes = vec![RouteAttribute::NhId(7)];
        let mut elsewhere = on_link(UPLINK + 1, "10.0.0.0/8");
        elsewhere.header.table = 100;
        for another in [
            by_another,
            of_a_class,
            object,
            elsewhere,
            on_link(UPLINK, "198.51.100.0/24"),
            default_by(UPLINK, Ipv4Addr::new(192, 0, 2, 2)),
            route(RouteType::BlackHole, 8, vec![]),
        ] {
            assert_eq!(with(another.clone()), None, "{another:?}");
        }
        // A router that is not on the link, and no subnet at all.
        let beyond = default_by(UPLINK, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(
            describe(&[on_link(UPLINK, "192.0.2.0/24"), beyond], UPLINK),
            None
        );
        assert_eq!(describe(&[default_by(UPLINK, ROUTER)], UPLINK), None);
    }

    #[test]
    fn metrics_and_sources_of_a_route_do_not_change_where_it_leads() {
        let mut routes = usual();
        for route in &mut routes {
            route.attributes.extend([
                RouteAttribute::Priority(100),
                RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 7))),
                RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
            ]);
        }
        assert!(describe(&routes, UPLINK).is_some());
    }

    #[test]
    fn a_rule_of_somebodys_is_not_usual() {
        let rule = |action, attributes| {
            let mut rule = RuleMessage::default();
            rule.header = RuleHeader {
                action,
                ..RuleHeader::default()
            };
            rule.attributes = attributes;
            is_usual(&rule)
        };
        for table in TABLES {
            let attributes = vec![RuleAttribute::Table(table), RuleAttribute::Priority(9)];
            assert!(rule(RuleAction::ToTable, attributes));
        }
        assert!(!rule(RuleAction::ToTable, vec![RuleAttribute::Table(100)]));
        assert!(!rule(
            RuleAction::Blackhole,
            vec![RuleAttribute::Table(254)]
        ));
        let marked = vec![RuleAttribute::Table(254), RuleAttribute::FwMark(1)];
        assert!(!rule(RuleAction::ToTable, marked));
    }
}
