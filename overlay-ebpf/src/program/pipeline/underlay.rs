//! The stages that a frame from a tunnel passes, in their order.

use overlay_ebpf::{
    abi::{Call, Counter, DropReason, FdbEntry},
    wire::{echo as wire, eth},
};

use crate::{
    frame::{Action, Frame, Tunnel},
    maps,
    packet::Packet,
    ping,
    stage::{
        count, decap, deliver, echo, fdb, group, meter, miss, miss::Requester, sample::Subject,
        sender, sender::Origin, slow_path, vlan,
    },
};

/// Delivers the frame in a tunnel packet that is for this VTEP.
#[inline(always)]
pub fn run(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let tunnel = decap::parse(frame)?;
    frame.has_outer_headers();
    subject.is_in(tunnel.vni);
    subject.is_from(tunnel.sender);
    if tunnel.vni == wire::VNI || tunnel.inner.ether_type == wire::ETHER_TYPE {
        return Err(maps::continue_with(Call::Echo, frame));
    }
    let origin = sender_of(&tunnel, subject)?;
    let target = receiver_of(frame, tunnel.vni, &tunnel.inner, subject)?;
    // Asked for last: a frame that goes nowhere is not worth the agent's work.
    if origin == Origin::Unknown {
        let requester = Requester::of_tunnel(frame.ifindex(), tunnel.vni, tunnel.inner.source);
        miss::seek_mac(requester, tunnel.inner.source, DropReason::SourceVtep)?;
    }
    if tunnel.is_fragment {
        // What the kernel makes of it comes to `run_unpacked`.
        let (cause, otherwise) = (Counter::SlowReceiveFragment, DropReason::OuterFragment);
        return slow_path::leave(frame, cause, otherwise);
    }
    let packet = Packet::parse(frame, tunnel.inner)?;
    sender::check_addresses(frame, tunnel.vni, &packet, origin)?;
    vlan::refuse(frame, &packet)?;
    if let Some(cause) = slow_path::cause(frame, &packet) {
        return slow_path::leave(frame, cause, DropReason::DecapFailed);
    }
    if let Err(reason) = decap::unpack(frame, &tunnel, &packet) {
        return match reason {
            DropReason::DecapFailed => slow_path::leave(frame, Counter::SlowReceiveRefused, reason),
            reason => Err(reason),
        };
    }
    meter::received(frame, &target)?;
    count::received(&target, count::volume(&packet.segments(frame)));
    deliver::to_endpoint(frame, &packet, &target)
}

/// Takes care of an echo of a host, or a probe of an endpoint: the way that [`run`] sends it.
#[inline(always)]
pub fn run_echo(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    let tunnel = decap::parse(frame)?;
    frame.has_outer_headers();
    subject.is_in(tunnel.vni);
    subject.is_from(tunnel.sender);
    if tunnel.vni == wire::VNI {
        echo::take(frame, &tunnel)
    } else {
        ping::take(frame, &tunnel)
    }
}

/// Delivers a frame that the kernel has unpacked, after [`run`] found the packet sound. Of fragments that saw the
/// first one alone, so the sender is checked once more.
#[inline(always)]
pub fn run_unpacked(frame: &mut Frame, subject: &mut Subject) -> Result<Action, DropReason> {
    frame.scrub();
    let (vni, sender) = frame.tunnel_of_device()?;
    subject.is_in(vni);
    subject.is_from(sender);
    let eth = eth::Header::parse(frame.header(0)?);
    let origin = sender::check_mac(vni, sender, &eth)?;
    let target = receiver_of(frame, vni, &eth, subject)?;
    let packet = Packet::parse(frame, eth)?;
    sender::check_addresses(frame, vni, &packet, origin)?;
    vlan::refuse(frame, &packet)?;
    meter::received(frame, &target)?;
    count::received(&target, count::volume(&packet.segments(frame)));
    deliver::to_endpoint_queued(frame, target.target)
}

/// How much is known of who sent the inner frame.
#[inline(always)]
fn sender_of(tunnel: &Tunnel, subject: &mut Subject) -> Result<Origin, DropReason> {
    let checked = sender::check_mac(tunnel.vni, tunnel.sender, &tunnel.inner);
    // A known host speaks for an endpoint of another host: the sample names the receiver too.
    if let Err(DropReason::SourceVtep) = checked {
        let to = maps::fdb(tunnel.vni, tunnel.inner.destination);
        subject.is_of(to.and_then(|to| to.interface()).unwrap_or(0));
    }
    checked
}

/// The endpoint of this host that an inner frame is for.
#[inline(always)]
fn receiver_of(
    frame: &mut Frame,
    vni: u32,
    inner: &eth::Header,
    subject: &mut Subject,
) -> Result<FdbEntry, DropReason> {
    let target = match fdb::local(frame, vni, inner) {
        Err(DropReason::Multicast) => {
            return Err(group::reason(frame, inner, DropReason::Multicast));
        }
        found => found?,
    };
    subject.is_of(target.target);
    Ok(target)
}
