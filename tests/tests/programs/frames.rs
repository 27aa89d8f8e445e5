//! Frames, made by etherparse: what goes into the programs and what has to come out is written by
//! other code than theirs.

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type,
    IpFragOffset, IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    PacketBuilderStep, UdpHeader, icmpv4::DestUnreachableHeader,
    icmpv6::NeighborAdvertisementHeader, ip_number,
};
use overlay_ebpf::rule::flow;

use crate::network::{BLUE, Endpoint, GREEN, GREEN_VTEP, VNI, VTEP, Vtep};

/// Bytes of an Ethernet header.
pub(crate) const ETH: usize = 14;
/// What a tunnel adds to a frame.
pub(crate) const OVERHEAD: usize = 50;
/// Where the headers of a tunnel packet begin.
pub(crate) const OUTER_IP: usize = ETH;
pub(crate) const OUTER_UDP: usize = OUTER_IP + 20;
pub(crate) const VXLAN: usize = OUTER_UDP + 8;
pub(crate) const INNER: usize = VXLAN + 8;

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// The MAC of the device that frames come in by: the loopback device's.
pub(crate) const THIS_HOST: [u8; 6] = [0; 6];
/// The MAC of the underlay's next hop.
pub(crate) const NEXT_HOP: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

const PAYLOAD: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";
const TTL: u8 = 64;

/// A frame with some of its bytes changed. Checksums stay as they were.
pub(crate) fn patched(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame with zeros behind it, as a sender pads a short one to Ethernet's 60 bytes.
pub(crate) fn padded(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(len >= frame.len());
    frame.resize(len, 0);
    frame
}

/// A frame with an 802.1Q or 802.1ad tag in it.
pub(crate) fn tagged(mut frame: Vec<u8>, protocol: u16) -> Vec<u8> {
    let [high, low] = protocol.to_be_bytes();
    frame.splice(12..12, [high, low, 0, 100]);
    frame
}

/// The beginning of an IPv4 packet.
pub(crate) fn ipv4(from: &Endpoint, to: &Endpoint, tos: u8) -> PacketBuilderStep<IpHeaders> {
    let mut ip = Ipv4Header::new(0, TTL, ip_number::UDP, from.ipv4, to.ipv4).unwrap();
    ip.identification = 0x1234;
    ip.dscp = (tos >> 2).try_into().unwrap();
    ip.ecn = (tos & 3).try_into().unwrap();
    PacketBuilder::ethernet2(from.mac, to.mac).ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
}

/// The beginning of an IPv6 packet.
pub(crate) fn ipv6(
    from: &Endpoint,
    to: &Endpoint,
    traffic_class: u8,
) -> PacketBuilderStep<IpHeaders> {
    let ip = Ipv6Header {
        traffic_class,
        flow_label: 0x000a_bcde.try_into().unwrap(),
        hop_limit: TTL,
        source: from.ipv6,
        destination: to.ipv6,
        ..Ipv6Header::default()
    };
    PacketBuilder::ethernet2(from.mac, to.mac).ip(IpHeaders::Ipv6(ip, Ipv6Extensions::default()))
}

/// The packet with a datagram in it.
pub(crate) fn with_udp(ip: PacketBuilderStep<IpHeaders>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip.udp(4000, 5000)
        .write_to_vec(&mut frame, payload)
        .unwrap();
    frame
}

pub(crate) fn udp4(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    with_udp(ipv4(from, to, 0), &PAYLOAD)
}

pub(crate) fn udp6(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    with_udp(ipv6(from, to, 0), &PAYLOAD)
}

/// A datagram whose IP packet has this length.
pub(crate) fn udp4_of(from: &Endpoint, to: &Endpoint, len: usize) -> Vec<u8> {
    with_udp(ipv4(from, to, 0), &vec![0x5a; len - 20 - 8])
}

pub(crate) fn udp6_of(from: &Endpoint, to: &Endpoint, len: usize) -> Vec<u8> {
    with_udp(ipv6(from, to, 0), &vec![0x5a; len - 40 - 8])
}

/// The packet with a TCP segment in it.
pub(crate) fn with_tcp(ip: PacketBuilderStep<IpHeaders>) -> Vec<u8> {
    let mut frame = Vec::new();
    let tcp = ip.tcp(4000, 5000, 1, 65_535).ack(1);
    tcp.write_to_vec(&mut frame, &PAYLOAD).unwrap();
    frame
}

pub(crate) fn echo4(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    let mut frame = Vec::new();
    let echo = ipv4(from, to, 0).icmpv4_echo_request(1, 1);
    echo.write_to_vec(&mut frame, &PAYLOAD).unwrap();
    frame
}

pub(crate) fn echo6(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    let mut frame = Vec::new();
    let echo = ipv6(from, to, 0).icmpv6_echo_request(1, 1);
    echo.write_to_vec(&mut frame, &PAYLOAD).unwrap();
    frame
}

/// A fragment of a datagram; `offset` in units of eight bytes.
pub(crate) fn fragment4(from: &Endpoint, to: &Endpoint, offset: u16, more: bool) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, TTL, ip_number::UDP, from.ipv4, to.ipv4).unwrap();
    ip.dont_fragment = false;
    ip.more_fragments = more;
    ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
    let start = PacketBuilder::ethernet2(from.mac, to.mac);
    with_udp(
        start.ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default())),
        &PAYLOAD,
    )
}

/// An IPv6 frame whose packet may have come no further than this link, with an extension header of eight bytes
/// before what is in it.
pub(crate) fn behind_extension(mut frame: Vec<u8>, header: u8) -> Vec<u8> {
    // Of a fragment header the third and fourth byte say that it is the first one, and that more follow.
    let extension = [
        frame[nd::NEXT_HEADER],
        0,
        0,
        u8::from(header == 44),
        0,
        0,
        0,
        0,
    ];
    frame.splice(ETH + 40..ETH + 40, extension);
    let len = u16::try_from(frame.len() - ETH - 40).unwrap();
    frame[nd::PAYLOAD_LEN..nd::PAYLOAD_LEN + 2].copy_from_slice(&len.to_be_bytes());
    frame[nd::NEXT_HEADER] = header;
    frame[nd::HOP_LIMIT] = 255;
    frame
}

/// What tells `from` that its packet to `to` is longer than `mtu` bytes.
pub(crate) fn too_big(from: &Endpoint, to: &Endpoint, packet: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &packet[ETH..ETH + 128];
    let start = PacketBuilder::ethernet2(to.mac, from.mac);
    let mut frame = Vec::new();
    if packet[12..14] == [0x08, 0x00] {
        let ip = Ipv4Header::new(0, TTL, ip_number::ICMP, to.ipv4, from.ipv4).unwrap();
        let error = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        start
            .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
            .icmpv4(Icmpv4Type::DestinationUnreachable(error))
            .write_to_vec(&mut frame, quoted)
            .unwrap();
    } else {
        start
            .ipv6(to.ipv6, from.ipv6, TTL)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
            .write_to_vec(&mut frame, quoted)
            .unwrap();
    }
    frame
}

/// A datagram with a four-byte IPv4 option (router alert, RFC 2113).
pub(crate) fn options4(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, TTL, ip_number::UDP, from.ipv4, to.ipv4).unwrap();
    ip.options = [0x94, 4, 0, 0].into();
    let start = PacketBuilder::ethernet2(from.mac, to.mac);
    with_udp(
        start.ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default())),
        &PAYLOAD,
    )
}

/// A frame of some other protocol (LLDP's number), from one endpoint to another.
pub(crate) fn other(from: &Endpoint, destination: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let header = ethernet(from.mac, destination, EtherType(0x88cc));
    [header.as_slice(), payload].concat()
}

/// Where the fields of an ARP packet lie in a frame.
pub(crate) mod arp {
    use super::ETH;

    pub(crate) const HARDWARE_TYPE: usize = ETH;
    pub(crate) const PROTOCOL_TYPE: usize = ETH + 2;
    pub(crate) const HARDWARE_LEN: usize = ETH + 4;
    pub(crate) const PROTOCOL_LEN: usize = ETH + 5;
    pub(crate) const OPERATION: usize = ETH + 6;
    pub(crate) const SENDER_MAC: usize = ETH + 8;
}

/// `from` asks everybody for an address.
pub(crate) fn arp_request(from: &Endpoint, target: [u8; 4]) -> Vec<u8> {
    arp_packet(
        BROADCAST,
        ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: from.mac,
            sender_ipv4: from.ipv4,
            target_mac: [0; 6],
            target_ipv4: target,
        },
    )
}

/// `from` tells `to` its MAC.
pub(crate) fn arp_reply(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    arp_packet(
        to.mac,
        ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: from.mac,
            sender_ipv4: from.ipv4,
            target_mac: to.mac,
            target_ipv4: to.ipv4,
        },
    )
}

fn arp_packet(destination: [u8; 6], packet: ArpEthIpv4Packet) -> Vec<u8> {
    let mut frame = Vec::new();
    let start = PacketBuilder::ethernet2(packet.sender_mac, destination);
    let builder = start.arp(ArpPacket::from(packet));
    builder.write(&mut frame).unwrap();
    frame
}

/// Where the parts of a neighbour solicitation lie in a frame.
pub(crate) mod nd {
    use super::ETH;

    pub(crate) const PAYLOAD_LEN: usize = ETH + 4;
    pub(crate) const NEXT_HEADER: usize = ETH + 6;
    pub(crate) const HOP_LIMIT: usize = ETH + 7;
    pub(crate) const KIND: usize = ETH + 40;
    pub(crate) const CODE: usize = ETH + 41;
    /// End of a solicitation without options.
    pub(crate) const OPTIONS: usize = ETH + 40 + 24;
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1) and its MAC.
pub(crate) fn solicited_node(target: [u8; 16]) -> ([u8; 16], [u8; 6]) {
    let [.., a, b, c] = target;
    (
        [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c],
        [0x33, 0x33, 0xff, a, b, c],
    )
}

/// Somebody at `source` with `mac` asks for an address, with these options.
pub(crate) fn solicitation(
    mac: [u8; 6],
    source: [u8; 16],
    target: [u8; 16],
    options: &[u8],
) -> Vec<u8> {
    let (group, group_mac) = solicited_node(target);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac, group_mac)
        .ipv6(source, group, 255)
        .icmpv6(Icmpv6Type::NeighborSolicitation)
        .write_to_vec(&mut frame, &[target.as_slice(), options].concat())
        .unwrap();
    frame
}

/// The option that tells the asker's MAC (RFC 4861 section 4.6.1).
pub(crate) fn source_link_layer_address(mac: [u8; 6]) -> [u8; 8] {
    let mut option = [1; 8];
    option[2..].copy_from_slice(&mac);
    option
}

/// `from` tells somebody its MAC: solicited by its asker, or to all nodes.
pub(crate) fn advertisement(
    from: &Endpoint,
    to_mac: [u8; 6],
    to: [u8; 16],
    solicited: bool,
) -> Vec<u8> {
    let header = NeighborAdvertisementHeader {
        router: false,
        solicited,
        r#override: true,
    };
    let payload = [from.ipv6.as_slice(), &[2, 1], &from.mac].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to_mac)
        .ipv6(from.ipv6, to, 255)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
        .write_to_vec(&mut frame, &payload)
        .unwrap();
    frame
}

/// A tunnel packet.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: [u8; 4],
    pub destination: Vtep,
    pub source_port: u16,
    pub dscp: u8,
    pub ecn: u8,
    pub vni: u32,
    pub inner: Vec<u8>,
}

impl Tunnel {
    /// What green's host sends to this one.
    pub(crate) fn to_this_host(inner: Vec<u8>) -> Self {
        Self {
            source_mac: NEXT_HOP,
            destination_mac: THIS_HOST,
            source: GREEN_VTEP.ip,
            destination: VTEP,
            source_port: 50_000,
            dscp: 0,
            ecn: 0,
            vni: VNI,
            inner,
        }
    }

    /// What this host makes of a frame of blue's: the outer addresses of Ethernet are still the
    /// inner ones, since the kernel's neighbour code writes them later.
    pub(crate) fn from_this_host(inner: &[u8], destination: Vtep, source_port: u16) -> Self {
        Self {
            source_mac: inner[6..12].try_into().unwrap(),
            destination_mac: inner[..6].try_into().unwrap(),
            source: VTEP.ip,
            destination,
            source_port,
            dscp: 0,
            ecn: 0,
            vni: VNI,
            inner: inner.to_vec(),
        }
    }

    /// The packet as RFC 7348 section 5 draws it.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let udp_len = u16::try_from(8 + 8 + self.inner.len()).unwrap();
        let mut ip = Ipv4Header::new(
            udp_len,
            64,
            ip_number::UDP,
            self.source,
            self.destination.ip,
        )
        .unwrap();
        ip.dont_fragment = true;
        ip.dscp = self.dscp.try_into().unwrap();
        ip.ecn = self.ecn.try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let udp = UdpHeader {
            source_port: self.source_port,
            destination_port: self.destination.port,
            length: udp_len,
            checksum: 0,
        };
        let [_, a, b, c] = self.vni.to_be_bytes();
        [
            &ethernet(self.source_mac, self.destination_mac, EtherType::IPV4)[..],
            &ip.to_bytes(),
            &udp.to_bytes(),
            &[0x08, 0, 0, 0, a, b, c, 0],
            &self.inner,
        ]
        .concat()
    }
}

fn ethernet(source: [u8; 6], destination: [u8; 6], ether_type: EtherType) -> [u8; ETH] {
    let header = Ethernet2Header {
        source,
        destination,
        ether_type,
    };
    header.to_bytes()
}

/// The outer source port for an inner frame that the kernel has no hash of, as here; by its
/// addresses and protocol, and its ports where it shows any.
pub(crate) fn source_port(inner: &[u8], has_ports: bool) -> u16 {
    let word = |at: usize| u32::from_ne_bytes(inner[at..at + 4].try_into().unwrap());
    let ports = |at| if has_ports { word(at) } else { 0 };
    let hash = if inner[12..14] == [0x08, 0x00] {
        flow::flow_hash(word(26), word(30), inner[23], ports(34))
    } else {
        flow::flow_hash(word(34), word(50), inner[20], ports(54))
    };
    flow::source_port(hash)
}

/// Every kind of frame that an endpoint may send.
pub(crate) fn valid_from_endpoint() -> Vec<(&'static str, Vec<u8>)> {
    let option = source_link_layer_address(BLUE.mac);
    vec![
        ("UDP over IPv4", udp4(&BLUE, &GREEN)),
        ("TCP over IPv4", with_tcp(ipv4(&BLUE, &GREEN, 0))),
        ("ICMP echo", echo4(&BLUE, &GREEN)),
        ("IPv4 with an option", options4(&BLUE, &GREEN)),
        ("UDP over IPv6", udp6(&BLUE, &GREEN)),
        ("TCP over IPv6", with_tcp(ipv6(&BLUE, &GREEN, 0))),
        ("ICMPv6 echo", echo6(&BLUE, &GREEN)),
        ("ARP request", arp_request(&BLUE, GREEN.ipv4)),
        (
            "neighbour solicitation",
            solicitation(BLUE.mac, BLUE.ipv6, GREEN.ipv6, &option),
        ),
        (
            "duplicate address detection",
            solicitation(BLUE.mac, [0; 16], GREEN.ipv6, &[]),
        ),
    ]
}

/// Every kind of frame that a tunnel may bring.
pub(crate) fn valid_from_tunnel() -> Vec<(&'static str, Vec<u8>)> {
    let option = source_link_layer_address(GREEN.mac);
    vec![
        ("UDP over IPv4", udp4(&GREEN, &BLUE)),
        ("TCP over IPv4", with_tcp(ipv4(&GREEN, &BLUE, 0))),
        ("ICMP echo", echo4(&GREEN, &BLUE)),
        ("UDP over IPv6", udp6(&GREEN, &BLUE)),
        ("TCP over IPv6", with_tcp(ipv6(&GREEN, &BLUE, 0))),
        ("ICMPv6 echo", echo6(&GREEN, &BLUE)),
        ("ARP reply", arp_reply(&GREEN, &BLUE)),
        (
            "unicast neighbour solicitation",
            patched(
                solicitation(GREEN.mac, GREEN.ipv6, BLUE.ipv6, &option),
                0,
                &BLUE.mac,
            ),
        ),
    ]
    .into_iter()
    .map(|(name, inner)| (name, Tunnel::to_this_host(inner).frame()))
    .collect()
}
