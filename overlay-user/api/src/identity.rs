//! The identity of a registry, wherever it is kept.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A registry's random UUID (RFC 9562, version 4), which its backups keep.
///
/// A URL names a place. What is found there may be another registry, or an emptied one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("format" = "uuid"))
)]
#[serde(transparent)]
pub struct RegistryId(#[cfg_attr(feature = "schema", schemars(with = "String"))] Uuid);

impl From<Uuid> for RegistryId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for RegistryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RegistryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
