//! What a router forwards, and what it never does.

/// Whether a router may forward to an address, an IPv6 one or an IPv4 one mapped into it: neither a group's nor one
/// that means something on its own link alone (RFC 1812 section 5.3.7, RFC 4291 section 2.5.6).
#[must_use]
#[inline(always)]
pub fn is_routable(address: [u64; 2]) -> bool {
    let [high, low] = address.map(u64::from_be);
    if high == 0 && low >> 32 == 0xffff {
        let (first, first_two) = (low >> 24 & 0xff, low >> 16 & 0xffff);
        return first != 0 && first != 127 && first < 224 && first_two != 0xa9fe;
    }
    let first = high >> 48;
    first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80 && (high | low >> 1) != 0
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::wire::ipv6;

    fn halves(text: &str) -> [u64; 2] {
        let ip = text
            .parse::<Ipv4Addr>()
            .map(|ip| ip.to_ipv6_mapped())
            .or_else(|_| text.parse::<Ipv6Addr>());
        ipv6::halves(ip.unwrap().octets())
    }

    #[test]
    fn what_means_something_on_its_link_alone_is_not_forwarded() {
        for ip in [
            "7.7.7.7",
            "10.0.0.1",
            "223.255.255.254",
            "fd00::1",
            "2001:db8::1",
            "::2",
        ] {
            assert!(is_routable(halves(ip)), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.251",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_routable(halves(ip)), "{ip}");
        }
    }
}
