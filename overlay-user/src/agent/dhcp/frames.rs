//! Takes questions out of frames and puts answers into them.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    err::packet::BuildVecWriteError,
};

use crate::model::Mac;

/// Ports of DHCPv4: the server's and the client's.
const PORTS_V4: (u16, u16) = (67, 68);
/// Ports of DHCPv6, likewise.
const PORTS_V6: (u16, u16) = (547, 546);
/// Hops that an answer may take.
const TTL: u8 = 64;
/// Only hop limit 255 proves that a message comes from the link (RFC 4861 section 6.1).
const HOP_LIMIT: u8 = 255;
/// Everyone on the link.
const BROADCAST: [u8; 6] = [0xff; 6];
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The MAC that [`ALL_NODES`] maps to (RFC 2464 section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Where answers over IPv6 come from, in every network.
pub(super) const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What a frame asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question<'a> {
    /// A message of DHCPv4.
    V4 { message: &'a [u8] },
    /// A message of DHCPv6 to all servers, from this address.
    V6 { message: &'a [u8], source: Ipv6Addr },
    /// A router solicitation, from this address.
    Router { source: Ipv6Addr },
}

impl<'a> Question<'a> {
    /// `None`: it is no sound question. UDP checksums are not looked at: a client's kernel leaves them to a device that
    /// never comes.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        if packet.is_ip_payload_fragmented() {
            return None;
        }
        match (packet.net?, packet.transport?) {
            (NetSlice::Ipv4(_), TransportSlice::Udp(udp)) => {
                let is_own = (udp.source_port(), udp.destination_port()) == flipped(PORTS_V4);
                is_own.then(|| Self::V4 {
                    message: udp.payload(),
                })
            }
            (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                let (source, to) = (ip.header().source_addr(), ip.header().destination_addr());
                let is_own = (udp.source_port(), udp.destination_port()) == flipped(PORTS_V6)
                    // No client was told to ask this server alone (RFC 8415 section 18.4).
                    && to.is_multicast()
                    && source.is_unicast_link_local();
                is_own.then(|| Self::V6 {
                    message: udp.payload(),
                    source,
                })
            }
            (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(message)) => {
                let header = ip.header();
                let (source, destination) = (header.source(), header.destination());
                let is_sound = header.hop_limit() == HOP_LIMIT
                    && message.icmp_type() == Icmpv6Type::RouterSolicitation
                    && message.is_checksum_valid(source, destination);
                is_sound.then(|| Self::Router {
                    source: header.source_addr(),
                })
            }
            _ => None,
        }
    }
}

const fn flipped((server, client): (u16, u16)) -> (u16, u16) {
    (client, server)
}

/// A message of DHCPv4 from the server `from` to the endpoint `to`.
pub(super) fn v4(
    from: (Mac, Ipv4Addr),
    to: (Mac, Ipv4Addr),
    message: &[u8],
) -> Result<Vec<u8>, BuildVecWriteError> {
    let mac = if to.1.is_broadcast() {
        BROADCAST
    } else {
        to.0.octets()
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0.octets(), mac)
        .ipv4(from.1.octets(), to.1.octets(), TTL)
        .udp(PORTS_V4.0, PORTS_V4.1)
        .write_to_vec(&mut frame, message)?;
    Ok(frame)
}

/// The same of DHCPv6.
pub(super) fn v6(
    from: Mac,
    to: (Mac, Ipv6Addr),
    message: &[u8],
) -> Result<Vec<u8>, BuildVecWriteError> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.octets(), to.0.octets())
        .ipv6(GATEWAY.octets(), to.1.octets(), TTL)
        .udp(PORTS_V6.0, PORTS_V6.1)
        .write_to_vec(&mut frame, message)?;
    Ok(frame)
}

/// A router advertisement, whose part behind the type, code and checksum this is: four bytes, and the rest.
pub(super) fn advertisement(
    from: Mac,
    to: (Mac, Ipv6Addr),
    (head, rest): ([u8; 4], &[u8]),
) -> Result<Vec<u8>, BuildVecWriteError> {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    let mac = if to.1 == ALL_NODES {
        ALL_NODES_MAC
    } else {
        to.0.octets()
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.octets(), mac)
        .ipv6(GATEWAY.octets(), to.1.octets(), HOP_LIMIT)
        .icmpv6_raw(ROUTER_ADVERTISEMENT, 0, head)
        .write_to_vec(&mut frame, rest)?;
    Ok(frame)
}
