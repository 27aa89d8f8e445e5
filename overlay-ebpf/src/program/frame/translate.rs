//! Translates the addresses and ports of IPv4 packets, and of those that ICMP errors quote.
//!
//! Transport checksums are the kernel's to mend: only it knows whether the field holds a checksum, the pseudo-header's sum
//! alone, or whether it has summed the whole packet up itself (`inet_proto_csum_replace4` in net/core/utils.c). A change of
//! the IPv4 header is made up for by that one's own checksum.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use overlay_ebpf::{
    abi::DropReason,
    wire::{
        checksum, eth,
        icmp::{self, IcmpHdr},
        ipv4::{self, Ipv4Hdr},
        tcp::TcpHdr,
        udp::UdpHdr,
    },
};

use super::{Frame, Header};

/// Where TCP has its flags.
const TCP_FLAGS: usize = 13;

/// One end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// An IPv4 address and a port, or an identifier of ICMP, as they lie in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The address.
    pub ip: u32,
    /// The port.
    pub port: u16,
}

/// What takes the place of what at one end of a packet.
#[derive(Clone, Copy)]
pub struct Translation {
    /// Which end.
    pub side: Side,
    /// What is there.
    pub from: Socket,
    /// What is to be.
    pub to: Socket,
}

impl Translation {
    /// One that leaves the port alone; addresses in the order of the wire.
    #[inline(always)]
    pub const fn of_address(side: Side, from: [u8; 4], to: [u8; 4]) -> Self {
        Self {
            side,
            from: Socket {
                ip: u32::from_ne_bytes(from),
                port: 0,
            },
            to: Socket {
                ip: u32::from_ne_bytes(to),
                port: 0,
            },
        }
    }

    /// The same at the other end: of a packet that is quoted.
    #[inline(always)]
    pub const fn turned(self) -> Self {
        let side = match self.side {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        };
        Self { side, ..self }
    }
}

/// What lies behind the IPv4 header of a packet.
#[derive(Clone, Copy)]
pub struct Transport {
    /// Where it begins, bytes from the frame's start.
    pub offset: usize,
    /// IP protocol.
    pub protocol: u8,
    /// Whether its header is there: the packet is whole, or the first fragment.
    pub is_first: bool,
    /// Whether the packet is a fragment.
    pub is_fragment: bool,
}

/// The ports of a packet, or the identifier of ICMP, and TCP's flags.
#[derive(Clone, Copy)]
pub struct Ports {
    /// The source's, as it lies in memory.
    pub source: u16,
    /// The destination's, likewise.
    pub destination: u16,
    /// TCP's flags; of others 0.
    pub flags: u8,
}

/// A packet that an ICMP error quotes. Its fields are read one by one: a copy of the header would not lie aligned.
pub struct Quoted {
    /// Where its header begins, bytes from the frame's start.
    offset: usize,
    /// Where what it carries begins.
    transport: usize,
    /// The header's checksum.
    check: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Its source as it lies in memory.
    pub source: u32,
    /// Its destination, likewise.
    pub destination: u32,
    /// Its ports.
    pub ports: Ports,
}

impl Frame {
    /// What the IPv4 packet behind the Ethernet header carries, whose header was found there.
    #[inline(always)]
    pub fn transport(&mut self) -> Result<Transport, DropReason> {
        let ip = self.header::<Ipv4Hdr>(eth::LEN)?;
        let transport = Transport {
            offset: eth::LEN + ipv4::header_len(ip),
            protocol: ip.proto,
            is_first: ipv4::is_first_fragment(ip),
            is_fragment: ipv4::is_fragment(ip),
        };
        if ipv4::header_len(ip) < ipv4::LEN {
            return Err(DropReason::Truncated);
        }
        Ok(transport)
    }

    /// The ports of a packet that has them. `Truncated`: it ends before.
    #[inline(always)]
    pub fn ports(&self, transport: &Transport) -> Result<Ports, DropReason> {
        self.ports_at(transport.offset, transport.protocol)
    }

    #[inline(always)]
    fn ports_at(&self, offset: usize, protocol: u8) -> Result<Ports, DropReason> {
        if protocol == ipv4::ICMP {
            let [high, low] = self.load::<[u8; 2]>(offset + offset_of!(IcmpHdr, rest))?;
            let id = u16::from_ne_bytes([high, low]);
            return Ok(Ports {
                source: id,
                destination: 0,
                flags: 0,
            });
        }
        let [a, b, c, d] = self.near::<[u8; 4], 0>(offset)?;
        let flags = if protocol == ipv4::TCP {
            self.near::<u8, TCP_FLAGS>(offset).unwrap_or(0)
        } else {
            0
        };
        Ok(Ports {
            source: u16::from_ne_bytes([a, b]),
            destination: u16::from_ne_bytes([c, d]),
            flags,
        })
    }

    /// What lies `AT` bytes behind the start of a transport header: read in place behind a header without options, which
    /// spares a call.
    #[inline(always)]
    fn near<T: Header, const AT: usize>(&self, offset: usize) -> Result<T, DropReason> {
        const PLAIN: usize = eth::LEN + ipv4::LEN;
        if offset == PLAIN
            && let Ok(found) = self.header::<T>(PLAIN + AT)
        {
            return Ok(*found);
        }
        self.load(offset + AT)
    }

    /// The type of the ICMP message that a packet carries.
    #[inline(always)]
    pub fn icmp_kind(&self, transport: &Transport) -> Result<u8, DropReason> {
        self.load(transport.offset)
    }

    /// Translates one end of the IPv4 packet behind the Ethernet header.
    #[inline(always)]
    pub fn translate(
        &mut self,
        transport: &Transport,
        translation: &Translation,
    ) -> Result<(), DropReason> {
        if transport.is_first {
            self.translate_transport(transport, translation)?;
        }
        let ip = self.header_mut::<Ipv4Hdr>(eth::LEN)?;
        set_address(ip, translation);
        Ok(())
    }

    /// The transport's checksum, and its port.
    #[inline(always)]
    fn translate_transport(
        &mut self,
        transport: &Transport,
        translation: &Translation,
    ) -> Result<(), DropReason> {
        let (from, to) = (translation.from, translation.to);
        let at = transport.offset;
        let (checksum, flags) = match transport.protocol {
            ipv4::TCP => (at + offset_of!(TcpHdr, check), 0),
            ipv4::UDP => (at + offset_of!(UdpHdr, check), BPF_F_MARK_MANGLED_0 as u64),
            ipv4::ICMP => (at + offset_of!(IcmpHdr, checksum), 0),
            // Others have none, or none that covers addresses.
            _ => return Ok(()),
        };
        if transport.protocol != ipv4::ICMP {
            let flags = flags | BPF_F_PSEUDO_HDR as u64 | size_of::<u32>() as u64;
            self.replace_checksum(checksum, from.ip.into(), to.ip.into(), flags)?;
        }
        if from.port == to.port {
            return Ok(());
        }
        let flags = flags | size_of::<u16>() as u64;
        self.replace_checksum(checksum, from.port.into(), to.port.into(), flags)?;
        let port = match (transport.protocol, translation.side) {
            (ipv4::ICMP, _) => at + offset_of!(IcmpHdr, rest),
            (_, Side::Source) => at,
            (_, Side::Destination) => at + size_of::<u16>(),
        };
        self.store(port, &to.port)
    }

    #[inline(always)]
    fn replace_checksum(
        &mut self,
        offset: usize,
        from: u64,
        to: u64,
        flags: u64,
    ) -> Result<(), DropReason> {
        // SAFETY: the context is valid for the whole program.
        match unsafe { bpf_l4_csum_replace(self.skb(), offset as u32, from, to, flags) } {
            0 => Ok(()),
            _ => Err(DropReason::Truncated),
        }
    }

    /// Writes a few bytes anywhere in the frame. The kernel's sum of the frame, if it holds one, is not told: what
    /// changes is made up for by a checksum beside it.
    #[inline(always)]
    fn store<T: Header>(&mut self, offset: usize, value: &T) -> Result<(), DropReason> {
        let len = size_of::<T>() as u32;
        // SAFETY: the context is valid for the whole program, and the helper reads `len` bytes of the value.
        match unsafe {
            bpf_skb_store_bytes(
                self.skb(),
                offset as u32,
                (&raw const *value).cast(),
                len,
                0,
            )
        } {
            0 => Ok(()),
            _ => Err(DropReason::Truncated),
        }
    }

    /// The packet that the ICMP error quotes. `NatError`: too little of it is there.
    #[inline(always)]
    pub fn quoted(&self, error: &Transport) -> Result<Quoted, DropReason> {
        self.try_quoted(error.offset + icmp::LEN)
            .map_err(|_| DropReason::NatError)
    }

    #[inline(always)]
    fn try_quoted(&self, offset: usize) -> Result<Quoted, DropReason> {
        let version_len: u8 = self.load(offset)?;
        let transport = offset + usize::from(version_len & 0x0f) * 4;
        let protocol: u8 = self.load(offset + offset_of!(Ipv4Hdr, proto))?;
        let source: [u8; 4] = self.load(offset + offset_of!(Ipv4Hdr, src_addr))?;
        let destination: [u8; 4] = self.load(offset + offset_of!(Ipv4Hdr, dst_addr))?;
        Ok(Quoted {
            offset,
            transport,
            check: self.load(offset + offset_of!(Ipv4Hdr, check))?,
            protocol,
            source: u32::from_ne_bytes(source),
            destination: u32::from_ne_bytes(destination),
            ports: self.ports_at(transport, protocol)?,
        })
    }

    /// Translates one end of the packet that an ICMP error quotes, and mends the error's checksum.
    #[inline(always)]
    pub fn translate_quoted(
        &mut self,
        error: &Transport,
        quoted: &Quoted,
        translation: &Translation,
    ) -> Result<(), DropReason> {
        let (from, to) = (translation.from, translation.to);
        let at = error.offset + offset_of!(IcmpHdr, checksum);
        let mut sum = self.load::<[u8; 2]>(at)?;
        let check = replace_ip(quoted.check, from.ip, to.ip);
        sum = replace_ip(sum, from.ip, to.ip);
        sum = checksum::replace(sum, quoted.check, check);
        self.store(quoted.offset + offset_of!(Ipv4Hdr, check), &check)?;
        let address = match translation.side {
            Side::Source => offset_of!(Ipv4Hdr, src_addr),
            Side::Destination => offset_of!(Ipv4Hdr, dst_addr),
        };
        self.store(quoted.offset + address, &to.ip.to_ne_bytes())?;
        let (transport, protocol) = (quoted.transport, quoted.protocol);
        if from.port != to.port {
            let port = match (protocol, translation.side) {
                (ipv4::ICMP, _) => offset_of!(IcmpHdr, rest),
                (_, Side::Source) => 0,
                (_, Side::Destination) => size_of::<u16>(),
            };
            sum = checksum::replace(sum, from.port.to_ne_bytes(), to.port.to_ne_bytes());
            self.store(transport + port, &to.port)?;
        }
        let check = match protocol {
            ipv4::TCP => offset_of!(TcpHdr, check),
            ipv4::UDP => offset_of!(UdpHdr, check),
            _ => offset_of!(IcmpHdr, checksum),
        };
        // An error need not quote so much.
        if let Ok(held) = self.load::<[u8; 2]>(transport + check)
            && !(protocol == ipv4::UDP && u16::from_ne_bytes(held) == 0)
        {
            let mut mended = held;
            if protocol != ipv4::ICMP {
                mended = replace_ip(mended, from.ip, to.ip);
            }
            mended = checksum::replace(mended, from.port.to_ne_bytes(), to.port.to_ne_bytes());
            self.store(transport + check, &mended)?;
            sum = checksum::replace(sum, held, mended);
        }
        self.store(at, &sum)
    }
}

/// Puts one end's address into a header, and mends its checksum.
#[inline(always)]
fn set_address(ip: &mut Ipv4Hdr, translation: &Translation) {
    ip.check = replace_ip(ip.check, translation.from.ip, translation.to.ip);
    let address = translation.to.ip.to_ne_bytes();
    match translation.side {
        Side::Source => ip.src_addr = address,
        Side::Destination => ip.dst_addr = address,
    }
}

#[inline(always)]
fn halves(ip: u32) -> [[u8; 2]; 2] {
    let [a, b, c, d] = ip.to_ne_bytes();
    [[a, b], [c, d]]
}

/// The checksum after an address under it changed; both as they lie in memory.
#[inline(always)]
fn replace_ip(check: [u8; 2], from: u32, to: u32) -> [u8; 2] {
    let [[from_first, from_last], [to_first, to_last]] = [from, to].map(halves);
    let check = checksum::replace(check, from_first, to_first);
    checksum::replace(check, from_last, to_last)
}
