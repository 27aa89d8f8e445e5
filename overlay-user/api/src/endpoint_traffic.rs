//! What an endpoint sent and received.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Packets of an endpoint that were carried on or delivered since it is on its host.
///
/// Each segment of an aggregate counts, with headers of its own, as on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointTrafficView {
    /// Those that it sent.
    pub sent: VolumeView,
    /// Those that were for it.
    pub received: VolumeView,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeView {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the inner Ethernet header on.
    pub bytes: u64,
}

impl fmt::Display for VolumeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets ({} bytes)", self.packets, self.bytes)
    }
}

impl fmt::Display for EndpointTrafficView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received", self.sent, self.received)
    }
}
