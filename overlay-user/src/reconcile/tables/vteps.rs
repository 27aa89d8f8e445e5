//! The VTEPs table: the tunnel ends of the other nodes, and the way to each.

use std::net::{IpAddr, Ipv4Addr};

use super::Derived;
use crate::{
    model::{Node, Rows, VtepRow},
    reconcile::{desired::Desired, mirror::Fact},
};

impl Derived for VtepRow {
    type Id = Ipv4Addr;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Ipv4Addr)) {
        if let Fact::Node(node) = fact
            && let IpAddr::V4(ip) = node.vtep.ip
        {
            mark(ip);
        }
    }

    fn desired(desired: &Desired<'_>, ip: &Ipv4Addr) -> Option<(Ipv4Addr, Self)> {
        let mut peers = desired.peers();
        let node = peers.find(|node| node.vtep.ip == *ip)?;
        row_of(desired, node)
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let peers = desired.peers();
        peers.filter_map(|node| row_of(desired, node)).collect()
    }
}

fn row_of(desired: &Desired<'_>, node: &Node) -> Option<(Ipv4Addr, VtepRow)> {
    let IpAddr::V4(ip) = node.vtep.ip else {
        return None;
    };
    let row = VtepRow {
        port: node.vtep.port,
        path: desired.host.paths.get(&ip).copied().unwrap_or_default(),
    };
    Some((ip, row))
}
