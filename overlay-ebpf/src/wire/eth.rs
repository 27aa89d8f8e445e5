//! Ethernet II.

use bytemuck::must_cast;
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

/// A MAC in registers: its first four and its last two octets as they lie in memory. Arrays of
/// single octets tempt LLVM to move them one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac {
    first_four: u32,
    last_two: u16,
}

impl Mac {
    /// From the order of the wire.
    #[must_use]
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        let [first_four @ .., fifth, sixth] = octets;
        Self {
            first_four: u32::from_ne_bytes(first_four),
            last_two: u16::from_ne_bytes([fifth, sixth]),
        }
    }

    /// In the order of the wire.
    #[must_use]
    #[inline(always)]
    pub fn octets(self) -> [u8; 6] {
        let [first, second] = must_cast::<_, [u16; 2]>(self.first_four);
        must_cast([first, second, self.last_two])
    }

    /// Two words that lie in memory as the six octets and two zeros.
    #[must_use]
    #[inline(always)]
    pub const fn words(self) -> [u32; 2] {
        let [fifth, sixth] = self.last_two.to_ne_bytes();
        [self.first_four, u32::from_ne_bytes([fifth, sixth, 0, 0])]
    }

    /// Whether the address is a group's: broadcast or multicast.
    #[must_use]
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.first_four.to_ne_bytes()[0] & 1 == 1
    }
}

/// What an Ethernet header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// What follows, order of the wire.
    pub ether_type: u16,
}

impl Header {
    /// Reads a header.
    #[must_use]
    #[inline(always)]
    pub const fn parse(header: &EthHdr) -> Self {
        Self {
            destination: Mac::new(header.dst_addr),
            source: Mac::new(header.src_addr),
            ether_type: header.ether_type,
        }
    }

    /// Whether a VLAN tag follows.
    #[must_use]
    #[inline(always)]
    pub const fn is_tagged(&self) -> bool {
        self.ether_type == VLAN || self.ether_type == SERVICE_VLAN
    }

    /// Writes it.
    #[inline(always)]
    pub fn emit(&self, header: &mut EthHdr) {
        header.dst_addr = self.destination.octets();
        header.src_addr = self.source.octets();
        header.ether_type = self.ether_type;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0x42, 7, 8, 9, 10];

    #[test]
    fn the_group_bit_tells_broadcast_and_multicast() {
        assert!(Mac::new([0xff; 6]).is_group());
        assert!(Mac::new([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!Mac::new(MAC).is_group());
    }

    #[test]
    fn octets_come_back_and_words_lie_like_them() {
        assert_eq!(Mac::new(MAC).octets(), MAC);
        let words = Mac::new(MAC).words().map(u32::to_ne_bytes).concat();
        assert_eq!(words, [MAC.as_slice(), &[0, 0]].concat());
    }

    #[test]
    fn a_header_is_written_as_it_was_read() {
        let read = EthHdr {
            dst_addr: [1; 6],
            src_addr: MAC,
            ether_type: IPV4,
        };
        let mut written = EthHdr {
            dst_addr: [0; 6],
            src_addr: [0; 6],
            ether_type: 0,
        };
        Header::parse(&read).emit(&mut written);
        assert_eq!(
            (written.dst_addr, written.src_addr),
            (read.dst_addr, read.src_addr)
        );
        assert_eq!(written.ether_type, IPV4);
    }
}
