//! A node: one host and its VTEP.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Name, Vtep, VtepAddr};

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

/// IPv6 wants 1280 bytes of every link (RFC 8200 section 5), so of the overlay's too.
pub const SMALLEST_UNDERLAY_MTU: u32 = 1280 + VtepAddr::IPV4_OVERHEAD;

/// How long an agent that says nothing is believed to live.
pub const SESSION_TTL: Duration = Duration::from_secs(15);

/// An instance that acts for a node, on one host. It stays the same when that instance's agent is
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
