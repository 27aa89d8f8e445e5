//! What `overlay verify` and `overlay doctor` found.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Mac, Name, NetworkRef, Revision, Vni};

/// What `overlay verify` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The only network to look at; `None`: all of them.
    #[serde(default)]
    pub vni: Option<NetworkRef>,
}

/// Whether the hosts have what the registry wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    /// Every host has answered, and has what it shall have.
    pub agree: bool,
    /// The registry's revision that they were compared with.
    pub revision: Revision,
    /// Every node with an agent, in the order of their names.
    pub hosts: Vec<HostView>,
    /// The entries that differ, at most [`VerifyView::MOST`].
    pub differences: Vec<Difference>,
    /// How many more there are at least.
    pub more: usize,
}

impl VerifyView {
    /// Differences that are told one by one.
    pub const MOST: usize = 1000;
}

/// What one host said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The host.
    pub node: Name,
    /// What came of asking it.
    pub verdict: Verdict,
    /// The revision that its kernel had by then; null if it did not answer.
    pub revision: Option<Revision>,
    /// How many entries it has installed; null if it did not answer.
    pub rows: Option<u64>,
}

/// What came of asking a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has what the registry wants.
    Agrees,
    /// It does not.
    Differs,
    /// Its agent lives and did not answer.
    Silent,
    /// Its agent does not live: nobody could be asked.
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

/// One entry of one host's maps that is not what the registry wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What `overlay doctor` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorView {
    /// There is no finding of [`Severity::Problem`].
    pub healthy: bool,
    /// What is not as it should be, problems first.
    pub findings: Vec<Finding>,
    /// What was looked at and is well.
    pub passed: Vec<String>,
}

impl DoctorView {
    /// Notes that something is well.
    pub fn pass(&mut self, check: impl fmt::Display) {
        self.passed.push(check.to_string());
    }

    /// Notes what is not.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The verdict over all that was noted.
    #[must_use]
    pub fn concluded(mut self) -> Self {
        self.findings.sort_by_key(|finding| finding.severity);
        self.healthy = self
            .findings
            .iter()
            .all(|finding| finding.severity != Severity::Problem);
        self
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `kernel`, `underlay`, `registry`, `peer h2`, ...
    pub subject: String,
    /// What is wrong, and why that matters.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl Finding {
    /// Something does not work, or is about to stop.
    pub fn problem(
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(Severity::Problem, subject, message, advice)
    }

    /// Everything works, and could be better.
    pub fn warning(
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(Severity::Warning, subject, message, advice)
    }

    fn new(
        severity: Severity,
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self {
            severity,
            subject: subject.to_string(),
            message: message.to_string(),
            advice: advice.to_string(),
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something does not work, or is about to stop: exit code 1.
    Problem,
    /// Everything works, and could be better.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
        })
    }
}
