//! Echoes: those of other hosts are sent back, and the agent is told of both them and answers to its own.

use overlay_ebpf::{
    abi::{Counter, DropReason, EchoEvent, MeterKey, VtepKey},
    rule::miss,
    wire::{
        echo::{self, EchoHdr},
        eth,
        ipv4::{self, Ipv4Hdr},
        udp::{self, UdpHdr},
        vxlan::INNER_L3,
    },
};

use crate::{
    maps,
    packet::{DROP, Frame, Held, Verdict},
};

/// Where the outer UDP header begins.
const OUTER_UDP: usize = eth::LEN + ipv4::LEN;

/// Takes care of a tunnel packet of the echoes' VNI.
#[inline(always)]
pub fn take(
    frame: &mut Frame,
    sender: [u8; 4],
    ether_type: u16,
    is_fragment: bool,
) -> Result<Verdict, DropReason> {
    let vtep = maps::vtep(VtepKey { ip: sender }).ok_or(DropReason::VtepUnknown)?;
    if is_fragment {
        return Err(DropReason::OuterFragment);
    }
    frame
        .require(INNER_L3 + echo::LEN)
        .map_err(|_| DropReason::VniUnknown)?;
    let header = Held(*frame.header::<EchoHdr>(INNER_L3)?);
    if !echo::is_echo(ether_type, &header) {
        return Err(DropReason::VniUnknown);
    }
    let now = maps::now();
    if !maps::with_meter(MeterKey::echoes(sender), |meter| {
        miss::admits(meter, now, miss::ECHO_LIMIT)
    }) {
        return Err(DropReason::EchoLimited);
    }
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    let len = u16::from_be_bytes(ip.tot_len);
    maps::tell_of_echo(&Held(EchoEvent {
        id: header.id,
        at_ns: maps::exactly_now(),
        vtep: sender,
        kind: u32::from(header.kind),
        len: u32::from(len),
        reserved: 0,
    }));
    if header.kind == echo::REPLY {
        maps::tally(Counter::EchoReceived);
        return Ok(DROP);
    }
    let udp = frame.header::<UdpHdr>(OUTER_UDP)?;
    let (port, udp_len) = (u16::from_be_bytes(udp.src), u16::from_be_bytes(udp.len));
    *frame.header_mut(eth::LEN)? = ipv4::outer(maps::vtep_ip(), sender, len, 0);
    *frame.header_mut(OUTER_UDP)? = udp::outer(port, vtep.port, udp_len);
    frame.header_mut::<EchoHdr>(INNER_L3)?.kind = echo::REPLY;
    maps::tally(Counter::EchoAnswered);
    let next_hop = maps::path(sender).next_hop;
    frame.redirect_via_neighbor(maps::underlay_ifindex(), next_hop)
}

/// Sends a tunnel packet of the agent's on the way that encapsulated frames take.
#[inline(always)]
pub fn send(frame: &mut Frame) -> Result<Verdict, DropReason> {
    frame.require(eth::LEN + ipv4::LEN)?;
    let to = frame.header::<Ipv4Hdr>(eth::LEN)?.dst_addr;
    frame.redirect_via_neighbor(maps::underlay_ifindex(), maps::path(to).next_hop)
}
