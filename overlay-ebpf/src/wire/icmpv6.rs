//! Neighbour discovery (RFC 4861): solicitations come in, advertisements go out.

use super::{
    checksum::Sum,
    eth::Mac,
    ipv6::{self, ALL_NODES, ICMPV6, Ipv6Hdr, is_unspecified},
};

/// Bytes of a neighbour solicitation without options.
pub const SOLICITATION_LEN: usize = 24;
/// Bytes of an advertisement with its target link-layer address option.
pub const ADVERTISEMENT_LEN: usize = 32;

/// [`ADVERTISEMENT_LEN`] as an IPv6 header's payload length.
const ADVERTISEMENT_PAYLOAD: [u8; 2] = [0, 32];
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Only hop limit 255 proves that a message comes from the link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A neighbour solicitation's fixed part (RFC 4861 section 4.3).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// 135 for a solicitation.
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// Over the pseudo-header and the message.
    pub checksum: [u8; 2],
    /// Zero.
    pub reserved: [u8; 4],
    /// The address that is asked for.
    pub target: [u8; 16],
}

const _: () = assert!(size_of::<Solicitation>() == SOLICITATION_LEN);

/// A neighbour advertisement with the target link-layer address option (RFC 4861 section 4.4).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// 136.
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// Over the pseudo-header and the message.
    pub checksum: [u8; 2],
    /// Router, solicited, override; the rest is zero.
    pub flags: [u8; 4],
    /// The address that is told about.
    pub target: [u8; 16],
    /// 2.
    pub option_kind: u8,
    /// 1: in units of eight bytes.
    pub option_len: u8,
    /// The target's MAC.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<Advertisement>() == ADVERTISEMENT_LEN);
const _: () = assert!(u16::from_be_bytes(ADVERTISEMENT_PAYLOAD) as usize == ADVERTISEMENT_LEN);

/// The option that an advertisement ends with (RFC 4861 section 4.6.1).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetLinkLayer {
    /// 2.
    pub kind: u8,
    /// 1: in units of eight bytes.
    pub len: u8,
    /// The target's MAC.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<TargetLinkLayer>() == ADVERTISEMENT_LEN - SOLICITATION_LEN);

/// Whether an `ICMPv6` message of this type is a neighbour advertisement.
#[must_use]
#[inline(always)]
pub const fn is_advertisement(kind: u8) -> bool {
    kind == NEIGHBOR_ADVERTISEMENT
}

/// Whether a message of this type is an error, of which no error may tell (RFC 4443 section 2.4).
#[must_use]
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// Whether an `ICMPv6` message of this type is a neighbour solicitation; whether it is a good one
/// is [`is_valid_solicitation`]'s question.
#[must_use]
#[inline(always)]
pub const fn is_solicitation(kind: u8) -> bool {
    kind == NEIGHBOR_SOLICITATION
}

/// Whether a message of this type says or asks who listens to which group: MLD (RFC 2710, RFC 3810).
#[must_use]
#[inline(always)]
pub const fn is_membership(kind: u8) -> bool {
    matches!(kind, 130..=132 | 143)
}

/// Whether a message of this type asks the routers on the link for their advertisements.
#[must_use]
#[inline(always)]
pub const fn is_router_solicitation(kind: u8) -> bool {
    kind == ROUTER_SOLICITATION
}

/// What a neighbour discovery message (RFC 4861 section 4) makes its receiver believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is no such message.
    Nothing,
    /// Where its sender is: a router or neighbour solicitation.
    Sender,
    /// Where its target is: a neighbour advertisement.
    Target,
    /// Where others are: a router advertisement or a redirect.
    Others,
}

/// What a message of this type makes its receiver believe.
#[must_use]
#[inline(always)]
pub const fn claim(kind: u8) -> Claim {
    match kind {
        ROUTER_SOLICITATION | NEIGHBOR_SOLICITATION => Claim::Sender,
        NEIGHBOR_ADVERTISEMENT => Claim::Target,
        ROUTER_ADVERTISEMENT | REDIRECT => Claim::Others,
        _ => Claim::Nothing,
    }
}

/// Whether a neighbour discovery message could follow behind an extension header: only packets with hop
/// limit 255 are taken for such.
#[must_use]
#[inline(always)]
pub const fn may_hide_discovery(ip: &Ipv6Hdr) -> bool {
    ip.hop_limit == HOP_LIMIT && ipv6::is_extension(ip.next_header)
}

/// Whether a neighbour advertisement of `len` bytes, whose option this is, tells of the MAC `mac` alone.
/// There is one option, the target's address, or none.
#[must_use]
#[inline(always)]
pub fn tells_only_of(len: usize, option: &TargetLinkLayer, mac: [u8; 6]) -> bool {
    len == SOLICITATION_LEN
        || (len == ADVERTISEMENT_LEN
            && option.kind == TARGET_LINK_LAYER_ADDRESS
            && option.len == 1
            && Mac::new(option.mac) == Mac::new(mac))
}

/// The checks of RFC 4861 section 7.1.1 that need no options. The checksum is left to the
/// endpoints: nothing of a solicitation but its addresses, which are checked, is used.
#[must_use]
#[inline(always)]
pub fn is_valid_solicitation(ip: &Ipv6Hdr, message: &Solicitation) -> bool {
    ip.hop_limit == HOP_LIMIT
        && message.code == 0
        && u16::from_be_bytes(ip.payload_len) as usize >= SOLICITATION_LEN
        && message.target[0] != 0xff
        && !is_unspecified(message.target)
}

/// The answer to a solicitation: header and message, checksum included. A requester without an
/// address (duplicate address detection) is answered through all nodes, unsolicited
/// (RFC 4861 section 7.2.4). Of a router it says so: hosts drop one that does not (section 7.2.5).
#[must_use]
#[inline(always)]
pub fn advertise(
    ip: &Ipv6Hdr,
    message: &Solicitation,
    mac: [u8; 6],
    is_router: bool,
) -> (Ipv6Hdr, Advertisement) {
    let detection = is_unspecified(ip.source);
    let header = Ipv6Hdr {
        version_class_flow: [0x60, 0, 0, 0],
        payload_len: ADVERTISEMENT_PAYLOAD,
        next_header: ICMPV6,
        hop_limit: HOP_LIMIT,
        source: message.target,
        destination: if detection { ALL_NODES } else { ip.source },
    };
    let solicited = if detection { 0 } else { SOLICITED };
    let router = if is_router { ROUTER } else { 0 };
    let flags = solicited | router | OVERRIDE;
    let checksum = header
        .pseudo_sum()
        .pair([NEIGHBOR_ADVERTISEMENT, 0])
        .pair([flags, 0])
        .sixteen(message.target)
        .pair([TARGET_LINK_LAYER_ADDRESS, 1])
        .six(mac)
        .finish();
    let advertisement = Advertisement {
        kind: NEIGHBOR_ADVERTISEMENT,
        code: 0,
        checksum,
        flags: [flags, 0, 0, 0],
        target: message.target,
        option_kind: TARGET_LINK_LAYER_ADDRESS,
        option_len: 1,
        mac,
    };
    (header, advertisement)
}

/// The sum over a whole advertisement with its pseudo-header: zero if its checksum is right.
#[must_use]
pub fn verify(ip: &Ipv6Hdr, message: &Advertisement) -> [u8; 2] {
    let sum: Sum = ip.pseudo_sum();
    sum.pair([message.kind, message.code])
        .pair(message.checksum)
        .bytes(message.flags)
        .sixteen(message.target)
        .pair([message.option_kind, message.option_len])
        .six(message.mac)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLUE: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const GREEN: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    const MAC: [u8; 6] = [2, 0x42, 7, 7, 7, 3];

    fn solicitation(source: [u8; 16]) -> (Ipv6Hdr, Solicitation) {
        let ip = Ipv6Hdr {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: [0, 32],
            next_header: ICMPV6,
            hop_limit: 255,
            source,
            destination: [0xff; 16],
        };
        let message = Solicitation {
            kind: NEIGHBOR_SOLICITATION,
            code: 0,
            checksum: [0; 2],
            reserved: [0; 4],
            target: GREEN,
        };
        (ip, message)
    }

    #[test]
    fn an_asker_with_an_address_gets_a_solicited_answer() {
        let (ip, message) = solicitation(BLUE);
        let (header, answer) = advertise(&ip, &message, MAC, false);
        assert_eq!(
            (header.source, header.destination, header.hop_limit),
            (GREEN, BLUE, 255)
        );
        assert_eq!(
            (answer.flags, answer.target, answer.mac),
            ([0x60, 0, 0, 0], GREEN, MAC)
        );
        assert_eq!(verify(&header, &answer), [0, 0]);
    }

    #[test]
    fn duplicate_detection_is_answered_to_all_nodes_unsolicited() {
        let (ip, message) = solicitation([0; 16]);
        let (header, answer) = advertise(&ip, &message, MAC, false);
        assert_eq!(
            (header.destination, answer.flags),
            (ALL_NODES, [0x20, 0, 0, 0])
        );
        assert_eq!(verify(&header, &answer), [0, 0]);
    }

    #[test]
    fn an_advertisement_tells_of_its_senders_mac_or_of_none() {
        let option = |kind, len, mac| TargetLinkLayer { kind, len, mac };
        let own = option(2, 1, MAC);
        assert!(tells_only_of(SOLICITATION_LEN, &option(0, 0, [0; 6]), MAC));
        assert!(tells_only_of(ADVERTISEMENT_LEN, &own, MAC));
        assert!(!tells_only_of(
            ADVERTISEMENT_LEN,
            &option(2, 1, [2; 6]),
            MAC
        ));
        assert!(!tells_only_of(ADVERTISEMENT_LEN, &option(1, 1, MAC), MAC));
        // Another option follows.
        assert!(!tells_only_of(ADVERTISEMENT_LEN + 8, &own, MAC));
    }

    #[test]
    fn each_discovery_message_claims_what_its_receiver_believes() {
        let claims: Vec<_> = (0..=255)
            .map(|kind| (kind, claim(kind)))
            .filter(|(_, claim)| *claim != Claim::Nothing)
            .collect();
        let expected = [
            (133, Claim::Sender),
            (134, Claim::Others),
            (135, Claim::Sender),
            (136, Claim::Target),
            (137, Claim::Others),
        ];
        assert_eq!(claims, expected);
    }

    #[test]
    fn discovery_hides_behind_extension_headers_with_hop_limit_255_alone() {
        let (ip, _) = solicitation(BLUE);
        assert!(!may_hide_discovery(&ip));
        for next_header in [0, 43, 44, 60] {
            let hidden = Ipv6Hdr { next_header, ..ip };
            assert!(may_hide_discovery(&hidden));
            assert!(!may_hide_discovery(&Ipv6Hdr {
                hop_limit: 64,
                ..hidden
            }));
        }
    }

    #[test]
    fn solicitations_from_off_link_or_for_groups_are_invalid() {
        let (ip, message) = solicitation(BLUE);
        assert!(is_valid_solicitation(&ip, &message));
        assert!(!is_valid_solicitation(
            &Ipv6Hdr {
                hop_limit: 64,
                ..ip
            },
            &message
        ));
        assert!(!is_valid_solicitation(
            &Ipv6Hdr {
                payload_len: [0, 23],
                ..ip
            },
            &message
        ));
        assert!(!is_valid_solicitation(
            &ip,
            &Solicitation { code: 1, ..message }
        ));
        assert!(!is_valid_solicitation(
            &ip,
            &Solicitation {
                target: ALL_NODES,
                ..message
            }
        ));
        assert!(!is_valid_solicitation(
            &ip,
            &Solicitation {
                target: [0; 16],
                ..message
            }
        ));
    }
}
