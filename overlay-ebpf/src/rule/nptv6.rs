//! Translates IPv6 prefixes so that no checksum changes (NPTv6, RFC 6296).
//!
//! One word behind the prefix makes up for what the prefix adds: nothing of a packet but an address has to be rewritten,
//! and nothing is remembered.

use bytemuck::must_cast;

use crate::wire::ipv6;

/// Longest prefix whose adjusted word is its subnet's number (RFC 6296 section 3.4).
const SUBNET: u8 = 48;
/// Longest prefix that can be translated: the words behind it are the interface's (section 3.5).
pub const LONGEST: u8 = 64;
/// Ones' complement's other zero.
const ZERO: u64 = 0xffff;

/// What takes the place of the leading bits of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix that is to be, and zeros, as it lies in memory.
    pub ip: [u64; 2],
    /// How many bits of it count, 0..=[`LONGEST`].
    pub len: u8,
    /// From [`adjustment`].
    pub adjustment: u16,
}

/// What is added to a word behind a prefix that takes another's place; both are of the same length, with zeros behind.
#[must_use]
pub fn adjustment(from: [u8; 16], to: [u8; 16]) -> u16 {
    let sum = |ip: [u8; 16]| {
        let words: [[u8; 2]; 8] = must_cast(ip);
        let words = words.into_iter().map(u16::from_be_bytes);
        fold(words.map(u64::from).sum())
    };
    let sum = fold(sum(from) + (ZERO - sum(to)));
    // It has no more bits.
    u16::try_from(sum).unwrap_or_default()
}

/// The address with another prefix. `None`: it can't be translated, and nobody should have it (sections 3.4 and 3.5).
#[must_use]
#[inline(always)]
pub fn translate(address: [u64; 2], prefix: &Prefix) -> Option<[u64; 2]> {
    let [high, low] = address.map(u64::from_be);
    let mask = if prefix.len == 0 {
        0
    } else {
        !0 << (u64::BITS - u32::from(prefix.len.min(LONGEST)))
    };
    let high = high & !mask | u64::from_be(prefix.ip[0]) & mask;
    let adjustment = u64::from(prefix.adjustment);
    if prefix.len <= SUBNET {
        let word = adjusted(high, adjustment)?;
        return Some([high & !ZERO | word, low].map(u64::to_be));
    }
    let mut shift = u64::BITS;
    while shift > 0 {
        shift -= 16;
        if let Some(word) = adjusted(low >> shift, adjustment) {
            let low = low & !(ZERO << shift) | word << shift;
            return Some([high, low].map(u64::to_be));
        }
    }
    None
}

/// The last word of a number after it was adjusted. `None`: it is the one that can't be told from zero.
#[inline(always)]
const fn adjusted(number: u64, adjustment: u64) -> Option<u64> {
    let word = number & ZERO;
    if word == ZERO {
        return None;
    }
    let sum = fold(word + adjustment);
    Some(if sum == ZERO { 0 } else { sum })
}

#[inline(always)]
const fn fold(sum: u64) -> u64 {
    let sum = (sum & ZERO) + (sum >> 16);
    (sum & ZERO) + (sum >> 16)
}

/// The prefix as the programs have it.
#[must_use]
#[inline(always)]
pub fn prefix(ip: [u8; 16], len: u8, adjustment: [u8; 2]) -> Prefix {
    Prefix {
        ip: ipv6::halves(ip),
        len,
        adjustment: u16::from_ne_bytes(adjustment),
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    fn octets(ip: &str) -> [u8; 16] {
        ip.parse::<Ipv6Addr>().unwrap().octets()
    }

    fn translated(ip: &str, from: &str, to: &str, len: u8) -> Option<String> {
        let (from, to) = (octets(from), octets(to));
        let prefix = prefix(to, len, adjustment(from, to).to_ne_bytes());
        let [high, low] = translate(ipv6::halves(octets(ip)), &prefix)?.map(u64::from_be);
        let ip = u128::from(high) << 64 | u128::from(low);
        Some(Ipv6Addr::from_bits(ip).to_string())
    }

    fn sum(ip: &str) -> u64 {
        let words = ip.parse::<Ipv6Addr>().unwrap().segments();
        let sum = fold(words.into_iter().map(u64::from).sum());
        if sum == ZERO { 0 } else { sum }
    }

    #[test]
    fn the_example_of_rfc_6296_appendix_b_comes_out() {
        let (inside, outside) = ("fd01:203:405::", "2001:db8:1::");
        let expected = "2001:db8:1:d550::1234";
        let out = translated("fd01:203:405:1::1234", inside, outside, 48).unwrap();
        assert_eq!(out, expected);
        let back = translated(&out, outside, inside, 48).unwrap();
        assert_eq!(back, "fd01:203:405:1::1234");
    }

    #[test]
    fn every_address_comes_back_and_keeps_its_sum() {
        let pairs = [
            ("fd00:1:2:3::", "2001:db8:aa:bb::", 64),
            ("fd00:1:2::", "2001:db8:aa::", 48),
            ("fd00:1:2:300::", "2001:db8:aa:f00::", 56),
        ];
        for (inside, outside, len) in pairs {
            for tail in ["::2", "::fffe:1", ":0:ffff::1", ":1234:5678:9abc:def0"] {
                let ip = format!("{}{tail}", inside.trim_end_matches("::"));
                let Ok(ip) = ip.parse::<Ipv6Addr>().map(|ip| ip.to_string()) else {
                    continue;
                };
                let out = translated(&ip, inside, outside, len).unwrap();
                assert_eq!(sum(&out), sum(&ip), "{ip} {out}");
                assert_eq!(translated(&out, outside, inside, len), Some(ip));
            }
        }
    }

    #[test]
    fn what_can_not_be_told_from_another_is_not_translated() {
        let all_ones = "fd00:1:2:3:ffff:ffff:ffff:ffff";
        assert_eq!(translated(all_ones, "fd00:1:2:3::", "2001:db8::", 64), None);
        let subnet = "fd00:1:2:ffff::1";
        assert_eq!(translated(subnet, "fd00:1:2::", "2001:db8::", 48), None);
    }
}
