//! IPv6 (RFC 8200).

use bytemuck::must_cast;

use super::checksum::Sum;

/// Bytes of the fixed header.
pub const LEN: usize = 40;
/// Next-header number of `ICMPv6`.
pub const ICMPV6: u8 = 58;
/// Next-header number of TCP.
pub const TCP: u8 = 6;
/// Next-header number of UDP.
pub const UDP: u8 = 17;
/// Next-header number of the hop-by-hop options (RFC 8200 section 4).
pub const HOP_BY_HOP: u8 = 0;
/// Next-header number of a routing header.
pub const ROUTING: u8 = 43;
/// Next-header number of a fragment header.
pub const FRAGMENT: u8 = 44;
/// Next-header number of the destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// All nodes on the link (RFC 4291 section 2.7.1).
pub const ALL_NODES: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The link-local address of gateways, the same in every network: router advertisements come from it (RFC 4861 section
/// 6.1.2).
pub const GATEWAY: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The MAC that [`ALL_NODES`] maps to (RFC 2464 section 7).
pub const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// An IPv4 address as an IPv6 one (RFC 4291 section 2.5.5.2).
#[must_use]
#[inline(always)]
pub fn mapped(ip: [u8; 4]) -> [u8; 16] {
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    must_cast([0, 0, prefix, u32::from_ne_bytes(ip)])
}

/// The fixed header. `network-types` splits the first word with unions; the overlay only ever
/// wants the whole word and the traffic class.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Hdr {
    /// Version, traffic class, flow label.
    pub version_class_flow: [u8; 4],
    /// Bytes after this header, order of the wire.
    pub payload_len: [u8; 2],
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

const _: () = assert!(size_of::<Ipv6Hdr>() == LEN);

impl Ipv6Hdr {
    /// The two ECN bits of the traffic class.
    #[must_use]
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        (self.version_class_flow[1] >> 4) & super::ipv4::ECN_MASK
    }

    /// Changes the ECN bits.
    #[inline(always)]
    pub const fn set_ecn(&mut self, ecn: u8) {
        let class_flow = &mut self.version_class_flow[1];
        *class_flow = (*class_flow & !(super::ipv4::ECN_MASK << 4)) | (ecn << 4);
    }

    /// The traffic class: DSCP and ECN.
    #[must_use]
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        self.version_class_flow[0] << 4 | self.version_class_flow[1] >> 4
    }

    /// Changes the traffic class.
    #[inline(always)]
    pub const fn set_traffic_class(&mut self, class: u8) {
        let [version_class, class_flow, ..] = &mut self.version_class_flow;
        *version_class = *version_class & 0xf0 | class >> 4;
        *class_flow = *class_flow & 0x0f | class << 4;
    }

    /// The pseudo-header's sum (RFC 8200 section 8.1) for a payload of this length.
    #[must_use]
    #[inline(always)]
    pub fn pseudo_sum(&self) -> Sum {
        Sum::ZERO
            .sixteen(self.source)
            .sixteen(self.destination)
            .pair(self.payload_len)
            .pair([0, self.next_header])
    }
}

/// Makes the source the destination and the other way round.
#[inline(always)]
pub fn exchange_addresses(ip: &mut Ipv6Hdr) {
    core::mem::swap(&mut ip.source, &mut ip.destination);
}

/// An address as two numbers, which BPF can compare, unlike one of 128 bits.
#[must_use]
#[inline(always)]
pub fn halves(ip: [u8; 16]) -> [u64; 2] {
    must_cast(ip)
}

/// The address of two numbers.
#[must_use]
#[inline(always)]
pub fn octets(halves: [u64; 2]) -> [u8; 16] {
    must_cast(halves)
}

/// Two numbers of an IPv4 address mapped into IPv6.
#[must_use]
#[inline(always)]
pub const fn mapped_halves(ip: [u8; 4]) -> [u64; 2] {
    let [a, b, c, d] = ip;
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// The IPv4 address that is mapped into an IPv6 one, order of the wire; the reverse of [`mapped_halves`].
#[must_use]
#[inline(always)]
pub const fn mapped_in([high, low]: [u64; 2]) -> Option<[u8; 4]> {
    let [zero, also_zero, one, also_one, a, b, c, d] = low.to_ne_bytes();
    let prefix = u32::from_ne_bytes([zero, also_zero, one, also_one]);
    if high == 0 && prefix == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
        Some([a, b, c, d])
    } else {
        None
    }
}

/// Whether the address is an IPv4 one mapped into IPv6 (RFC 4291 section 2.5.5.2).
#[must_use]
#[inline(always)]
pub fn is_mapped(ip: [u8; 16]) -> bool {
    let [first, second, third, _] = must_cast::<_, [u32; 4]>(ip);
    first | second == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// Whether a header of this number is followed by another, which it names.
#[must_use]
#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}

/// Whether the address is of the link alone (RFC 4291 section 2.5.6).
#[must_use]
#[inline(always)]
pub const fn is_link_local(ip: [u8; 16]) -> bool {
    ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

/// Whether the address is the link-local one that an interface with this MAC makes itself (RFC 4291
/// appendix A): no other is taken for its own without the registry's word.
#[must_use]
#[inline(always)]
pub fn is_link_local_of(ip: [u8; 16], mac: [u8; 6]) -> bool {
    let [first, second, third, rest @ ..] = mac;
    let [fourth, fifth, sixth] = rest;
    let own = [
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0],
        [
            first ^ 0x02,
            second,
            third,
            0xff,
            0xfe,
            fourth,
            fifth,
            sixth,
        ],
    ];
    halves(ip) == own.map(u64::from_ne_bytes)
}

/// Whether every bit of the address is zero.
#[must_use]
#[inline(always)]
pub fn is_unspecified(ip: [u8; 16]) -> bool {
    let [high, low] = halves(ip);
    high | low == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_bits_change_alone() {
        let mut header = Ipv6Hdr {
            version_class_flow: [0x6a, 0xbc, 0xde, 0xf0],
            payload_len: [0; 2],
            next_header: ICMPV6,
            hop_limit: 255,
            source: [0; 16],
            destination: [0; 16],
        };
        assert_eq!(header.ecn(), 0b11);
        header.set_ecn(0b01);
        assert_eq!(header.version_class_flow, [0x6a, 0x9c, 0xde, 0xf0]);
        assert_eq!(header.ecn(), 0b01);
    }

    #[test]
    fn the_traffic_class_changes_alone() {
        let mut header = Ipv6Hdr {
            version_class_flow: [0x6a, 0xbc, 0xde, 0xf0],
            payload_len: [0; 2],
            next_header: ICMPV6,
            hop_limit: 255,
            source: [0; 16],
            destination: [0; 16],
        };
        assert_eq!(header.traffic_class(), 0xab);
        header.set_traffic_class(0x12);
        assert_eq!(header.version_class_flow, [0x61, 0x2c, 0xde, 0xf0]);
        assert_eq!(header.traffic_class(), 0x12);
    }

    #[test]
    fn mapped_addresses_are_those_that_ipv4_ones_are_mapped_to() {
        for ip in [[0; 4], [7, 7, 7, 2], [255; 4]] {
            assert!(is_mapped(mapped(ip)));
            assert_eq!(mapped_halves(ip), halves(mapped(ip)));
        }
        for byte in 0..12 {
            let mut ip = mapped([7, 7, 7, 2]);
            ip[byte] ^= 1;
            assert!(!is_mapped(ip), "byte {byte}");
        }
    }

    #[test]
    fn a_link_local_address_is_of_the_mac_that_it_is_made_from() {
        let mac = [0x02, 0x42, 7, 7, 7, 2];
        let own = [
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x00, 0x42, 7, 0xff, 0xfe, 7, 7, 2,
        ];
        assert!(is_link_local(own) && is_link_local_of(own, mac));
        for byte in 0..16 {
            let mut other = own;
            other[byte] ^= 1;
            assert!(!is_link_local_of(other, mac), "byte {byte}");
        }
        assert!(!is_link_local([0xff; 16]));
    }

    #[test]
    fn only_all_zeros_is_unspecified() {
        assert!(is_unspecified([0; 16]));
        for byte in 0..16 {
            let mut ip = [0; 16];
            ip[byte] = 1;
            assert!(!is_unspecified(ip));
        }
    }
}
