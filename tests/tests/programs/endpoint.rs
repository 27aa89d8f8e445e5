//! `endpoint_ingress`: source checks, delivery on this host, encapsulation.

use overlay_ebpf::abi::{DropReason, program::ENDPOINT_INGRESS};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings},
    frames::{
        BROADCAST, Tunnel, behind_extension, echo4, echo6, fragment4, ipv4, ipv6, options4, other,
        patched, source_port, tagged, too_big, udp4, udp4_of, udp6, udp6_of, with_tcp, with_udp,
    },
    network::{
        BLUE, BLUE_AGAIN, CYAN, Endpoint, FAR, GATEWAY, GREEN, GREEN_VTEP, MTU, NOBODY, RED,
        RED_VTEP, VIOLET, Vtep,
    },
};

fn check(table: &[Case]) {
    Datapath::load(Settings::default()).check(ENDPOINT_INGRESS, table);
}

/// A frame that goes into a tunnel to green's host. Its flow shows ports, or only addresses.
pub(crate) fn encapsulated(name: &str, inner: Vec<u8>, has_ports: bool) -> Case {
    encapsulated_to(GREEN_VTEP, name, inner, has_ports)
}

fn encapsulated_to(vtep: Vtep, name: &str, inner: Vec<u8>, has_ports: bool) -> Case {
    let source_port = source_port(&inner, has_ports);
    let outer = Tunnel::from_this_host(&inner, vtep, source_port).frame();
    Case::redirect(name, inner, outer)
}

/// A frame that goes to an endpoint of this host as it is.
fn delivered(name: &str, frame: Vec<u8>) -> Case {
    Case::redirect(name, frame.clone(), frame)
}

/// A frame of blue's that is too long, and of which blue is told so.
fn told(name: &str, to: &Endpoint, frame: Vec<u8>) -> Case {
    let mtu = u16::try_from(MTU).unwrap();
    let answer = too_big(&BLUE, to, &frame, mtu);
    Case::redirect(name, frame, answer)
}

pub(crate) fn encapsulation() -> Vec<Case> {
    vec![
        encapsulated("UDP over IPv4", udp4(&BLUE, &GREEN), true),
        encapsulated("TCP over IPv4", with_tcp(ipv4(&BLUE, &GREEN, 0)), true),
        encapsulated("ICMP", echo4(&BLUE, &GREEN), false),
        encapsulated("UDP over IPv6", udp6(&BLUE, &GREEN), true),
        encapsulated("TCP over IPv6", with_tcp(ipv6(&BLUE, &GREEN, 0)), true),
        encapsulated("ICMPv6", echo6(&BLUE, &GREEN), false),
        encapsulated("ports behind IPv4 options", options4(&BLUE, &GREEN), false),
        encapsulated("a first fragment", fragment4(&BLUE, &GREEN, 0, true), false),
        encapsulated("a last fragment", fragment4(&BLUE, &GREEN, 9, false), false),
        encapsulated(
            "IPv6 that stays on the link, behind hop-by-hop options",
            behind_extension(udp6(&BLUE, &GREEN), 0),
            false,
        ),
        encapsulated(
            "a first fragment of IPv6 that stays on the link",
            behind_extension(udp6(&BLUE, &GREEN), 44),
            false,
        ),
        encapsulated(
            "a last fragment of it, whatever its bytes look like",
            patched(
                behind_extension(udp6(&BLUE, &GREEN), 44),
                54,
                &[58, 0, 1, 0],
            ),
            false,
        ),
        encapsulated(
            "an empty datagram",
            with_udp(ipv4(&BLUE, &GREEN, 0), &[]),
            true,
        ),
        encapsulated_to(
            RED_VTEP,
            "a VTEP with its own port",
            udp4(&BLUE, &RED),
            true,
        ),
    ]
}

/// Only the ECN bits of the inner type of service or traffic class show outside (RFC 6040): here
/// all with a DSCP of 46 inside.
pub(crate) fn congestion() -> Vec<Case> {
    let mut table = Vec::new();
    for (name, inner, outer) in [
        ("Not-ECT", 0b00, 0b00),
        ("ECT(1)", 0b01, 0b01),
        ("ECT(0)", 0b10, 0b10),
        // The mark is not counted again: INET_ECN_encapsulate.
        ("CE", 0b11, 0b10),
    ] {
        let class = (46 << 2) | inner;
        for (version, frame) in [
            (4, with_tcp(ipv4(&BLUE, &GREEN, class))),
            (6, with_tcp(ipv6(&BLUE, &GREEN, class))),
        ] {
            let port = source_port(&frame, true);
            let tunnel = Tunnel {
                ecn: outer,
                ..Tunnel::from_this_host(&frame, GREEN_VTEP, port)
            };
            let name = format!("{name} in IPv{version}");
            table.push(Case::redirect(&name, frame, tunnel.frame()));
        }
    }
    table
}

pub(crate) fn local_delivery() -> Vec<Case> {
    vec![
        delivered("UDP over IPv4", udp4(&BLUE, &CYAN)),
        delivered("UDP over IPv6", udp6(&BLUE, &CYAN)),
        delivered("as long as the MTU", udp4_of(&BLUE, &CYAN, MTU as usize)),
        told(
            "longer than the MTU",
            &CYAN,
            udp4_of(&BLUE, &CYAN, MTU as usize + 1),
        ),
    ]
}

/// The endpoint's entry names one address of each family; the neighbour table knows the others.
pub(crate) fn sources() -> Vec<Case> {
    let named = |name, frame| Case::drop(name, frame, DropReason::SourceIp);
    vec![
        encapsulated("its second IPv4 address", udp4(&BLUE_AGAIN, &GREEN), true),
        encapsulated("its second IPv6 address", udp6(&BLUE_AGAIN, &GREEN), true),
        delivered(
            "its second IPv4 address, on this host",
            udp4(&BLUE_AGAIN, &CYAN),
        ),
        named(
            "another's IPv4 address",
            patched(udp4(&BLUE, &GREEN), 26, &CYAN.ipv4),
        ),
        named(
            "another's IPv6 address",
            patched(udp6(&BLUE, &GREEN), 22, &CYAN.ipv6),
        ),
        named(
            "nobody's IPv4 address",
            patched(udp4(&BLUE, &GREEN), 26, &NOBODY.ipv4),
        ),
        named(
            "nobody's IPv6 address",
            patched(udp6(&BLUE, &GREEN), 22, &NOBODY.ipv6),
        ),
        named(
            "another tenant's address",
            patched(udp4(&BLUE, &GREEN), 26, &VIOLET.ipv4),
        ),
        named("no IPv4 address", patched(udp4(&BLUE, &GREEN), 26, &[0; 4])),
        named(
            "no IPv6 address",
            patched(udp6(&BLUE, &GREEN), 22, &[0; 16]),
        ),
        Case::drop("another's MAC", udp4(&CYAN, &GREEN), DropReason::SourceMac),
        Case::drop(
            "a group's MAC",
            patched(udp4(&BLUE, &GREEN), 6, &BROADCAST),
            DropReason::SourceMac,
        ),
    ]
}

pub(crate) fn refusals() -> Vec<Case> {
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    vec![
        Case::drop(
            "IPv4 broadcast",
            patched(udp4(&BLUE, &GREEN), 0, &BROADCAST),
            DropReason::Multicast,
        ),
        Case::drop(
            "a DHCP client's broadcast without an address",
            patched(patched(udp4(&BLUE, &GREEN), 0, &BROADCAST), 26, &[0; 4]),
            DropReason::Multicast,
        ),
        Case::drop(
            "IPv6 multicast",
            patched(udp6(&BLUE, &GREEN), 0, &all_nodes),
            DropReason::Multicast,
        ),
        Case::drop(
            "multicast of another protocol",
            other(&BLUE, [0x01, 0x80, 0xc2, 0, 0, 0x0e], &[0; 46]),
            DropReason::Multicast,
        ),
        Case::drop(
            "another protocol",
            other(&BLUE, GREEN.mac, &[0; 46]),
            DropReason::EtherType,
        ),
        Case::drop(
            "a tag within a frame",
            tagged(udp4(&BLUE, &GREEN), 0x8100),
            DropReason::EtherType,
        ),
        Case::drop(
            "nobody's MAC",
            udp4(&BLUE, &NOBODY),
            DropReason::DestinationUnknown,
        ),
        Case::drop(
            "another tenant's MAC",
            udp4(&BLUE, &VIOLET),
            DropReason::DestinationUnknown,
        ),
        Case::drop(
            "a gateway's MAC",
            udp4(&BLUE, &GATEWAY),
            DropReason::DestinationUnknown,
        ),
        Case::drop(
            "behind a VTEP of the other family",
            udp4(&BLUE, &FAR),
            DropReason::VtepUnreachable,
        ),
        Case::drop(
            "no room for an IPv4 header",
            udp4(&BLUE, &GREEN)[..33].to_vec(),
            DropReason::Truncated,
        ),
        Case::drop(
            "no room for an IPv6 header",
            udp6(&BLUE, &GREEN)[..53].to_vec(),
            DropReason::Truncated,
        ),
    ]
}

/// The MTU counts from the IP header; an aggregate is as long as its segments.
pub(crate) fn sizes() -> Vec<Case> {
    let mtu = MTU as usize;
    let lost = |name, frame| Case::drop(name, frame, DropReason::TooBig);
    vec![
        encapsulated("IPv4 as long as the MTU", udp4_of(&BLUE, &GREEN, mtu), true),
        encapsulated("IPv6 as long as the MTU", udp6_of(&BLUE, &GREEN, mtu), true),
        told(
            "IPv4 a byte longer",
            &GREEN,
            udp4_of(&BLUE, &GREEN, mtu + 1),
        ),
        told(
            "IPv6 a byte longer",
            &GREEN,
            udp6_of(&BLUE, &GREEN, mtu + 1),
        ),
        lost("a byte longer, and to be fragmented", {
            let frame = udp4_of(&BLUE, &GREEN, mtu + 1);
            patched(frame, 20, &[0])
        }),
        lost("an error a byte longer", {
            // ICMP: time exceeded.
            patched(
                patched(udp4_of(&BLUE, &GREEN, mtu + 1), 23, &[1]),
                34,
                &[11],
            )
        }),
        delivered(
            "segments that fit, on this host",
            udp4_of(&BLUE, &CYAN, mtu + 300),
        )
        .of_segments(MTU - 28),
        lost("IPv4 segments that don't fit", udp4(&BLUE, &GREEN)).of_segments(MTU - 27),
        lost("IPv6 segments that don't fit", udp6(&BLUE, &GREEN)).of_segments(MTU - 47),
        delivered(
            "segments of a kind that the programs can't encapsulate, to the VXLAN device",
            udp4_of(&BLUE, &GREEN, mtu),
        )
        .of_segments(1000),
    ]
}

/// What [`strangers_frames_are_dropped`] runs: without any endpoint in the maps.
pub(crate) fn strangers() -> Vec<Case> {
    crate::frames::valid_from_endpoint()
        .into_iter()
        .map(|(name, frame)| Case::drop(name, frame, DropReason::EndpointUnknown))
        .collect()
}

#[test]
fn frames_for_another_host_are_wrapped_as_rfc_7348_says() {
    check(&encapsulation());
}

/// Whether programs or kernel find the next hop shows in no byte: the kernel writes the outer Ethernet addresses later.
#[test]
fn next_hops_that_the_agent_vouches_for_wrap_alike() {
    let mut datapath = Datapath::load(Settings::default());
    datapath.hold_lease();
    datapath.check(ENDPOINT_INGRESS, &encapsulation());
    datapath.check(ENDPOINT_INGRESS, &sizes());
}

#[test]
fn the_outer_header_copies_the_ecn_field_and_nothing_else() {
    check(&congestion());
}

#[test]
fn frames_for_this_host_are_handed_over_as_they_are() {
    check(&local_delivery());
}

#[test]
fn an_endpoint_sends_from_its_own_addresses_only() {
    check(&sources());
}

#[test]
fn what_the_network_does_not_carry_is_counted_and_dropped() {
    check(&refusals());
}

#[test]
fn packets_and_segments_up_to_the_mtu_are_carried() {
    check(&sizes());
}

#[test]
fn strangers_frames_are_dropped() {
    let settings = Settings {
        without_network: true,
        ..Settings::default()
    };
    Datapath::load(settings).check(ENDPOINT_INGRESS, &strangers());
}

/// One packet written out, so that it can be held against the RFCs by eye.
#[test]
fn a_wrapped_ping_reads_byte_for_byte_so() {
    let ping = echo4(&BLUE, &GREEN);
    let outcome = Datapath::load(Settings::default()).run(ENDPOINT_INGRESS, &ping, 0);
    let Ok(Outcome::Redirect(wrapped)) = outcome else {
        panic!("not redirected");
    };
    #[rustfmt::skip]
    let expected_headers = [
        // Ethernet: the inner addresses, for the kernel to write over; IPv4.
        0x02, 0x42, 0x07, 0x07, 0x07, 0x03,  0x02, 0x42, 0x07, 0x07, 0x07, 0x02,  0x08, 0x00,
        // IPv4: no options, 110 bytes, DF, TTL 64, UDP, checksum, 10.0.0.1 -> 10.0.0.2.
        0x45, 0x00, 0x00, 0x6e,  0x00, 0x00, 0x40, 0x00,  0x40, 0x11, 0x26, 0x7d,
        0x0a, 0x00, 0x00, 0x01,  0x0a, 0x00, 0x00, 0x02,
        // UDP: source port by flow, 4789, 90 bytes, no checksum.
        wrapped[34], wrapped[35],  0x12, 0xb5,  0x00, 0x5a,  0x00, 0x00,
        // VXLAN: I flag, VNI 42.
        0x08, 0x00, 0x00, 0x00,  0x00, 0x00, 0x2a, 0x00,
    ];
    assert_eq!(wrapped[..50], expected_headers);
    assert_eq!(wrapped[50..], ping);
    assert!(u16::from_be_bytes([wrapped[34], wrapped[35]]) >= 49152);
}
