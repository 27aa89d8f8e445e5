//! Describes what a frame carries, for all stages. Nothing in it borrows from the frame.
//!
//! The parser decides on the protocol and makes sure of the header; stages read its fields in place. A field that
//! lives across the look-ups is stored and loaded again, which costs more than reading it where it is needed.

use overlay_ebpf::{
    abi::DropReason,
    rule::{
        flow::{self, Flow},
        volume::Volume,
    },
    wire::{
        eth, icmpv6,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
        udp,
    },
};

use crate::frame::{BY_PARTS, Frame, OnStack, Segments};

/// The frame that an endpoint sent or is to get.
pub struct Packet {
    /// The Ethernet header.
    pub eth: eth::Header,
    /// What follows it.
    pub l3: L3,
}

/// The protocol behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum L3 {
    /// ARP, which its stage reads.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// None that is carried.
    Other,
}

impl Packet {
    /// Looks at what lies behind the Ethernet header `eth`, which begins where the frame's inner one does, and makes
    /// sure of the IP header. `Truncated`: it is not all there.
    #[inline(always)]
    pub fn parse(frame: &mut Frame, eth: eth::Header) -> Result<Self, DropReason> {
        let at = frame.inner() + eth::LEN;
        let packet = Self::parsed(eth);
        match packet.l3 {
            L3::Ipv4 => require_with_ports(frame, at + ipv4::LEN)?,
            L3::Ipv6 => require_with_ports(frame, at + ipv6::LEN)?,
            L3::Arp | L3::Other => {}
        }
        Ok(packet)
    }

    /// The same of a frame that [`Self::parse`] has made sure of.
    #[inline(always)]
    pub const fn parsed(eth: eth::Header) -> Self {
        let l3 = match eth.ether_type {
            eth::IPV4 => L3::Ipv4,
            eth::IPV6 => L3::Ipv6,
            eth::ARP => L3::Arp,
            _ => L3::Other,
        };
        Self { eth, l3 }
    }

    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says that the frame has this header")]
    fn ipv4<'frame>(&self, frame: &'frame Frame) -> Result<&'frame Ipv4Hdr, DropReason> {
        frame.header(frame.inner() + eth::LEN)
    }

    /// The source address of an IPv4 packet, order of the wire.
    #[inline(always)]
    pub fn source_ipv4(&self, frame: &Frame) -> Result<[u8; 4], DropReason> {
        self.ipv4(frame).map(|ip| ip.src_addr)
    }

    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says that the frame has this header")]
    fn ipv6<'frame>(&self, frame: &'frame Frame) -> Result<&'frame Ipv6Hdr, DropReason> {
        frame.header(frame.inner() + eth::LEN)
    }

    /// The destination of an IP packet: an IPv6 address, or an IPv4 one mapped into it, as two numbers. `::` of what
    /// has none.
    #[inline(always)]
    pub fn destination(&self, frame: &Frame) -> Result<[u64; 2], DropReason> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(frame).map(|ip| ipv6::mapped_halves(ip.dst_addr)),
            L3::Ipv6 => self.ipv6(frame).map(|ip| ipv6::halves(ip.destination)),
            L3::Arp | L3::Other => Ok([0; 2]),
        }
    }

    /// The destination of an IPv4 packet, order of the wire.
    #[inline(always)]
    pub fn destination_ipv4(&self, frame: &Frame) -> Result<[u8; 4], DropReason> {
        self.ipv4(frame).map(|ip| ip.dst_addr)
    }

    /// The source of an IP packet, as [`Self::destination`] has it.
    #[inline(always)]
    pub fn source(&self, frame: &Frame) -> Result<[u64; 2], DropReason> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(frame).map(|ip| ipv6::mapped_halves(ip.src_addr)),
            L3::Ipv6 => self.ipv6(frame).map(|ip| ipv6::halves(ip.source)),
            L3::Arp | L3::Other => Ok([0; 2]),
        }
    }

    /// The source address of an IPv6 packet, order of the wire.
    #[inline(always)]
    pub fn source_ipv6(&self, frame: &Frame) -> Result<OnStack<[u8; 16]>, DropReason> {
        self.ipv6(frame).map(|ip| OnStack(ip.source))
    }

    /// Whether an address of an IPv6 packet is an IPv4 one mapped into IPv6.
    #[inline(always)]
    pub fn has_mapped(&self, frame: &Frame) -> Result<bool, DropReason> {
        let ip = self.ipv6(frame)?;
        Ok(ipv6::is_mapped(ip.source) || ipv6::is_mapped(ip.destination))
    }

    /// Whether a neighbour discovery message could follow behind the extension headers of an IPv6 packet.
    #[inline(always)]
    pub fn may_hide_discovery(&self, frame: &Frame) -> Result<bool, DropReason> {
        let ip = self.ipv6(frame)?;
        Ok(icmpv6::may_hide_discovery(ip))
    }

    /// Refuses a protocol that no network carries.
    #[inline(always)]
    pub fn check_protocol(&self) -> Result<(), DropReason> {
        match self.l3 {
            L3::Other => Err(DropReason::EtherType),
            _ => Ok(()),
        }
    }

    /// What encapsulation needs to know of it. The kernel's hash of the flow is taken where it has one.
    #[inline(always)]
    pub fn flow(&self, frame: &Frame) -> Result<Flow, DropReason> {
        let known = frame.hash();
        let (hash, ecn) = match self.l3 {
            L3::Ipv4 => {
                let ip = self.ipv4(frame)?;
                let hash = match known {
                    0 => hash_ipv4(frame, ip),
                    known => known,
                };
                (hash, ip.tos & ipv4::ECN_MASK)
            }
            L3::Ipv6 => {
                let ip = self.ipv6(frame)?;
                let hash = match known {
                    0 => hash_ipv6(frame, ip),
                    known => known,
                };
                (hash, ip.ecn())
            }
            L3::Arp | L3::Other => (known, 0),
        };
        Ok(Flow { hash, ecn })
    }

    /// The ECN field; 0 of what has none.
    #[inline(always)]
    pub fn ecn(&self, frame: &Frame) -> Result<u8, DropReason> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(frame).map(|ip| ip.tos & ipv4::ECN_MASK),
            L3::Ipv6 => self.ipv6(frame).map(Ipv6Hdr::ecn),
            L3::Arp | L3::Other => Ok(0),
        }
    }

    /// The traffic class, DSCP and ECN; 0 of what has none.
    #[inline(always)]
    pub fn traffic_class(&self, frame: &Frame) -> Result<u8, DropReason> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(frame).map(|ip| ip.tos),
            L3::Ipv6 => self.ipv6(frame).map(Ipv6Hdr::traffic_class),
            L3::Arp | L3::Other => Ok(0),
        }
    }

    /// The IP protocol, or the header behind the fixed one of IPv6, also of a fragment; 0 also of what is no IP
    /// packet.
    #[inline(always)]
    pub fn protocol(&self, frame: &Frame) -> Result<u8, DropReason> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(frame).map(|ip| ip.proto),
            L3::Ipv6 => self.ipv6(frame).map(|ip| ip.next_header),
            L3::Arp | L3::Other => Ok(0),
        }
    }

    /// The type of the `ICMPv6` message in an IPv6 packet; 0: it has none.
    #[inline(always)]
    pub fn icmp_type(&self, frame: &Frame) -> Result<u8, DropReason> {
        match self.ipv6(frame)?.next_header {
            ipv6::ICMPV6 => frame.load(frame.inner() + eth::LEN + ipv6::LEN),
            _ => Ok(0),
        }
    }

    /// Where the TCP header is, from the inner Ethernet header on; not behind options, and not in fragments.
    #[inline(always)]
    pub fn plain_tcp(&self, frame: &Frame) -> Option<usize> {
        match self.l3 {
            L3::Ipv4 => {
                let ip = self.ipv4(frame).ok()?;
                (ip.proto == ipv4::TCP && is_plain(ip)).then_some(eth::LEN + ipv4::LEN)
            }
            L3::Ipv6 => {
                let ip = self.ipv6(frame).ok()?;
                (ip.next_header == ipv4::TCP).then_some(eth::LEN + ipv6::LEN)
            }
            L3::Arp | L3::Other => None,
        }
    }

    /// How long the packets are that the frame becomes on the wire, and how many.
    #[inline(always)]
    pub fn segments(&self, frame: &Frame) -> Segments {
        let whole = Segments {
            len: frame.len(),
            headers_len: 0,
            payload_len: 0,
        };
        match frame.gso_size() {
            0 | BY_PARTS => whole,
            payload_len => Segments {
                headers_len: self.headers_len(frame),
                payload_len,
                ..whole
            },
        }
    }

    /// Bytes of the IP header, with the options of IPv4.
    #[inline(always)]
    fn header_len(&self, frame: &Frame) -> usize {
        if self.l3 == L3::Ipv6 {
            return ipv6::LEN;
        }
        let ip = frame.header::<Ipv4Hdr>(frame.inner() + eth::LEN);
        ip.map_or(ipv4::LEN, ipv4::header_len)
    }

    /// Bytes of an IPv4 packet's header, options included. `None`: it is a fragment without the transport header.
    #[inline(always)]
    pub fn first_header_len(&self, frame: &Frame) -> Result<Option<usize>, DropReason> {
        let ip = self.ipv4(frame)?;
        Ok(ipv4::is_first_fragment(ip).then_some(ipv4::header_len(ip)))
    }

    /// Bytes of an aggregate's headers, which each of its segments has. Aggregates are of TCP or UDP.
    #[inline(always)]
    fn headers_len(&self, frame: &Frame) -> u32 {
        /// Where TCP has its header's length, in words, in the upper half of a byte.
        const DATA_OFFSET: usize = 12;
        let offset = eth::LEN + self.header_len(frame);
        let len = if self
            .protocol(frame)
            .is_ok_and(|protocol| protocol == ipv4::TCP)
        {
            let words = frame.load::<u8>(frame.inner() + offset + DATA_OFFSET);
            words.map_or(0, |words| u32::from(words >> 4) * 4)
        } else {
            udp::LEN as u32
        };
        offset as u32 + len
    }
}

impl Segments {
    /// How much they are.
    #[inline(always)]
    pub const fn volume(&self) -> Volume {
        match self.payload_len {
            0 => Volume::of_frame(self.len),
            payload => Volume::of_aggregate(self.len, self.headers_len, payload),
        }
    }
}

/// Makes sure of the headers, and of the ports behind them if the frame goes so far: in one step,
/// since a raw socket's frame begins with little more than its Ethernet header in linear memory.
#[inline(always)]
fn require_with_ports(frame: &mut Frame, headers: usize) -> Result<(), DropReason> {
    frame
        .require(headers + size_of::<[u8; 4]>())
        .or_else(|_| frame.require(headers))
}

/// The last four bytes of an IPv6 address as they lie in memory.
#[inline(always)]
const fn last_word([.., a, b, c, d]: [u8; 16]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn hash_ipv4(frame: &Frame, ip: &Ipv4Hdr) -> u32 {
    let ports = if is_plain(ip) {
        ports(frame, ip.proto, ipv4::LEN)
    } else {
        0
    };
    let [source, destination] = [ip.src_addr, ip.dst_addr].map(u32::from_ne_bytes);
    flow::flow_hash(source, destination, ip.proto, ports)
}

#[inline(always)]
fn hash_ipv6(frame: &Frame, ip: &Ipv6Hdr) -> u32 {
    let ports = ports(frame, ip.next_header, ipv6::LEN);
    let [source, destination] = [ip.source, ip.destination].map(last_word);
    flow::flow_hash(source, destination, ip.next_header, ports)
}

/// Whether the transport header is in its usual place: neither options nor fragments.
#[inline(always)]
fn is_plain(ip: &Ipv4Hdr) -> bool {
    ip.vihl == ipv4::NO_OPTIONS && !ipv4::is_fragment(ip)
}

/// The ports as they lie in memory; 0 of what has none.
#[inline(always)]
fn ports(frame: &Frame, protocol: u8, ip_len: usize) -> u32 {
    if protocol != ipv4::UDP && protocol != ipv4::TCP {
        return 0;
    }
    let ports = frame.header::<[u8; 4]>(frame.inner() + eth::LEN + ip_len);
    ports.map_or(0, |ports| u32::from_ne_bytes(*ports))
}
