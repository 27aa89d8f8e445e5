//! `underlay_ingress`: what is ours, what is sound, and what comes out of it.

use etherparse::{Ipv4Header, PacketBuilder};
use overlay_ebpf::abi::{DropReason, program::UNDERLAY_INGRESS};

use crate::{
    datapath::{Case, Datapath, Settings},
    frames::{
        BROADCAST, INNER, NEXT_HOP, OUTER_IP, OUTER_UDP, OVERHEAD, THIS_HOST, Tunnel, VXLAN,
        arp_request, ipv4, ipv6, other, padded, patched, tagged, udp4, udp4_of, udp6,
        valid_from_tunnel, with_tcp,
    },
    network::{
        BLUE, BLUE_AGAIN, CYAN, GREEN, MTU, NO_VNI, NOBODY, OTHER_VNI, RED, RED_VTEP, STRANGE_VTEP,
        VIOLET, VTEP, Vtep,
    },
};

fn check(table: &[Case]) {
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, table);
}

fn tunnel() -> Tunnel {
    Tunnel::to_this_host(udp4(&GREEN, &BLUE))
}

/// A tunnel packet out of which this inner frame comes, as it went in.
fn unwrapped(name: &str, inner: Vec<u8>) -> Case {
    let frame = Tunnel::to_this_host(inner.clone()).frame();
    Case::redirect(name, frame, inner)
}

pub(crate) fn decapsulation() -> Vec<Case> {
    let mut table: Vec<Case> = valid_from_tunnel()
        .into_iter()
        .map(|(name, frame)| {
            let inner = frame[OVERHEAD..].to_vec();
            Case::redirect(name, frame, inner)
        })
        .collect();
    let inner = udp4(&GREEN, &BLUE);
    let to_blue = |tunnel: Tunnel| tunnel.frame();
    table.extend([
        unwrapped("for a second address", udp4(&GREEN, &BLUE_AGAIN)),
        unwrapped("for another endpoint of this host", udp6(&GREEN, &CYAN)),
        unwrapped("as long as the MTU", udp4_of(&GREEN, &BLUE, MTU as usize)),
        unwrapped("a unicast ARP request", {
            patched(arp_request(&GREEN, BLUE.ipv4), 0, &BLUE.mac)
        }),
        unwrapped("an ARP request to all", arp_request(&GREEN, BLUE.ipv4)),
        unwrapped("another protocol", other(&GREEN, BLUE.mac, &[0x5a; 46])),
        Case::redirect(
            "from the other VTEP",
            to_blue(Tunnel {
                source: RED_VTEP.ip,
                ..Tunnel::to_this_host(udp4(&RED, &BLUE))
            }),
            udp4(&RED, &BLUE),
        ),
        Case::redirect(
            "of the second tenant",
            to_blue(Tunnel {
                vni: OTHER_VNI,
                ..Tunnel::to_this_host(udp4(&VIOLET, &BLUE))
            }),
            udp4(&VIOLET, &BLUE),
        ),
        Case::redirect(
            "with an outer UDP checksum, which is left unverified",
            patched(tunnel().frame(), OUTER_UDP + 6, &[0xbe, 0xef]),
            inner.clone(),
        ),
        Case::redirect(
            "with padding behind the outer packet",
            padded(tunnel().frame(), INNER + inner.len() + 4),
            padded(inner.clone(), inner.len() + 4),
        ),
    ]);
    for (name, at, bytes) in reserved_bits() {
        let frame = patched(tunnel().frame(), at, bytes);
        table.push(Case::redirect(name, frame, inner.clone()));
    }
    table
}

/// Bits that RFC 7348 says to ignore, among them those that Linux knows as extensions.
fn reserved_bits() -> [(&'static str, usize, &'static [u8]); 5] {
    [
        ("a reserved flag", VXLAN, &[0x0c]),
        ("the group policy flag", VXLAN, &[0x88]),
        ("the remote checksum flag", VXLAN, &[0x08, 0x20]),
        ("a bit of a group policy's identifier", VXLAN + 3, &[0x01]),
        ("a bit behind the VNI", VXLAN + 7, &[0x01]),
    ]
}

/// RFC 6040 section 4.2, figure 4, as Linux has it: the inner field after decapsulation, by outer
/// and inner field; `None`: dropped.
const CONGESTION: [(u8, u8, Option<u8>); 16] = [
    // Outer Not-ECT: the inner field stays.
    (0b00, 0b00, Some(0b00)),
    (0b00, 0b01, Some(0b01)),
    (0b00, 0b10, Some(0b10)),
    (0b00, 0b11, Some(0b11)),
    // Outer ECT(1): shows where the inner field is ECT(0).
    (0b01, 0b00, Some(0b00)),
    (0b01, 0b01, Some(0b01)),
    (0b01, 0b10, Some(0b01)),
    (0b01, 0b11, Some(0b11)),
    // Outer ECT(0): the inner field stays.
    (0b10, 0b00, Some(0b00)),
    (0b10, 0b01, Some(0b01)),
    (0b10, 0b10, Some(0b10)),
    (0b10, 0b11, Some(0b11)),
    // Outer CE: the mark goes over, if the transport can tell.
    (0b11, 0b00, None),
    (0b11, 0b01, Some(0b11)),
    (0b11, 0b10, Some(0b11)),
    (0b11, 0b11, Some(0b11)),
];

/// All inner packets have a DSCP of 46, which stays. What comes out is built from the merged
/// field, header checksum and all.
pub(crate) fn congestion() -> Vec<Case> {
    let mut table = Vec::new();
    for (outer, own, merged) in CONGESTION {
        let build = |version, ecn| {
            let class = (46 << 2) | ecn;
            match version {
                4 => with_tcp(ipv4(&GREEN, &BLUE, class)),
                _ => with_tcp(ipv6(&GREEN, &BLUE, class)),
            }
        };
        for version in [4, 6] {
            let name = format!("IPv{version}, outer {outer:02b}, inner {own:02b}");
            let frame = Tunnel {
                ecn: outer,
                ..Tunnel::to_this_host(build(version, own))
            };
            table.push(match merged {
                Some(merged) => Case::redirect(&name, frame.frame(), build(version, merged)),
                None => Case::drop(&name, frame.frame(), DropReason::EcnNotCapable),
            });
        }
    }
    table
}

pub(crate) fn not_ours() -> Vec<Case> {
    let ours = || tunnel().frame();
    let ip = |protocol: u8| patched(ours(), OUTER_IP + 9, &[protocol]);
    let elsewhere = Vtep {
        ip: [10, 0, 0, 99],
        ..VTEP
    };
    let other_port = Vtep { port: 4790, ..VTEP };
    let mut ipv6 = Vec::new();
    PacketBuilder::ethernet2(NEXT_HOP, THIS_HOST)
        .ipv6(GREEN.ipv6, BLUE.ipv6, 64)
        .udp(50_000, VTEP.port)
        .write_to_vec(&mut ipv6, &ours()[VXLAN..])
        .unwrap();
    let mut table = vec![
        Case::pass(
            "another port",
            Tunnel {
                destination: other_port,
                ..tunnel()
            }
            .frame(),
        ),
        Case::pass(
            "another address",
            Tunnel {
                destination: elsewhere,
                ..tunnel()
            }
            .frame(),
        ),
        Case::pass(
            "another host's frame",
            Tunnel {
                destination_mac: BLUE.mac,
                ..tunnel()
            }
            .frame(),
        ),
        Case::pass(
            "a broadcast",
            Tunnel {
                destination_mac: BROADCAST,
                ..tunnel()
            }
            .frame(),
        ),
        Case::pass("a multicast", patched(ours(), 0, &[0x01, 0, 0x5e, 0, 0, 1])),
        Case::pass("TCP to our port", ip(6)),
        Case::pass("ICMP", ip(1)),
        Case::pass("IPv6 to our port", ipv6),
        Case::pass("ARP", patched(arp_request(&GREEN, VTEP.ip), 0, &THIS_HOST)),
        Case::pass("another protocol", other(&GREEN, THIS_HOST, &[0x5a; 46])),
        Case::pass("a tag", tagged(ours(), 0x8100)),
        Case::pass(
            "a later fragment",
            patched(ours(), OUTER_IP + 6, &[0x00, 0x09]),
        ),
        Case::pass(
            "a middle fragment",
            patched(ours(), OUTER_IP + 6, &[0x20, 0x09]),
        ),
        Case::pass("a first fragment for another port", {
            let frame = Tunnel {
                destination: other_port,
                ..tunnel()
            }
            .frame();
            patched(frame, OUTER_IP + 6, &[0x20, 0])
        }),
        Case::pass("options and another port", with_options(other_port.port)),
    ];
    for len in 14..VXLAN {
        let name = format!("{len} bytes");
        table.push(Case::pass(&name, ours()[..len].to_vec()));
    }
    table
}

/// The frame with the outer header's total length patched, and its checksum right again.
pub(crate) fn with_ip_length(frame: Vec<u8>, len: [u8; 2]) -> Vec<u8> {
    let (mut ip, _) = Ipv4Header::from_slice(&frame[OUTER_IP..]).unwrap();
    ip.total_len = u16::from_be_bytes(len);
    patched(frame, OUTER_IP, &{
        ip.header_checksum = ip.calc_header_checksum();
        ip.to_bytes()
    })
}

/// A tunnel packet with a router alert in its outer header.
fn with_options(port: u16) -> Vec<u8> {
    let frame = tunnel().frame();
    let (mut ip, rest) = Ipv4Header::from_slice(&frame[OUTER_IP..]).unwrap();
    ip.options = [0x94, 4, 0, 0].into();
    ip.total_len += 4;
    ip.header_checksum = ip.calc_header_checksum();
    let rest = patched(rest.to_vec(), 2, &port.to_be_bytes());
    [&frame[..OUTER_IP], &ip.to_bytes(), &rest].concat()
}

/// By the outer headers.
pub(crate) fn outer_refusals() -> Vec<Case> {
    let ours = || tunnel().frame();
    let inner = udp4(&GREEN, &BLUE).len();
    let length = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
    let malformed = |name, frame| Case::drop(name, frame, DropReason::OuterMalformed);
    vec![
        malformed("UDP ends before the inner frame begins", {
            patched(ours(), OUTER_UDP + 4, &length(8 + 8 + 13))
        }),
        malformed("UDP ends behind IP", {
            patched(ours(), OUTER_UDP + 4, &length(8 + 8 + inner + 1))
        }),
        malformed("IP ends behind the frame", {
            with_ip_length(ours(), length(20 + 8 + 8 + inner + 1))
        }),
        malformed("IP ends before UDP", with_ip_length(ours(), length(28))),
        malformed("a wrong header checksum", {
            patched(ours(), OUTER_IP + 10, &[0xab, 0xcd])
        }),
        malformed("a frame that was cut", ours()[..INNER + inner - 1].to_vec()),
        Case::drop(
            "VXLAN without an inner frame",
            ours()[..INNER].to_vec(),
            DropReason::Truncated,
        ),
        Case::drop("options", with_options(VTEP.port), DropReason::OuterOptions),
        Case::drop(
            "the I flag clear",
            patched(ours(), VXLAN, &[0]),
            DropReason::VxlanFlags,
        ),
        Case::drop(
            "all flags but I",
            patched(ours(), VXLAN, &[0xf7]),
            DropReason::VxlanFlags,
        ),
    ]
}

/// By the sender, the network and the inner frame.
pub(crate) fn inner_refusals() -> Vec<Case> {
    let drop = |name, frame: Tunnel, reason| Case::drop(name, frame.frame(), reason);
    let holding = Tunnel::to_this_host;
    vec![
        drop(
            "no VTEP of the registry",
            Tunnel {
                source: STRANGE_VTEP.ip,
                ..tunnel()
            },
            DropReason::VtepUnknown,
        ),
        drop(
            "no network's VNI",
            Tunnel {
                vni: NO_VNI,
                ..tunnel()
            },
            DropReason::VniUnknown,
        ),
        drop(
            "VNI 0",
            Tunnel { vni: 0, ..tunnel() },
            DropReason::VniUnknown,
        ),
        drop(
            "nobody's MAC",
            holding(udp4(&GREEN, &NOBODY)),
            DropReason::DestinationUnknown,
        ),
        drop(
            "another tenant's MAC",
            holding(udp4(&GREEN, &VIOLET)),
            DropReason::DestinationUnknown,
        ),
        drop(
            "a MAC behind a tunnel",
            holding(udp4(&GREEN, &GREEN)),
            DropReason::NotLocal,
        ),
        drop(
            "a MAC behind a tunnel of the second tenant",
            Tunnel {
                vni: OTHER_VNI,
                ..holding(udp4(&VIOLET, &VIOLET))
            },
            DropReason::NotLocal,
        ),
        drop(
            "a broadcast inside",
            holding(patched(udp4(&GREEN, &BLUE), 0, &BROADCAST)),
            DropReason::Multicast,
        ),
        drop(
            "a broadcast of no network",
            Tunnel {
                vni: NO_VNI,
                ..holding(arp_request(&GREEN, BLUE.ipv4))
            },
            DropReason::VniUnknown,
        ),
        drop(
            "an 802.1Q tag inside",
            holding(tagged(udp4(&GREEN, &BLUE), 0x8100)),
            DropReason::InnerVlan,
        ),
        drop(
            "an 802.1ad tag inside",
            holding(tagged(udp4(&GREEN, &BLUE), 0x88a8)),
            DropReason::InnerVlan,
        ),
        drop(
            "no room for the inner IPv4 header",
            holding(udp4(&GREEN, &BLUE)[..33].to_vec()),
            DropReason::Truncated,
        ),
        drop(
            "no room for the inner IPv6 header",
            holding(udp6(&GREEN, &BLUE)[..53].to_vec()),
            DropReason::Truncated,
        ),
    ]
}

/// What is dropped with `--strict-reserved` and carried without.
pub(crate) fn strict() -> Vec<Case> {
    let inner = udp4(&GREEN, &BLUE);
    let mut table = vec![Case::redirect("all clear", tunnel().frame(), inner)];
    for (name, at, bytes) in reserved_bits() {
        let frame = patched(tunnel().frame(), at, bytes);
        table.push(Case::drop(name, frame, DropReason::VxlanReserved));
    }
    table
}

#[test]
fn tunnel_packets_are_unwrapped_into_what_went_in() {
    check(&decapsulation());
}

#[test]
fn kernels_without_the_newer_flags_unwrap_alike() {
    let settings = Settings {
        without_decap_flags: true,
        ..Settings::default()
    };
    let mut datapath = Datapath::load(settings);
    datapath.check(UNDERLAY_INGRESS, &decapsulation());
    datapath.check(UNDERLAY_INGRESS, &congestion());
    datapath.check(UNDERLAY_INGRESS, &outer_refusals());
    datapath.check(UNDERLAY_INGRESS, &inner_refusals());
}

#[test]
fn the_ecn_fields_are_merged_as_rfc_6040_says() {
    check(&congestion());
}

#[test]
fn traffic_that_is_not_ours_passes_untouched() {
    check(&not_ours());
}

#[test]
fn unsound_outer_headers_are_counted_and_dropped() {
    check(&outer_refusals());
}

#[test]
fn what_no_endpoint_here_may_get_is_counted_and_dropped() {
    check(&inner_refusals());
}

#[test]
fn strict_reserved_minds_every_reserved_bit() {
    let settings = Settings {
        strict_reserved: true,
        ..Settings::default()
    };
    Datapath::load(settings).check(UNDERLAY_INGRESS, &strict());
}
