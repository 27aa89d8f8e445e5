//! Whether an interface can carry the tunnels, and with which address.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_route::link::{LinkFlags, LinkLayerType};

use super::{
    PlatformError, Underlay,
    netlink::{Address, Link},
};
use crate::model::IfName;

/// Bytes that the tunnel adds to a packet over IPv4: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const ENCAPSULATION: u32 = 50;

/// IPv6 wants 1280 bytes of every link (RFC 8200 section 5), so of the overlay's too.
pub const SMALLEST_UNDERLAY_MTU: u32 = 1280 + ENCAPSULATION;

/// Checks that `iface` can carry the tunnels. `links` are all that there are.
pub(super) fn check<'a>(iface: &IfName, links: &'a [Link]) -> Result<&'a Link, PlatformError> {
    let Some(link) = links.iter().find(|link| link.name == iface.as_str()) else {
        let names = listed(
            links
                .iter()
                .filter(|link| carries_ethernet(link))
                .map(|link| &link.name),
        );
        return refused(format!(
            "interface {iface} does not exist: choose one of those here with --iface: {names}"
        ));
    };
    if !carries_ethernet(link) {
        return refused(format!(
            "interface {iface} is no Ethernet interface: choose another with --iface"
        ));
    }
    if !link.is_up() {
        return refused(format!(
            "interface {iface} is down: bring it up with `ip link set {iface} up`"
        ));
    }
    if link.mtu < SMALLEST_UNDERLAY_MTU {
        return refused(format!(
            "interface {iface} has an MTU of {} bytes, the tunnels need {SMALLEST_UNDERLAY_MTU} \
             (1280 for IPv6 and {ENCAPSULATION} around it): raise it with `ip link set {iface} mtu \
             {SMALLEST_UNDERLAY_MTU}` or more",
            link.mtu
        ));
    }
    Ok(link)
}

/// The underlay that `link` with its `addresses` makes: the VTEP gets `wanted`, or else the first
/// primary IPv4 address of global scope.
pub(super) fn describe(
    link: &Link,
    addresses: &[Address],
    wanted: Option<Ipv4Addr>,
) -> Result<Underlay, PlatformError> {
    let name = &link.name;
    let ipv4 = |address: &Address| match address.net.addr() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    let found = match wanted {
        Some(wanted) => addresses.iter().filter_map(ipv4).find(|ip| *ip == wanted),
        None => addresses
            .iter()
            .filter(|address| address.global && !address.secondary)
            .find_map(ipv4),
    };
    let ip = match (found, wanted) {
        (Some(ip), _) => ip,
        (None, Some(wanted)) => {
            let others = listed(addresses.iter().filter_map(ipv4));
            return refused(format!(
                "address {wanted} is not on interface {name}: choose one of its own with \
                 --local-ip: {others}"
            ));
        }
        (None, None) => {
            return refused(format!(
                "interface {name} has no IPv4 address: add one with `ip address add \
                 ADDRESS/LENGTH dev {name}`"
            ));
        }
    };
    let mac = link.address.as_slice().try_into().or_else(|_| {
        refused(format!(
            "interface {name} has no Ethernet address: choose another with --iface"
        ))
    })?;
    Ok(Underlay {
        ifindex: link.index,
        mtu: link.mtu,
        ip,
        mac,
    })
}

fn carries_ethernet(link: &Link) -> bool {
    link.layer == LinkLayerType::Ether && !link.flags.contains(LinkFlags::Loopback)
}

fn listed<T: Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<_> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        "there is none".to_owned()
    } else {
        items.join(", ")
    }
}

fn refused<T>(why: String) -> Result<T, PlatformError> {
    Err(PlatformError::Refused(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            flags: LinkFlags::Up,
            layer: LinkLayerType::Ether,
            mtu: 1500,
            address: vec![2, 0, 0, 0, 0, 1],
            ..Link::default()
        }
    }

    fn refusal<T>(result: Result<T, PlatformError>) -> String {
        match result {
            Err(PlatformError::Refused(text)) => {
                assert!(!text.contains('\n'), "{text}");
                text
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    }

    fn checked(name: &str, links: &[Link]) -> String {
        refusal(check(&name.parse().unwrap(), links))
    }

    #[test]
    fn a_missing_interface_is_refused_with_a_list_of_those_that_would_do() {
        let loopback = Link {
            flags: LinkFlags::Up | LinkFlags::Loopback,
            layer: LinkLayerType::Loopback,
            ..link("lo")
        };
        let text = checked("eth9", &[loopback, link("eth0"), link("eth1")]);
        assert!(text.contains("eth9"), "{text}");
        assert!(text.ends_with(": eth0, eth1"), "{text}");
        assert!(checked("eth9", &[]).ends_with("there is none"));
    }

    #[test]
    fn loopback_and_interfaces_without_ethernet_are_refused() {
        for layer in [LinkLayerType::Loopback, LinkLayerType::None] {
            let other = Link {
                layer,
                ..link("tun0")
            };
            assert!(checked("tun0", &[other]).contains("no Ethernet interface"));
        }
    }

    #[test]
    fn an_interface_that_is_down_is_refused_with_the_command_that_helps() {
        let down = Link {
            flags: LinkFlags::empty(),
            ..link("eth0")
        };
        assert!(checked("eth0", &[down]).contains("ip link set eth0 up"));
    }

    #[test]
    fn an_mtu_below_ipv6s_and_the_tunnels_is_refused_with_the_numbers() {
        let mut narrow = link("eth0");
        narrow.mtu = 1329;
        let text = checked("eth0", &[narrow.clone()]);
        assert!(text.contains("1329") && text.contains("1330"), "{text}");
        narrow.mtu = 1330;
        assert!(check(&"eth0".parse().unwrap(), &[narrow]).is_ok());
    }

    #[test]
    fn the_first_global_primary_address_is_taken_unless_one_is_named() {
        let addresses = [
            Address::sample("fe80::1/64", false, false),
            Address::sample("169.254.0.1/16", false, false),
            Address::sample("192.0.2.9/24", true, true),
            Address::sample("192.0.2.1/24", true, false),
            Address::sample("198.51.100.1/24", true, false),
        ];
        let underlay = describe(&link("eth0"), &addresses, None).unwrap();
        assert_eq!(
            underlay,
            Underlay {
                ifindex: 7,
                mtu: 1500,
                ip: Ipv4Addr::new(192, 0, 2, 1),
                mac: [2, 0, 0, 0, 0, 1],
            }
        );
        let named = Ipv4Addr::new(192, 0, 2, 9);
        let underlay = describe(&link("eth0"), &addresses, Some(named)).unwrap();
        assert_eq!(underlay.ip, named);
    }

    #[test]
    fn an_interface_without_a_usable_address_is_refused() {
        let text = refusal(describe(&link("eth0"), &[], None));
        assert!(text.contains("no IPv4 address"), "{text}");
        let addresses = [Address::sample("192.0.2.1/24", true, false)];
        let text = refusal(describe(
            &link("eth0"),
            &addresses,
            Some(Ipv4Addr::new(192, 0, 2, 2)),
        ));
        assert!(
            text.contains("192.0.2.2") && text.ends_with(": 192.0.2.1"),
            "{text}"
        );
    }
}
