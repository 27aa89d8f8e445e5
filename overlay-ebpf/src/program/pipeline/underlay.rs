//! The stages that a frame from a tunnel passes, in their order.

use overlay_ebpf::{
    abi::{Counter, DropReason},
    wire::{self, eth, vxlan::INNER_L3},
};

use crate::{
    maps,
    packet::{Action, Frame},
    ping,
    stage::{
        count, decap, deliver, echo, group, miss, miss::Requester, sample::Subject, sender,
        sender::Origin, slow_path,
    },
};

/// Delivers the frame in a tunnel packet that is for this VTEP.
#[inline(always)]
pub fn run(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let tunnel = decap::parse(frame)?;
    let (vni, inner) = (tunnel.vni, &tunnel.inner);
    frame.has_outer_headers();
    subject.vni = vni;
    subject.peer = tunnel.sender;
    if vni == wire::echo::VNI {
        return echo::take(frame, &tunnel);
    }
    if inner.ether_type == wire::echo::ETHER_TYPE {
        return ping::take(frame, &tunnel);
    }
    let requester = Requester::of_tunnel(frame.ifindex(), vni, inner.source);
    let origin = match sender::check_mac(vni, tunnel.sender, inner) {
        // A known host speaks for an endpoint that is not its own: to whom, is worth a look.
        Err(reason @ DropReason::SourceVtep) => {
            subject.endpoint =
                maps::fdb(vni, inner.destination).map_or(0, |to| to.interface().unwrap_or(0));
            return Err(reason);
        }
        checked => checked?,
    };
    let target = match deliver::local_entry(frame, vni, inner, INNER_L3) {
        Err(DropReason::Multicast) => return Err(group::reason(frame, inner.ether_type, INNER_L3)),
        found => found?,
    };
    subject.endpoint = target.target;
    // Asked for last: a frame that goes nowhere is not worth the agent's work.
    if origin == Origin::Unknown {
        miss::seek_mac(requester, inner.source, DropReason::SourceVtep)?;
    }
    sender::check_addresses(frame, vni, inner, origin, INNER_L3)?;
    if inner.is_tagged() {
        return Err(DropReason::InnerVlan);
    }
    if let Some(cause) = slow_path::cause(frame, inner.ether_type, tunnel.is_fragment) {
        let otherwise = if tunnel.is_fragment {
            DropReason::OuterFragment
        } else {
            DropReason::DecapFailed
        };
        return slow_path::leave(frame, cause, otherwise);
    }
    let protocol = match decap::unpack(frame, &tunnel) {
        Err(reason @ DropReason::DecapFailed) => {
            return slow_path::leave(frame, Counter::SlowReceiveRefused, reason);
        }
        unpacked => unpacked?,
    };
    count::received(target.slot, count::volume(frame, protocol));
    deliver::to_endpoint(frame, &target, protocol)
}

/// Delivers a frame that the kernel has unpacked, after [`run`] found the packet sound. Of fragments that saw the
/// first one alone, so the sender is checked once more.
#[inline(always)]
pub fn run_unpacked(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    frame.scrub();
    if frame.has_vlan_tag() {
        return Err(DropReason::InnerVlan);
    }
    let (vni, sender) = frame.tunnel_of_device()?;
    subject.vni = vni;
    subject.peer = sender;
    let header = eth::Header::parse(frame.header(0)?);
    let origin = sender::check_mac(vni, sender, &header)?;
    let target = deliver::local_entry(frame, vni, &header, eth::LEN)?;
    subject.endpoint = target.target;
    sender::check_addresses(frame, vni, &header, origin, eth::LEN)?;
    count::received(target.slot, count::volume(frame, header.ether_type));
    deliver::to_endpoint_queued(frame, target.target)
}
