//! A node: one host and its VTEP.

use std::{fmt, net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::Name;

/// A tunnel end: underlay address and UDP port (host byte order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vtep {
    /// Address on the underlay.
    pub ip: IpAddr,
    /// UDP port, host byte order.
    pub port: u16,
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
    /// When its agent last said that it lives; not part of the desired state.
    pub last_seen: Option<SystemTime>,
}
