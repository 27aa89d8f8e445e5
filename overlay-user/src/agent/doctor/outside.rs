//! Whether packets get out of the overlay.

use super::{DoctorView, Finding};
use crate::{
    agent::outside::WayOut,
    model::{Outside, Resource as _, Router},
    reconcile::View,
};

/// Whether any router leads out of the overlay.
pub(super) fn is_wanted(view: &View) -> bool {
    let mut routers = view.mirror.objects().filter_map(Router::known);
    routers.any(|router| router.outside != Outside::None)
}

/// Names what keeps packets from getting out.
pub(super) fn judge_way_out(found: &mut DoctorView, way_out: &WayOut, is_wanted: bool) {
    if !is_wanted {
        return;
    }
    let mut is_fine = true;
    if let Some(problem) = &way_out.problem {
        is_fine = false;
        found.find(Finding::problem(
            "uplink",
            format_args!("{problem}: endpoints of this host do not reach the outside"),
            "bring the interface up, or name another with --uplink",
        ));
    }
    for (endpoint, reason) in &way_out.without_block {
        is_fine = false;
        found.find(Finding::problem(
            format_args!("outside of {endpoint}"),
            reason,
            "make a larger pool and set it with `overlay network set --snat`, or remove endpoints",
        ));
    }
    if is_fine {
        found.pass("uplink");
    }
}
