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

/// The findings about one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DoctorView {
    /// Whether there is no finding of [`Severity::Problem`].
    pub healthy: bool,
    /// The findings, problems first.
    pub findings: Vec<Finding>,
    /// Checks that found nothing.
    pub passed: Vec<String>,
}

impl DoctorView {
    /// Notes a check that found nothing.
    pub fn pass(&mut self, check: impl fmt::Display) {
        self.passed.push(check.to_string());
    }

    /// Notes a finding.
    pub fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Sorts the findings, and sets [`Self::healthy`].
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

/// A finding, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Whether it is a problem or a warning.
    pub severity: Severity,
    /// Its subject: `kernel`, `underlay`, `registry`, `peer h2`, ...
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

/// The severity of a finding.
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

/// The findings about every host and every pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterView {
    /// Whether there is no finding of [`Severity::Problem`].
    pub healthy: bool,
    /// Every node with an agent, in the order of their names.
    pub hosts: Vec<ClusterHost>,
    /// Every pair of hosts, each direction by itself.
    pub paths: Vec<ClusterPath>,
    /// The findings, problems first.
    pub findings: Vec<Finding>,
}

/// A host, as it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterHost {
    /// Its name.
    pub node: Name,
    /// Its underlay address.
    pub vtep: IpAddr,
    /// Its state, by its heartbeats.
    pub state: NodeState,
    /// Whether its agent answered.
    pub answered: bool,
    /// Its agent's version; null if it has published none.
    pub version: Option<String>,
    /// The ABI version of its datapath; null if it has published none.
    pub abi: Option<u32>,
    /// Its clock less that of the host that asked, milliseconds; null if it did not answer.
    pub clock_ms: Option<i64>,
}

/// The path of packets from one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterPath {
    /// The host that sends.
    pub from: Name,
    /// The host that receives.
    pub to: Name,
    /// Whether packets arrive.
    pub way: Way,
    /// The last round trip, microseconds; null if nothing came back.
    pub rtt_us: Option<u64>,
    /// Lost ones of the last 32 short echoes, percent; null if none was sent.
    pub loss: Option<u8>,
    /// The longest IP packet of an endpoint that gets there and back, bytes; null if it is not known.
    pub largest: Option<u32>,
    /// The longest one by the underlays' MTUs, bytes; null if they are not known.
    pub expected: Option<u32>,
}

impl ClusterPath {
    /// The longest packet that passes and the one that should, bytes, where the former is shorter.
    #[must_use]
    pub fn narrow(&self) -> Option<(u32, u32)> {
        let lengths = self.largest.zip(self.expected);
        lengths.filter(|(largest, expected)| PathView::is_short(*largest, *expected))
    }
}

/// Whether packets arrive at another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// They arrive.
    Ok,
    /// They do not arrive.
    Lost,
    /// They arrive changed.
    Damaged,
    /// No host can tell.
    Unknown,
}
