//! Builds router advertisements (RFC 4861 section 4.2, RFC 8106).

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv6Net;

use super::served::Served;

/// Hops that hosts let their packets take.
const HOP_LIMIT: u8 = 64;
/// Addresses come by DHCPv6, and so does all else.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
/// Seconds for which the router is a default router, and name servers are used, after an advertisement.
const LIFETIME_S: u16 = 1800;
/// The least and the most between two advertisements that nobody asked for: a third of the lifetime.
pub(super) const LEAST_INTERVAL: Duration = Duration::from_secs(200);
pub(super) const MOST_INTERVAL: Duration = Duration::from_mins(10);

/// Types of options.
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const DNS_SERVERS: u8 = 25;
const DNS_SEARCH: u8 = 31;
/// The prefix is on the link: hosts ask for its addresses' MACs instead of sending to the router.
const ON_LINK: u8 = 0x80;
/// Longer prefixes have no addresses beside the endpoint's own.
const LONGEST_PREFIX: u8 = 127;

/// What follows the type, the code and the checksum. `is_last`: there is no router any more.
pub(super) fn advertisement(served: &Served, is_last: bool) -> ([u8; 4], Vec<u8>) {
    let lifetime = if is_last || !served.told.routes_ipv6() {
        0
    } else {
        LIFETIME_S
    };
    let flags = if is_last { 0 } else { MANAGED | OTHER };
    let [high, low] = lifetime.to_be_bytes();
    // Reachable time and retransmission timer: not said.
    let mut rest = vec![0; 8];
    option(
        &mut rest,
        SOURCE_LINK_LAYER_ADDRESS,
        &served.told.mac.octets(),
    );
    if !is_last {
        option(
            &mut rest,
            MTU,
            &[&[0; 2][..], &served.mtu.to_be_bytes()].concat(),
        );
        let prefixes = served
            .ipv6()
            .filter(|net| net.prefix_len() <= LONGEST_PREFIX);
        let prefixes: BTreeSet<Ipv6Net> = prefixes.map(|net| net.trunc()).collect();
        for prefix in prefixes {
            self::prefix(&mut rest, prefix, served.told.dhcp.lease_s);
        }
        dns(&mut rest, served);
    }
    ([HOP_LIMIT, flags, high, low], rest)
}

/// Adds an option, with zeros up to a whole number of eight bytes.
fn option(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let units = (value.len() + 2).div_ceil(8);
    let Ok(len) = u8::try_from(units) else {
        return;
    };
    let end = to.len() + units * 8;
    to.extend([kind, len]);
    to.extend(value);
    to.resize(end, 0);
}

fn prefix(to: &mut Vec<u8>, prefix: Ipv6Net, lease_s: u32) {
    let lifetime = lease_s.to_be_bytes();
    let value = [
        &[prefix.prefix_len(), ON_LINK][..],
        // Valid and preferred.
        &lifetime,
        &lifetime,
        &[0; 4],
        &prefix.addr().octets(),
    ];
    option(to, PREFIX, &value.concat());
}

fn dns(to: &mut Vec<u8>, served: &Served) {
    let lifetime = u32::from(LIFETIME_S).to_be_bytes();
    let servers: Vec<u8> = served
        .told
        .dns6()
        .iter()
        .flat_map(std::net::Ipv6Addr::octets)
        .collect();
    if !servers.is_empty() {
        option(
            to,
            DNS_SERVERS,
            &[&[0; 2][..], &lifetime, &servers].concat(),
        );
    }
    if let Some(domain) = &served.told.dhcp.domain {
        option(
            to,
            DNS_SEARCH,
            &[&[0; 2][..], &lifetime, &labels(domain)].concat(),
        );
    }
}

/// A domain as DNS has it (RFC 1035 section 3.1).
pub(super) fn labels(domain: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in domain.split('.') {
        if let Ok(len) = u8::try_from(label.len()) {
            bytes.push(len);
            bytes.extend(label.bytes());
        }
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::dhcp::served::sample, model::Dhcp};

    fn dhcp() -> Dhcp {
        Dhcp {
            dns: vec!["8.8.8.8".parse().unwrap(), "fd00::53".parse().unwrap()],
            domain: Some("cloud.example".to_owned()),
            ..Dhcp::new("42".parse().unwrap())
        }
    }

    /// The options by type, each with its value.
    fn options(mut rest: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        rest = &rest[8..];
        while let [kind, len, ..] = rest {
            let (option, following) = rest.split_at(usize::from(*len) * 8);
            all.push((*kind, option[2..].to_vec()));
            rest = following;
        }
        all
    }

    #[test]
    fn a_router_is_one_for_half_an_hour_and_hosts_get_their_addresses_by_dhcp() {
        let served = sample(
            &["7.7.7.2/24", "fd00::2/64"],
            &["7.7.7.1/24", "fd00::1/64"],
            dhcp(),
        );
        let (head, rest) = advertisement(&served, false);
        assert_eq!(head, [64, 0xc0, 0x07, 0x08]);
        assert_eq!(rest[..8], [0; 8]);
        let options = options(&rest);
        let kinds: Vec<u8> = options.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [1, 5, 3, 25, 31]);
        assert_eq!(options[0].1, served.told.mac.octets());
        assert_eq!(options[1].1, [0, 0, 0, 0, 0x05, 0xaa]);
        let prefix = &options[2].1;
        assert_eq!(
            prefix[..2],
            [64, 0x80],
            "on the link, and nobody makes an address of it"
        );
        assert_eq!(prefix[2..6], 86_400_u32.to_be_bytes());
        assert_eq!(prefix[14..16], [0xfd, 0]);
        assert_eq!(options[3].1[2..6], 1800_u32.to_be_bytes());
        assert_eq!(options[3].1.len(), 6 + 16);
        assert_eq!(options[4].1[6..21], *b"\x05cloud\x07example\x00");
    }

    #[test]
    fn without_a_router_nobody_is_a_default_router() {
        for gateways in [&[][..], &["7.7.7.1/24"]] {
            let served = sample(&["fd00::2/64"], gateways, dhcp());
            let (head, rest) = advertisement(&served, false);
            assert_eq!(head, [64, 0xc0, 0, 0]);
            assert!(options(&rest).iter().any(|(kind, _)| *kind == 5));
        }
    }

    #[test]
    fn the_last_one_takes_the_router_back() {
        let served = sample(&["fd00::2/64"], &["fd00::1/64"], dhcp());
        let (head, rest) = advertisement(&served, true);
        assert_eq!(head, [64, 0, 0, 0]);
        assert_eq!(options(&rest).len(), 1);
    }

    #[test]
    fn two_addresses_of_a_prefix_have_one_option_and_a_whole_address_none() {
        let served = sample(&["fd00::2/64", "fd00::3/64", "fd01::2/128"], &[], dhcp());
        let (_, rest) = advertisement(&served, false);
        let options = options(&rest);
        assert_eq!(options.iter().filter(|(kind, _)| *kind == 3).count(), 1);
    }
}
