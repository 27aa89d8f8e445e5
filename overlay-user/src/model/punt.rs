//! A frame of an endpoint's that the agent answers.

use super::{Mac, Vni};

/// A frame that the programs handed over: a question to a DHCP server or a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Punt {
    /// Index of the host side of the endpoint's interface.
    pub ifindex: u32,
    /// The endpoint's network.
    pub vni: Vni,
    /// The endpoint's MAC, which the frame comes from.
    pub mac: Mac,
    /// The frame, Ethernet header first.
    pub frame: Vec<u8>,
}
