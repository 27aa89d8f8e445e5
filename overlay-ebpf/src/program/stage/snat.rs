//! Translates flows that are known between endpoints' ports and external ones.

use overlay_ebpf::{
    abi::{
        BlockEntry, Call, Counter, DropReason, EndpointEntry, FlowEntry, NatBlock, NatPort,
        OutsideEntry,
    },
    rule::nat::{self, Direction, phase},
    wire::{
        eth, icmp,
        ipv4::{self, Ipv4Hdr},
    },
};

use crate::{
    exit::{self, Translated},
    frame::{Frame, Ports, Side, Socket, Translation, Transport},
    maps::{self, Confirmed, FlowOf, FragmentsOf, Inside, Port},
};

/// Gives a packet of an endpoint's its external source. `None`: its flow is not known.
#[inline(always)]
pub fn translate_out(
    frame: &mut Frame,
    transport: &Transport,
    from: &EndpointEntry,
) -> Result<Option<Translated>, DropReason> {
    let ends = Ends::of(frame)?;
    let fragments = ends.fragments(from.id, transport);
    if !transport.is_first {
        let held = fragments.find().ok_or(DropReason::NatFragment)?;
        let to = Socket {
            ip: u32::from_ne_bytes(held.ip),
            port: 0,
        };
        let translation = Translation {
            side: Side::Source,
            from: Socket {
                ip: ends.source,
                port: 0,
            },
            to,
        };
        return exit::translate(frame, transport, &translation).map(Some);
    }
    nat::class(transport.protocol).ok_or(DropReason::NatProtocol)?;
    if transport.protocol == ipv4::ICMP {
        let kind = frame.icmp_kind(transport)?;
        if icmp::is_error(kind) {
            maps::with_scratch(|scratch| scratch.is_inbound = 0);
            return Err(maps::continue_with(Call::NatError, frame));
        }
        if kind != icmp::ECHO_REQUEST {
            return Err(DropReason::NatProtocol);
        }
    }
    let ports = frame.ports(transport)?;
    let inside = ends.inside(from, transport, ports);
    let flow = inside.to(ends.remote(ports));
    let Some(flow) = flow.find() else {
        return Ok(None);
    };
    let entry = flow.read();
    let Some(port) = maps::port(entry.slot).filter(|port| port.epoch() == entry.epoch) else {
        return Ok(None);
    };
    let protocol = transport.protocol;
    let state = nat::next(entry.state, protocol, Direction::Out, ports.flags);
    if state != entry.state && flow.advance(entry.state, state) {
        note_change(&port, entry.state, state, flow.is_new);
    }
    if nat::refreshes(protocol, Direction::Out, ports.flags) {
        let now_s = maps::now_s();
        flow.touch(&entry, now_s);
        port.touch(now_s);
    }
    let to = Socket {
        ip: u32::from_ne_bytes(entry.external),
        port: u16::from_ne_bytes(entry.port),
    };
    if transport.is_fragment {
        fragments.note(to.ip, 0);
    }
    let translation = Translation {
        side: Side::Source,
        from: inside.local,
        to,
    };
    exit::translate(frame, transport, &translation).map(Some)
}

/// Where a packet from outside goes on.
pub struct Arrival {
    /// The endpoint's network.
    pub vni: u32,
    /// Its own address as it lies in memory.
    pub ip: u32,
}

/// Gives a packet from outside the endpoint's own address and port for its destination. `None`: it is this host's.
#[inline(always)]
pub fn translate_in(
    frame: &mut Frame,
    transport: &Transport,
    outside: &OutsideEntry,
) -> Result<Option<Arrival>, DropReason> {
    let ends = Ends::of(frame)?;
    let fragments = ends.fragments(0, transport);
    if !transport.is_first {
        let Some(held) = fragments.find() else {
            return not_ours(outside, DropReason::NatFragment);
        };
        let ip = u32::from_ne_bytes(held.ip);
        let translation = Translation {
            side: Side::Destination,
            from: Socket {
                ip: ends.destination,
                port: 0,
            },
            to: Socket { ip, port: 0 },
        };
        frame.translate(transport, &translation)?;
        return Ok(Some(Arrival { vni: held.vni, ip }));
    }
    let protocol = transport.protocol;
    let Some(class) = nat::class(protocol) else {
        return not_ours(outside, DropReason::NatProtocol);
    };
    if protocol == ipv4::ICMP {
        let kind = frame.icmp_kind(transport)?;
        if icmp::is_error(kind) {
            maps::with_scratch(|scratch| scratch.is_inbound = 1);
            return Err(maps::continue_with(Call::NatError, frame));
        }
        if kind != icmp::ECHO_REPLY {
            return not_ours(outside, DropReason::NatUnsolicited);
        }
    }
    let ports = frame.ports(transport)?;
    let (external, remote) = match protocol {
        ipv4::ICMP => (ports.source, 0),
        _ => (ports.destination, ports.source),
    };
    let external = Socket {
        ip: ends.destination,
        port: external,
    };
    let Some((block, port, held)) = mapped(&external, outside, class, protocol) else {
        return not_ours(outside, DropReason::NatUnsolicited);
    };
    let inside = inside_of(&held);
    let flow = inside.to(Socket {
        ip: ends.source,
        port: remote,
    });
    if !admit(&flow, &port, &held, ports.flags) && block.flags & BlockEntry::OPEN == 0 {
        return not_ours(outside, DropReason::NatUnsolicited);
    }
    if transport.is_fragment {
        fragments.note(inside.local.ip, block.vni);
    }
    let translation = Translation {
        side: Side::Destination,
        from: external,
        to: inside.local,
    };
    frame.translate(transport, &translation)?;
    Ok(Some(Arrival {
        vni: block.vni,
        ip: inside.local.ip,
    }))
}

/// Lets a packet in that belongs to a flow. `false`: it belongs to none.
#[inline(always)]
fn admit(flow: &FlowOf, port: &Port, held: &NatPort, flags: u8) -> bool {
    let Some(found) = flow.find() else {
        return false;
    };
    let mut entry = found.read();
    if entry.epoch != held.epoch {
        return false;
    }
    let before = entry.state;
    let state = nat::next(before, held.protocol, Direction::In, flags);
    entry.state = state;
    if found.is_new {
        confirm(flow, &entry, port, state != before);
    }
    if state != before && found.advance(before, state) {
        note_change(port, before, state, found.is_new);
    }
    if nat::refreshes(held.protocol, Direction::In, flags) {
        let now_s = maps::now_s();
        found.touch(&entry, now_s);
        port.touch(now_s);
    }
    true
}

/// Moves a flow to those that were answered. From now on its port counts it while it is established. One that finds no room
/// tries again with each packet, and is counted once.
#[inline(always)]
fn confirm(flow: &FlowOf, entry: &FlowEntry, port: &Port, is_first: bool) {
    match flow.confirm(entry) {
        Confirmed::Done => {
            if nat::is_established(entry.state) {
                port.count_established(true);
            }
        }
        Confirmed::Full if is_first => maps::count_event(Counter::NatFlowsFull),
        Confirmed::Limited if is_first => maps::count_event(Counter::NatFlowsLimited),
        Confirmed::Known | Confirmed::Full | Confirmed::Limited => {}
    }
}

/// Keeps what a port says of its flows. Flows that were not answered, which may be pushed out unseen, are never
/// counted.
#[inline(always)]
fn note_change(port: &Port, before: u64, after: u64, is_new: bool) {
    let [was, is] = [before, after].map(nat::is_established);
    if was != is && !is_new {
        port.count_established(is);
    }
    port.set_phase(after & phase::MASK);
}

/// The block and the mapping that an external port belongs to.
#[inline(always)]
fn mapped(
    external: &Socket,
    outside: &OutsideEntry,
    class: usize,
    protocol: u8,
) -> Option<(BlockEntry, Port, NatPort)> {
    let port = u32::from(u16::from_be(external.port));
    let bits = u32::from(outside.block_bits) & 15;
    let block = maps::block_entry(external.ip, (port >> bits) as u16)?;
    let place = port & ((1 << bits) - 1);
    if place >= nat::ports_of(class, u32::from(block.ports)) {
        return None;
    }
    let slot = block.slot * NatBlock::PORT_SLOTS + nat::start_of(class) + place;
    let port = maps::port(slot)?;
    let held = port.read();
    (held.phase != 0 && held.protocol == protocol).then_some((block, port, held))
}

#[inline(always)]
fn inside_of(held: &NatPort) -> Inside {
    Inside {
        endpoint: held.endpoint,
        protocol: held.protocol,
        local: Socket {
            ip: u32::from_ne_bytes(held.ip),
            port: u16::from_ne_bytes(held.port),
        },
    }
}

/// What becomes of a packet that belongs to no endpoint: it is the host's own if the address is.
#[inline(always)]
fn not_ours<T>(outside: &OutsideEntry, reason: DropReason) -> Result<Option<T>, DropReason> {
    if outside.kind == OutsideEntry::HOST {
        Ok(None)
    } else {
        Err(reason)
    }
}

/// Gives the packet's flow an external port: its mapping's, or a new one.
#[inline(always)]
pub fn open(
    frame: &mut Frame,
    transport: &Transport,
    from: &EndpointEntry,
) -> Result<(), DropReason> {
    let ends = Ends::of(frame)?;
    let class = nat::class(transport.protocol).ok_or(DropReason::NatProtocol)?;
    let ports = frame.ports(transport)?;
    let inside = ends.inside(from, transport, ports);
    let (slot, epoch) = match current(&inside) {
        Some(mapping) => mapping,
        None => crate::ports::map(&inside, class, from.id)?,
    };
    let external = crate::ports::external(slot, class).ok_or(DropReason::NatExhausted)?;
    let entry = FlowEntry {
        slot,
        used_s: maps::now_s(),
        state: phase::NEW,
        external: external.ip.to_ne_bytes(),
        port: external.port.to_ne_bytes(),
        epoch,
    };
    if inside.to(ends.remote(ports)).open(&entry) {
        Ok(())
    } else {
        Err(DropReason::NatExhausted)
    }
}

/// The slot and the number of the mapping that an endpoint's port has.
#[inline(always)]
fn current(inside: &Inside) -> Option<(u32, u16)> {
    let mapping = inside.mapping()?;
    let port = maps::port(mapping.slot)?;
    let epoch = mapping.epoch as u16;
    (port.epoch() == epoch).then_some((mapping.slot, epoch))
}

/// The addresses of a packet as they lie in memory.
struct Ends {
    source: u32,
    destination: u32,
    id: u16,
}

impl Ends {
    #[inline(always)]
    fn of(frame: &Frame) -> Result<Self, DropReason> {
        let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
        Ok(Self {
            source: u32::from_ne_bytes(ip.src_addr),
            destination: u32::from_ne_bytes(ip.dst_addr),
            id: u16::from_ne_bytes(ip.id),
        })
    }

    #[inline(always)]
    fn inside(&self, from: &EndpointEntry, transport: &Transport, ports: Ports) -> Inside {
        Inside {
            endpoint: from.id as u16,
            protocol: transport.protocol,
            local: Socket {
                ip: self.source,
                port: ports.source,
            },
        }
    }

    #[inline(always)]
    fn remote(&self, ports: Ports) -> Socket {
        Socket {
            ip: self.destination,
            port: ports.destination,
        }
    }

    #[inline(always)]
    fn fragments(&self, endpoint: u32, transport: &Transport) -> FragmentsOf {
        FragmentsOf {
            endpoint,
            source: self.source,
            destination: self.destination,
            id: self.id,
            protocol: transport.protocol,
        }
    }
}

/// Translates an ICMP error about a flow, whose addresses it quotes (RFC 5508 section 4).
pub mod error {
    use overlay_ebpf::{
        abi::{DropReason, EndpointEntry, NatBlock, OutsideEntry},
        rule::nat,
        wire::ipv4,
    };

    use super::{Arrival, Ends, current, inside_of, mapped, not_ours};
    use crate::{
        exit::{self, Translated},
        frame::{Frame, Side, Socket, Translation, Transport},
        maps::{self, Inside},
        ports,
    };

    /// One that an endpoint sends about what came in.
    #[inline(always)]
    pub fn translate_out(
        frame: &mut Frame,
        transport: &Transport,
        from: &EndpointEntry,
    ) -> Result<Translated, DropReason> {
        let ends = Ends::of(frame)?;
        let quoted = frame.quoted(transport)?;
        let (local, remote) = match quoted.protocol {
            ipv4::ICMP => (quoted.ports.source, 0),
            _ => (quoted.ports.destination, quoted.ports.source),
        };
        let inside = Inside {
            endpoint: from.id as u16,
            protocol: quoted.protocol,
            local: Socket {
                ip: quoted.destination,
                port: local,
            },
        };
        let remote = Socket {
            ip: quoted.source,
            port: remote,
        };
        let external = external_of(&inside, remote).ok_or(DropReason::NatError)?;
        let inner = Translation {
            side: Side::Destination,
            from: inside.local,
            to: external,
        };
        frame.translate_quoted(transport, &quoted, &inner)?;
        let outer = Translation {
            side: Side::Source,
            from: Socket {
                ip: ends.source,
                port: 0,
            },
            to: Socket {
                ip: external.ip,
                port: 0,
            },
        };
        exit::translate(frame, transport, &outer)
    }

    /// Where a packet that came in for an endpoint's port was sent to: by its flow, or by the mapping where anybody may
    /// send to that.
    #[inline(always)]
    fn external_of(inside: &Inside, remote: Socket) -> Option<Socket> {
        let Some(flow) = inside.to(remote).find() else {
            let (slot, _) = current(inside)?;
            let block = maps::block(slot / NatBlock::PORT_SLOTS)?;
            let class = nat::class(inside.protocol)?;
            return ports::external(slot, class).filter(|_| block.is_open());
        };
        let entry = flow.read();
        let port = maps::port(entry.slot)?;
        (port.epoch() == entry.epoch).then(|| Socket {
            ip: u32::from_ne_bytes(entry.external),
            port: u16::from_ne_bytes(entry.port),
        })
    }

    /// One from outside about what an endpoint sent. `None`: it is about a packet of this host's.
    #[inline(always)]
    pub fn translate_in(
        frame: &mut Frame,
        transport: &Transport,
        outside: &OutsideEntry,
    ) -> Result<Option<Arrival>, DropReason> {
        let ends = Ends::of(frame)?;
        let quoted = frame.quoted(transport)?;
        // RFC 5508 REQ-4 c: it goes to who sent the packet that it quotes.
        if quoted.source != ends.destination {
            return not_ours(outside, DropReason::NatError);
        }
        let Some(class) = nat::class(quoted.protocol) else {
            return not_ours(outside, DropReason::NatError);
        };
        let external = Socket {
            ip: ends.destination,
            port: quoted.ports.source,
        };
        let Some((block, _, held)) = mapped(&external, outside, class, quoted.protocol) else {
            return not_ours(outside, DropReason::NatError);
        };
        let inside = inside_of(&held);
        let remote = Socket {
            ip: quoted.destination,
            port: quoted.ports.destination,
        };
        let flow = inside.to(remote).find();
        if flow.is_none_or(|flow| flow.read().epoch != held.epoch) {
            return not_ours(outside, DropReason::NatError);
        }
        let inner = Translation {
            side: Side::Source,
            from: external,
            to: inside.local,
        };
        frame.translate_quoted(transport, &quoted, &inner)?;
        let ip = inside.local.ip;
        let outer = Translation {
            side: Side::Destination,
            from: Socket {
                ip: ends.destination,
                port: 0,
            },
            to: Socket { ip, port: 0 },
        };
        frame.translate(transport, &outer)?;
        Ok(Some(Arrival { vni: block.vni, ip }))
    }
}
