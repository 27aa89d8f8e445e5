//! Why an operation failed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a failure, for programs.
///
/// It decides the HTTP status and the exit code of a verb: 2 for [`Usage`](Self::Usage), 1 for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is malformed, or of a version that the agent does not know: HTTP 400.
    Usage,
    /// Something that the request names does not exist: HTTP 404.
    NotFound,
    /// A unique value (name, VNI, MAC, address) is taken: HTTP 409.
    Conflict,
    /// The request breaks a rule, or this host can't meet it: HTTP 422.
    Refused,
    /// The agent or the registry is out of reach, and a later try may succeed: HTTP 503.
    Unavailable,
    /// A check found something wrong: verbs end with it, the agent never answers it.
    Finding,
    /// The agent or the kernel failed: HTTP 500.
    Internal,
}

/// A failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct OperationError {
    /// One line for people: what failed, why, and what to do.
    pub message: String,
    /// The same for programs.
    pub kind: ErrorKind,
}

impl OperationError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            kind,
        }
    }
}

/// A failure as the socket answers it and `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorView {
    /// The failure.
    pub error: OperationError,
}
