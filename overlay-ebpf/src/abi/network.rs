//! `networks`: VNI -> network.

use bytemuck::{Pod, Zeroable};

/// Value of `networks`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct NetworkEntry {
    /// Longest IP packet of an endpoint, bytes.
    pub mtu: u32,
    /// [`NetworkEntry::ON_DEMAND`] or nothing.
    pub flags: u16,
    /// Where the network is counted in `traffic`; 0: nowhere.
    pub slot: u16,
    /// Number of the router that it is attached to; 0: none.
    pub router: u32,
    /// Zero.
    pub reserved: [u8; 4],
}

super::assert_layout!(NetworkEntry, 16, { mtu: 0, flags: 4, slot: 6, router: 8, reserved: 12 });
super::user_pod!(NetworkEntry);

impl NetworkEntry {
    /// `flags`: what the maps don't hold raises a miss.
    pub const ON_DEMAND: u16 = 1;
}
