//! Returns other hosts' echoes, and reports all echoes and answers to the agent.

use overlay_ebpf::{
    abi::{Counter, DropReason, EchoEvent, FdbEntry, MeterKey, VtepEntry},
    rule::miss,
    wire::{
        echo::{self, EchoHdr},
        eth::{self, Mac},
        ipv4::{self, Ipv4Hdr},
        udp::{self, UdpHdr},
        vxlan::INNER_L3,
    },
};

use crate::{
    frame::{Action, DROP, Frame, OnStack, Tunnel},
    maps,
};

/// Where the outer UDP header begins.
const OUTER_UDP: usize = eth::LEN + ipv4::LEN;

/// Where the zeros begin that an echo carries.
const ZEROS: usize = INNER_L3 + echo::LEN;

/// Takes care of a tunnel packet of the echoes' VNI.
#[inline(always)]
pub fn take(frame: &mut Frame, tunnel: &Tunnel) -> Result<Action, DropReason> {
    let header = parse(frame, tunnel)?;
    let vtep = admit(tunnel)?;
    let outcome = answer(frame, tunnel, &header, vtep.port);
    tell_of_outcome(frame, tunnel, &header, outcome)
}

#[inline(always)]
fn answer(
    frame: &mut Frame,
    tunnel: &Tunnel,
    header: &EchoHdr,
    port: [u8; 2],
) -> Result<Action, DropReason> {
    check(frame, tunnel)?;
    if header.kind == echo::REPLY {
        return Ok(DROP);
    }
    let [high, middle, low] = header.vni;
    let vni = u32::from_be_bytes([0, high, middle, low]);
    if vni != 0 {
        check_target(vni, tunnel.inner.destination)?;
    }
    turn_round(frame, tunnel.sender, port)
}

/// The endpoint that is asked for is on this host.
#[inline(always)]
pub fn check_target(vni: u32, mac: Mac) -> Result<(), DropReason> {
    match maps::fdb(vni, mac) {
        Some(entry) if entry.kind == FdbEntry::LOCAL => Ok(()),
        Some(_) => Err(DropReason::NotLocal),
        None if maps::network(vni).is_none() => Err(DropReason::VniUnknown),
        None => Err(DropReason::DestinationUnknown),
    }
}

/// The echo in a tunnel packet. `VniUnknown`: there is none.
#[inline(always)]
pub fn parse(frame: &mut Frame, tunnel: &Tunnel) -> Result<OnStack<EchoHdr>, DropReason> {
    frame
        .require(INNER_L3 + echo::LEN)
        .map_err(|_| DropReason::VniUnknown)?;
    let header = OnStack(*frame.header::<EchoHdr>(INNER_L3)?);
    if !echo::is_echo(tunnel.inner.ether_type, &header) {
        return Err(DropReason::VniUnknown);
    }
    Ok(header)
}

/// A known host sent it, and not too many of them. Of others the agent is not even told: they could keep it busy.
#[inline(always)]
pub fn admit(tunnel: &Tunnel) -> Result<VtepEntry, DropReason> {
    let vtep = maps::vtep(tunnel.sender).ok_or(DropReason::VtepUnknown)?;
    let (meter, now) = (MeterKey::echoes(tunnel.sender), maps::now());
    if !maps::with_meter(meter, |meter| miss::allows(meter, now, miss::ECHO_LIMIT)) {
        return Err(DropReason::EchoLimited);
    }
    Ok(vtep)
}

/// An echo is whole.
#[inline(always)]
pub fn check(frame: &mut Frame, tunnel: &Tunnel) -> Result<(), DropReason> {
    if tunnel.is_fragment {
        return Err(DropReason::OuterFragment);
    }
    if frame.len() >= (ZEROS + echo::ZEROS) as u32 {
        frame.require(ZEROS + echo::ZEROS)?;
        if !frame.sum_of::<{ echo::ZEROS }>(ZEROS)?.is_zero() {
            return Err(DropReason::EchoDamaged);
        }
    }
    Ok(())
}

/// Sends an echo back, in its tunnel, to a VTEP and its port.
#[inline(always)]
pub fn turn_round(frame: &mut Frame, to: [u8; 4], port: [u8; 2]) -> Result<Action, DropReason> {
    let len = outer_len(frame)?;
    let udp = frame.header::<UdpHdr>(OUTER_UDP)?;
    let (source, udp_len) = (u16::from_be_bytes(udp.src), u16::from_be_bytes(udp.len));
    *frame.header_mut(eth::LEN)? = ipv4::outer(maps::vtep_ip(), to, len, 0);
    *frame.header_mut(OUTER_UDP)? = udp::outer(source, port, udp_len);
    frame.header_mut::<EchoHdr>(INNER_L3)?.kind = echo::REPLY;
    frame.redirect_via_neighbor(maps::underlay_ifindex(), maps::next_hop(to))
}

/// Tells the agent what became of an echo that came out of a tunnel.
#[inline(always)]
pub fn tell_of_outcome(
    frame: &Frame,
    tunnel: &Tunnel,
    header: &EchoHdr,
    outcome: Result<Action, DropReason>,
) -> Result<Action, DropReason> {
    let (kind, reason) = match outcome {
        Err(reason) => (EchoEvent::DROPPED, reason.number()),
        Ok(_) if header.kind == echo::REPLY => (EchoEvent::BACK, 0),
        Ok(_) => (EchoEvent::ASKED, 0),
    };
    match kind {
        EchoEvent::BACK => maps::count_event(Counter::EchoReceived),
        EchoEvent::ASKED => maps::count_event(Counter::EchoAnswered),
        _ => {}
    }
    maps::tell_of_echo(
        u64::from_ne_bytes(header.id),
        u32::from_ne_bytes(tunnel.sender),
        kind,
        u32::from(outer_len(frame).unwrap_or(0)),
        reason,
    );
    outcome
}

/// Bytes of the outer IP packet.
#[inline(always)]
fn outer_len(frame: &Frame) -> Result<u16, DropReason> {
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    Ok(u16::from_be_bytes(ip.tot_len))
}

/// Sends a tunnel packet of the agent's on the way that encapsulated frames take.
#[inline(always)]
pub fn send(frame: &mut Frame) -> Result<Action, DropReason> {
    frame.require(INNER_L3 + echo::LEN)?;
    let to = frame.header::<Ipv4Hdr>(eth::LEN)?.dst_addr;
    let id = frame.header::<EchoHdr>(INNER_L3)?.id;
    maps::tell_of_echo(
        u64::from_ne_bytes(id),
        u32::from_ne_bytes(to),
        EchoEvent::LEFT,
        u32::from(outer_len(frame)?),
        0,
    );
    frame.redirect_via_neighbor(maps::underlay_ifindex(), maps::next_hop(to))
}
