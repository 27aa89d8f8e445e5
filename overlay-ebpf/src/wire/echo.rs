//! Echoes: what hosts send each other to try the way of tunnel packets, and the other host's program sends back.
//! One between hosts has a VNI that no network has. One between endpoints, a probe, has their network's, and takes
//! the way of their frames.

use super::eth::EtherType;

/// The VNI of echoes between hosts: networks have 1 and more.
pub const VNI: u32 = 0;

/// What an echo's inner Ethernet header says, order of the wire: the first local experimental `EtherType` of
/// IEEE Std 802.
pub const ETHER_TYPE: u16 = 0x88b5_u16.to_be();

/// What an echo begins with.
pub const MAGIC: [u8; 4] = *b"OVE1";

/// To be sent back.
pub const REQUEST: u8 = 1;
/// Sent back.
pub const REPLY: u8 = 2;

/// What follows the inner Ethernet header. Zeros fill the packet behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoHdr {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`REQUEST`] or [`REPLY`].
    pub kind: u8,
    /// Between hosts: the network of the endpoint that is asked for, order of the wire, whose MAC is the inner
    /// destination. 0: none is asked for.
    pub vni: [u8; 3],
    /// What the sender knows it by; nobody else can guess it.
    pub id: [u8; 8],
}

/// Bytes of the header.
pub const LEN: usize = 16;

/// Zeros behind the header that are looked at: others were put there on the way.
pub const ZEROS: usize = 60;

const _: () = assert!(size_of::<EchoHdr>() == LEN);
// A packet of another protocol is never taken for one.
const _: () = assert!(ETHER_TYPE != EtherType::Ipv4 as u16 && ETHER_TYPE != EtherType::Ipv6 as u16);

/// Whether this is an echo, by the inner `EtherType` and what follows.
#[must_use]
#[inline(always)]
pub const fn is_echo(ether_type: u16, header: &EchoHdr) -> bool {
    ether_type == ETHER_TYPE
        && u32::from_ne_bytes(header.magic) == u32::from_ne_bytes(MAGIC)
        && (header.kind == REQUEST || header.kind == REPLY)
}
