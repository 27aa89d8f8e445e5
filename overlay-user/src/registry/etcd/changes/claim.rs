//! A claim in terms of keys.

use std::time::Duration;

use super::super::keys;
use crate::model;

/// Something that one endpoint or object has, as keys.
pub(super) struct Claim {
    /// What it is, for people.
    pub(super) what: &'static str,
    /// Its value, for people.
    pub(super) value: String,
    pub(super) key: String,
    /// Where it is while it is in quarantine, if it ever is.
    pub(super) quarantine: Option<String>,
    /// For how long. `None`: as configured for addresses.
    pub(super) time: Option<Duration>,
}

impl Claim {
    pub(super) fn of(claim: &model::Claim) -> Self {
        let (what, value) = claim.called();
        let time = match claim {
            model::Claim::Ip { .. } | model::Claim::Mac { .. } => None,
            model::Claim::Unique { quarantine_s, .. } => {
                Some(Duration::from_secs((*quarantine_s).into()))
            }
            model::Claim::Disjoint { .. } => Some(Duration::ZERO),
        };
        Self {
            what,
            value,
            key: keys::claim(claim),
            quarantine: keys::quarantined(claim),
            time,
        }
    }

    /// The keys that a new owner has to know.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> + use<> {
        [self.key.clone()]
            .into_iter()
            .chain(self.quarantine.clone())
    }
}
