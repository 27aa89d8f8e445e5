//! Checks whether an interface can carry the tunnels, and picks the VTEP's address.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_route::link::{LinkFlags, LinkLayerType};

use super::{PlatformError, link::Link, netlink::Address, ownership};
use crate::model::{IfName, SMALLEST_UNDERLAY_MTU, VtepAddr};

/// Which address of the underlay interface the VTEP gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one that the configuration names.
    Named(Ipv4Addr),
    /// The one that it has had so far, whatever has become of its place among the others: a lease that is
    /// renewed takes it away and adds it again, behind a virtual address.
    Kept(Ipv4Addr),
    /// The interface's own, see [`own_address`].
    Own,
}

/// Why an interface of this name is not there; `links` are all that there are.
pub(super) fn missing(iface: &IfName, links: &[Link]) -> PlatformError {
    let names = listed(
        links
            .iter()
            .filter(|link| carries_ethernet(link) && ownership::instance_of(link).is_none())
            .map(|link| &link.name),
    );
    PlatformError::Refused(format!(
        "interface {iface} does not exist: choose one of those here with --iface: {names}"
    ))
}

/// Checks that `link` can carry the tunnels, and gives its hardware address.
pub(super) fn check(link: &Link) -> Result<[u8; 6], PlatformError> {
    let iface = &link.name;
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
             (1280 for IPv6 and {overhead} around it): raise it with `ip link set {iface} mtu \
             {SMALLEST_UNDERLAY_MTU}` or more",
            link.mtu,
            overhead = VtepAddr::IPV4_OVERHEAD,
        ));
    }
    link.address.as_slice().try_into().or_else(|_| {
        refused(format!(
            "interface {iface} has no Ethernet address: choose another with --iface"
        ))
    })
}

/// The address of `iface`, which has these, that the VTEP gets.
pub(super) fn choose(
    iface: &str,
    addresses: &[Address],
    choice: Choice,
) -> Result<Ipv4Addr, PlatformError> {
    match choice {
        Choice::Own => own_address(iface, addresses),
        Choice::Named(ip) | Choice::Kept(ip) if has(addresses, ip) => Ok(ip),
        Choice::Named(ip) => {
            let others = listed(addresses.iter().filter_map(ipv4));
            refused(format!(
                "address {ip} is not on interface {iface}: choose one of its own with --local-ip: {others}"
            ))
        }
        Choice::Kept(ip) => refused(format!(
            "address {ip} is gone from interface {iface}: the other hosts send there, put it back"
        )),
    }
}

/// Whether an interface has the address, in whatever place.
fn has(addresses: &[Address], ip: Ipv4Addr) -> bool {
    addresses.iter().filter_map(ipv4).any(|known| known == ip)
}

/// The interface's own IPv4 address: the first primary one of global scope that is not deprecated or
/// in doubt. One that is all of its subnet (/32) is more often a virtual address that another host may
/// have tomorrow, and counts only if it is the only one.
fn own_address(iface: &str, addresses: &[Address]) -> Result<Ipv4Addr, PlatformError> {
    let own = addresses
        .iter()
        .filter(|address| address.global && !address.secondary && !address.unreliable);
    let (alone, shared): (Vec<_>, Vec<_>) =
        own.partition(|address| address.net.prefix_len() == address.net.max_prefix_len());
    let alone: Vec<Ipv4Addr> = alone.into_iter().filter_map(ipv4).collect();
    match (shared.into_iter().find_map(ipv4), alone.as_slice()) {
        (Some(ip), _) => Ok(ip),
        (None, [ip]) => Ok(*ip),
        (None, []) => refused(format!(
            "interface {iface} has no IPv4 address of its own: add one with `ip address add \
             ADDRESS/LENGTH dev {iface}`"
        )),
        (None, several) => refused(format!(
            "interface {iface} has several IPv4 addresses with 32 bits and no other, each may be a \
             virtual one: choose with --local-ip: {}",
            listed(several.iter())
        )),
    }
}

fn ipv4(address: &Address) -> Option<Ipv4Addr> {
    match address.net.addr() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
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

    fn refused_missing(name: &str, links: &[Link]) -> String {
        refusal::<()>(Err(missing(&name.parse().unwrap(), links)))
    }

    #[test]
    fn a_missing_interface_is_refused_with_a_list_of_those_that_would_do() {
        let loopback = Link {
            flags: LinkFlags::Up | LinkFlags::Loopback,
            layer: LinkLayerType::Loopback,
            ..link("lo")
        };
        let text = refused_missing("eth9", &[loopback, link("eth0"), link("eth1")]);
        assert!(text.contains("eth9"), "{text}");
        assert!(text.ends_with(": eth0, eth1"), "{text}");
        assert!(refused_missing("eth9", &[]).ends_with("there is none"));
    }

    #[test]
    fn the_overlays_own_interfaces_are_not_offered_as_its_underlay() {
        let own = |alias: &str| Link {
            alias: Some(alias.to_owned()),
            ..link("ovl83f21644423b")
        };
        let links = [own("overlay:h1:web"), link("eth0"), own("overlay:other")];
        let text = refused_missing("eth9", &links);
        assert!(text.ends_with(": eth0"), "{text}");
    }

    #[test]
    fn loopback_and_interfaces_without_ethernet_are_refused() {
        for layer in [LinkLayerType::Loopback, LinkLayerType::None] {
            let other = Link {
                layer,
                ..link("tun0")
            };
            assert!(refusal(check(&other)).contains("no Ethernet interface"));
        }
    }

    #[test]
    fn an_interface_that_is_down_is_refused_with_the_command_that_helps() {
        let down = Link {
            flags: LinkFlags::empty(),
            ..link("eth0")
        };
        assert!(refusal(check(&down)).contains("ip link set eth0 up"));
    }

    #[test]
    fn an_mtu_below_ipv6s_and_the_tunnels_is_refused_with_the_numbers() {
        let mut narrow = link("eth0");
        narrow.mtu = 1329;
        let text = refusal(check(&narrow));
        assert!(text.contains("1329") && text.contains("1330"), "{text}");
        narrow.mtu = 1330;
        assert_eq!(check(&narrow).unwrap(), [2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn the_first_global_primary_address_is_taken_unless_one_is_named_or_was_had() {
        let addresses = [
            Address::sample("fe80::1/64", false, false),
            Address::sample("169.254.0.1/16", false, false),
            Address::sample("192.0.2.9/24", true, true),
            Address::sample("192.0.2.1/24", true, false),
            Address::sample("198.51.100.1/24", true, false),
        ];
        let own = choose("eth0", &addresses, Choice::Own).unwrap();
        assert_eq!(own, Ipv4Addr::new(192, 0, 2, 1));
        for choice in [Choice::Named, Choice::Kept] {
            let second = Ipv4Addr::new(192, 0, 2, 9);
            let chosen = choose("eth0", &addresses, choice(second)).unwrap();
            assert_eq!(chosen, second);
        }
    }

    #[test]
    fn virtual_and_deprecated_addresses_are_not_chosen_beside_the_interfaces_own() {
        let mut old = Address::sample("192.0.2.7/24", true, false);
        old.unreliable = true;
        let virtual_ip = Address::sample("192.0.2.100/32", true, false);
        let own = Address::sample("192.0.2.1/24", true, false);
        let chosen = |addresses: &[Address]| choose("eth0", addresses, Choice::Own);
        let beside = [virtual_ip.clone(), old.clone(), own];
        assert_eq!(chosen(&beside).unwrap(), Ipv4Addr::new(192, 0, 2, 1));
        // Some clouds give their machines nothing else.
        let alone = [virtual_ip.clone(), old];
        assert_eq!(chosen(&alone).unwrap(), Ipv4Addr::new(192, 0, 2, 100));
        let second = Address::sample("198.51.100.1/32", true, false);
        let text = refusal(chosen(&[virtual_ip, second]));
        assert!(
            text.ends_with("--local-ip: 192.0.2.100, 198.51.100.1"),
            "{text}"
        );
    }

    #[test]
    fn an_address_that_is_gone_is_not_replaced_by_another() {
        let addresses = [Address::sample("192.0.2.1/24", true, false)];
        let choice = Choice::Kept(Ipv4Addr::new(192, 0, 2, 2));
        let text = refusal(choose("eth0", &addresses, choice));
        assert!(text.contains("192.0.2.2 is gone"), "{text}");
    }

    #[test]
    fn an_interface_without_a_usable_address_is_refused() {
        let text = refusal(choose("eth0", &[], Choice::Own));
        assert!(text.contains("no IPv4 address"), "{text}");
        let addresses = [Address::sample("192.0.2.1/24", true, false)];
        let choice = Choice::Named(Ipv4Addr::new(192, 0, 2, 2));
        let text = refusal(choose("eth0", &addresses, choice));
        assert!(
            text.contains("192.0.2.2") && text.ends_with(": 192.0.2.1"),
            "{text}"
        );
    }
}
