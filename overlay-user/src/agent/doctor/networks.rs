//! Whether the packets of networks get to the other hosts.

use super::{DoctorView, Finding};
use crate::model::NetworkTold;

/// Names each network that does not get through, and where its packets are lost.
pub(super) fn judge_networks(found: &mut DoctorView, lost: &[NetworkTold]) {
    if lost.is_empty() {
        return found.pass("networks");
    }
    for told in lost {
        found.find(finding(told));
    }
}

/// Where a network's packets are lost, and what to do.
pub(in crate::agent) fn lost_at(told: &NetworkTold) -> (&str, &str) {
    told.pinged.lost.as_ref().map_or(
        ("it was lost", "see `overlay doctor` on both hosts"),
        |lost| (lost.message.as_str(), lost.advice.as_str()),
    )
}

fn finding(told: &NetworkTold) -> Finding {
    let NetworkTold {
        node,
        network,
        pinged,
    } = told;
    let (message, advice) = lost_at(told);
    Finding::problem(
        format_args!("path to {node} in {network}"),
        format_args!(
            "packets of {network} do not get through, though those of the hosts do; an echo of {} to {}: {message}",
            pinged.from, pinged.to
        ),
        advice,
    )
}
