//! The frames that are explained: builds them as an endpoint would, and tells of them in a few words.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice, err::packet::BuildVecWriteError,
};

use super::super::api::ExplainProtocol;
use crate::model::Mac;

/// As systems send them.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// Number and place of the echo.
const ECHO: (u16, u16) = (40_000, 1);
/// Only hop limit 255 proves that a message comes from the link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Kind and length, in units of eight bytes, of the source link-layer address option.
const SOURCE_LINK_LAYER_ADDRESS: [u8; 2] = [1, 1];
/// The `EtherType` of IPv4, order of the wire.
const IPV4: [u8; 2] = [8, 0];
/// Types of ICMPv6 (RFC 4861 section 4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A packet of an endpoint's.
pub(super) struct Packet {
    pub(super) mac: Mac,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: ExplainProtocol,
    /// The source's and the destination's; not of ICMP.
    pub(super) ports: (u16, u16),
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.frame_to(self.mac)))
    }
}

impl Packet {
    /// The frame with it.
    pub(super) fn frame_to(&self, mac: Mac) -> Vec<u8> {
        let mut frame = Vec::new();
        // Nothing in it can be too long.
        let _ = self.write(mac, &mut frame);
        frame
    }

    fn write(&self, mac: Mac, frame: &mut Vec<u8>) -> Result<(), BuildVecWriteError> {
        let builder = PacketBuilder::ethernet2(self.mac.octets(), mac.octets());
        let (id, sequence) = ECHO;
        let builder = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let builder = builder.ipv4(source.octets(), destination.octets(), TTL);
                if self.protocol == ExplainProtocol::Icmp {
                    let builder = builder.icmpv4_echo_request(id, sequence);
                    return builder.write_to_vec(frame, &[]);
                }
                builder
            }
            (source, destination) => {
                let builder = builder.ipv6(octets(source), octets(destination), TTL);
                if self.protocol == ExplainProtocol::Icmp {
                    let builder = builder.icmpv6_echo_request(id, sequence);
                    return builder.write_to_vec(frame, &[]);
                }
                builder
            }
        };
        let (source, destination) = self.ports;
        if self.protocol == ExplainProtocol::Tcp {
            let builder = builder.tcp(source, destination, 1, WINDOW).syn();
            return builder.write_to_vec(frame, &[]);
        }
        builder.udp(source, destination).write_to_vec(frame, &[])
    }

    /// The question for the MAC of its next hop: an ARP request or a neighbour solicitation.
    pub(super) fn question(&self, next_hop: IpAddr) -> Vec<u8> {
        let mut frame = Vec::new();
        // Nothing in it can be too long.
        let _ = match (self.source, next_hop) {
            (IpAddr::V4(source), IpAddr::V4(next_hop)) => {
                self.request(source, next_hop, &mut frame)
            }
            (source, next_hop) => self.solicitation(octets(source), octets(next_hop), &mut frame),
        };
        frame
    }

    fn request(
        &self,
        source: Ipv4Addr,
        next_hop: Ipv4Addr,
        frame: &mut Vec<u8>,
    ) -> Result<(), BuildVecWriteError> {
        let packet = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: self.mac.octets(),
            sender_ipv4: source.octets(),
            target_mac: [0; 6],
            target_ipv4: next_hop.octets(),
        };
        PacketBuilder::ethernet2(self.mac.octets(), BROADCAST)
            .arp(packet.into())
            .write_to_vec(frame)
    }

    /// To the solicited-node address (RFC 4291 section 2.7.1).
    fn solicitation(
        &self,
        source: [u8; 16],
        next_hop: [u8; 16],
        frame: &mut Vec<u8>,
    ) -> Result<(), BuildVecWriteError> {
        let [.., first, second, third] = next_hop;
        let group = [
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, first, second, third,
        ];
        let option = [&SOURCE_LINK_LAYER_ADDRESS[..], &self.mac.octets()].concat();
        PacketBuilder::ethernet2(self.mac.octets(), [0x33, 0x33, 0xff, first, second, third])
            .ipv6(source, group, HOP_LIMIT)
            .icmpv6(Icmpv6Type::NeighborSolicitation)
            .write_to_vec(frame, &[&next_hop[..], &option].concat())
    }
}

/// Of an IPv4 address: those of the IPv6 address that it is mapped into.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The MAC that an answer comes from.
pub(super) fn source_mac(frame: &[u8]) -> Option<Mac> {
    let octets: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    Mac::try_from(octets).ok()
}

/// Whether a frame has become one to its own sender.
pub(super) fn is_turned_round(before: &[u8], after: &[u8]) -> bool {
    after
        .get(..6)
        .is_some_and(|to| before.get(6..12) == Some(to))
}

/// Where an IPv4 packet goes.
pub(super) fn destination(frame: &[u8]) -> Option<IpAddr> {
    match SlicedPacket::from_ethernet(frame).ok()?.net? {
        NetSlice::Ipv4(ip) => Some(ip.header().destination_addr().into()),
        _ => None,
    }
}

/// Gives a tunnel packet the Ethernet header that it has once it has come to this MAC: what the programs make is filled
/// in by the kernel's neighbour table on its way out.
pub(super) fn address_to(frame: &mut [u8], mac: [u8; 6]) {
    if let Some(to) = frame.get_mut(..6) {
        to.copy_from_slice(&mac);
    }
    if let Some(kind) = frame.get_mut(12..14) {
        kind.copy_from_slice(&IPV4);
    }
}

/// A frame in a few words, much as tcpdump tells of it.
pub(super) fn describe(frame: &[u8]) -> String {
    told(frame).unwrap_or_else(|| format!("a frame of {} bytes", frame.len()))
}

fn told(frame: &[u8]) -> Option<String> {
    let mut with_type = frame.to_vec();
    if with_type.get(12..14)? == [0, 0] {
        // Of a tunnel packet on its way out; see `address_to`.
        with_type.get_mut(12..14)?.copy_from_slice(&IPV4);
    }
    let packet = SlicedPacket::from_ethernet(&with_type).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Arp(arp) => return told_of_arp(&arp.to_packet().try_into().ok()?),
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
    };
    Some(match packet.transport? {
        TransportSlice::Tcp(tcp) => format!(
            "tcp {} > {}",
            SocketAddr::new(source, tcp.source_port()),
            SocketAddr::new(destination, tcp.destination_port())
        ),
        TransportSlice::Udp(udp) => format!(
            "udp {} > {}",
            SocketAddr::new(source, udp.source_port()),
            SocketAddr::new(destination, udp.destination_port())
        ),
        TransportSlice::Icmpv4(icmp) => {
            let what = match (icmp.type_u8(), icmp.code_u8()) {
                (8, _) => "echo request".to_owned(),
                (0, _) => "echo reply".to_owned(),
                (kind, code) => format!("type {kind} code {code}"),
            };
            format!("icmp {what} {source} > {destination}")
        }
        TransportSlice::Icmpv6(icmp) => told_of_icmpv6(&icmp, source, destination),
        TransportSlice::Igmp(_) => format!("igmp {source} > {destination}"),
    })
}

fn told_of_arp(arp: &ArpEthIpv4Packet) -> Option<String> {
    let (sender, target) = (
        Ipv4Addr::from(arp.sender_ipv4),
        Ipv4Addr::from(arp.target_ipv4),
    );
    if arp.operation == ArpOperation::REQUEST {
        return Some(format!("arp who has {target}, says {sender}"));
    }
    let mac = Mac::try_from(arp.sender_mac).ok()?;
    Some(format!("arp {sender} is at {mac}"))
}

fn told_of_icmpv6(icmp: &Icmpv6Slice<'_>, source: IpAddr, destination: IpAddr) -> String {
    let target = icmp
        .payload()
        .first_chunk()
        .map(|it: &[u8; 16]| Ipv6Addr::from(*it));
    match (icmp.type_u8(), icmp.code_u8(), target) {
        (SOLICITATION, _, Some(target)) => format!("nd who has {target}, says {source}"),
        (ADVERTISEMENT, _, Some(target)) => {
            let option = icmp.payload().get(18..24);
            let mac = option.and_then(|it| <[u8; 6]>::try_from(it).ok());
            match mac.and_then(|it| Mac::try_from(it).ok()) {
                Some(mac) => format!("nd {target} is at {mac}"),
                None => format!("nd advertisement of {target}"),
            }
        }
        (128, ..) => format!("icmp6 echo request {source} > {destination}"),
        (129, ..) => format!("icmp6 echo reply {source} > {destination}"),
        (kind, code, _) => format!("icmp6 type {kind} code {code} {source} > {destination}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, destination: &str, protocol: ExplainProtocol) -> Packet {
        Packet {
            mac: "02:42:07:07:07:02".parse().unwrap(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            ports: (40_000, 443),
        }
    }

    #[test]
    fn a_packet_is_told_as_it_was_asked_for() {
        for (source, destination, protocol, expected) in [
            (
                "7.7.7.2",
                "8.8.8.3",
                ExplainProtocol::Tcp,
                "tcp 7.7.7.2:40000 > 8.8.8.3:443",
            ),
            (
                "7.7.7.2",
                "8.8.8.3",
                ExplainProtocol::Icmp,
                "icmp echo request 7.7.7.2 > 8.8.8.3",
            ),
            (
                "fd00::2",
                "fd00::3",
                ExplainProtocol::Udp,
                "udp [fd00::2]:40000 > [fd00::3]:443",
            ),
            (
                "fd00::2",
                "fd00::3",
                ExplainProtocol::Icmp,
                "icmp6 echo request fd00::2 > fd00::3",
            ),
        ] {
            let packet = packet(source, destination, protocol);
            assert_eq!(packet.to_string(), expected);
        }
    }

    #[test]
    fn the_next_hop_is_asked_for_by_arp_or_neighbour_discovery() {
        for (source, next_hop, expected) in [
            ("7.7.7.2", "7.7.7.1", "arp who has 7.7.7.1, says 7.7.7.2"),
            ("fd00::2", "fd00::1", "nd who has fd00::1, says fd00::2"),
        ] {
            let packet = packet(source, source, ExplainProtocol::Icmp);
            assert_eq!(
                describe(&packet.question(next_hop.parse().unwrap())),
                expected
            );
        }
    }

    #[test]
    fn a_frame_that_is_none_is_told_by_its_length() {
        assert_eq!(describe(&[0; 9]), "a frame of 9 bytes");
        assert_eq!(describe(&[]), "a frame of 0 bytes");
    }
}
