//! What stages tell each other of a tunnel packet.

use overlay_ebpf::wire::eth;

/// What the outer headers of a tunnel packet said.
pub struct Tunnel {
    /// The sender's underlay address.
    pub sender: [u8; 4],
    /// The network, 0..=16777215.
    pub vni: u32,
    /// The inner Ethernet header.
    pub inner: eth::Header,
    /// The outer ECN field.
    pub ecn: u8,
    /// Whether the packet is the first fragment of one.
    pub is_fragment: bool,
}
