//! A node: one host and its VTEP.

use std::{
    fmt,
    hash::Hasher as _,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use super::Name;

/// The first half of the discard-only prefix `100::/64` (RFC 6666).
const DISCARD: u64 = 0x0100_0000_0000_0000;

/// A tunnel end: underlay address and UDP port (host byte order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Address on the underlay.
    pub ip: IpAddr,
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
        let bits = (u128::from(DISCARD) << 64) | u128::from(hasher.finish());
        Self {
            ip: Ipv6Addr::from(bits).into(),
            port,
        }
    }

    /// Whether it is one of a node without an underlay address, see [`Self::discard`].
    #[must_use]
    pub fn is_discard(self) -> bool {
        match self.ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.to_bits() >> 64 == u128::from(DISCARD),
        }
    }
}

impl fmt::Display for Vtep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// One host of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique among the nodes of a registry.
    pub name: Name,
    /// Unique too: one node, one VTEP.
    pub vtep: Vtep,
    /// Whether an agent of ours runs there. A foreign VTEP has none: it never says that it lives.
    pub agent: bool,
    /// When its agent last said that it lives, by the wall clock: for people, nothing is decided by
    /// it. Not part of the desired state.
    #[serde(default)]
    pub last_seen: Option<SystemTime>,
    /// Whether its agent's session lives: it has said so within [`SESSION_TTL`], measured by a clock
    /// that does not jump. Not part of the desired state either; never set for a foreign VTEP.
    #[serde(default)]
    pub alive: bool,
    /// Its agent's version, for example `0.1.0`.
    #[serde(default)]
    pub version: Option<String>,
    /// Its datapath's `ABI_VERSION`.
    #[serde(default)]
    pub abi: Option<u32>,
    /// Its underlay's MTU, bytes; `None`: its agent tells none, or there is no agent.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl Node {
    /// A node without an agent, or of one that has said nothing about itself.
    #[must_use]
    pub const fn new(name: Name, vtep: Vtep, agent: bool) -> Self {
        Self {
            name,
            vtep,
            agent,
            last_seen: None,
            alive: false,
            version: None,
            abi: None,
            mtu: None,
        }
    }

    /// Its underlay's MTU, bytes, if it tells one with which tunnels work at all.
    #[must_use]
    pub fn underlay_mtu(&self) -> Option<u32> {
        self.mtu
            .filter(|mtu| self.agent && *mtu >= SMALLEST_UNDERLAY_MTU)
    }

    /// Whether the registry says the same of both; whether they live is no part of that.
    #[must_use]
    pub fn is_told_as(&self, other: &Self) -> bool {
        let told = |node: &Self| Self {
            last_seen: None,
            alive: false,
            ..node.clone()
        };
        told(self) == told(other)
    }

    /// The same while its host has no underlay address.
    #[must_use]
    pub fn without_address(self) -> Self {
        Self {
            vtep: Vtep::discard(&self.name, self.vtep.port),
            ..self
        }
    }
}

/// Bytes that the tunnel puts around a packet over IPv4: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const ENCAPSULATION: u32 = 50;

/// IPv6 wants 1280 bytes of every link (RFC 8200 section 5), so of the overlay's too.
pub const SMALLEST_UNDERLAY_MTU: u32 = 1280 + ENCAPSULATION;

/// How long an agent that says nothing is believed to live.
pub const SESSION_TTL: Duration = Duration::from_secs(15);

/// Who speaks for a node: one instance on one host. It stays the same when that instance's agent is
/// started again, so that the next agent need not wait until the last one's word has expired; two
/// hosts with one node name have two.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(String);

impl Session {
    /// A session of this text: anything that no other host and instance has.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
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
}
