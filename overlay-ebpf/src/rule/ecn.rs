//! Explicit congestion notification across a tunnel: RFC 6040, as Linux does it
//! (`include/net/inet_ecn.h`).

use crate::{abi::DropReason, wire::ipv4::ECN_MASK as MASK};

/// Not ECN-capable transport.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable transport, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable transport, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// Whether a congestion mark can be set in a packet with this field, and is not (RFC 3168 section 5).
#[must_use]
#[inline(always)]
pub const fn can_be_marked(field: u8) -> bool {
    matches!(field & MASK, ECT_0 | ECT_1)
}

/// The outer field for an inner one: copied, but a mark that the packet carries already is not
/// counted again (RFC 6040 section 4.3, compatibility off; `INET_ECN_encapsulate`).
#[must_use]
#[inline(always)]
pub const fn encapsulate(inner: u8) -> u8 {
    match inner & MASK {
        CE => ECT_0,
        other => other,
    }
}

/// The inner field after decapsulation (RFC 6040 section 4.2; `INET_ECN_decapsulate`).
///
/// # Errors
///
/// [`DropReason::EcnNotCapable`]: the tunnel marked a packet whose transport can't be told.
#[inline(always)]
pub const fn decapsulate(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer & MASK, inner & MASK) {
        (CE, NOT_ECT) => Err(DropReason::EcnNotCapable),
        (CE, _) => Ok(CE),
        (ECT_1, ECT_0) => Ok(ECT_1),
        (_, inner) => Ok(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capable_transports_can_be_marked() {
        assert_eq!(
            [NOT_ECT, ECT_1, ECT_0, CE].map(can_be_marked),
            [false, true, true, false]
        );
        assert!(can_be_marked(0xfc | ECT_0));
    }

    #[test]
    fn encapsulation_copies_all_but_the_mark() {
        assert_eq!(
            [NOT_ECT, ECT_1, ECT_0, CE].map(encapsulate),
            [NOT_ECT, ECT_1, ECT_0, ECT_0]
        );
    }

    /// The table of RFC 6040 section 4.2, figure 4: row by inner field, column by outer field in
    /// the order Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn decapsulation_follows_the_table_of_rfc_6040() {
        let lost = Err(DropReason::EcnNotCapable);
        let table = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), lost]),
            (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
            (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in table {
            assert_eq!(
                [NOT_ECT, ECT_0, ECT_1, CE].map(|outer| decapsulate(outer, inner)),
                row
            );
        }
    }
}
