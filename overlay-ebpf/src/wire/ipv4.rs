//! IPv4 (RFC 791).

pub use network_types::ip::Ipv4Hdr;

use super::checksum::{self, Sum};

/// Bytes of a header without options.
pub const LEN: usize = Ipv4Hdr::LEN;
/// Version 4, five words: no options.
pub const NO_OPTIONS: u8 = 0x45;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of IGMP.
pub const IGMP: u8 = 2;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Hops that an outer packet may take: the host's default (`IPDEFTTL`).
const TTL: u8 = 64;
/// The two ECN bits of the type-of-service byte (RFC 3168 section 5).
pub const ECN_MASK: u8 = 0b11;
/// Don't fragment.
const DF: [u8; 2] = [0x40, 0x00];

/// Bytes of the header, options included.
#[must_use]
#[inline(always)]
pub const fn header_len(ip: &Ipv4Hdr) -> usize {
    (ip.vihl & 0x0f) as usize * 4
}

/// Whether no router may cut the packet up.
#[must_use]
#[inline(always)]
pub const fn must_not_fragment(ip: &Ipv4Hdr) -> bool {
    ip.frags[0] & DF[0] != 0
}

/// The header of an ICMP error about `ip`: from `source` to its sender. `payload_len` bytes follow.
#[must_use]
#[inline(always)]
pub const fn error_about(ip: &Ipv4Hdr, source: [u8; 4], payload_len: u16) -> Ipv4Hdr {
    const HEADER: u16 = 20;
    const { assert!(HEADER as usize == LEN) };
    header(source, ip.src_addr, HEADER + payload_len, 0, ICMP)
}

/// Whether the packet is a fragment, first, middle or last.
#[must_use]
#[inline(always)]
pub const fn is_fragment(ip: &Ipv4Hdr) -> bool {
    (ip.frags[0] & 0x3f) | ip.frags[1] != 0
}

/// Whether a fragment is the first of its packet, and so has the packet's L4 header.
#[must_use]
#[inline(always)]
pub const fn is_first_fragment(ip: &Ipv4Hdr) -> bool {
    (ip.frags[0] & 0x1f) | ip.frags[1] == 0
}

/// The outer header of a tunnel packet: UDP, DF, no options. The identification is 0, which
/// RFC 6864 allows for packets that are never fragmented; segmentation counts it up from there.
#[must_use]
#[inline(always)]
pub const fn outer(source: [u8; 4], destination: [u8; 4], total_len: u16, ecn: u8) -> Ipv4Hdr {
    header(source, destination, total_len, ecn, UDP)
}

#[inline(always)]
const fn header(
    source: [u8; 4],
    destination: [u8; 4],
    total_len: u16,
    ecn: u8,
    protocol: u8,
) -> Ipv4Hdr {
    let mut ip = Ipv4Hdr {
        vihl: NO_OPTIONS,
        tos: ecn,
        tot_len: total_len.to_be_bytes(),
        id: [0; 2],
        frags: DF,
        ttl: TTL,
        proto: protocol,
        check: [0; 2],
        src_addr: source,
        dst_addr: destination,
    };
    ip.check = Sum::ZERO
        .pair([NO_OPTIONS, ecn])
        .pair(ip.tot_len)
        .pair(DF)
        .pair([TTL, protocol])
        .bytes(source)
        .bytes(destination)
        .finish();
    ip
}

/// Whether the checksum of a header without options is right (RFC 791; `ip_rcv_core` in
/// `net/ipv4/ip_input.c`).
#[must_use]
#[inline(always)]
pub fn has_valid_checksum(ip: &Ipv4Hdr) -> bool {
    let sum = Sum::ZERO
        .pair([ip.vihl, ip.tos])
        .pair(ip.tot_len)
        .pair(ip.id)
        .pair(ip.frags)
        .pair([ip.ttl, ip.proto])
        .pair(ip.check)
        .bytes(ip.src_addr)
        .bytes(ip.dst_addr);
    u16::from_ne_bytes(sum.finish()) == 0
}

/// Takes one hop off and mends the checksum.
#[inline(always)]
pub const fn take_hop(ip: &mut Ipv4Hdr) {
    let ttl = ip.ttl.wrapping_sub(1);
    ip.check = checksum::replace(ip.check, [ip.ttl, ip.proto], [ttl, ip.proto]);
    ip.ttl = ttl;
}

/// Changes the ECN field and mends the checksum.
#[inline(always)]
pub const fn set_ecn(ip: &mut Ipv4Hdr, ecn: u8) {
    set_traffic_class(ip, (ip.tos & !ECN_MASK) | ecn);
}

/// Changes the type-of-service byte, DSCP and ECN, and mends the checksum.
#[inline(always)]
pub const fn set_traffic_class(ip: &mut Ipv4Hdr, class: u8) {
    ip.check = checksum::replace(ip.check, [ip.vihl, ip.tos], [ip.vihl, class]);
    ip.tos = class;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_header_is_sound_and_asks_not_to_be_fragmented() {
        let ip = outer([10, 0, 0, 1], [10, 0, 0, 2], 1500, 0b10);
        assert!(has_valid_checksum(&ip));
        assert_eq!(
            (ip.tot_len(), ip.ecn(), ip.dscp(), ip.ttl),
            (1500, 0b10, 0, 64)
        );
        assert_eq!(ip.frags, DF);
        assert!(!is_fragment(&ip));
    }

    #[test]
    fn a_header_with_any_bit_flipped_has_a_wrong_checksum() {
        let sound = outer([10, 0, 0, 1], [10, 0, 0, 2], 1500, 0);
        for bit in 0..8 {
            assert!(!has_valid_checksum(&Ipv4Hdr {
                ttl: sound.ttl ^ (1 << bit),
                ..sound
            }));
            assert!(!has_valid_checksum(&Ipv4Hdr {
                tos: sound.tos ^ (1 << bit),
                ..sound
            }));
        }
    }

    #[test]
    fn changing_the_ecn_field_keeps_the_checksum_right_and_the_dscp() {
        let mut ip = outer([10, 0, 0, 1], [10, 0, 0, 2], 84, 0);
        set_ecn(&mut ip, 0b11);
        assert!(has_valid_checksum(&ip));
        assert_eq!(ip.ecn(), 0b11);
    }

    #[test]
    fn taking_a_hop_keeps_the_checksum_right() {
        let mut ip = outer([10, 0, 0, 1], [10, 0, 0, 2], 84, 0);
        for left in (0..64).rev() {
            take_hop(&mut ip);
            assert!(has_valid_checksum(&ip));
            assert_eq!(ip.ttl, left);
        }
    }

    #[test]
    fn first_middle_and_last_fragments_are_told() {
        let mut ip = outer([10, 0, 0, 1], [10, 0, 0, 2], 84, 0);
        for (frags, fragment) in [
            ([0x20, 0], true),
            ([0x20, 1], true),
            ([0, 1], true),
            ([0, 0], false),
            ([0x40, 0], false),
        ] {
            ip.frags = frags;
            assert_eq!(is_fragment(&ip), fragment, "{frags:?}");
        }
    }
}
