//! The path of tunnel packets to another host, as measured by echoes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether tunnel packets get to another host and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PathView {
    /// The outcome.
    pub state: PathState,
    /// Since when it is so, RFC 3339; null if it is not known yet.
    pub since: Option<Timestamp>,
    /// The last round trip, microseconds; null if nothing came back lately.
    pub rtt_us: Option<u64>,
    /// The longest IP packet of an endpoint that gets there and back, bytes; null if it is not known.
    pub largest: Option<u32>,
    /// The same as the underlays' MTUs say.
    pub expected: u32,
    /// How many of the last 32 short echoes were lost, percent; null if none was sent.
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

/// Whether tunnel packets get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// Nobody has tried yet.
    Unknown,
    /// There and back.
    Ok,
    /// The other host's come here, and this one's do not get there.
    OneWay,
    /// Nothing comes from there.
    Lost,
    /// What comes from there was changed on the way.
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

    /// For programs, as in JSON.
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

    /// For people.
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
