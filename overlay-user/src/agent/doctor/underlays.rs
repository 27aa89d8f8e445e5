//! Underlays of different MTUs.

use super::{DoctorView, Finding, Name, Network, Node, Own, VtepAddr};

/// Names underlays whose MTU differs from this host's, what that makes of automatic MTUs, and each network
/// with a fixed one that does not fit them.
pub(super) fn judge_underlays(
    found: &mut DoctorView,
    own: &Own<'_>,
    nodes: &[Node],
    networks: &[Network],
) {
    let peers: Vec<(&Name, u32)> = nodes
        .iter()
        .filter(|node| node.name != *own.node)
        .filter_map(|node| Some((&node.name, node.underlay_mtu()?)))
        .collect();
    let others: Vec<(&Name, u32)> = peers
        .iter()
        .filter(|(_, mtu)| *mtu != own.mtu)
        .copied()
        .collect();
    if others.is_empty() {
        return found.pass("underlay MTUs");
    }
    let least = peers
        .iter()
        .fold(own.mtu, |least, (_, mtu)| least.min(*mtu));
    found.find(Finding::warning(
        "underlay MTUs",
        format_args!(
            "this host's is {}, others differ: {}; networks whose MTU is automatic have {}, what the least \
             leaves",
            own.mtu,
            named(&others),
            least.saturating_sub(VtepAddr::IPV4_OVERHEAD)
        ),
        "give all underlays the same MTU; a host that is gone for good counts until `overlay vtep rm`",
    ));
    for network in networks {
        let narrow: Vec<(&Name, u32)> = others
            .iter()
            .filter(|(_, mtu)| network.mtu > mtu.saturating_sub(VtepAddr::IPV4_OVERHEAD))
            .copied()
            .collect();
        if !narrow.is_empty() {
            found.find(Finding::warning(
                format_args!("network {}", network.name),
                format_args!(
                    "its MTU of {} does not fit the underlay of {}: what is longer is lost on the way there",
                    network.mtu,
                    named(&narrow)
                ),
                format_args!(
                    "raise those underlays' MTU to {} or more, or make the network anew with a smaller one",
                    network.mtu.saturating_add(VtepAddr::IPV4_OVERHEAD)
                ),
            ));
        }
    }
}

/// Some nodes with their MTUs, the first few by name.
fn named(nodes: &[(&Name, u32)]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = nodes
        .iter()
        .take(SHOWN)
        .map(|(name, mtu)| format!("{name} ({mtu})"))
        .collect();
    if nodes.len() > SHOWN {
        names.push(format!("{} more", nodes.len() - SHOWN));
    }
    names.join(", ")
}
