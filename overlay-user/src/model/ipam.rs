//! Address selection: what an endpoint may have, and what one gets that asked for nothing. Pure; the
//! registry's constraints decide whether it is still free at the commit.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Network;
pub use super::{is_assignable, is_point_to_point, is_unicast};

/// The lowest free address of the network's subnets, in their order, with its subnet's prefix
/// length. `None`: the network has no subnet, or all are full.
///
/// Never handed out are a subnet's first host address, which is the gateway's, the network and
/// broadcast addresses of IPv4 and the subnet-router anycast address of IPv6 (RFC 4291 section 2.6.1).
/// Subnets of one or two addresses have none of these, and are handed out whole (RFC 3021, RFC 6164).
///
/// Takes one question to `used` per address below the answer.
#[must_use]
pub fn next_free(network: &Network, used: impl Fn(IpAddr) -> bool) -> Option<IpNet> {
    network.subnets.iter().find_map(|subnet| {
        let (first, last) = pool(subnet);
        (first..=last)
            .map(|number| address(subnet, number))
            .find(|ip| !used(*ip))
            .and_then(|ip| IpNet::new(ip, subnet.prefix_len()).ok())
    })
}

/// What is handed out of one subnet: a run of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    subnet: IpNet,
    first: u128,
    last: u128,
}

/// Some addresses in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The lowest.
    pub first: IpAddr,
    /// The highest, of the same family.
    pub last: IpAddr,
}

impl Block {
    /// Every address, in order.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (number(self.first)..=number(self.last)).map(move |number| match self.first {
            IpAddr::V4(_) => ipv4(number),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        })
    }
}

/// The pools of a network, in the order in which they are used.
pub fn pools(network: &Network) -> impl Iterator<Item = Pool> + '_ {
    network.subnets.iter().map(|subnet| {
        let (first, last) = pool(subnet);
        Pool {
            subnet: *subnet,
            first,
            last,
        }
    })
}

impl Pool {
    /// How many blocks of `size` it has, the last one being shorter perhaps.
    #[must_use]
    pub fn blocks(&self, size: u16) -> u128 {
        (self.last - self.first) / u128::from(size) + 1
    }

    /// Block number `index` of those of `size`. `None`: beyond the end.
    #[must_use]
    pub fn block(&self, size: u16, index: u128) -> Option<Block> {
        let size = u128::from(size);
        let first = index
            .checked_mul(size)
            .and_then(|offset| self.first.checked_add(offset))
            .filter(|first| *first <= self.last)?;
        Some(Block {
            first: address(&self.subnet, first),
            last: address(&self.subnet, self.last.min(first.saturating_add(size - 1))),
        })
    }

    /// The address with its subnet's prefix length.
    #[must_use]
    pub fn assign(&self, ip: IpAddr) -> Option<IpNet> {
        IpNet::new(ip, self.subnet.prefix_len()).ok()
    }
}

/// The first address of a subnet that a host can have: a gateway's by default.
#[must_use]
pub fn first_host(subnet: &IpNet) -> IpAddr {
    let network = number(subnet.network());
    let is_small = is_point_to_point(subnet);
    address(subnet, if is_small { network } else { network + 1 })
}

/// First and last number that may be handed out.
fn pool(subnet: &IpNet) -> (u128, u128) {
    let (network, last) = (number(subnet.network()), number(subnet.broadcast()));
    match subnet {
        _ if is_point_to_point(subnet) => (network, last),
        // The gateway's is the one after the network's.
        IpNet::V4(_) => (network + 2, last - 1),
        IpNet::V6(_) => (network + 2, last),
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(subnet: &IpNet, number: u128) -> IpAddr {
    match subnet {
        IpNet::V4(_) => ipv4(number),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

/// The low half: an IPv4 address's number has no more.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most 32 bits, see above"
)]
fn ipv4(number: u128) -> IpAddr {
    IpAddr::V4((number as u32).into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Vni;

    fn network(subnets: &[&str]) -> Network {
        let mut network = Network::new("blue".parse().unwrap(), Vni::try_from(42).unwrap());
        network.subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        network
    }

    fn hand_out_all(network: &Network) -> Vec<String> {
        let mut used = HashSet::new();
        std::iter::from_fn(|| {
            let next = next_free(network, |ip| used.contains(&ip))?;
            assert!(used.insert(next.addr()));
            Some(next.to_string())
        })
        .collect()
    }

    #[test]
    fn ipv4_leaves_network_gateway_and_broadcast_out() {
        assert_eq!(
            hand_out_all(&network(&["7.7.7.0/29"])),
            [
                "7.7.7.2/29",
                "7.7.7.3/29",
                "7.7.7.4/29",
                "7.7.7.5/29",
                "7.7.7.6/29"
            ]
        );
    }

    #[test]
    fn ipv6_leaves_anycast_and_gateway_out() {
        assert_eq!(
            hand_out_all(&network(&["fd00::8/126"])),
            ["fd00::a/126", "fd00::b/126"]
        );
    }

    #[test]
    fn both_addresses_of_a_point_to_point_subnet_are_handed_out() {
        assert_eq!(
            hand_out_all(&network(&["10.0.0.4/31", "fd00::4/127"])),
            ["10.0.0.4/31", "10.0.0.5/31", "fd00::4/127", "fd00::5/127"]
        );
    }

    #[test]
    fn the_one_address_of_a_subnet_is_handed_out() {
        assert_eq!(
            hand_out_all(&network(&["10.0.0.4/32", "fd00::4/128"])),
            ["10.0.0.4/32", "fd00::4/128"]
        );
    }

    #[test]
    fn without_a_subnet_nothing_is_handed_out() {
        assert_eq!(next_free(&network(&[]), |_| false), None);
    }

    #[test]
    fn a_full_subnet_leads_to_the_next() {
        let network = network(&["7.7.7.0/30", "7.7.8.0/30"]);
        assert_eq!(hand_out_all(&network), ["7.7.7.2/30", "7.7.8.2/30"]);
    }

    #[test]
    fn the_widest_subnets_do_not_overflow() {
        for (subnet, first) in [("0.0.0.0/0", "0.0.0.2/0"), ("::/0", "::2/0")] {
            let next = next_free(&network(&[subnet]), |_| false).unwrap();
            assert_eq!(next.to_string(), first);
        }
    }

    #[test]
    fn a_subnet_written_with_host_bits_counts_from_its_network_address() {
        let next = next_free(&network(&["7.7.7.9/24"]), |_| false).unwrap();
        assert_eq!(next.to_string(), "7.7.7.2/24");
    }

    #[test]
    fn an_endpoint_can_have_unicast_addresses_only() {
        for good in ["7.7.7.2", "169.254.1.1", "fd00::2", "fe80::1"] {
            assert!(is_assignable(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "::ffff:7.7.7.2",
        ] {
            assert!(!is_assignable(bad.parse().unwrap()), "{bad}");
        }
    }

    fn subnet() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 20..=32_u8).prop_map(|(bits, len)| IpNet::new(
                IpAddr::V4(bits.into()),
                len
            )
            .unwrap()),
            (any::<u128>(), 116..=128_u8).prop_map(|(bits, len)| IpNet::new(
                IpAddr::V6(bits.into()),
                len
            )
            .unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn the_answer_is_the_lowest_free_host_address(
            subnet in subnet(),
            used in prop::collection::hash_set(0..40_u128, 0..40),
        ) {
            let base = number(subnet.network());
            let is_used = |ip| used.contains(&(number(ip) - base));
            let mut network = network(&[]);
            network.subnets = vec![subnet];

            let small = subnet.max_prefix_len() - subnet.prefix_len() <= 1;
            let mut hosts = (0..=number(subnet.broadcast()) - base)
                .map(|offset| address(&subnet, base + offset))
                .filter(|ip| {
                    small || (*ip != subnet.network()
                        && (subnet.network().is_ipv6() || *ip != subnet.broadcast()))
                })
                .skip(usize::from(!small));
            let expected = hosts.find(|ip| !is_used(*ip));

            let got = next_free(&network, is_used);
            prop_assert_eq!(got.map(|net| net.addr()), expected);
            prop_assert!(got.is_none_or(|net| net.prefix_len() == subnet.prefix_len()));
            prop_assert!(got.is_none_or(|net| network.allows(net.addr())));
        }
    }
}
