//! The path of tunnel packets to another host, as measured by echoes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether tunnel packets get to another host and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PathView {
    /// Whether packets pass.
    pub state: PathState,
    /// The time of its last change, RFC 3339; null if it is not known yet.
    pub since: Option<Timestamp>,
    /// The last round trip, microseconds; null if nothing came back lately.
    pub rtt_us: Option<u64>,
    /// The longest IP packet of an endpoint that gets there and back, bytes; null if it is not known.
    pub largest: Option<u32>,
    /// The longest one by the underlays' MTUs, bytes.
    pub expected: u32,
    /// Lost ones of the last 32 short echoes, percent; null if none was sent.
    #[serde(default)]
    pub loss: Option<u8>,
}

impl PathView {
    /// How near the search for the longest packet comes, bytes.
    const NEAR: u32 = 8;

    /// Whether it takes less than both ends' interfaces do.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.largest
            .is_some_and(|largest| Self::is_short(largest, self.expected))
    }

    /// Whether the longest packet that passes, bytes, is shorter than the one that is expected to.
    #[must_use]
    pub const fn is_short(largest: u32, expected: u32) -> bool {
        largest + Self::NEAR < expected
    }
}

/// The state of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// Not tried yet.
    Unknown,
    /// Packets get there and back.
    Ok,
    /// Packets of the other host arrive, and those of this one do not arrive there.
    OneWay,
    /// No packets arrive from there.
    Lost,
    /// Packets arrive changed.
    Damaged,
}

impl PathState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Ok,
        Self::OneWay,
        Self::Lost,
        Self::Damaged,
    ];

    /// The name in JSON.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::OneWay => "one_way",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::OneWay => "one way",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
        }
    }
}
