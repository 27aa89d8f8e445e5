//! ARP over Ethernet for IPv4 (RFC 826).

pub use network_types::arp::ArpHdr;

/// Bytes of the packet.
pub const LEN: usize = ArpHdr::LEN;

const ETHERNET: [u8; 2] = [0, 1];
const IPV4: [u8; 2] = [0x08, 0x00];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Whether this is a request for Ethernet and IPv4.
#[must_use]
#[inline(always)]
pub const fn is_request(arp: &ArpHdr) -> bool {
    is_ethernet_ipv4(arp) && u16::from_ne_bytes(arp.oper) == u16::from_ne_bytes(REQUEST)
}

/// Whether this is a reply for Ethernet and IPv4.
#[must_use]
#[inline(always)]
pub const fn is_reply(arp: &ArpHdr) -> bool {
    is_ethernet_ipv4(arp) && u16::from_ne_bytes(arp.oper) == u16::from_ne_bytes(REPLY)
}

#[inline(always)]
const fn is_ethernet_ipv4(arp: &ArpHdr) -> bool {
    let pair = u16::from_ne_bytes;
    pair(arp.htype) == pair(ETHERNET)
        && pair(arp.ptype) == pair(IPV4)
        && arp.hlen == 6
        && arp.plen == 4
}

/// Whether an address can be asked for: not "this network", loopback, multicast or broadcast
/// (RFC 1122 section 3.2.1.3; `arp_process` in net/ipv4/arp.c).
#[must_use]
#[inline(always)]
pub const fn can_be_target(ip: [u8; 4]) -> bool {
    ip[0] != 0 && ip[0] != 127 && ip[0] < 224
}

/// The reply that tells `request`'s sender the MAC of its target.
#[must_use]
#[inline(always)]
pub const fn reply(request: &ArpHdr, mac: [u8; 6]) -> ArpHdr {
    ArpHdr {
        htype: ETHERNET,
        ptype: IPV4,
        hlen: 6,
        plen: 4,
        oper: REPLY,
        sha: mac,
        spa: request.tpa,
        tha: request.sha,
        tpa: request.spa,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ArpHdr {
        ArpHdr {
            htype: ETHERNET,
            ptype: IPV4,
            hlen: 6,
            plen: 4,
            oper: REQUEST,
            sha: [2, 0x42, 7, 7, 7, 2],
            spa: [7, 7, 7, 2],
            tha: [0; 6],
            tpa: [7, 7, 7, 3],
        }
    }

    #[test]
    fn a_reply_turns_the_request_round() {
        let reply = reply(&request(), [2, 0x42, 7, 7, 7, 3]);
        assert_eq!(
            (reply.sha, reply.spa),
            ([2, 0x42, 7, 7, 7, 3], [7, 7, 7, 3])
        );
        assert_eq!(
            (reply.tha, reply.tpa),
            ([2, 0x42, 7, 7, 7, 2], [7, 7, 7, 2])
        );
        assert_eq!(reply.oper, REPLY);
    }

    #[test]
    fn only_ethernet_ipv4_replies_count_as_replies() {
        let reply = reply(&request(), [2, 0x42, 7, 7, 7, 3]);
        assert!(is_reply(&reply) && !is_request(&reply));
        assert!(!is_reply(&request()));
        assert!(!is_reply(&ArpHdr { hlen: 8, ..reply }));
    }

    #[test]
    fn only_ethernet_ipv4_requests_count_as_requests() {
        assert!(is_request(&request()));
        assert!(!is_request(&ArpHdr {
            oper: REPLY,
            ..request()
        }));
        assert!(!is_request(&ArpHdr {
            htype: [0, 6],
            ..request()
        }));
        assert!(!is_request(&ArpHdr {
            ptype: [0x86, 0xdd],
            ..request()
        }));
        assert!(!is_request(&ArpHdr {
            hlen: 8,
            ..request()
        }));
        assert!(!is_request(&ArpHdr {
            plen: 16,
            ..request()
        }));
    }

    #[test]
    fn impossible_targets_are_told() {
        for ip in [
            [0, 0, 0, 0],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
        ] {
            assert!(!can_be_target(ip), "{ip:?}");
        }
        assert!(can_be_target([7, 7, 7, 3]));
    }
}
