//! Compares what every host has installed with the registry.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Mac, Method, Name, NetworkRef, Operation, Revision, Vni};

/// Asks every host whether it has what the registry wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Only this network, by VNI or name
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|NAME"))]
    #[serde(default)]
    pub vni: Option<NetworkRef>,
}

impl Operation for Verify {
    type Answer = VerifyView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/verify";
    const VERB: &'static str = "verify";
    const READ_ONLY: bool = true;
}

/// The comparison of every host with the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerifyView {
    /// Whether every host has answered, and has what the registry wants.
    pub agree: bool,
    /// The registry's revision that hosts were compared with.
    pub revision: Revision,
    /// Every node with an agent, in the order of their names.
    pub hosts: Vec<HostView>,
    /// The entries that differ, at most [`VerifyView::MOST`].
    pub differences: Vec<Difference>,
    /// Further differences, at least.
    pub more: usize,
}

impl VerifyView {
    /// The longest list of differences.
    pub const MOST: usize = 1000;
}

/// The answer of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostView {
    /// The host.
    pub node: Name,
    /// The comparison's outcome.
    pub verdict: Verdict,
    /// The revision that its maps had by then; null if it did not answer.
    pub revision: Option<Revision>,
    /// Entries that it has installed; null if it did not answer.
    pub rows: Option<u64>,
}

/// The outcome of comparing one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has what the registry wants.
    Agrees,
    /// It has not: its differences are listed.
    Differs,
    /// Its agent is alive and did not answer.
    Silent,
    /// Its agent is not alive.
    Down,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::Silent => "no answer",
            Self::Down => "down",
        })
    }
}

/// An entry of one host's maps that differs from the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    /// The host.
    pub node: Name,
    /// The network.
    pub vni: Vni,
    /// Which map: `fdb` or `neighbors`.
    pub map: String,
    /// The entry's key beside the VNI: a MAC, or an IP address.
    pub entry: String,
    /// The endpoint that the registry has there; null if it has none.
    pub endpoint: Option<Name>,
    /// What the registry wants; null: no such entry.
    pub wanted: Option<EntryView>,
    /// What the host has; null: no such entry.
    pub installed: Option<EntryView>,
}

/// The value of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EntryView {
    /// Of the FDB: behind which VTEP (`IP:PORT`) the MAC is, the host's own for its
    /// endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<String>,
    /// Of the neighbour table: whose the address is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The endpoint's generation.
    pub generation: Revision,
}

impl fmt::Display for EntryView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vtep) = &self.vtep {
            write!(f, "behind {vtep}, ")?;
        }
        if let Some(mac) = self.mac {
            write!(f, "at {mac}, ")?;
        }
        write!(f, "generation {}", self.generation)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: VNI {} {} {}",
            self.node, self.vni, self.map, self.entry
        )?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, " (endpoint {endpoint})")?;
        }
        match (&self.wanted, &self.installed) {
            (Some(wanted), None) => write!(f, " is missing: the registry has it {wanted}"),
            (None, Some(installed)) => {
                write!(
                    f,
                    " is installed {installed}: the registry has no such endpoint"
                )
            }
            (Some(wanted), Some(installed)) => {
                write!(f, " is installed {installed}: the registry has it {wanted}")
            }
            (None, None) => f.write_str(" has been removed meanwhile"),
        }
    }
}
