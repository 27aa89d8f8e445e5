//! What `overlay doctor` found.

use std::fmt;

use serde::{Deserialize, Serialize};

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
