//! Examines hosts and the paths between them: what is wrong, and what to do.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{Method, Name, NodeState, Operation, PathView};

/// Examines this host, and its peers as the registry knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Examine {}

impl Operation for Examine {
    type Answer = DoctorView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/doctor";
    const VERB: &'static str = "doctor";
}

/// Examines every pair of hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExamineCluster {}

impl Operation for ExamineCluster {
    type Answer = ClusterView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/doctor/cluster";
    const VERB: &'static str = "doctor --cluster";
}

/// What `overlay doctor` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Every pair of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterView {
    /// There is no finding of severity `problem`.
    pub healthy: bool,
    /// Every node with an agent, in the order of their names.
    pub hosts: Vec<ClusterHost>,
    /// Every pair, each direction by itself.
    pub paths: Vec<ClusterPath>,
    /// What is not as it should be, problems first.
    pub findings: Vec<Finding>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterHost {
    /// Its name.
    pub node: Name,
    /// Its underlay address.
    pub vtep: IpAddr,
    /// How it stands.
    pub state: NodeState,
    /// Whether it said how its paths are.
    pub answered: bool,
    /// Its agent's version; null if it has told none.
    pub version: Option<String>,
    /// The ABI version of its datapath; null if it has told none.
    pub abi: Option<u32>,
    /// By how much its clock is ahead of the clock of the host that asked, milliseconds; null if it said nothing.
    pub clock_ms: Option<i64>,
}

/// The way of the packets of one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterPath {
    /// Whose packets.
    pub from: Name,
    /// Where they are to get.
    pub to: Name,
    /// Whether they do.
    pub way: Way,
    /// The last round trip, microseconds; null if nothing came back.
    pub rtt_us: Option<u64>,
    /// How many of the last 32 short echoes were lost, percent; null if none was sent.
    pub loss: Option<u8>,
    /// The longest IP packet of an endpoint that gets there and back, bytes; null if it is not known.
    pub largest: Option<u32>,
    /// The same as the underlays' MTUs say; null if nobody said it.
    pub expected: Option<u32>,
}

impl ClusterPath {
    /// The longest packet that passes, and the one that is expected to, bytes, where that is less.
    #[must_use]
    pub fn narrow(&self) -> Option<(u32, u32)> {
        let lengths = self.largest.zip(self.expected);
        lengths.filter(|(largest, expected)| PathView::is_short(*largest, *expected))
    }
}

/// Whether packets get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// They do.
    Ok,
    /// They do not.
    Lost,
    /// They arrive changed.
    Damaged,
    /// Nobody can say.
    Unknown,
}
