//! The VTEPs table: the tunnel ends of the other nodes, and the way to each.

use super::Derived;
use crate::{
    model::{Node, Rows, VtepAddr, VtepRow},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for VtepRow {
    type Id = VtepAddr;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(VtepAddr)) {
        if let Fact::Node(node) = fact {
            mark(node.vtep.ip);
        }
    }

    fn desired(desired: &Desired<'_>, ip: &VtepAddr) -> Option<(VtepAddr, Self)> {
        let mut peers = desired.peers();
        let node = peers.find(|node| node.vtep.ip == *ip)?;
        row_of(desired, node)
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let peers = desired.peers();
        peers.filter_map(|node| row_of(desired, node)).collect()
    }
}

fn row_of(desired: &Desired<'_>, node: &Node) -> Option<(VtepAddr, VtepRow)> {
    let ip = node.vtep.ip;
    let row = VtepRow {
        port: node.vtep.port,
        path: desired.host.paths.get(&ip).copied().unwrap_or_default(),
    };
    (!ip.is_discard()).then_some((ip, row))
}
