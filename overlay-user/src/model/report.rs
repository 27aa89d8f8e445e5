//! Questions about what hosts have installed, and their answers: what `overlay verify` compares.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    num::ParseIntError,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{Answer, FdbKey, Inquiry, Mac, Name, NeighborKey, Revision, Vni, Vtep};

/// Tells one question from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QuestionId(u64);

impl QuestionId {
    /// One that nobody else has: 64 random bits.
    #[must_use]
    pub fn random() -> Self {
        // Two hashers: both have keys of their own, the second adds what the first may share.
        let seed = RandomState::new().hash_one(std::process::id());
        Self(RandomState::new().hash_one((seed, std::time::SystemTime::now())))
    }
}

impl fmt::Display for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for QuestionId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl TryFrom<String> for QuestionId {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<QuestionId> for String {
    fn from(id: QuestionId) -> Self {
        id.to_string()
    }
}

/// What a question is about: from the whole to the rows, so that no answer is large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A digest of each network.
    Networks,
    /// A digest of each part of one network. Which part a key belongs to follows from a hash of it;
    /// parts without rows are left out.
    Parts(Vni),
    /// The rows of these parts of one network.
    Rows(Vni, Vec<u16>),
}

/// Asks every agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The answers carry it.
    pub id: QuestionId,
    /// What is asked.
    pub subject: Subject,
    /// To be answered when this revision has been carried over to the kernel; 0: at once.
    pub revision: Revision,
    /// What is asked instead of `subject`. Agents that do not know it answer to the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inquiry: Option<Inquiry>,
}

/// What one host has installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The host.
    pub node: Name,
    /// The question that it answers. `None`: told without being asked.
    pub question: Option<QuestionId>,
    /// The revision that had been carried over to its kernel by then.
    pub revision: Revision,
    /// The digests.
    pub digests: Vec<Digest>,
    /// The rows, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Installed>,
    /// What was asked instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// Some rows in one number: hosts with the same rows have the same one, in whatever order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The network.
    pub vni: Vni,
    /// The part of the network; `None`: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u16>,
    /// How many rows.
    pub rows: u64,
    /// The hash over them.
    pub hash: u64,
}

/// One row of a host's maps. Local endpoints are told as if they were remote, behind the host's own
/// VTEP: then all hosts have the same rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Installed {
    /// Of the FDB.
    Fdb {
        /// The MAC, in its network.
        #[serde(flatten)]
        key: FdbKey,
        /// The VTEP that it is behind.
        vtep: Vtep,
        /// The endpoint's generation.
        generation: Revision,
    },
    /// Of the neighbour table.
    Neighbor {
        /// The address, in its network.
        #[serde(flatten)]
        key: NeighborKey,
        /// Whose it is.
        mac: Mac,
        /// The endpoint's generation.
        generation: Revision,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_ids_differ_and_parse_as_they_print() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| QuestionId::random()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn a_report_survives_json() {
        let report = Report {
            node: "h1".parse().unwrap(),
            question: Some(QuestionId::random()),
            revision: 7,
            digests: vec![Digest {
                vni: "42".parse().unwrap(),
                part: Some(3),
                rows: 1,
                hash: u64::MAX,
            }],
            rows: vec![Installed::Fdb {
                key: FdbKey {
                    vni: "42".parse().unwrap(),
                    mac: "02:42:07:07:07:02".parse().unwrap(),
                },
                vtep: Vtep {
                    ip: "10.0.0.1".parse().unwrap(),
                    port: 4789,
                },
                generation: 5,
            }],
            answer: None,
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
