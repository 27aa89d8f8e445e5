//! Builds the ARP and neighbour discovery frames that the agent sends.
//!
//! Replies to questions that the programs could not answer look as theirs would (RFC 826, RFC 4861 section 4.4).
//! The other frames are announcements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv6Type, PacketBuilder, err::packet::BuildVecWriteError,
    icmpv6::NeighborAdvertisementHeader,
};

use crate::model::{Mac, Miss, Wanted};

/// Only hop limit 255 proves that a message comes from the link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
/// Kind and length, in units of eight bytes, of the target link-layer address option.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
/// Everyone on the link.
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The MAC that [`ALL_NODES`] maps to (RFC 2464 section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// The frame that tells a miss's requester that the address it wants is at `mac`. `None`: the miss is no
/// question.
pub(super) fn frame(miss: &Miss, mac: Mac) -> Option<Vec<u8>> {
    let frame = match (miss.wanted, miss.requester_ip) {
        (Wanted::Ip(IpAddr::V4(ip)), Some(IpAddr::V4(requester))) => {
            reply((mac, ip), (miss.requester_mac, requester))
        }
        (Wanted::Ip(IpAddr::V6(ip)), Some(IpAddr::V6(requester))) => {
            advertisement((mac, ip), (miss.requester_mac.octets(), requester), true)
        }
        // Duplicate address detection is answered to all, unsolicited (RFC 4861 section 7.2.4).
        (Wanted::Ip(IpAddr::V6(ip)), None) => {
            advertisement((mac, ip), (ALL_NODES_MAC, ALL_NODES), false)
        }
        _ => return None,
    };
    frame.ok()
}

/// The frame that tells an endpoint that an address is at `mac`, whether it asked or not: an ARP
/// announcement (RFC 5227 section 3) or an unsolicited neighbour advertisement (RFC 4861 section
/// 7.2.6). It changes what the endpoint remembers of the address and adds nothing to that.
pub(super) fn announcement(ip: IpAddr, mac: Mac) -> Option<Vec<u8>> {
    let frame = match ip {
        IpAddr::V4(ip) => gratuitous((mac, ip)),
        IpAddr::V6(ip) => advertisement((mac, ip), (ALL_NODES_MAC, ALL_NODES), false),
    };
    frame.ok()
}

fn gratuitous((mac, ip): (Mac, Ipv4Addr)) -> Result<Vec<u8>, BuildVecWriteError> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: mac.octets(),
        sender_ipv4: ip.octets(),
        target_mac: [0; 6],
        target_ipv4: ip.octets(),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.octets(), BROADCAST)
        .arp(packet.into())
        .write_to_vec(&mut frame)?;
    Ok(frame)
}

fn reply(
    (mac, ip): (Mac, Ipv4Addr),
    (requester_mac, requester): (Mac, Ipv4Addr),
) -> Result<Vec<u8>, BuildVecWriteError> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: mac.octets(),
        sender_ipv4: ip.octets(),
        target_mac: requester_mac.octets(),
        target_ipv4: requester.octets(),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.octets(), requester_mac.octets())
        .arp(packet.into())
        .write_to_vec(&mut frame)?;
    Ok(frame)
}

fn advertisement(
    (mac, ip): (Mac, Ipv6Addr),
    (requester_mac, requester): ([u8; 6], Ipv6Addr),
    solicited: bool,
) -> Result<Vec<u8>, BuildVecWriteError> {
    let flags = NeighborAdvertisementHeader {
        router: false,
        solicited,
        r#override: true,
    };
    let option = [&TARGET_LINK_LAYER_ADDRESS[..], &mac.octets()].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.octets(), requester_mac)
        .ipv6(ip.octets(), requester.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(flags))
        .write_to_vec(&mut frame, &[&ip.octets()[..], &option].concat())?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use overlay_ebpf::wire::{arp, icmpv6, ipv6};

    use super::*;
    use crate::model::Vni;

    const MAC: [u8; 6] = [2, 0x42, 7, 7, 7, 3];

    fn miss(wanted: &str, requester: Option<&str>) -> Miss {
        Miss {
            vni: Vni::try_from(42).unwrap(),
            wanted: Wanted::Ip(wanted.parse().unwrap()),
            ifindex: 7,
            requester_mac: "02:42:07:07:07:02".parse().unwrap(),
            requester_ip: requester.map(|ip| ip.parse().unwrap()),
        }
    }

    fn answer(miss: &Miss) -> Option<Vec<u8>> {
        frame(miss, Mac::try_from(MAC).unwrap())
    }

    #[test]
    fn arp_is_answered_as_the_programs_do() {
        let frame = answer(&miss("7.7.7.3", Some("7.7.7.2"))).unwrap();
        #[rustfmt::skip]
        assert_eq!(frame, [
            2, 0x42, 7, 7, 7, 2,  2, 0x42, 7, 7, 7, 3,  8, 6,
            0, 1,  8, 0,  6, 4,  0, 2,
            2, 0x42, 7, 7, 7, 3,  7, 7, 7, 3,
            2, 0x42, 7, 7, 7, 2,  7, 7, 7, 2,
        ]);
        assert_eq!(frame.len(), 14 + arp::LEN);
    }

    /// What the programs make of a solicitation from this address.
    fn advertised(source: &str) -> (ipv6::Ipv6Hdr, icmpv6::Advertisement) {
        let octets = |ip: &str| ip.parse::<Ipv6Addr>().unwrap().octets();
        let ip = ipv6::Ipv6Hdr {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: [0, 24],
            next_header: ipv6::ICMPV6,
            hop_limit: HOP_LIMIT,
            source: octets(source),
            destination: octets("ff02::1:ff00:3"),
        };
        let message = icmpv6::Solicitation {
            kind: 135,
            code: 0,
            checksum: [0; 2],
            reserved: [0; 4],
            target: octets("fd00::3"),
        };
        icmpv6::advertise(&ip, &message, MAC, false)
    }

    #[test]
    fn neighbour_solicitations_are_answered_as_the_programs_do() {
        for (requester, source) in [(Some("fd00::2"), "fd00::2"), (None, "::")] {
            let frame = answer(&miss("fd00::3", requester)).unwrap();
            let (ip, message) = advertised(source);
            assert_eq!(frame[14..18], ip.version_class_flow);
            assert_eq!(frame[18..20], ip.payload_len);
            assert_eq!(frame[20..22], [ip.next_header, ip.hop_limit]);
            assert_eq!(frame[22..38], ip.source);
            assert_eq!(frame[38..54], ip.destination);
            assert_eq!(frame[54..56], [message.kind, message.code]);
            assert_eq!(frame[56..58], message.checksum);
            assert_eq!(frame[58..62], message.flags);
            assert_eq!(frame[62..78], message.target);
            assert_eq!(frame[78..80], [message.option_kind, message.option_len]);
            assert_eq!(frame[80..], message.mac);
        }
    }

    #[test]
    fn a_new_mac_is_announced_to_all_and_overrides_what_they_remember() {
        let announced = |ip: &str| {
            let mac = Mac::try_from(MAC).unwrap();
            announcement(ip.parse().unwrap(), mac).unwrap()
        };
        #[rustfmt::skip]
        assert_eq!(announced("7.7.7.3"), [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  2, 0x42, 7, 7, 7, 3,  8, 6,
            0, 1,  8, 0,  6, 4,  0, 1,
            2, 0x42, 7, 7, 7, 3,  7, 7, 7, 3,
            0, 0, 0, 0, 0, 0,  7, 7, 7, 3,
        ]);
        let frame = announced("fd00::3");
        assert_eq!(frame[..6], ALL_NODES_MAC);
        assert_eq!(frame[38..54], ALL_NODES.octets());
        // Not solicited, override.
        assert_eq!(frame[58], 0x20);
    }

    #[test]
    fn a_miss_that_asks_for_no_address_gets_no_answer() {
        let wanted = Wanted::Mac("02:42:07:07:07:03".parse().unwrap());
        let miss = Miss {
            wanted,
            ..miss("7.7.7.3", None)
        };
        assert_eq!(answer(&miss), None);
    }
}
