//! `traffic`: what the endpoints of a network on this host sent and received.

use bytemuck::{Pod, Zeroable};

/// Value of `traffic`. Each segment of an aggregate counts, with headers of its own.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Frames from endpoints that were carried on.
    pub tx_packets: u64,
    /// Their bytes, from the inner Ethernet header on.
    pub tx_bytes: u64,
    /// Frames that were delivered to endpoints.
    pub rx_packets: u64,
    /// Their bytes, likewise.
    pub rx_bytes: u64,
}

super::assert_layout!(Traffic, 32, { tx_packets: 0, tx_bytes: 8, rx_packets: 16, rx_bytes: 24 });
super::user_pod!(Traffic);

impl Traffic {
    /// Slots of the `traffic` array. Slot 0 is nobody's: networks that find no other share it and
    /// are not told apart.
    pub const SLOTS: u16 = 4096;
}
