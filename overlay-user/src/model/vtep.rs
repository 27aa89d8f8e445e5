//! A VTEP: a tunnel end on the underlay.

use std::{
    fmt,
    hash::Hasher as _,
    net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use super::{DISCARD_PREFIX, Name, is_discard};

/// A VTEP's address on the underlay, of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VtepAddr(IpAddr);

impl VtepAddr {
    /// No VTEP's address.
    pub const UNSPECIFIED: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    /// Bytes that the tunnel puts around a packet over IPv4: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
    pub const IPV4_OVERHEAD: u32 = 50;
    /// The same over IPv6, whose header has 40.
    pub const IPV6_OVERHEAD: u32 = 70;

    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// The address, if it is an IPv4 one.
    #[must_use]
    pub const fn ipv4(self) -> Option<Ipv4Addr> {
        match self.0 {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }

    /// Bytes that a tunnel to this address puts around a packet.
    #[must_use]
    pub const fn overhead(self) -> u32 {
        match self.0 {
            IpAddr::V4(_) => Self::IPV4_OVERHEAD,
            IpAddr::V6(_) => Self::IPV6_OVERHEAD,
        }
    }

    /// IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`), order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        }
    }

    /// Whether it is one of a node without an underlay address, see [`Vtep::discard`].
    #[must_use]
    pub const fn is_discard(self) -> bool {
        is_discard(self.0)
    }
}

impl From<IpAddr> for VtepAddr {
    fn from(ip: IpAddr) -> Self {
        Self(ip)
    }
}

impl From<Ipv4Addr> for VtepAddr {
    fn from(ip: Ipv4Addr) -> Self {
        Self(ip.into())
    }
}

impl From<[u8; 4]> for VtepAddr {
    fn from(octets: [u8; 4]) -> Self {
        Ipv4Addr::from(octets).into()
    }
}

/// As [`VtepAddr::octets`] gives them.
impl From<[u8; 16]> for VtepAddr {
    fn from(octets: [u8; 16]) -> Self {
        Self(Ipv6Addr::from(octets).to_canonical())
    }
}

impl From<VtepAddr> for IpAddr {
    fn from(addr: VtepAddr) -> Self {
        addr.0
    }
}

impl PartialEq<IpAddr> for VtepAddr {
    fn eq(&self, ip: &IpAddr) -> bool {
        self.0 == *ip
    }
}

impl FromStr for VtepAddr {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for VtepAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tunnel end: underlay address and UDP port (host byte order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Address on the underlay.
    pub ip: VtepAddr,
    /// UDP port, host byte order.
    pub port: u16,
}

impl Vtep {
    /// The tunnel end of a node whose host has no underlay address at the moment: nothing is sent there.
    ///
    /// It is an address of the discard-only prefix `100::/64` (RFC 6666) made of the node's name (FNV-1a),
    /// so that it is unique as every VTEP is. Agents that know nothing of it take it for an IPv6 VTEP,
    /// to which they send nothing either.
    #[must_use]
    pub fn discard(node: &Name, port: u16) -> Self {
        let mut hasher = FnvHasher::default();
        hasher.write(node.as_str().as_bytes());
        let bits = (u128::from(DISCARD_PREFIX) << 64) | u128::from(hasher.finish());
        Self {
            ip: VtepAddr(Ipv6Addr::from(bits).into()),
            port,
        }
    }

    /// Whether it is one of a node without an underlay address, see [`Self::discard`].
    #[must_use]
    pub const fn is_discard(self) -> bool {
        self.ip.is_discard()
    }
}

impl fmt::Display for Vtep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip.0 {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_an_address_have_one_each_to_which_nothing_is_sent() {
        let [h1, h2] = ["h1", "h2"].map(|name| Vtep::discard(&name.parse().unwrap(), 4789));
        assert!(h1.is_discard() && h2.is_discard());
        assert_ne!(h1.ip, h2.ip);
        // Written by one version and read by another: it never changes.
        assert_eq!(h1.to_string(), "[100::8ba:8707:b55f:7d2]:4789");
        for ip in ["10.0.0.1", "fd00::1", "100:0:0:1::1"] {
            let ip = ip.parse().unwrap();
            assert!(!Vtep { ip, port: 4789 }.is_discard());
        }
    }

    #[test]
    fn an_address_comes_back_from_the_maps_as_it_went_in() {
        for (ip, overhead) in [("10.0.0.1", 50), ("fd00::1", 70)] {
            let addr: VtepAddr = ip.parse().unwrap();
            assert_eq!(VtepAddr::from(addr.octets()), addr);
            assert_eq!(addr.overhead(), overhead);
        }
    }
}
