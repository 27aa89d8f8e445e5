//! Whether the hosts' clocks agree.

use std::time::{Duration, SystemTime};

use super::{DoctorView, Finding, Own};
use crate::model::{Node, SESSION_TTL};

/// Clocks may differ by so much before the times that hosts tell each other mislead.
const SKEW: Duration = Duration::from_secs(5);

/// A living node has been heard of within a session's time: told by another clock, that shows how
/// far the clocks are apart at least.
pub(super) fn judge_clocks(found: &mut DoctorView, own: &Own<'_>, nodes: &[Node], now: SystemTime) {
    let mut all_well = true;
    let peers = nodes
        .iter()
        .filter(|node| node.alive && node.name != *own.node);
    for node in peers {
        let Some(seen) = node.last_seen else { continue };
        let (apart, how) = match now.duration_since(seen) {
            Ok(age) => (age.saturating_sub(SESSION_TTL), "behind"),
            Err(error) => (error.duration(), "ahead of"),
        };
        if apart >= SKEW {
            found.find(Finding::warning(
                format_args!("peer {}", node.name),
                format_args!(
                    "its clock is {} s or more {how} this host's: nothing depends on it but the times \
                     that people read",
                    apart.as_secs()
                ),
                "set both clocks by NTP",
            ));
            all_well = false;
        }
    }
    if all_well {
        found.pass("clocks");
    }
}
