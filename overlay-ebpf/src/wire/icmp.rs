//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors about the length of packets.

use super::{
    checksum::Sum,
    ipv6::{ICMPV6, Ipv6Hdr},
};

/// Bytes of an error before the packet that it quotes, in both versions.
pub const LEN: usize = 8;

/// An error that says how long a packet may be.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBigHdr {
    /// 3 (destination unreachable) in ICMP, 2 (packet too big) in ICMPv6.
    pub kind: u8,
    /// 4 (fragmentation needed) in ICMP, 0 in ICMPv6.
    pub code: u8,
    /// Over the message, in ICMPv6 over the pseudo-header too.
    pub checksum: [u8; 2],
    /// The longest packet that gets through, bytes, order of the wire. In ICMP the upper half is unused.
    pub mtu: [u8; 4],
}

const _: () = assert!(size_of::<TooBigHdr>() == LEN);

const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// [`LEN`] as it goes into a header.
const HEADER_LEN: u16 = 8;

const _: () = assert!(HEADER_LEN as usize == LEN);

/// Hop limit of an error.
const HOP_LIMIT: u8 = 64;

/// The ICMP error (RFC 1191 section 4); `quoted` is the sum of the bytes behind it.
#[must_use]
#[inline(always)]
pub fn fragmentation_needed(mtu: u16, quoted: Sum) -> TooBigHdr {
    message(
        [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED],
        u32::from(mtu).to_be_bytes(),
        quoted,
    )
}

/// The ICMPv6 error about `ip` (RFC 4443 section 3.2) with its header: to the packet's sender, as if from where
/// it goes to. `quoted` is the sum of the `quoted_len` bytes behind it.
#[must_use]
#[inline(always)]
pub fn packet_too_big(
    ip: &Ipv6Hdr,
    mtu: u16,
    quoted: Sum,
    quoted_len: u16,
) -> (Ipv6Hdr, TooBigHdr) {
    let header = Ipv6Hdr {
        version_class_flow: [0x60, 0, 0, 0],
        payload_len: (HEADER_LEN + quoted_len).to_be_bytes(),
        next_header: ICMPV6,
        hop_limit: HOP_LIMIT,
        source: ip.destination,
        destination: ip.source,
    };
    let sum = header.pseudo_sum().and(quoted);
    let message = message([PACKET_TOO_BIG, 0], u32::from(mtu).to_be_bytes(), sum);
    (header, message)
}

#[inline(always)]
fn message([kind, code]: [u8; 2], mtu: [u8; 4], sum: Sum) -> TooBigHdr {
    TooBigHdr {
        kind,
        code,
        checksum: sum.pair([kind, code]).bytes(mtu).finish(),
        mtu,
    }
}

/// Whether an ICMP message of this type is an error, of which no error may tell (RFC 1122 section 3.2.2).
#[must_use]
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `len` bytes of payload, and their sum.
    fn quoted(len: usize) -> (Vec<u8>, Sum) {
        let bytes: Vec<u8> = (0_u8..).take(len).collect();
        let words = bytes.chunks(4).map(|word| word.try_into().unwrap());
        let sum = words.fold(Sum::ZERO, Sum::bytes);
        (bytes, sum)
    }

    fn bytes(message: TooBigHdr) -> Vec<u8> {
        let TooBigHdr {
            kind,
            code,
            checksum,
            mtu,
        } = message;
        [&[kind, code], checksum.as_slice(), &mtu].concat()
    }

    #[test]
    fn fragmentation_needed_names_the_mtu_and_its_checksum_is_right() {
        let (quoted, sum) = quoted(128);
        let message = fragmentation_needed(3950, sum);
        assert_eq!((message.kind, message.code), (3, 4));
        assert_eq!(message.mtu, [0, 0, 0x0f, 0x6e]);
        let whole = [bytes(message), quoted].concat();
        let words = whole.chunks(4).map(|word| word.try_into().unwrap());
        assert_eq!(words.fold(Sum::ZERO, Sum::bytes).finish(), [0, 0]);
    }

    #[test]
    fn packet_too_big_goes_back_and_its_checksum_is_right() {
        let ip = Ipv6Hdr {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: [0x0f, 0],
            next_header: 6,
            hop_limit: 9,
            source: [2; 16],
            destination: [3; 16],
        };
        let (quoted, sum) = quoted(128);
        let (header, message) = packet_too_big(&ip, 3930, sum, 128);
        assert_eq!((header.source, header.destination), ([3; 16], [2; 16]));
        assert_eq!(header.payload_len, [0, 136]);
        let whole = [bytes(message), quoted].concat();
        let words = whole.chunks(4).map(|word| word.try_into().unwrap());
        assert_eq!(words.fold(header.pseudo_sum(), Sum::bytes).finish(), [0, 0]);
    }

    #[test]
    fn errors_are_told_from_questions() {
        let errors: Vec<u8> = (0..=255).filter(|kind| is_error(*kind)).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
    }
}
