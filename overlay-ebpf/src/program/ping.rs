//! Sends and returns probes: echoes between endpoints that take the way of their frames and need nothing inside them.

use overlay_ebpf::{
    abi::{Call, DropReason, EchoEvent, EndpointEntry, FdbEntry},
    rule::{flow::Flow, mtu},
    wire::{
        echo::{self, EchoHdr},
        eth::{self, EthHdr},
        vxlan::INNER_L3,
    },
};

use crate::{
    frame::{Action, DROP, Frame, OnStack, Tunnel},
    maps,
    stage::{
        echo as stage, encap, miss,
        miss::Requester,
        sender::{self, Origin},
    },
};

/// Has a probe of the agent's sent, by a program of its own. It came in by the endpoint's interface.
#[inline(always)]
pub fn divert(frame: &Frame) -> Result<(), DropReason> {
    if frame.is_marked()
        && let Some(secret) = maps::voucher()
        && frame.is_own_probe(secret)
    {
        return Err(maps::continue_with(Call::SendProbe, frame));
    }
    Ok(())
}

/// Sends it as if the endpoint had sent it.
#[inline(always)]
pub fn send(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    requester: Requester,
) -> Result<Action, DropReason> {
    frame.require(eth::LEN + echo::LEN)?;
    let header = OnStack(*frame.header::<EchoHdr>(eth::LEN)?);
    let inner = eth::Header {
        // It came in as IPv4: the kernel makes room in no other frames.
        ether_type: echo::ETHER_TYPE,
        ..eth::Header::parse(frame.header(0)?)
    };
    if !echo::is_echo(inner.ether_type, &header) {
        return Err(DropReason::EtherType);
    }
    let len = frame.len() - eth::LEN as u32;
    let outcome = forward(frame, endpoint, &inner, &header, requester);
    let (kind, vtep, reason) = match outcome {
        Ok((_, vtep)) if is_this_host(vtep) => (EchoEvent::BACK, vtep, 0),
        Ok((_, vtep)) => (EchoEvent::LEFT, vtep, 0),
        Err(reason) => (EchoEvent::DROPPED, maps::vtep_ip(), reason.number()),
    };
    maps::tell_of_echo(
        u64::from_ne_bytes(header.id),
        u32::from_ne_bytes(vtep),
        kind,
        len,
        reason,
    );
    outcome.map(|(action, _)| action)
}

#[inline(always)]
fn is_this_host(vtep: [u8; 4]) -> bool {
    u32::from_ne_bytes(vtep) == u32::from_ne_bytes(maps::vtep_ip())
}

/// Gives the VTEP too that it was sent to; this host's own: its target is here.
#[inline(always)]
fn forward(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    inner: &eth::Header,
    header: &EchoHdr,
    requester: Requester,
) -> Result<(Action, [u8; 4]), DropReason> {
    let vni = endpoint.vni;
    let Some(target) = maps::fdb(vni, inner.destination) else {
        return Err(miss::of_mac(
            requester,
            inner.destination,
            DropReason::DestinationUnknown,
        ));
    };
    let len = frame.len() - eth::LEN as u32;
    if target.kind == FdbEntry::LOCAL {
        return if len > endpoint.mtu {
            Err(DropReason::TooBig)
        } else {
            Ok((DROP, maps::vtep_ip()))
        };
    }
    let path = maps::path_of(&target)?;
    if len > mtu::limit(endpoint.mtu, path.mtu) {
        return Err(DropReason::TooBig);
    }
    let [first, second, third, fourth, ..] = header.id;
    let flow = Flow {
        hash: u32::from_ne_bytes([first, second, third, fourth]),
        ecn: 0,
    };
    let action = encap::send(frame, vni, inner, &flow, &path, false)?;
    Ok((action, path.vtep()))
}

/// Takes care of a probe that came out of a tunnel.
#[inline(always)]
pub fn take(frame: &mut Frame, tunnel: &Tunnel) -> Result<Action, DropReason> {
    let header = stage::parse(frame, tunnel)?;
    stage::admit(tunnel)?;
    let outcome = answer(frame, tunnel, &header);
    stage::tell_of_outcome(frame, tunnel, &header, outcome)
}

/// Sends it back to where the endpoint's own answer would go.
#[inline(always)]
fn answer(frame: &mut Frame, tunnel: &Tunnel, header: &EchoHdr) -> Result<Action, DropReason> {
    let (vni, inner) = (tunnel.vni, &tunnel.inner);
    let origin = sender::check_mac(vni, tunnel.sender, inner)?;
    stage::check_target(vni, inner.destination)?;
    stage::check(frame, tunnel)?;
    if header.kind == echo::REPLY {
        return Ok(DROP);
    }
    let (Origin::Proven, Some(back)) = (origin, maps::fdb(vni, inner.source)) else {
        let requester = Requester::of_tunnel(frame.ifindex(), vni, inner.source);
        return Err(miss::of_mac(
            requester,
            inner.source,
            DropReason::SourceVtep,
        ));
    };
    *frame.header_mut::<EthHdr>(INNER_L3 - eth::LEN)? = EthHdr {
        dst_addr: inner.source.octets(),
        src_addr: inner.destination.octets(),
        ether_type: inner.ether_type,
    };
    let path = maps::path_of(&back)?;
    stage::turn_round(frame, path.vtep(), path.port())
}
