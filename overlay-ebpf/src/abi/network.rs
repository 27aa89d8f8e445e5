//! `networks`: VNI -> network.

use bytemuck::{Pod, Zeroable};

/// Value of `networks`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct NetworkEntry {
    /// Longest IP packet of an endpoint, bytes.
    pub mtu: u32,
}

super::assert_layout!(NetworkEntry, 4, { mtu: 0 });
super::user_pod!(NetworkEntry);
