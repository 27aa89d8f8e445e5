//! Dropped frames: what is known of some of them, and how many there were of each endpoint.

use std::{collections::BTreeMap, time::SystemTime};

use super::{DropClass, DropDirection, FrameView, Traffic, Vni, VtepAddr};

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedFrame {
    /// When, nanoseconds since this host booted: by this they are told apart.
    pub at_ns: u64,
    /// The same by this host's clock.
    pub time: SystemTime,
    /// Why: the name of the reason.
    pub reason: &'static str,
    /// Whether anybody misses it.
    pub class: DropClass,
    /// Which way it went.
    pub direction: DropDirection,
    /// Host-side interface of the endpoint that sent it or was to get it. `None`: it is not known.
    pub endpoint: Option<u32>,
    /// Its network; likewise.
    pub vni: Option<Vni>,
    /// The other host's underlay address. `None`: there is none, or it is not known.
    pub peer: Option<VtepAddr>,
    /// What was in it.
    pub frame: FrameView,
}

/// What this host has counted of one of its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// What was dropped.
    pub drops: EndpointDrops,
    /// What was carried on and delivered. `None`: this host has too many endpoints to count each.
    pub traffic: Option<Traffic>,
    /// What came of its limits. `None`: it was not asked for, or this host has too many endpoints.
    pub metered: Option<Metered>,
}

/// What came of an endpoint's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// Of what it sent.
    pub sent: MeterCounts,
    /// Of what was for it.
    pub received: MeterCounts,
}

/// Frames that were over a limit, or close to it; an aggregate counts as its segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeterCounts {
    /// Those that were marked for congestion.
    pub marked: u64,
    /// Those that were dropped.
    pub dropped: u64,
}

/// How many frames of one endpoint were dropped, by the names of the reasons, noise apart. Those that never
/// occurred are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointDrops {
    /// Of those that it sent.
    pub sent: BTreeMap<&'static str, u64>,
    /// Of those that were for it.
    pub received: BTreeMap<&'static str, u64>,
}
