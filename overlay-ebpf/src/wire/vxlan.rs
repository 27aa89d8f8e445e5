//! VXLAN (RFC 7348) and the whole stack of headers that a tunnel packet begins with.

pub use network_types::vxlan::VxlanHdr;

use network_types::{eth::EthHdr, ip::Ipv4Hdr, udp::UdpHdr};

use super::{eth, ipv4, udp};

/// Bytes of the VXLAN header.
pub const LEN: usize = VxlanHdr::LEN;
/// What a tunnel over IPv4 adds to a frame: IPv4, UDP, VXLAN and the inner Ethernet header.
pub const OVERHEAD_IPV4: usize = ipv4::LEN + udp::LEN + LEN + eth::LEN;
/// From the start of a tunnel packet to the inner IP header.
pub const INNER_L3: usize = eth::LEN + OVERHEAD_IPV4;
/// The I flag: the VNI is valid (RFC 7348 section 5).
const I_FLAG: u8 = 0x08;

/// What encapsulation puts between the outer Ethernet header and the inner IP header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Encapsulation {
    /// Outer IPv4 header.
    pub ip: Ipv4Hdr,
    /// Outer UDP header.
    pub udp: UdpHdr,
    /// VXLAN header, see [`header`].
    pub vxlan: [u8; LEN],
    /// Inner Ethernet header.
    pub inner: EthHdr,
}

const _: () = assert!(size_of::<Encapsulation>() == OVERHEAD_IPV4);

/// A header for `vni`, everything reserved zero.
#[must_use]
#[inline(always)]
pub const fn header(vni: u32) -> [u8; LEN] {
    (((I_FLAG as u64) << 56) | ((vni as u64) << 8)).to_be_bytes()
}

/// The VNI, host byte order.
#[must_use]
#[inline(always)]
pub const fn vni(header: &VxlanHdr) -> u32 {
    let [high, middle, low] = header.vni;
    u32::from_be_bytes([0, high, middle, low])
}

/// Whether the I flag says that the VNI is valid.
#[must_use]
#[inline(always)]
pub const fn has_vni(header: &VxlanHdr) -> bool {
    header.flags & I_FLAG != 0
}

/// Whether any bit is set that RFC 7348 reserves. It says to ignore them on receipt; Linux drops.
#[must_use]
#[inline(always)]
pub const fn has_reserved_bits(header: &VxlanHdr) -> bool {
    let [a, b, c] = header._reserved1;
    (header.flags & !I_FLAG) | a | b | c | header._reserved2 != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(bytes: [u8; LEN]) -> VxlanHdr {
        let [flags, a, b, c, vni @ .., last] = bytes;
        VxlanHdr {
            flags,
            _reserved1: [a, b, c],
            vni,
            _reserved2: last,
        }
    }

    #[test]
    fn a_header_is_the_eight_bytes_of_rfc_7348() {
        assert_eq!(header(0x0012_3456), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn each_reserved_bit_is_seen() {
        for bit in 0..64_u32 {
            let mut bytes = header(42);
            bytes[bit as usize / 8] |= 1 << (bit % 8);
            let is_reserved = bit != 3 && !(32..56).contains(&bit);
            assert_eq!(has_reserved_bits(&parsed(bytes)), is_reserved, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn the_vni_comes_back(number in 1_u32..=0x00ff_ffff) {
            let header = parsed(header(number));
            prop_assert_eq!(vni(&header), number);
            prop_assert!(has_vni(&header));
        }
    }
}
