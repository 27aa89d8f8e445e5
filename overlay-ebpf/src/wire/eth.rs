//! Ethernet II.

pub use network_types::eth::{EthHdr, EtherType};

/// Bytes of the header.
pub const LEN: usize = EthHdr::LEN;
/// `skb->protocol` and the header's field for IPv4, order of the wire.
pub const IPV4: u16 = EtherType::Ipv4 as u16;
/// The same for IPv6.
pub const IPV6: u16 = EtherType::Ipv6 as u16;
/// The same for ARP.
pub const ARP: u16 = EtherType::Arp as u16;
/// The same for an 802.1Q tag.
pub const VLAN: u16 = EtherType::Ieee8021q as u16;
/// The same for an 802.1ad tag.
pub const SERVICE_VLAN: u16 = EtherType::Ieee8021ad as u16;

/// Whether the address is a group's: broadcast or multicast.
#[must_use]
#[inline(always)]
pub const fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_bit_tells_broadcast_and_multicast() {
        assert!(is_group([0xff; 6]));
        assert!(is_group([0x33, 0x33, 0, 0, 0, 1]));
        assert!(!is_group([0x02, 0x42, 7, 7, 7, 2]));
    }
}
