//! Misses: what frames of an on-demand network ask for and the maps do not hold.

use std::net::IpAddr;

use super::{Mac, Vni, Wanted};

/// A frame of an endpoint of this host that found no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Miss {
    /// The network.
    pub vni: Vni,
    /// What was not found.
    pub wanted: Wanted,
    /// The requester: index of the host side of its interface.
    pub ifindex: u32,
    /// Its MAC.
    pub requester_mac: Mac,
    /// The address to answer to. `None`: the asker has none yet (duplicate address detection), or
    /// a MAC is wanted, which needs no answer.
    pub requester_ip: Option<IpAddr>,
}
