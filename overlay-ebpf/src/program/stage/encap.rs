//! Encapsulates: writes the outer headers once, behind the frame's own Ethernet header.
//!
//! The outer Ethernet header takes the place of that one when the kernel's neighbour table writes it. Frames that the
//! programs can't encapsulate go through the kernel's VXLAN device.

use overlay_ebpf::{
    abi::{Counter, DropReason},
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
    frame::{Action, Frame},
    maps,
    maps::Path,
    packet::Packet,
};

/// Sends the frame to a VTEP. `shows_dscp` is for what the kernel's VXLAN device has to do: the DSCP inside is to be seen
/// outside.
#[inline(always)]
pub fn send(
    frame: &mut Frame,
    vni: u32,
    inner: &eth::Header,
    flow: &Flow,
    path: &Path,
    shows_dscp: bool,
) -> Result<Action, DropReason> {
    // Of an aggregate these lengths are only a start: segmentation writes each segment's own. What does not
    // fit is 0, as `iph_set_totlen` has it in the kernel.
    let outer_len = frame.len() + (OVERHEAD_IPV4 - eth::LEN) as u32;
    let outer_len = u16::try_from(outer_len).unwrap_or(0);
    if frame.grow_for_tunnel().is_err() {
        return send_by_device(frame, vni, path, shows_dscp, Counter::SlowSendRefused);
    }
    let encapsulation = frame.header_mut::<Encapsulation>(eth::LEN)?;
    encapsulation.ip = ipv4::outer(
        maps::vtep_ip(),
        path.vtep(),
        outer_len,
        ecn::encapsulate(flow.ecn),
    );
    encapsulation.udp = udp::outer(
        flow::source_port(flow.hash),
        path.port(),
        outer_len.saturating_sub(ipv4::LEN as u16),
    );
    encapsulation.vxlan = vxlan::header(vni);
    inner.emit(&mut encapsulation.inner);
    frame.header_mut::<EthHdr>(0)?.ether_type = eth::IPV4;
    if path.next_hop.is_none() {
        maps::count_event(Counter::SlowRoute);
    }
    frame.redirect_via_neighbor(maps::underlay_ifindex(), path.next_hop)
}

/// Sends the frame to a VTEP through the kernel's VXLAN device, for the reason that `counter` says. The device
/// sends to its own port alone.
#[inline(always)]
pub fn send_by_device(
    frame: &mut Frame,
    vni: u32,
    path: &Path,
    shows_dscp: bool,
    counter: Counter,
) -> Result<Action, DropReason> {
    let device = maps::external().ok_or(DropReason::EncapFailed)?;
    if u16::from_ne_bytes(path.port()) != u16::from_ne_bytes(maps::vtep_port()) {
        return Err(DropReason::EncapFailed);
    }
    let dscp = if shows_dscp {
        let eth = eth::Header::parse(frame.header(0)?);
        Packet::parsed(eth).traffic_class(frame)? & !ipv4::ECN_MASK
    } else {
        0
    };
    let ends = (maps::vtep_ip(), path.vtep());
    let action = frame.send_by_device(device, vni, ends, dscp)?;
    maps::count_event(counter);
    Ok(action)
}
