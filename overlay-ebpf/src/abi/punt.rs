//! `punts`: frames of endpoints that the agent answers.

use bytemuck::{Pod, Zeroable};

/// What a record of `punts` begins with.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct PuntHeader {
    /// Index of the host side of the endpoint's interface.
    pub ifindex: u32,
    /// The endpoint's network, 1..=16777215.
    pub vni: u32,
    /// The endpoint's MAC, which the frame comes from; order of the wire.
    pub mac: [u8; 6],
    /// Bytes of the frame.
    pub len: u16,
}

super::assert_layout!(PuntHeader, 16, { ifindex: 0, vni: 4, mac: 8, len: 14 });

/// A record of `punts`.
#[repr(C)]
pub struct Punt {
    /// Whose frame it is.
    pub header: PuntHeader,
    /// The frame, Ethernet header first; what is behind its end means nothing.
    pub frame: [u8; Self::LONGEST],
}

impl Punt {
    /// Bytes of the longest frame that is told of.
    pub const LONGEST: usize = 1520;
    /// Bytes of the shortest: its Ethernet header.
    pub const SHORTEST: usize = 14;
}

super::assert_layout!(Punt, 1536, { header: 0, frame: 16 });
