//! Looks up where frames for a MAC go.

use overlay_ebpf::{
    abi::{DropReason, FdbEntry},
    wire::{
        arp::{self, ArpHdr},
        eth::{self, Mac},
        icmpv6::{self, Solicitation},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{frame::Frame, maps};

/// The entry of the endpoint of this host that the inner frame is for. Split horizon: what came from a tunnel
/// never goes to one.
///
/// Whom a question to all is for, the neighbour table knows: a peer that has no agent asks in that way.
#[inline(always)]
pub fn local(frame: &mut Frame, vni: u32, inner: &eth::Header) -> Result<FdbEntry, DropReason> {
    let destination = if inner.destination.is_group() {
        solicited(frame, vni, inner.ether_type)
    } else {
        Some(inner.destination)
    };
    if let Some(destination) = destination {
        match maps::fdb(vni, destination) {
            Some(entry) if entry.kind == FdbEntry::LOCAL => return Ok(entry),
            Some(_) => return Err(DropReason::NotLocal),
            None => {}
        }
    }
    if maps::network(vni).is_none() {
        return Err(DropReason::VniUnknown);
    }
    Err(if inner.destination.is_group() {
        DropReason::Multicast
    } else {
        DropReason::DestinationUnknown
    })
}

/// The MAC of the endpoint whose address an ARP request or a neighbour solicitation asks for.
#[inline(always)]
fn solicited(frame: &mut Frame, vni: u32, protocol: u16) -> Option<Mac> {
    let offset = frame.inner() + eth::LEN;
    let neighbor = if protocol == eth::ARP {
        frame.require(offset + arp::LEN).ok()?;
        let request = frame.header::<ArpHdr>(offset).ok()?;
        let is_question = arp::is_request(request)
            && u32::from_ne_bytes(request.spa) != u32::from_ne_bytes(request.tpa);
        maps::neighbor_ipv4(vni, is_question.then_some(request.tpa)?)
    } else if protocol == eth::IPV6 {
        let message = offset + ipv6::LEN;
        frame.require(message + icmpv6::SOLICITATION_LEN).ok()?;
        let ip = frame.header::<Ipv6Hdr>(offset).ok()?;
        let question = frame.header::<Solicitation>(message).ok()?;
        let is_question = ip.next_header == ipv6::ICMPV6
            && icmpv6::is_solicitation(question.kind)
            && !ipv6::is_mapped(question.target);
        maps::neighbor_ipv6(vni, is_question.then_some(question.target)?)
    } else {
        None
    };
    neighbor.map(|neighbor| Mac::new(neighbor.mac))
}
