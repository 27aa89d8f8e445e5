//! Frames to groups: what a link that comes up brings is told apart from what somebody misses.

use etherparse::{Icmpv6Type, PacketBuilder};
use overlay_ebpf::abi::{
    DropReason,
    program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Case, Datapath, Settings},
    frames::{Tunnel, advertisement, arp_request, behind_extension, ipv4, patched, solicitation},
    network::{BLUE, Endpoint, GREEN, NOBODY},
};

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The MAC of a group of IPv6, and of one of IPv4.
const GROUP_6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x16];
const GROUP_4: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x16];
/// Where IPv4 has its protocol.
const PROTOCOL: usize = 14 + 9;
/// Where each family has its source address.
const SOURCE_4: usize = 14 + 12;
const SOURCE_6: usize = 14 + 8;

/// An `ICMPv6` message of this type from `from` to a group.
fn icmpv6(from: &Endpoint, kind: u8) -> Vec<u8> {
    let kind = Icmpv6Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, GROUP_6)
        .ipv6(from.ipv6, ALL_NODES, 1)
        .icmpv6(kind)
        .write_to_vec(&mut frame, &[0; 20])
        .unwrap();
    frame
}

fn datagram(from: &Endpoint) -> Vec<u8> {
    let frame = crate::frames::with_udp(ipv4(from, &NOBODY, 0), b"mDNS");
    patched(frame, 0, &GROUP_4)
}

/// What `from` may send to groups, and the reason for which it goes no further.
fn frames(from: &Endpoint) -> Vec<(String, Vec<u8>, DropReason)> {
    let mut frames = vec![
        ("mDNS".to_owned(), datagram(from), DropReason::Multicast),
        (
            "a ping of all nodes".to_owned(),
            icmpv6(from, 128),
            DropReason::Multicast,
        ),
        (
            "IGMP".to_owned(),
            patched(datagram(from), PROTOCOL, &[2]),
            DropReason::MulticastMembership,
        ),
        (
            "a router solicitation".to_owned(),
            icmpv6(from, 133),
            DropReason::RouterSolicitation,
        ),
    ];
    for kind in [130, 131, 132, 143] {
        let message = icmpv6(from, kind);
        for (how, frame) in [
            ("plain", message.clone()),
            ("behind a router alert", behind_extension(message, 0)),
        ] {
            let name = format!("MLD {kind}, {how}");
            frames.push((name, frame, DropReason::MulticastMembership));
        }
    }
    frames.push((
        "a ping behind a router alert".to_owned(),
        behind_extension(icmpv6(from, 128), 0),
        DropReason::Multicast,
    ));
    frames
}

/// What blue sends to groups from addresses that are not blue's, or from none.
fn sources() -> Vec<(String, Vec<u8>, DropReason)> {
    let from_ipv4 = |frame, ip: [u8; 4]| patched(frame, SOURCE_4, &ip);
    let from_ipv6 = |frame, ip: [u8; 16]| patched(frame, SOURCE_6, &ip);
    let link_local = |mac: [u8; 6]| {
        let [first, second, third, last @ ..] = mac;
        let mut ip = [0; 16];
        ip[..2].copy_from_slice(&[0xfe, 0x80]);
        ip[8..13].copy_from_slice(&[first ^ 2, second, third, 0xff, 0xfe]);
        ip[13..].copy_from_slice(&last);
        ip
    };
    let igmp = patched(datagram(&BLUE), PROTOCOL, &[2]);
    let (ping, mld) = (icmpv6(&BLUE, 128), icmpv6(&BLUE, 143));
    let own = link_local(BLUE.mac);
    let others = link_local(GREEN.mac);
    let frames = [
        (
            "from another's IPv4 address",
            from_ipv4(datagram(&BLUE), GREEN.ipv4),
            DropReason::SourceIp,
        ),
        (
            "from no IPv4 address",
            from_ipv4(datagram(&BLUE), [0; 4]),
            DropReason::Multicast,
        ),
        (
            "IGMP from another's address",
            from_ipv4(igmp, GREEN.ipv4),
            DropReason::MulticastMembership,
        ),
        (
            "from another's IPv6 address",
            from_ipv6(ping.clone(), GREEN.ipv6),
            DropReason::SourceIp,
        ),
        (
            "from no IPv6 address",
            from_ipv6(ping.clone(), [0; 16]),
            DropReason::Multicast,
        ),
        (
            "from the MAC's link-local address",
            from_ipv6(ping.clone(), own),
            DropReason::Multicast,
        ),
        (
            "from another's link-local address",
            from_ipv6(ping, others),
            DropReason::SourceIp,
        ),
        (
            "MLD from another's link-local address",
            from_ipv6(mld, others),
            DropReason::MulticastMembership,
        ),
    ];
    let owned = |(name, frame, reason): (&str, _, _)| (name.to_owned(), frame, reason);
    frames.map(owned).into()
}

pub(crate) fn from_endpoint() -> Vec<Case> {
    let frames = frames(&BLUE).into_iter().chain(sources());
    frames
        .map(|(name, frame, reason)| Case::drop(&name, frame, reason))
        .collect()
}

pub(crate) fn from_tunnel() -> Vec<Case> {
    let announced = patched(arp_request(&GREEN, GREEN.ipv4), 0, &[0xff; 6]);
    let probed = patched(arp_request(&GREEN, NOBODY.ipv4), 28, &[0; 4]);
    let more = [
        ("an ARP announcement", announced, DropReason::ArpGratuitous),
        ("an ARP probe", probed, DropReason::ArpGratuitous),
        (
            "an ARP request for nobody's address",
            arp_request(&GREEN, NOBODY.ipv4),
            DropReason::Multicast,
        ),
        (
            "an advertisement to all",
            advertisement(&GREEN, GROUP_6, ALL_NODES, false),
            DropReason::NdUnsolicited,
        ),
        (
            "duplicate address detection",
            solicitation(GREEN.mac, [0; 16], NOBODY.ipv6, &[]),
            DropReason::NdDetection,
        ),
        (
            "a solicitation for nobody's address",
            solicitation(GREEN.mac, GREEN.ipv6, NOBODY.ipv6, &[]),
            DropReason::Multicast,
        ),
    ];
    let more = more.map(|(name, frame, reason)| (name.to_owned(), frame, reason));
    let frames = frames(&GREEN).into_iter().chain(more);
    frames
        .map(|(name, frame, reason)| Case::drop(&name, Tunnel::to_this_host(frame).frame(), reason))
        .collect()
}

#[test]
fn what_an_endpoint_sends_to_groups_is_noise_forged_or_lost() {
    Datapath::load(Settings::default()).check(ENDPOINT_INGRESS, &from_endpoint());
}

#[test]
fn what_another_hosts_links_bring_is_noise_too() {
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, &from_tunnel());
}
