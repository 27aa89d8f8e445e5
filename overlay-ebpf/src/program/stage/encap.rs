//! Encapsulation: the outer headers are written once, behind the frame's own Ethernet header,
//! whose place the outer one takes when the kernel's neighbour table writes it.

use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, FdbEntry},
    rule::{
        ecn,
        flow::{self, Flow},
    },
    wire::{
        eth::{self, EthHdr},
        ipv4, udp,
        vxlan::{self, Encapsulation, OVERHEAD_IPV4},
    },
};

use crate::{
    maps,
    packet::{Frame, Verdict},
};

/// The packet, or each segment of an aggregate, fits the network's MTU: VTEPs must not fragment
/// (RFC 7348 section 4.3).
#[inline(always)]
pub fn check_mtu(frame: &Frame, endpoint: &EndpointEntry, flow: &Flow) -> Result<(), DropReason> {
    let len = match frame.gso_size() {
        0 => frame.len() - eth::LEN as u32,
        segment => segment + flow.headers_len,
    };
    if len <= endpoint.mtu {
        Ok(())
    } else {
        Err(DropReason::TooBig)
    }
}

/// Sends the frame to a VTEP.
#[inline(always)]
pub fn send(
    frame: &mut Frame,
    vni: u32,
    inner: &eth::Header,
    flow: &Flow,
    target: &FdbEntry,
) -> Result<Verdict, DropReason> {
    // Of an aggregate these lengths are only a start: segmentation writes each segment's own.
    let outer_len = frame.len() + (OVERHEAD_IPV4 - eth::LEN) as u32;
    if outer_len > u32::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    let outer_len = outer_len as u16;
    frame.grow_for_tunnel()?;
    let encapsulation = frame.header_mut::<Encapsulation>(eth::LEN)?;
    encapsulation.ip = ipv4::outer(
        maps::vtep_ip(),
        target.vtep,
        outer_len,
        ecn::encapsulate(flow.ecn),
    );
    encapsulation.udp = udp::outer(
        flow::source_port(flow.hash),
        target.vtep_port,
        outer_len - ipv4::LEN as u16,
    );
    encapsulation.vxlan = vxlan::header(vni);
    inner.emit(&mut encapsulation.inner);
    frame.header_mut::<EthHdr>(0)?.ether_type = eth::IPV4;
    let next_hop = maps::next_hop(target.vtep);
    if next_hop.is_none() {
        maps::tally(Counter::SlowRoute);
    }
    frame.redirect_via_neighbor(maps::underlay_ifindex(), next_hop)
}
