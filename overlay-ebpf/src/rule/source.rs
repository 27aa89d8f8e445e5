//! Decides whether an endpoint may send with a source address.

use crate::{
    abi::{EndpointEntry, NeighborEntry},
    wire::{eth::Mac, ipv6},
};

/// Whether `ip` is the endpoint's first IPv4 address. `false` says nothing yet: ask
/// [`owned_by`] with the neighbour table's entry.
#[must_use]
#[inline(always)]
pub fn is_first_ipv4(endpoint: &EndpointEntry, ip: [u8; 4]) -> bool {
    let ip = u32::from_ne_bytes(ip);
    ip != 0 && ip == u32::from_ne_bytes(endpoint.ipv4)
}

/// The same for IPv6.
#[must_use]
#[inline(always)]
pub fn is_first_ipv6(endpoint: &EndpointEntry, ip: [u8; 16]) -> bool {
    let [high, low] = ipv6::halves(ip);
    let [own_high, own_low] = ipv6::halves(endpoint.ipv6);
    (high | low) != 0 && high == own_high && low == own_low
}

/// Whether the neighbour table gives the address to this endpoint.
#[must_use]
#[inline(always)]
pub fn owned_by(endpoint: &EndpointEntry, neighbor: &NeighborEntry) -> bool {
    same_mac(endpoint.mac, neighbor.mac)
}

/// Whether the neighbour table, asked for an address, gives it to this endpoint.
#[must_use]
#[inline(always)]
pub fn is_own(endpoint: &EndpointEntry, neighbor: Option<NeighborEntry>) -> bool {
    neighbor.is_some_and(|neighbor| owned_by(endpoint, &neighbor))
}

/// Whether two MACs are equal.
#[must_use]
#[inline(always)]
pub fn same_mac(left: [u8; 6], right: [u8; 6]) -> bool {
    Mac::new(left) == Mac::new(right)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    fn endpoint() -> EndpointEntry {
        EndpointEntry {
            mac: [2, 0x42, 7, 7, 7, 2],
            ipv4: [7, 7, 7, 2],
            ipv6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            ..EndpointEntry::zeroed()
        }
    }

    #[test]
    fn only_its_own_address_is_an_endpoints() {
        assert!(is_first_ipv4(&endpoint(), [7, 7, 7, 2]));
        assert!(!is_first_ipv4(&endpoint(), [7, 7, 7, 3]));
        let mut ipv6 = endpoint().ipv6;
        assert!(is_first_ipv6(&endpoint(), ipv6));
        ipv6[15] = 3;
        assert!(!is_first_ipv6(&endpoint(), ipv6));
    }

    #[test]
    fn an_endpoint_without_addresses_does_not_own_the_unspecified_one() {
        assert!(!is_first_ipv4(&EndpointEntry::zeroed(), [0; 4]));
        assert!(!is_first_ipv6(&EndpointEntry::zeroed(), [0; 16]));
    }

    #[test]
    fn the_neighbour_table_decides_about_further_addresses() {
        assert!(owned_by(
            &endpoint(),
            &NeighborEntry::new(1, [2, 0x42, 7, 7, 7, 2])
        ));
        assert!(!owned_by(
            &endpoint(),
            &NeighborEntry::new(1, [2, 0x42, 7, 7, 7, 3])
        ));
    }
}
