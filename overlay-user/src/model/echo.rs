//! Echoes: packets that another host's program sends back, by which the way there is tried.

use std::time::Duration;

use super::{Mac, Vni, VtepAddr};

/// What a program of this host has seen of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// What its sender knows it by.
    pub id: u64,
    /// The other host's underlay address.
    pub vtep: VtepAddr,
    /// What became of it.
    pub kind: EchoKind,
    /// Bytes of the outer IP packet; of the inner one where there is no other.
    pub len: u16,
    /// When it was seen, by `CLOCK_MONOTONIC`.
    pub at: Duration,
}

/// What became of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// The other host sent it, and it was sent back to there.
    Theirs,
    /// This host sent it, and it is back.
    Ours,
    /// It has left this host.
    Left,
    /// It was dropped here, on its way there or back, for the reason of this name.
    Dropped(&'static str),
}

/// An echo that is to be sent to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoRequest {
    /// What it is to be known by: nobody else may be able to guess it.
    pub id: u64,
    /// The other host's underlay address.
    pub vtep: VtepAddr,
    /// That host's UDP port, host byte order.
    pub port: u16,
    /// Bytes of the outer IP packet; at least [`EchoRequest::SHORTEST`].
    pub len: u16,
    /// The endpoint that has to be on that host, or there is no answer.
    pub target: Option<(Vni, Mac)>,
}

impl EchoRequest {
    /// Bytes of the shortest: outer IPv4, UDP, VXLAN, Ethernet and the echo's own header.
    pub const SHORTEST: u16 = 20 + 8 + 8 + 14 + 16;
}

/// An echo that is to be sent from an endpoint of this host to another of its network, as if it had sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRequest {
    /// As in [`EchoRequest`].
    pub id: u64,
    /// Index of the host side of the endpoint's interface.
    pub ifindex: u32,
    /// The endpoint's MAC.
    pub from: Mac,
    /// The other's.
    pub to: Mac,
    /// Bytes of the packet that it stands for, without the Ethernet header; at least [`ProbeRequest::SHORTEST`].
    pub len: u16,
}

impl ProbeRequest {
    /// Bytes of the shortest: the echo's own header.
    pub const SHORTEST: u16 = 16;
}
