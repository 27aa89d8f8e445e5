//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors, and echoes.

use super::{
    checksum::{self, Sum},
    ipv6::{ICMPV6, Ipv6Hdr},
};

/// Bytes of an error before the packet that it quotes, in both versions.
pub const LEN: usize = 8;

/// The front of an error, or of a question for an echo.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpHdr {
    /// What it is about.
    pub kind: u8,
    /// The same in more detail.
    pub code: u8,
    /// Over the message, in ICMPv6 over the pseudo-header too.
    pub checksum: [u8; 2],
    /// Of an error about a packet's length: the longest one that gets through, bytes, order of the wire. In ICMP the
    /// upper half is unused. Of an echo: its identifier and its sequence number.
    pub rest: [u8; 4],
}

const _: () = assert!(size_of::<IcmpHdr>() == LEN);

/// [`LEN`] as it goes into a header.
const HEADER_LEN: u16 = 8;

const _: () = assert!(HEADER_LEN as usize == LEN);

/// Hop limit of an error.
const HOP_LIMIT: u8 = 64;

/// The ICMP error of this type and code (RFC 792); `limit` is that of [`IcmpHdr::rest`] or 0, `quoted` the sum of the
/// bytes behind it.
#[must_use]
#[inline(always)]
pub fn error_ipv4(kind_and_code: [u8; 2], limit: u16, quoted: Sum) -> IcmpHdr {
    message(kind_and_code, u32::from(limit).to_be_bytes(), quoted)
}

/// The `ICMPv6` error about `ip` (RFC 4443 section 3) with its header: from `source` to the packet's sender. `limit` is
/// that of [`IcmpHdr::rest`] or 0, `quoted` the sum of the `quoted_len` bytes behind it.
#[must_use]
#[inline(always)]
pub fn error_ipv6(
    ip: &Ipv6Hdr,
    source: [u8; 16],
    kind_and_code: [u8; 2],
    limit: u16,
    (quoted, quoted_len): (Sum, u16),
) -> (Ipv6Hdr, IcmpHdr) {
    let header = Ipv6Hdr {
        version_class_flow: [0x60, 0, 0, 0],
        payload_len: (HEADER_LEN + quoted_len).to_be_bytes(),
        next_header: ICMPV6,
        hop_limit: HOP_LIMIT,
        source,
        destination: ip.source,
    };
    let sum = header.pseudo_sum().and(quoted);
    let message = message(kind_and_code, u32::from(limit).to_be_bytes(), sum);
    (header, message)
}

#[inline(always)]
fn message([kind, code]: [u8; 2], rest: [u8; 4], sum: Sum) -> IcmpHdr {
    IcmpHdr {
        kind,
        code,
        checksum: sum.pair([kind, code]).bytes(rest).finish(),
        rest,
    }
}

/// The type of the answer to an echo request of ICMP.
pub const ECHO_REPLY: u8 = 0;
/// The type of the request.
pub const ECHO_REQUEST: u8 = 8;
/// The type of an echo request of `ICMPv6`.
pub const ECHO_REQUEST_V6: u8 = 128;
/// The type of the answer.
pub const ECHO_REPLY_V6: u8 = 129;

/// Turns an echo request into its answer, whose addresses are the request's, exchanged: that changes no sum.
#[inline(always)]
pub fn turn_round(echo: &mut IcmpHdr, reply: u8) {
    let request = [echo.kind, echo.code];
    echo.kind = reply;
    echo.checksum = checksum::replace(echo.checksum, request, [reply, echo.code]);
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

    fn bytes(message: IcmpHdr) -> Vec<u8> {
        let IcmpHdr {
            kind,
            code,
            checksum,
            rest,
        } = message;
        [&[kind, code], checksum.as_slice(), &rest].concat()
    }

    #[test]
    fn an_error_names_the_limit_and_its_checksum_is_right() {
        let (quoted, sum) = quoted(128);
        let message = error_ipv4([3, 4], 3950, sum);
        assert_eq!((message.kind, message.code), (3, 4));
        assert_eq!(message.rest, [0, 0, 0x0f, 0x6e]);
        let whole = [bytes(message), quoted].concat();
        let words = whole.chunks(4).map(|word| word.try_into().unwrap());
        assert_eq!(words.fold(Sum::ZERO, Sum::bytes).finish(), [0, 0]);
    }

    #[test]
    fn an_error_of_icmpv6_goes_back_and_its_checksum_is_right() {
        let ip = Ipv6Hdr {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: [0x0f, 0],
            next_header: 6,
            hop_limit: 9,
            source: [2; 16],
            destination: [3; 16],
        };
        let (quoted, sum) = quoted(128);
        let (header, message) = error_ipv6(&ip, [4; 16], [2, 0], 3930, (sum, 128));
        assert_eq!((header.source, header.destination), ([4; 16], [2; 16]));
        assert_eq!(header.payload_len, [0, 136]);
        let whole = [bytes(message), quoted].concat();
        let words = whole.chunks(4).map(|word| word.try_into().unwrap());
        assert_eq!(words.fold(header.pseudo_sum(), Sum::bytes).finish(), [0, 0]);
    }

    #[test]
    fn the_answer_to_an_echo_has_a_checksum_that_is_right() {
        let (data, sum) = quoted(56);
        let mut echo = message([ECHO_REQUEST, 0], [0x12, 0x34, 0, 1], sum);
        turn_round(&mut echo, ECHO_REPLY);
        assert_eq!(echo.kind, ECHO_REPLY);
        let whole = [bytes(echo), data].concat();
        let words = whole.chunks(4).map(|word| word.try_into().unwrap());
        assert_eq!(words.fold(Sum::ZERO, Sum::bytes).finish(), [0, 0]);
    }

    #[test]
    fn errors_are_told_from_questions() {
        let errors: Vec<u8> = (0..=255).filter(|kind| is_error(*kind)).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
    }
}
