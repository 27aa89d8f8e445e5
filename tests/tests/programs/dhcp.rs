//! Questions to DHCP servers and routers, which the agent answers where the network has it on.

use std::time::Instant;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use bytemuck::Zeroable as _;
use etherparse::{IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, ip_number};
use overlay_ebpf::{
    abi::{
        Counter, DropReason, EndpointEntry, PUNTS, Punt, PuntHeader, RouterPortEntry, map,
        program::ENDPOINT_INGRESS,
    },
    rule::punt::ENDPOINT_LIMIT,
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings, windows},
    frames::{
        ETH, arp_reply, arp_request, echo4, patched, solicitation, source_link_layer_address, udp4,
        udp6, valid_from_endpoint,
    },
    network::{BLUE, CYAN, Endpoint, GREEN, LOOPBACK, VNI, insert},
};

const BROADCAST: [u8; 6] = [0xff; 6];
/// All DHCP servers and relays, and the MAC of that group.
const ALL_SERVERS: ([u8; 16], [u8; 6]) = (
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2],
    [0x33, 0x33, 0, 1, 0, 2],
);
/// All routers, likewise.
const ALL_ROUTERS: ([u8; 16], [u8; 6]) = (
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0x33, 0x33, 0, 0, 0, 2],
);
/// Any link-local address, as clients choose theirs.
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2];
const GATEWAY: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x01, 0x01];

/// A datapath whose network answers DHCP.
fn serving() -> Datapath {
    let mut datapath = Datapath::load(Settings::default());
    set_flags(&mut datapath.ebpf, EndpointEntry::DHCP);
    datapath
}

fn set_flags(ebpf: &mut Ebpf, flags: u16) {
    let map = ebpf.map_mut(map::ENDPOINTS).unwrap();
    let endpoints: HashMap<_, u32, EndpointEntry> = map.try_into().unwrap();
    let entry = endpoints.get(&LOOPBACK, 0).unwrap();
    let entry = EndpointEntry { flags, ..entry };
    insert(ebpf, map::ENDPOINTS, &[(LOOPBACK, entry)]);
}

/// A datagram of DHCPv4 from `from`, which may have no address yet, between these ports.
fn dhcp4(source: [u8; 4], to: ([u8; 4], [u8; 6]), ports: [u16; 2], len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(BLUE.mac, to.1)
        .ipv4(source, to.0, 64)
        .udp(ports[0], ports[1])
        .write_to_vec(&mut frame, &vec![0x5a; len])
        .unwrap();
    frame
}

/// The same of DHCPv6.
fn dhcp6(source: [u8; 16], to: ([u8; 16], [u8; 6]), ports: [u16; 2]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(BLUE.mac, to.1)
        .ipv6(source, to.0, 1)
        .udp(ports[0], ports[1])
        .write_to_vec(&mut frame, &[1; 60])
        .unwrap();
    frame
}

fn router_solicitation(source: [u8; 16]) -> Vec<u8> {
    let mut frame = Vec::new();
    let kind = etherparse::Icmpv6Type::Unknown {
        type_u8: 133,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    PacketBuilder::ethernet2(BLUE.mac, ALL_ROUTERS.1)
        .ipv6(source, ALL_ROUTERS.0, 255)
        .icmpv6(kind)
        .write_to_vec(&mut frame, &[])
        .unwrap();
    frame
}

/// What a client of either family asks, by name.
fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let to_all = ([255; 4], BROADCAST);
    vec![
        ("a DISCOVER", dhcp4([0; 4], to_all, [68, 67], 300)),
        ("a REBINDING", dhcp4(BLUE.ipv4, to_all, [68, 67], 300)),
        (
            "a RENEWING",
            dhcp4(BLUE.ipv4, ([7, 7, 7, 1], MAC), [68, 67], 300),
        ),
        (
            "a RENEWING of what it has no more",
            dhcp4([9, 9, 9, 9], ([7, 7, 7, 1], MAC), [68, 67], 300),
        ),
        (
            "the longest",
            dhcp4([0; 4], to_all, [68, 67], Punt::LONGEST - ETH - 28),
        ),
        ("a Solicit", dhcp6(LINK_LOCAL, ALL_SERVERS, [546, 547])),
        ("a router solicitation", router_solicitation(LINK_LOCAL)),
        ("one without an address", router_solicitation([0; 16])),
    ]
}

/// What was handed over since the last call.
fn handed(ring: &mut RingBuf<MapData>) -> Vec<(PuntHeader, Vec<u8>)> {
    std::iter::from_fn(|| {
        let record = ring.next()?;
        let (header, frame) = record.split_at(size_of::<PuntHeader>());
        let header: PuntHeader = bytemuck::pod_read_unaligned(header);
        Some((header, frame[..usize::from(header.len)].to_vec()))
    })
    .collect()
}

fn ring(datapath: &mut Datapath) -> RingBuf<MapData> {
    datapath.ebpf.take_map(PUNTS).unwrap().try_into().unwrap()
}

#[test]
fn questions_are_handed_to_the_agent_as_they_are() {
    let mut datapath = serving();
    let mut ring = ring(&mut datapath);
    for (name, frame) in questions() {
        let case = Case::new(name, frame.clone(), Outcome::Consume);
        datapath.check(ENDPOINT_INGRESS, &[case]);
        let header = PuntHeader {
            ifindex: LOOPBACK,
            vni: VNI,
            mac: BLUE.mac,
            len: frame.len().try_into().unwrap(),
        };
        assert!(handed(&mut ring) == [(header, frame)], "{name}");
    }
    let asked = u64::try_from(questions().len()).unwrap();
    assert_eq!(datapath.counter(Counter::PuntsRaised), asked);
}

#[test]
fn where_dhcp_is_off_everything_is_as_it_was() {
    let mut datapath = Datapath::load(Settings::default());
    // Other bits mean other things.
    set_flags(&mut datapath.ebpf, !EndpointEntry::DHCP);
    let mut ring = ring(&mut datapath);
    let mut table = Vec::new();
    for (name, frame) in questions() {
        let reason = match name {
            "a router solicitation" | "one without an address" => DropReason::RouterSolicitation,
            "a RENEWING" => DropReason::DestinationUnknown,
            "a RENEWING of what it has no more" | "a Solicit" => DropReason::SourceIp,
            _ => DropReason::Multicast,
        };
        table.push(Case::drop(name, frame, reason));
    }
    datapath.check(ENDPOINT_INGRESS, &table);
    assert!(handed(&mut ring).is_empty());
    assert_eq!(datapath.counter(Counter::PuntsRaised), 0);
}

/// Answers of a server's, in shapes that a client takes.
pub(crate) fn servers() -> Vec<Case> {
    let to_cyan = (CYAN.ipv4, CYAN.mac);
    let answer = dhcp4(BLUE.ipv4, to_cyan, [67, 68], 300);
    let mut ip = Ipv4Header::new(0, 64, ip_number::UDP, BLUE.ipv4, CYAN.ipv4).unwrap();
    ip.options = [0x94, 4, 0, 0].into();
    let mut with_options = Vec::new();
    PacketBuilder::ethernet2(BLUE.mac, CYAN.mac)
        .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .udp(67, 68)
        .write_to_vec(&mut with_options, &[0; 300])
        .unwrap();
    // More fragments follow.
    let first = patched(answer.clone(), ETH + 6, &[0x20, 0]);
    [
        ("DHCPv4", answer),
        ("DHCPv4 behind options", with_options),
        ("DHCPv4 in a first fragment", first),
        (
            "DHCPv6",
            dhcp6(BLUE.ipv6, (CYAN.ipv6, CYAN.mac), [547, 546]),
        ),
    ]
    .into_iter()
    .map(|(name, frame)| Case::drop(name, frame, DropReason::DhcpServer))
    .collect()
}

#[test]
fn an_endpoint_does_not_answer_dhcp_where_its_network_does() {
    serving().check(ENDPOINT_INGRESS, &servers());
    let mut datapath = Datapath::load(Settings::default());
    for case in servers() {
        let outcome = datapath.run(ENDPOINT_INGRESS, &case.frame, 0).unwrap();
        assert!(
            matches!(outcome, Outcome::Redirect(_)),
            "{}: {outcome}",
            case.name
        );
    }
}

/// Longer than the agent reads.
pub(crate) fn too_long() -> Case {
    let len = Punt::LONGEST - ETH - 28 + 1;
    let frame = dhcp4([0; 4], ([255; 4], BROADCAST), [68, 67], len);
    Case::drop("too long", frame, DropReason::PuntTooLong)
}

#[test]
fn what_is_longer_than_any_question_is_dropped() {
    serving().check(ENDPOINT_INGRESS, &[too_long()]);
}

#[test]
fn all_else_that_an_endpoint_sends_is_not_looked_at() {
    let (mut off, mut on) = (Datapath::load(Settings::default()), serving());
    let mut frames = valid_from_endpoint();
    frames.push(("ping", echo4(&BLUE, &GREEN)));
    frames.push((
        "UDP to the server's port",
        with_port(udp4(&BLUE, &GREEN), 67),
    ));
    frames.push(("the same of IPv6", with_port6(udp6(&BLUE, &GREEN), 547)));
    for (name, frame) in frames {
        let expected = off.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        let outcome = on.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        assert!(outcome == expected, "{name}: {outcome}, not {expected}");
    }
    assert_eq!(on.counter(Counter::PuntsRaised), 0);
}

fn with_port(frame: Vec<u8>, port: u16) -> Vec<u8> {
    patched(frame, ETH + 20 + 2, &port.to_be_bytes())
}

fn with_port6(frame: Vec<u8>, port: u16) -> Vec<u8> {
    patched(frame, ETH + 40 + 2, &port.to_be_bytes())
}

#[test]
fn an_endpoint_that_floods_is_heard_ten_times_a_second() {
    let mut datapath = serving();
    let mut ring = ring(&mut datapath);
    let (_, frame) = questions().remove(0);
    let begun = Instant::now();
    let (mut heard, mut limited) = (0, 0);
    for _ in 0..20 * ENDPOINT_LIMIT {
        match datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap() {
            Outcome::Consume => heard += 1,
            Outcome::Drop(DropReason::PuntLimited) => limited += 1,
            outcome => panic!("{outcome}"),
        }
        handed(&mut ring);
    }
    let most = ENDPOINT_LIMIT * windows(begun);
    assert!((ENDPOINT_LIMIT..=most).contains(&heard), "{heard}");
    assert!(limited > 0);
}

#[test]
fn a_question_that_finds_the_ring_full_is_lost_and_counted() {
    let mut datapath = serving();
    let mut ring = ring(&mut datapath);
    let (_, frame) = questions().remove(0);
    let outcomes: Vec<_> = (0..8)
        .map(|_| datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap())
        .collect();
    assert!(outcomes[0] == Outcome::Consume && outcomes[1] == Outcome::Consume);
    let last = &outcomes[7];
    assert!(*last == Outcome::Drop(DropReason::PuntLost), "{last}");
    assert!(!handed(&mut ring).is_empty());
    let again = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    assert!(again == Outcome::Consume, "{again}");
}

#[test]
fn without_a_router_the_servers_addresses_are_answered_for_and_nothing_else() {
    let mut datapath = serving();
    let server = Endpoint {
        mac: MAC,
        ipv4: [7, 7, 7, 1],
        ipv6: GATEWAY,
    };
    let table = [Case::drop(
        "ARP",
        arp_request(&BLUE, server.ipv4),
        DropReason::NeighborUnknown,
    )];
    datapath.check(ENDPOINT_INGRESS, &table);
    let port = RouterPortEntry {
        ipv4: server.ipv4,
        mac: MAC,
        ..RouterPortEntry::zeroed()
    };
    insert(&mut datapath.ebpf, map::ROUTER_PORTS, &[(VNI, port)]);
    let table = [
        Case::redirect(
            "ARP",
            arp_request(&BLUE, server.ipv4),
            arp_reply(&server, &BLUE),
        ),
        Case::drop(
            "ARP for another",
            arp_request(&BLUE, [7, 7, 7, 250]),
            DropReason::NeighborUnknown,
        ),
        Case::drop(
            "a packet to it",
            udp4(&BLUE, &server),
            DropReason::DestinationUnknown,
        ),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
    let option = source_link_layer_address(BLUE.mac);
    let frame = solicitation(BLUE.mac, BLUE.ipv6, GATEWAY, &option);
    let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    let Outcome::Redirect(answer) = outcome else {
        panic!("{outcome}");
    };
    let message = &answer[ETH + 40..];
    assert_eq!((message[0], &message[8..24]), (136, &GATEWAY[..]));
    assert_eq!(message[26..32], MAC);
}
