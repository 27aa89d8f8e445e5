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
/// All nodes on the link (RFC 4291 section 2.7.1).
pub const ALL_NODES: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
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

/// An address as two numbers, which BPF can compare, unlike one of 128 bits.
#[must_use]
#[inline(always)]
pub fn halves(ip: [u8; 16]) -> [u64; 2] {
    must_cast(ip)
}

/// Whether the address is an IPv4 one mapped into IPv6 (RFC 4291 section 2.5.5.2).
#[must_use]
#[inline(always)]
pub fn is_mapped(ip: [u8; 16]) -> bool {
    let [first, second, third, _] = must_cast::<_, [u32; 4]>(ip);
    first | second == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
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
    fn mapped_addresses_are_those_that_ipv4_ones_are_mapped_to() {
        for ip in [[0; 4], [7, 7, 7, 2], [255; 4]] {
            assert!(is_mapped(mapped(ip)));
        }
        for byte in 0..12 {
            let mut ip = mapped([7, 7, 7, 2]);
            ip[byte] ^= 1;
            assert!(!is_mapped(ip), "byte {byte}");
        }
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
