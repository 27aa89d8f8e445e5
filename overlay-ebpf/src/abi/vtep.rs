//! `vteps`: the tunnel ends from which packets are accepted.

use bytemuck::{Pod, Zeroable};

/// Key of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct VtepKey {
    /// Underlay address, order of the wire.
    pub ip: [u8; 4],
}

super::assert_layout!(VtepKey, 4, { ip: 0 });

/// Value of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct VtepEntry {
    /// UDP port that it listens on, order of the wire.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}

super::assert_layout!(VtepEntry, 4, { port: 0, reserved: 2 });
super::user_pod!(VtepKey, VtepEntry);

impl VtepEntry {
    /// The entry for a port in host byte order.
    #[must_use]
    pub const fn new(port: u16) -> Self {
        Self {
            port: port.to_be_bytes(),
            reserved: [0; 2],
        }
    }
}
