//! Describes what a frame carries, for all stages. Nothing in it borrows from the frame.
//!
//! Protocols, hash and type are read once; addresses are read in place by the stages that check them. Each field costs
//! a store in every arm of the parser, since the verifier wants all of them set.

use overlay_ebpf::{
    abi::DropReason,
    rule::flow::{self, Flow},
    wire::{
        eth, icmpv6,
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
        udp,
    },
};

use crate::frame::{BY_PARTS, Frame, Segments};

/// The frame that an endpoint sent or is to get, as its headers describe it. What a protocol lacks is zero: the
/// verifier refuses a field that only some have.
pub struct Packet {
    /// The Ethernet header.
    pub eth: eth::Header,
    /// What follows it.
    pub l3: L3,
    /// The flow's hash.
    hash: u32,
    /// The IP protocol, or the header behind the fixed one of IPv6.
    protocol: u8,
    /// The ECN field.
    ecn: u8,
    /// Whether the transport header is in its usual place: neither options nor fragments.
    is_plain: bool,
    /// The type of an `ICMPv6` message; 0: it is none.
    pub icmp_type: u8,
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
    /// Reads what lies behind the Ethernet header `eth`, which begins where the frame's inner one does.
    /// `Truncated`: the IP header is not all there.
    #[inline(always)]
    pub fn parse(frame: &mut Frame, eth: eth::Header) -> Result<Self, DropReason> {
        let mut packet = Self {
            eth,
            l3: L3::Other,
            hash: 0,
            protocol: 0,
            ecn: 0,
            is_plain: false,
            icmp_type: 0,
        };
        match eth.ether_type {
            eth::IPV4 => packet.parse_ipv4(frame)?,
            eth::IPV6 => packet.parse_ipv6(frame)?,
            eth::ARP => packet.l3 = L3::Arp,
            _ => {}
        }
        Ok(packet)
    }

    #[inline(always)]
    fn parse_ipv4(&mut self, frame: &mut Frame) -> Result<(), DropReason> {
        let at = frame.inner() + eth::LEN;
        require_with_ports(frame, at + ipv4::LEN)?;
        let ip = frame.header::<Ipv4Hdr>(at)?;
        self.l3 = L3::Ipv4;
        let [source, destination] = [ip.src_addr, ip.dst_addr].map(u32::from_ne_bytes);
        self.protocol = ip.proto;
        self.ecn = ip.tos & ipv4::ECN_MASK;
        self.is_plain = ip.vihl == ipv4::NO_OPTIONS && !ipv4::is_fragment(ip);
        self.hash = self.flow_hash(frame, source, destination, at + ipv4::LEN);
        Ok(())
    }

    #[inline(always)]
    fn parse_ipv6(&mut self, frame: &mut Frame) -> Result<(), DropReason> {
        let at = frame.inner() + eth::LEN;
        require_with_ports(frame, at + ipv6::LEN)?;
        let ip = frame.header::<Ipv6Hdr>(at)?;
        self.l3 = L3::Ipv6;
        let (source, destination) = (last_word(ip.source), last_word(ip.destination));
        self.protocol = ip.next_header;
        self.ecn = ip.ecn();
        self.is_plain = true;
        if ip.next_header == ipv6::ICMPV6 {
            self.icmp_type = frame.load(at + ipv6::LEN)?;
        }
        self.hash = self.flow_hash(frame, source, destination, at + ipv6::LEN);
        Ok(())
    }

    #[inline(always)]
    fn flow_hash(&self, frame: &Frame, source: u32, destination: u32, transport: usize) -> u32 {
        let known = frame.hash();
        if known != 0 {
            return known;
        }
        let has_ports = self.protocol == ipv4::UDP || self.protocol == ipv4::TCP;
        let ports = if self.is_plain && has_ports {
            let ports = frame.header::<[u8; 4]>(transport);
            ports.map_or(0, |ports| u32::from_ne_bytes(*ports))
        } else {
            0
        };
        flow::flow_hash(source, destination, self.protocol, ports)
    }

    /// The source address of an IPv4 packet, order of the wire.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says that the frame has this header")]
    pub fn source_ipv4(&self, frame: &Frame) -> Result<[u8; 4], DropReason> {
        let ip = frame.header::<Ipv4Hdr>(frame.inner() + eth::LEN)?;
        Ok(ip.src_addr)
    }

    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says that the frame has this header")]
    fn ipv6<'frame>(&self, frame: &'frame Frame) -> Result<&'frame Ipv6Hdr, DropReason> {
        frame.header(frame.inner() + eth::LEN)
    }

    /// The source address of an IPv6 packet, order of the wire.
    #[inline(always)]
    pub fn source_ipv6(&self, frame: &Frame) -> Result<[u8; 16], DropReason> {
        self.ipv6(frame).map(|ip| ip.source)
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
        Ok(ipv6::is_extension(self.protocol) && icmpv6::may_hide_discovery(self.ipv6(frame)?))
    }

    /// Refuses a protocol that no network carries.
    #[inline(always)]
    pub fn check_protocol(&self) -> Result<(), DropReason> {
        match self.l3 {
            L3::Other => Err(DropReason::EtherType),
            _ => Ok(()),
        }
    }

    /// What encapsulation needs to know of it.
    #[inline(always)]
    pub const fn flow(&self) -> Flow {
        Flow {
            hash: self.hash,
            ecn: self.ecn,
        }
    }

    /// The ECN field; 0 of what has none.
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.ecn
    }

    /// The IP protocol, or the header behind the fixed one of IPv6, also of a fragment; 0 also of what is no IP
    /// packet.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where the TCP header is, from the inner Ethernet header on; not behind options, and not in fragments.
    #[inline(always)]
    pub fn plain_tcp(&self) -> Option<usize> {
        let is_tcp = self.is_plain && self.protocol == ipv4::TCP;
        match self.l3 {
            L3::Ipv4 if is_tcp => Some(eth::LEN + ipv4::LEN),
            L3::Ipv6 if is_tcp => Some(eth::LEN + ipv6::LEN),
            _ => None,
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

    /// Bytes of an aggregate's headers, which each of its segments has. Aggregates are of TCP or UDP.
    #[inline(always)]
    fn headers_len(&self, frame: &Frame) -> u32 {
        /// Where TCP has its header's length, in words, in the upper half of a byte.
        const DATA_OFFSET: usize = 12;
        let offset = eth::LEN + self.header_len(frame);
        let len = if self.protocol == ipv4::TCP {
            let words = frame.load::<u8>(frame.inner() + offset + DATA_OFFSET);
            words.map_or(0, |words| u32::from(words >> 4) * 4)
        } else {
            udp::LEN as u32
        };
        offset as u32 + len
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
