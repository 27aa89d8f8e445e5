//! Echoes: tunnel packets that another host's program sends back, by which the way there is tried.

use std::{net::Ipv4Addr, time::Duration};

/// What came of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// What its sender knows it by.
    pub id: u64,
    /// The other host's underlay address.
    pub vtep: Ipv4Addr,
    /// Who sent it first.
    pub kind: EchoKind,
    /// Bytes of the outer IP packet.
    pub len: u16,
    /// When it came, by `CLOCK_MONOTONIC`.
    pub at: Duration,
}

/// Who sent an echo first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// The other host: it was sent back to there.
    Theirs,
    /// This one: it is back.
    Ours,
}

/// An echo to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoRequest {
    /// What it is to be known by: nobody else may be able to guess it.
    pub id: u64,
    /// The other host's underlay address.
    pub vtep: Ipv4Addr,
    /// That host's UDP port, host byte order.
    pub port: u16,
    /// Bytes of the outer IP packet; at least [`EchoRequest::SHORTEST`].
    pub len: u16,
}

impl EchoRequest {
    /// Bytes of the shortest: outer IPv4, UDP, VXLAN, Ethernet and the echo's own header.
    pub const SHORTEST: u16 = 20 + 8 + 8 + 14 + 16;
}
