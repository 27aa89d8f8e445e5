//! Limits packets to the MTUs of their network and of their path (RFC 1191).
//!
//! A sender that forbids fragmentation gets an ICMP error. Other packets are fragmented by the kernel's VXLAN device, as
//! Linux does by itself.

use crate::wire::{
    ipv4::{self, Ipv4Hdr},
    vxlan::OVERHEAD_IPV4,
};

/// ICMP errors that an endpoint is sent in a window of [`super::miss::allows`]: some 120 a second.
pub const ERROR_LIMIT: u64 = 64;

/// What every path has to take of IPv6 without telling the sender (RFC 8200 section 5), bytes.
pub const IPV6_MINIMUM: u32 = 1280;

/// What the tunnel takes of a path, bytes.
#[expect(clippy::cast_possible_truncation, reason = "some dozen bytes")]
const OVERHEAD: u32 = OVERHEAD_IPV4 as u32;

/// The longest IP packet, bytes, of a network with this MTU to a VTEP to which outer packets of `path` bytes
/// get; 0: as long as the interface takes.
#[must_use]
#[inline(always)]
pub const fn limit(network: u32, path: u16) -> u32 {
    let left = (path as u32).saturating_sub(OVERHEAD);
    if left == 0 || left >= network {
        network
    } else {
        left
    }
}

/// Whether an IPv4 packet that is too long for the path may be cut up on the way.
#[must_use]
#[inline(always)]
pub const fn may_fragment_ipv4(ip: &Ipv4Hdr) -> bool {
    !ipv4::must_not_fragment(ip)
}

/// The same of an IPv6 packet of `len` bytes: below the minimum the link has to see to it.
#[must_use]
#[inline(always)]
pub const fn may_fragment_ipv6(len: u32) -> bool {
    len <= IPV6_MINIMUM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_what_the_tunnel_leaves_of_it() {
        assert_eq!(limit(4950, 0), 4950);
        assert_eq!(limit(4950, 4000), 3950);
        assert_eq!(limit(4950, 5000), 4950);
        assert_eq!(limit(4950, 9000), 4950);
    }

    #[test]
    fn a_path_that_takes_less_than_the_tunnels_headers_is_not_believed() {
        assert_eq!(limit(1450, 50), 1450);
    }
}
