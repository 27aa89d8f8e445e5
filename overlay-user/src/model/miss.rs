//! Misses: what frames of an on-demand network ask for and the maps do not hold.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Mac, Vni};

/// One address of an endpoint that is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The endpoint with this MAC: a frame is for it.
    Mac(Mac),
    /// The endpoint with this address: ARP or neighbour discovery asks for it.
    Ip(IpAddr),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// A frame of an endpoint of this host that found no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Miss {
    /// The network.
    pub vni: Vni,
    /// What was not found.
    pub wanted: Wanted,
    /// Who asked: index of the host side of its interface.
    pub ifindex: u32,
    /// Its MAC.
    pub requester_mac: Mac,
    /// The address to answer to. `None`: the asker has none yet (duplicate address detection), or
    /// a MAC is wanted, which needs no answer.
    pub requester_ip: Option<IpAddr>,
}
