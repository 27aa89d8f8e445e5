//! Rows of the registry that can't be read or break a rule.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Name, ObjectId, Vni};

/// What a row of the registry speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowId {
    /// A network.
    Network(Vni),
    /// A node.
    Node(Name),
    /// An endpoint.
    Endpoint(Name),
    /// An object.
    Object(ObjectId),
    /// A row that does not say so; where it is.
    Other(String),
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(vni) => write!(f, "network {vni}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::Object(id) => id.fmt(f),
            Self::Other(place) => f.write_str(place),
        }
    }
}

/// A row that is not followed: readers go on without it, and hold what they had in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// What it speaks of.
    pub row: RowId,
    /// Why, in a line.
    pub why: String,
}

impl Rejected {
    /// The row is not followed, for this reason.
    pub fn new(row: RowId, why: impl fmt::Display) -> Self {
        Self {
            row,
            why: why.to_string(),
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is left out: {}", self.row, self.why)
    }
}
