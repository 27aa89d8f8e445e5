//! The BPF object: entry points, and the order of the stages.
//!
//! Every path ends in a pass, a redirect or a counted [`DropReason`].

#![no_std]
#![no_main]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_lossless,
    reason = "helpers take each number in a width of their own; all are constants or frame lengths"
)]
#![allow(
    clippy::inline_always,
    reason = "a call costs a stack frame and the verifier's knowledge of packet bounds"
)]
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "the entry points' macro makes functions without docs; nothing here has another user"
)]

mod maps;
mod packet;
mod ping;
mod probe;
mod stage {
    pub mod count;
    pub mod decap;
    pub mod deliver;
    pub mod echo;
    pub mod encap;
    pub mod group;
    pub mod miss;
    pub mod mtu;
    pub mod neighbor;
    pub mod sample;
    pub mod sender;
    pub mod slow_path;
    pub mod source;
}

use aya_ebpf::{macros::classifier, programs::TcContext};
use aya_log_ebpf::debug;
use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, FdbEntry, MeterKey},
    rule::{flow::Flow, mtu as rule},
    wire::{
        self,
        eth::{self, Mac},
        vxlan::INNER_L3,
    },
};

use packet::{DROP, Frame, PASS, Verdict};
use stage::{
    count, decap, deliver, echo, encap, group, miss,
    miss::Asker,
    mtu, neighbor,
    neighbor::{Answer, Discovery, Question},
    sample,
    sample::Subject,
    sender,
    sender::Origin,
    slow_path, source,
};

/// TC ingress on the host side of an endpoint's interface: what the endpoint sends.
#[classifier]
#[inline(always)]
pub fn endpoint_ingress(ctx: TcContext) -> Verdict {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::sent());
    from_endpoint(&mut frame, &mut subject)
        .unwrap_or_else(|reason| dropped(&frame, reason, &subject))
}

/// TC ingress on the underlay device: what comes out of tunnels, among all else.
#[classifier]
#[inline(always)]
pub fn underlay_ingress(ctx: TcContext) -> Verdict {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    match decap::is_ours(&mut frame) {
        Ok(true) => from_tunnel(&mut frame, &mut subject),
        Ok(false) => Ok(PASS),
        Err(reason) => Err(reason),
    }
    .unwrap_or_else(|reason| dropped(&frame, reason, &subject))
}

/// TC ingress on the kernel's VXLAN device: what [`underlay_ingress`] left to it. All else came past that: by
/// another interface, over IPv6 or over loopback.
#[classifier]
#[inline(always)]
pub fn external_ingress(ctx: TcContext) -> Verdict {
    let (mut frame, mut subject) = (Frame::new(ctx), Subject::received());
    match maps::voucher() {
        Some(secret) if frame.is_vouched(secret) => from_device(&mut frame, &mut subject),
        Some(secret) if frame.is_own_echo(secret) => echo::send(&mut frame),
        _ => Err(DropReason::VxlanDevice),
    }
    .unwrap_or_else(|reason| dropped(&frame, reason, &subject))
}

/// Run by the agent alone, on a frame of its own: sends it out of the interface that the frame's
/// mark names. 1: it was sent.
#[classifier]
#[inline(always)]
pub fn inject(ctx: TcContext) -> Verdict {
    Verdict::from(Frame::new(ctx).inject().is_ok())
}

/// Run by the agent alone, on a frame of its own: has it come in by the interface that the frame's mark names, as
/// long as its priority says. A tunnel packet by the VXLAN device, where [`external_ingress`] sends it on; a probe
/// by an endpoint's. 1: it was sent.
#[classifier]
#[inline(always)]
pub fn inject_echo(ctx: TcContext) -> Verdict {
    let sent = maps::voucher().map(|secret| Frame::new(ctx).inject_echo(secret));
    Verdict::from(matches!(sent, Some(Ok(()))))
}

#[inline(always)]
fn from_endpoint(frame: &mut Frame, subject: &mut Subject) -> Result<Verdict, DropReason> {
    let ifindex = frame.ifindex();
    let endpoint = maps::endpoint(ifindex).ok_or(DropReason::EndpointUnknown)?;
    subject.endpoint = ifindex;
    subject.vni = endpoint.vni;
    let asker = Asker {
        ifindex,
        vni: endpoint.vni,
        mac: Mac::new(endpoint.mac),
        meter: MeterKey::endpoint(ifindex),
    };
    if frame.is_marked()
        && let Some(outcome) = ping::send(frame, &endpoint, asker)
    {
        return outcome;
    }
    if frame.has_vlan_tag() {
        frame.pop_vlan()?;
    }
    let header = eth::Header::parse(frame.header(0)?);
    source::check_mac(&endpoint, &header)?;
    let discovery = if header.ether_type == eth::IPV6 {
        neighbor::discovery(frame)?
    } else {
        Discovery::No
    };
    let answer = match discovery {
        Discovery::No if header.ether_type == eth::ARP => {
            neighbor::answer_arp(frame, &endpoint, &header)?
        }
        Discovery::No => Answer::NotOurs,
        Discovery::Advertisement => {
            neighbor::check_advertisement(frame, &endpoint)?;
            Answer::NotOurs
        }
        Discovery::Solicitation => neighbor::advertise(frame, &endpoint, &header)?,
    };
    match answer {
        Answer::Sent(verdict) => return Ok(verdict),
        Answer::Unknown(Question {
            address,
            asker: asker_ip,
            otherwise,
        }) => return Err(miss::of_ip(asker, address, asker_ip, otherwise)),
        Answer::NotOurs => {}
    }
    let flow = match header.ether_type {
        eth::ARP => Flow { hash: 0, ecn: 0 },
        eth::IPV6 => {
            if header.destination.is_group() {
                return Err(group::reason(frame, header.ether_type, eth::LEN));
            }
            source::check_ipv6(frame, &endpoint, discovery != Discovery::No)?
        }
        _ if header.destination.is_group() => {
            return Err(group::reason(frame, header.ether_type, eth::LEN));
        }
        eth::IPV4 => source::check_ipv4(frame, &endpoint)?,
        _ => return Err(DropReason::EtherType),
    };
    let Some(target) = maps::fdb_used(endpoint.vni, header.destination) else {
        return Err(miss::of_mac(
            asker,
            header.destination,
            DropReason::DestinationUnknown,
        ));
    };
    let segments = frame.segments(header.ether_type);
    let longest = segments.longest_packet(frame);
    if longest > endpoint.mtu {
        return mtu::refuse(frame, &header, endpoint.mtu);
    }
    let volume = count::volume_of(&segments);
    let verdict = if target.ifindex != 0 {
        count::received(target.slot, volume);
        deliver::from_endpoint(frame, &target)
    } else {
        to_vtep(frame, &endpoint, &header, &flow, &target, longest)
    }?;
    count::sent(endpoint.slot, volume);
    Ok(verdict)
}

/// Into a tunnel, unless the packet, or the longest of an aggregate's, is more than the path takes.
#[inline(always)]
fn to_vtep(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    header: &eth::Header,
    flow: &Flow,
    target: &FdbEntry,
    longest: u32,
) -> Result<Verdict, DropReason> {
    let vni = endpoint.vni;
    if header.ether_type == eth::ARP {
        return encap::send_by_device(frame, vni, target, Counter::SlowSendArp);
    }
    let path = maps::path(target.vtep);
    let limit = rule::limit(endpoint.mtu, path.mtu);
    if longest <= limit {
        encap::send(frame, vni, header, flow, target, path)
    } else if mtu::may_fragment(frame, header.ether_type, longest) {
        encap::send_by_device(frame, vni, target, Counter::SlowSendFragmented)
    } else {
        mtu::refuse(frame, header, limit)
    }
}

#[inline(always)]
fn from_tunnel(frame: &mut Frame, subject: &mut Subject) -> Result<Verdict, DropReason> {
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
    let asker = Asker::of_tunnel(frame.ifindex(), vni, inner.source);
    let origin = match sender::check_mac(vni, tunnel.sender, inner) {
        // A known host speaks for an endpoint that is not its own: to whom, is worth a look.
        Err(reason @ DropReason::SourceVtep) => {
            subject.endpoint = maps::fdb(vni, inner.destination).map_or(0, |to| to.ifindex);
            return Err(reason);
        }
        checked => checked?,
    };
    let target = match deliver::local_entry(frame, vni, inner, INNER_L3) {
        Err(DropReason::Multicast) => return Err(group::reason(frame, inner.ether_type, INNER_L3)),
        found => found?,
    };
    subject.endpoint = target.ifindex;
    // Asked for last: a frame that goes nowhere is not worth the agent's work.
    if origin == Origin::Unknown {
        miss::seek_mac(asker, inner.source, DropReason::SourceVtep)?;
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

/// What the kernel has unpacked, after [`from_tunnel`] found it sound. Of fragments that saw the first one
/// alone, so the sender is asked for once more.
#[inline(always)]
fn from_device(frame: &mut Frame, subject: &mut Subject) -> Result<Verdict, DropReason> {
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
    subject.endpoint = target.ifindex;
    sender::check_addresses(frame, vni, &header, origin, eth::LEN)?;
    count::received(target.slot, count::volume(frame, header.ether_type));
    deliver::to_endpoint_queued(frame, target.ifindex)
}

/// Counts the drop; tells it too where the agent asked for that. The log level is a constant to
/// the verifier, which removes the call where it is off.
#[inline(always)]
fn dropped(frame: &Frame, reason: DropReason, subject: &Subject) -> Verdict {
    sample::dropped(frame, reason, subject);
    debug!(
        frame,
        "drop reason {} ifindex {}",
        reason.number(),
        frame.ifindex()
    );
    DROP
}

/// A panic would be a defect that the verifier has to see: a loop without an end is refused.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_redirect_neigh` and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
