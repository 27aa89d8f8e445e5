//! Packets between endpoints and the outside: floats, SNAT, and what is translated with them.
//!
//! ```text
//!  VNI 42: BLUE 7.7.7.2, a block of 64 ports of 192.0.2.7     uplink: this host's only device
//!          CYAN 7.7.7.4, float 192.0.2.4                      outside: PEER 198.51.100.9
//!          GREEN 7.7.7.3, behind a tunnel, float 192.0.2.3
//! ```

use std::collections::BTreeSet;

use aya::{
    maps::{Array, HashMap, MapData},
    programs::{TestRun as _, TestRunOptions},
};
use bytemuck::Zeroable as _;
use etherparse::{
    Icmpv4Type, IpFragOffset, IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpHeader,
    UdpHeader, icmpv4::DestUnreachableHeader, ip_number,
};
use overlay_ebpf::{
    abi::{
        BlockEntry, BlockKey, Counter, DropReason, FloatEntry, FloatKey, FlowEntry, FlowKey,
        MappingEntry, MappingKey, NatBlock, NatChain, NatPort, OutsideEntry, OutsideKey,
        RouteEntry, RouteKey, Sweep, UplinkEntry, map,
        program::{ENDPOINT_INGRESS, NAT_SWEEP, UNDERLAY_INGRESS, UPLINK_INGRESS},
    },
    rule::nptv6,
    wire::ipv6,
};

use crate::{
    datapath::{Case, Datapath, Outcome, classifier},
    frames::{ETH, Tunnel, arp_reply, arp_request, patched, source_port, udp6},
    network::{BLUE, CYAN, Endpoint, GREEN, GREEN_VTEP, LOOPBACK, VNI, id_of, insert, mapped},
    router::{self, GATEWAY, ROUTER, by_gateway, error4},
};

mod full;
mod rfc;

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// The next router of the uplink, as frames come from it.
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// Somebody outside.
pub(crate) const PEER: Endpoint = outside([198, 51, 100, 9]);
/// Somebody else outside.
const STRANGER: Endpoint = outside([198, 51, 100, 66]);
/// The address that endpoints share.
const SHARED: Endpoint = outside([192, 0, 2, 7]);
const CYANS: Endpoint = outside([192, 0, 2, 4]);
const GREENS: Endpoint = outside([192, 0, 2, 3]);

const BLOCK_PORTS: u16 = 64;
const BLOCK_NUMBER: u16 = 40;
const FIRST_PORT: u16 = BLOCK_NUMBER * BLOCK_PORTS;

const fn outside(ipv4: [u8; 4]) -> Endpoint {
    Endpoint {
        mac: NEXT_HOP,
        ipv4,
        ipv6: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ipv4[3]],
    }
}

/// What comes from outside is addressed to the uplink, whose MAC the programs do not mind.
fn by_uplink(to: Endpoint) -> Endpoint {
    // The harness's device has no MAC of its own: what is for it has all zeros.
    Endpoint { mac: [0; 6], ..to }
}

fn connected() -> Datapath {
    let mut datapath = router::joined();
    connect(&mut datapath);
    datapath
}

/// Gives the router of [`router::join`] a way out, and endpoints what they have outside.
pub(crate) fn connect(datapath: &mut Datapath) {
    let ebpf = &mut datapath.ebpf;
    let mut uplink: Array<_, UplinkEntry> = ebpf.map_mut(map::UPLINK).unwrap().try_into().unwrap();
    let entry = UplinkEntry {
        ifindex: LOOPBACK,
        mtu: 1500,
        mac: UPLINK_MAC,
        ..UplinkEntry::zeroed()
    };
    uplink.set(0, entry, 0).unwrap();
    let default = RouteEntry::OUTSIDE;
    router::add_route_of(ebpf, ROUTER, mapped([0; 4]), 96, default, 0);
    router::add_route_of(ebpf, ROUTER, [0; 16], 0, default, 0);
    for (endpoint, external) in [(CYAN, CYANS), (GREEN, GREENS)] {
        let key = FloatKey {
            vni: VNI,
            ip: endpoint.ipv4,
        };
        let entry = FloatEntry {
            external: external.ipv4,
        };
        insert(ebpf, map::FLOATS, &[(key, entry)]);
        let key = OutsideKey { ip: external.ipv4 };
        let entry = OutsideEntry {
            vni: VNI,
            ip: endpoint.ipv4,
            kind: OutsideEntry::FLOAT,
            block_bits: 0,
            reserved: 0,
        };
        insert(ebpf, map::OUTSIDE, &[(key, entry)]);
    }
    share(datapath, OutsideEntry::SHARED, 0);
}

/// Gives blue a block of ports of an address of this kind.
fn share(datapath: &mut Datapath, kind: u8, flags: u8) {
    let ebpf = &mut datapath.ebpf;
    let key = OutsideKey { ip: SHARED.ipv4 };
    let entry = OutsideEntry {
        kind,
        block_bits: 6,
        ..OutsideEntry::zeroed()
    };
    insert(ebpf, map::OUTSIDE, &[(key, entry)]);
    let key = BlockKey {
        ip: SHARED.ipv4,
        number: BLOCK_NUMBER,
        reserved: 0,
    };
    let entry = BlockEntry {
        slot: 3,
        ifindex: LOOPBACK,
        vni: VNI,
        ports: BLOCK_PORTS,
        index: 0,
        flags,
    };
    insert(ebpf, map::BLOCKS, &[(key, entry)]);
    let mut blocks: Array<_, NatBlock> = ebpf.map_mut(map::NAT_BLOCKS).unwrap().try_into().unwrap();
    let block = NatBlock {
        ip: SHARED.ipv4,
        first_port: FIRST_PORT,
        ports: BLOCK_PORTS,
        endpoint: id_of(LOOPBACK).into(),
        vni: VNI,
        flags: flags.into(),
        ..NatBlock::zeroed()
    };
    blocks.set(3, block, 0).unwrap();
    let mut chains: Array<_, NatChain> = ebpf.map_mut(map::NAT_CHAINS).unwrap().try_into().unwrap();
    let chain = NatChain {
        blocks: [4, 0, 0, 0, 0, 0, 0, 0],
    };
    chains.set(id_of(LOOPBACK).into(), chain, 0).unwrap();
}

fn block(datapath: &mut Datapath) -> NatBlock {
    let map = datapath.ebpf.map_mut(map::NAT_BLOCKS).unwrap();
    let blocks: Array<_, NatBlock> = map.try_into().unwrap();
    blocks.get(&3, 0).unwrap()
}

fn ip_of(frame: &[u8]) -> Ipv4Header {
    Ipv4Header::from_slice(&frame[ETH..]).unwrap().0
}

/// A frame with other addresses and ports, a hop less, and checksums that are right.
struct Rewrite {
    source: Option<([u8; 4], Option<u16>)>,
    destination: Option<([u8; 4], Option<u16>)>,
}

impl Rewrite {
    fn source(ip: [u8; 4], port: Option<u16>) -> Self {
        Self {
            source: Some((ip, port)),
            destination: None,
        }
    }

    fn destination(ip: [u8; 4], port: Option<u16>) -> Self {
        Self {
            source: None,
            destination: Some((ip, port)),
        }
    }

    fn of(&self, frame: &[u8]) -> Vec<u8> {
        let mut ip = ip_of(frame);
        ip.time_to_live -= 1;
        let mut payload = frame[ETH + ip.header_len()..].to_vec();
        if let Some((address, _)) = self.source {
            ip.source = address;
        }
        if let Some((address, _)) = self.destination {
            ip.destination = address;
        }
        ip.header_checksum = ip.calc_header_checksum();
        let [source, destination] =
            [self.source, self.destination].map(|it| it.and_then(|it| it.1));
        let is_first = ip.fragment_offset == IpFragOffset::ZERO;
        match ip.protocol {
            ip_number::UDP if is_first => {
                let (mut udp, rest) = UdpHeader::from_slice(&payload).unwrap();
                udp.source_port = source.unwrap_or(udp.source_port);
                udp.destination_port = destination.unwrap_or(udp.destination_port);
                // Of a fragment the checksum is the whole packet's: what is known is the difference.
                if !ip.more_fragments {
                    udp.checksum = udp.calc_checksum_ipv4(&ip, rest).unwrap();
                }
                payload = [&udp.to_bytes()[..], rest].concat();
            }
            ip_number::TCP => {
                let (mut tcp, rest) = TcpHeader::from_slice(&payload).unwrap();
                tcp.source_port = source.unwrap_or(tcp.source_port);
                tcp.destination_port = destination.unwrap_or(tcp.destination_port);
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, rest).unwrap();
                payload = [&tcp.to_bytes()[..], rest].concat();
            }
            ip_number::ICMP => {
                if let Some(id) = source.or(destination) {
                    payload[4..6].copy_from_slice(&id.to_be_bytes());
                    payload[2..4].copy_from_slice(&[0; 2]);
                    let sum = etherparse::checksum::u32_16bit_word::ones_complement(
                        etherparse::checksum::u32_16bit_word::add_slice(0, &payload),
                    );
                    payload[2..4].copy_from_slice(&sum.to_ne_bytes());
                }
            }
            _ => {}
        }
        [&frame[..ETH], &ip.to_bytes(), &payload].concat()
    }
}

/// The frame as the gateway of its network hands it to an endpoint.
fn delivered(frame: &[u8], to: &Endpoint) -> Vec<u8> {
    [&to.mac[..], &GATEWAY.mac, &frame[12..]].concat()
}

fn udp(from: &Endpoint, to: &Endpoint, source: u16, destination: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.ipv4, to.ipv4, 64)
        .udp(source, destination)
        .write_to_vec(&mut frame, b"hello")
        .unwrap();
    frame
}

fn tcp(from: &Endpoint, to: &Endpoint, source: u16, destination: u16, flags: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut step = PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.ipv4, to.ipv4, 64)
        .tcp(source, destination, 1, 1000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(7),
            'F' => step.fin(),
            _ => step.rst(),
        };
    }
    step.write_to_vec(&mut frame, b"").unwrap();
    frame
}

fn echo(from: &Endpoint, to: &Endpoint, id: u16, is_reply: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(from.mac, to.mac).ipv4(from.ipv4, to.ipv4, 64);
    let step = if is_reply {
        step.icmpv4_echo_reply(id, 1)
    } else {
        step.icmpv4_echo_request(id, 1)
    };
    step.write_to_vec(&mut frame, b"hello").unwrap();
    frame
}

/// An ICMP error about the packet in a frame.
fn error(from: &Endpoint, to: &Endpoint, about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.ipv4, to.ipv4, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(
            DestUnreachableHeader::Port,
        ))
        .write_to_vec(&mut frame, &about[ETH..])
        .unwrap();
    frame
}

fn redirected(datapath: &mut Datapath, program: &str, frame: &[u8]) -> Vec<u8> {
    match datapath.run(program, frame, 0).unwrap() {
        Outcome::Redirect(output) => output,
        outcome => panic!("{outcome}"),
    }
}

/// The external port that blue's packet gets.
fn source_port_of(frame: &[u8]) -> u16 {
    let ip = ip_of(frame);
    assert_eq!(ip.source, SHARED.ipv4);
    let at = ETH + ip.header_len();
    let at = if ip.protocol == ip_number::ICMP {
        at + 4
    } else {
        at
    };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn a_float_is_translated_both_ways_and_in_what_errors_quote() {
    let mut datapath = connected();
    // Blue has cyan's float for this test: what the programs see sent comes from it.
    give_blue_a_float(&mut datapath);
    let (own, external) = (BLUE, CYANS);
    let mut table = Vec::new();
    for (name, frame) in [
        ("UDP", udp(&own, &by_gateway(PEER), 4000, 53)),
        ("TCP", tcp(&own, &by_gateway(PEER), 4000, 80, "S")),
        ("echo", echo(&own, &by_gateway(PEER), 5, false)),
        ("echo reply", echo(&own, &by_gateway(PEER), 5, true)),
    ] {
        let output = Rewrite::source(external.ipv4, None).of(&frame);
        table.push(Case::redirect(&format!("{name} out"), frame, output));
    }
    datapath.check(ENDPOINT_INGRESS, &table);
    let mut table = Vec::new();
    for (name, frame) in [
        ("UDP", udp(&PEER, &by_uplink(external), 53, 4000)),
        ("TCP", tcp(&PEER, &by_uplink(external), 80, 4000, "SA")),
        ("echo", echo(&PEER, &by_uplink(external), 5, false)),
    ] {
        let output = delivered(&Rewrite::destination(own.ipv4, None).of(&frame), &own);
        table.push(Case::redirect(&format!("{name} in"), frame, output));
    }
    datapath.check(UNDERLAY_INGRESS, &table);
    datapath.check(UPLINK_INGRESS, &table);

    // Errors: what an endpoint says of a packet that it got, and what is said of one that it sent.
    let got = udp(&PEER, &by_uplink(own), 53, 4000);
    let was = udp(&PEER, &by_uplink(external), 53, 4000);
    let about = error(&own, &by_gateway(PEER), &got);
    let expected = Rewrite::source(external.ipv4, None).of(&error(&own, &by_gateway(PEER), &was));
    datapath.check(
        ENDPOINT_INGRESS,
        &[Case::redirect("error out", about, expected)],
    );
    let sent = udp(&own, &PEER, 4000, 53);
    let was = udp(&external, &PEER, 4000, 53);
    let about = error(&STRANGER, &by_uplink(external), &was);
    let expected = error(&STRANGER, &by_uplink(external), &sent);
    let expected = delivered(&Rewrite::destination(own.ipv4, None).of(&expected), &own);
    datapath.check(
        UNDERLAY_INGRESS,
        &[Case::redirect("error in", about, expected)],
    );
}

fn give_blue_a_float(datapath: &mut Datapath) {
    let key = FloatKey {
        vni: VNI,
        ip: BLUE.ipv4,
    };
    let external = CYANS.ipv4;
    insert(
        &mut datapath.ebpf,
        map::FLOATS,
        &[(key, FloatEntry { external })],
    );
    let entry = OutsideEntry {
        vni: VNI,
        ip: BLUE.ipv4,
        kind: OutsideEntry::FLOAT,
        block_bits: 0,
        reserved: 0,
    };
    insert(
        &mut datapath.ebpf,
        map::OUTSIDE,
        &[(OutsideKey { ip: external }, entry)],
    );
}

#[test]
fn a_float_of_another_host_is_reached_through_its_tunnel() {
    let mut datapath = connected();
    let frame = udp(&PEER, &by_uplink(GREENS), 53, 4000);
    let inner = delivered(&Rewrite::destination(GREEN.ipv4, None).of(&frame), &GREEN);
    let port = source_port(&inner, true);
    let tunnel = Tunnel::from_this_host(&inner, GREEN_VTEP, port);
    datapath.check(
        UNDERLAY_INGRESS,
        &[Case::redirect("a straggler", frame, tunnel.frame())],
    );
}

#[test]
fn arp_for_an_external_address_is_answered_where_its_endpoint_is() {
    let mut datapath = connected();
    let ask = |to: [u8; 4]| arp_request(&PEER, to);
    let answer_for = |external: Endpoint| {
        let mac = UPLINK_MAC;
        arp_reply(&Endpoint { mac, ..external }, &PEER)
    };
    let table = [
        Case::redirect("here", ask(CYANS.ipv4), answer_for(CYANS)),
        Case::redirect("shared", ask(SHARED.ipv4), answer_for(SHARED)),
        Case::pass("elsewhere", ask(GREENS.ipv4)),
        Case::pass("the host's", ask([192, 0, 2, 99])),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn a_port_keeps_its_mapping_whatever_it_talks_to() {
    let mut datapath = connected();
    let sent = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    let port = source_port_of(&output);
    assert!((FIRST_PORT..FIRST_PORT + BLOCK_PORTS).contains(&port));
    let expected = Rewrite::source(SHARED.ipv4, Some(port)).of(&sent);
    assert_eq!(output, expected);
    // Again, and to somebody else: RFC 4787 REQ-1.
    let other = udp(&BLUE, &by_gateway(STRANGER), 4000, 80);
    let table = [
        Case::redirect("again", sent, expected),
        Case::redirect(
            "elsewhere",
            other.clone(),
            Rewrite::source(SHARED.ipv4, Some(port)).of(&other),
        ),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
    assert_eq!(datapath.counter(Counter::NatOpened), 1);
    assert_eq!(block(&mut datapath).used, [0, 1, 0]);
}

#[test]
fn a_port_of_the_block_is_mapped_to_itself() {
    let mut datapath = connected();
    let sent = tcp(&BLUE, &by_gateway(PEER), FIRST_PORT + 7, 80, "S");
    let expected = Rewrite::source(SHARED.ipv4, Some(FIRST_PORT + 7)).of(&sent);
    datapath.check(
        ENDPOINT_INGRESS,
        &[Case::redirect("itself", sent, expected)],
    );
}

#[test]
fn answers_come_in_and_what_nobody_asked_for_does_not() {
    let mut datapath = connected();
    let sent = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    let port = source_port_of(&redirected(&mut datapath, ENDPOINT_INGRESS, &sent));
    let answer = udp(&PEER, &by_uplink(SHARED), 53, port);
    let expected = Rewrite::destination(BLUE.ipv4, Some(4000)).of(&answer);
    let unsolicited = DropReason::NatUnsolicited;
    let table = [
        Case::redirect("answer", answer, delivered(&expected, &BLUE)),
        Case::drop(
            "another port",
            udp(&PEER, &by_uplink(SHARED), 54, port),
            unsolicited,
        ),
        Case::drop(
            "a stranger",
            udp(&STRANGER, &by_uplink(SHARED), 53, port),
            unsolicited,
        ),
        Case::drop(
            "no mapping",
            udp(&PEER, &by_uplink(SHARED), 53, port ^ 1),
            unsolicited,
        ),
        Case::drop(
            "no block",
            udp(&PEER, &by_uplink(SHARED), 53, 9),
            unsolicited,
        ),
        Case::drop(
            "another protocol",
            tcp(&PEER, &by_uplink(SHARED), 53, port, "S"),
            unsolicited,
        ),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn with_endpoint_independent_filtering_anybody_may_send_to_a_mapping() {
    let mut datapath = connected();
    share(&mut datapath, OutsideEntry::SHARED, BlockEntry::OPEN);
    let sent = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    let port = source_port_of(&redirected(&mut datapath, ENDPOINT_INGRESS, &sent));
    let frame = udp(&STRANGER, &by_uplink(SHARED), 9, port);
    let expected = delivered(
        &Rewrite::destination(BLUE.ipv4, Some(4000)).of(&frame),
        &BLUE,
    );
    let table = [
        Case::redirect("a stranger", frame, expected),
        Case::drop(
            "no mapping",
            udp(&STRANGER, &by_uplink(SHARED), 9, port ^ 1),
            DropReason::NatUnsolicited,
        ),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn pings_go_out_and_their_answers_come_in() {
    let mut datapath = connected();
    let sent = echo(&BLUE, &by_gateway(PEER), 77, false);
    let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    let id = source_port_of(&output);
    assert_eq!(output, Rewrite::source(SHARED.ipv4, Some(id)).of(&sent));
    let answer = echo(&PEER, &by_uplink(SHARED), id, true);
    let expected = Rewrite::destination(BLUE.ipv4, Some(77)).of(&answer);
    let table = [
        Case::redirect("answer", answer, delivered(&expected, &BLUE)),
        Case::drop(
            "a ping",
            echo(&PEER, &by_uplink(SHARED), id, false),
            DropReason::NatUnsolicited,
        ),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn errors_about_flows_are_translated_both_ways_and_others_refused() {
    let mut datapath = connected();
    let sent = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    let port = source_port_of(&redirected(&mut datapath, ENDPOINT_INGRESS, &sent));
    let was = udp(&SHARED, &PEER, port, 53);
    let about = error(&STRANGER, &by_uplink(SHARED), &was);
    let expected = error(&STRANGER, &by_uplink(SHARED), &udp(&BLUE, &PEER, 4000, 53));
    let expected = Rewrite::destination(BLUE.ipv4, None).of(&expected);
    let forged = error(
        &STRANGER,
        &by_uplink(SHARED),
        &udp(&SHARED, &STRANGER, port, 53),
    );
    let table = [
        Case::redirect("in", about, delivered(&expected, &BLUE)),
        Case::drop("about no flow", forged, DropReason::NatError),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);

    let got = udp(&PEER, &by_uplink(BLUE), 53, 4000);
    let was = udp(&PEER, &by_uplink(SHARED), 53, port);
    let about = error(&BLUE, &by_gateway(PEER), &got);
    let expected = Rewrite::source(SHARED.ipv4, None).of(&error(&BLUE, &by_gateway(PEER), &was));
    let forged = error(
        &BLUE,
        &by_gateway(STRANGER),
        &udp(&STRANGER, &by_uplink(BLUE), 53, 4000),
    );
    let table = [
        Case::redirect("out", about, expected),
        Case::drop("about no flow", forged, DropReason::NatError),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
}

#[test]
fn an_endpoint_without_ports_is_refused_and_told_and_nothing_leaves_untranslated() {
    let mut datapath = connected();
    let mut seen = BTreeSet::new();
    for port in 0..BLOCK_PORTS {
        let sent = udp(&BLUE, &by_gateway(PEER), 20_000 + port, 53);
        let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
        let external = source_port_of(&output);
        assert!((FIRST_PORT..FIRST_PORT + BLOCK_PORTS).contains(&external));
        assert!(seen.insert(external), "{external} twice");
    }
    assert_eq!(block(&mut datapath).used, [0, u64::from(BLOCK_PORTS), 0]);
    let refused = udp(&BLUE, &by_gateway(PEER), 30_000, 53);
    let told = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited);
    let mut hop_less = ip_of(&refused);
    hop_less.time_to_live -= 1;
    hop_less.header_checksum = hop_less.calc_header_checksum();
    let quoted = patched(refused.clone(), ETH, &hop_less.to_bytes());
    let table = [Case::redirect("UDP", refused, error4(&quoted, 28, told))];
    datapath.check(ENDPOINT_INGRESS, &table);
    // TCP has ports of its own.
    let sent = tcp(&BLUE, &by_gateway(PEER), 30_000, 80, "S");
    redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
}

fn set_port(datapath: &mut Datapath, place: u16, change: impl FnOnce(&mut NatPort)) {
    let map = datapath.ebpf.map_mut(map::NAT_PORTS).unwrap();
    let mut ports: Array<_, NatPort> = map.try_into().unwrap();
    let slot = 3 * NatBlock::PORT_SLOTS + NatBlock::PORTS + u32::from(place);
    let mut port = ports.get(&slot, 0).unwrap();
    change(&mut port);
    ports.set(slot, port, 0).unwrap();
}

fn count<K: aya::Pod, V: aya::Pod>(datapath: &mut Datapath, name: &str) -> usize {
    let map: HashMap<_, K, V> = datapath.ebpf.map_mut(name).unwrap().try_into().unwrap();
    map.keys().count()
}

#[test]
fn ports_whose_time_is_over_are_given_out_again_without_the_agent() {
    let mut datapath = connected();
    for port in 0..BLOCK_PORTS {
        let sent = udp(&BLUE, &by_gateway(PEER), 20_000 + port, 53);
        redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    }
    // The clock of this kernel may be young: a use that lies before its start is long ago.
    for place in 0..BLOCK_PORTS {
        set_port(&mut datapath, place, |port| {
            port.used_s = port.used_s.wrapping_sub(1000);
        });
    }
    let sent = udp(&BLUE, &by_gateway(PEER), 30_000, 53);
    let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    let reused = source_port_of(&output);
    assert_eq!(block(&mut datapath).used, [0, u64::from(BLOCK_PORTS), 0]);
    assert_eq!(
        count::<MappingKey, MappingEntry>(&mut datapath, map::MAPPINGS),
        usize::from(BLOCK_PORTS)
    );
    // An answer to who had it before finds nobody.
    let answer = udp(&PEER, &by_uplink(SHARED), 53, reused);
    let output = redirected(&mut datapath, UNDERLAY_INGRESS, &answer);
    let at = ETH + 20 + 2;
    assert_eq!(output[at..at + 2], 30_000u16.to_be_bytes());
}

fn sweep(datapath: &mut Datapath, request: &Sweep) -> u32 {
    let mut frame = vec![0; Sweep::OFFSET];
    frame.extend_from_slice(bytemuck::bytes_of(request));
    let options = TestRunOptions {
        data_in: Some(&frame),
        ..TestRunOptions::default()
    };
    let program = classifier(&mut datapath.ebpf, NAT_SWEEP);
    let _ = program.load();
    program.test_run(options).unwrap().return_value
}

#[test]
fn a_sweep_frees_the_ports_and_flows_whose_time_is_over_and_no_others() {
    let mut datapath = connected();
    for port in 0..4 {
        let sent = udp(&BLUE, &by_gateway(PEER), FIRST_PORT + port, 53);
        redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
        let answer = udp(&PEER, &by_uplink(SHARED), 53, FIRST_PORT + port);
        redirected(&mut datapath, UNDERLAY_INGRESS, &answer);
    }
    assert_eq!(count::<FlowKey, FlowEntry>(&mut datapath, map::FLOWS), 4);
    assert_eq!(
        count::<FlowKey, FlowEntry>(&mut datapath, map::NEW_FLOWS),
        0
    );
    for place in [0, 2] {
        set_port(&mut datapath, place, |port| {
            port.used_s = port.used_s.wrapping_sub(301);
        });
    }
    let request = Sweep {
        kind: Sweep::PORTS,
        count: 3,
        start: NatBlock::PORTS,
        ..Sweep::zeroed()
    };
    assert_eq!(sweep(&mut datapath, &request), 2);
    assert_eq!(sweep(&mut datapath, &request), 0);
    assert_eq!(block(&mut datapath).used, [0, 2, 0]);
    let map = datapath.ebpf.map_mut(map::FLOWS).unwrap();
    let flows: HashMap<_, FlowKey, FlowEntry> = map.try_into().unwrap();
    let keys: Vec<FlowKey> = flows.keys().map(Result::unwrap).collect();
    let mut request = Sweep {
        kind: Sweep::FLOWS,
        count: 4,
        ..Sweep::zeroed()
    };
    request.keys[..4].copy_from_slice(&keys);
    assert_eq!(sweep(&mut datapath, &request), 2);
    assert_eq!(count::<FlowKey, FlowEntry>(&mut datapath, map::FLOWS), 2);
    request.kind = Sweep::EVERY_FLOW;
    assert_eq!(sweep(&mut datapath, &request), 2);
}

#[test]
fn an_established_connection_keeps_its_port_until_both_ends_have_ended_it() {
    let mut datapath = connected();
    let port = FIRST_PORT + 3;
    let out = |flags| tcp(&BLUE, &by_gateway(PEER), port, 80, flags);
    let back = |flags| tcp(&PEER, &by_uplink(SHARED), 80, port, flags);
    let established = |datapath: &mut Datapath| {
        let map = datapath.ebpf.map_mut(map::NAT_PORTS).unwrap();
        let ports: Array<_, NatPort> = map.try_into().unwrap();
        let slot = 3 * NatBlock::PORT_SLOTS + 3;
        ports.get(&slot, 0).unwrap().established
    };
    for (frame, is_out, expected) in [
        (out("S"), true, 0),
        (back("SA"), false, 0),
        (out("A"), true, 1),
        (out("FA"), true, 1),
        (back("A"), false, 1),
        (back("FA"), false, 0),
        (out("A"), true, 0),
    ] {
        let program = if is_out {
            ENDPOINT_INGRESS
        } else {
            UNDERLAY_INGRESS
        };
        redirected(&mut datapath, program, &frame);
        assert_eq!(established(&mut datapath), expected);
    }
}

/// What is dropped here, each for a reason of its own, and nobody is told of.
pub(crate) fn refusals() -> Vec<Case> {
    let later = |to: &Endpoint| {
        let mut ip = Ipv4Header::new(16, 64, ip_number::UDP, BLUE.ipv4, to.ipv4).unwrap();
        ip.fragment_offset = IpFragOffset::try_new(8).unwrap();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(BLUE.mac, to.mac)
            .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
            .udp(1, 2)
            .write_to_vec(&mut frame, b"later")
            .unwrap();
        let mut ip = ip_of(&frame);
        ip.dont_fragment = false;
        ip.header_checksum = ip.calc_header_checksum();
        patched(frame, ETH, &ip.to_bytes())
    };
    let about = udp(&STRANGER, &by_uplink(BLUE), 53, 4000);
    vec![
        Case::drop(
            "no first fragment",
            later(&by_gateway(PEER)),
            DropReason::NatFragment,
        ),
        Case::drop(
            "about no flow",
            error(&BLUE, &by_gateway(STRANGER), &about),
            DropReason::NatError,
        ),
    ]
}

/// What is refused on its way in.
pub(crate) fn refusals_from_outside() -> Vec<Case> {
    vec![Case::drop(
        "unsolicited",
        udp(&PEER, &by_uplink(SHARED), 53, FIRST_PORT),
        DropReason::NatUnsolicited,
    )]
}

#[test]
fn what_translation_refuses_is_counted_for_a_reason_of_its_own() {
    let mut datapath = connected();
    datapath.check(ENDPOINT_INGRESS, &refusals());
    datapath.check(UNDERLAY_INGRESS, &refusals_from_outside());
}

#[test]
fn fragments_follow_their_first() {
    let mut datapath = connected();
    let fragments = |from: &Endpoint, to: &Endpoint| {
        let mut whole = Vec::new();
        PacketBuilder::ethernet2(from.mac, to.mac)
            .ipv4(from.ipv4, to.ipv4, 64)
            .udp(4000, 53)
            .write_to_vec(&mut whole, &[9; 24])
            .unwrap();
        [
            (0, true, &whole[ETH + 20..ETH + 36]),
            (2, false, &whole[ETH + 36..]),
        ]
        .map(|(offset, more, payload)| {
            let mut ip = Ipv4Header::new(16, 64, ip_number::UDP, from.ipv4, to.ipv4).unwrap();
            ip.identification = 77;
            ip.dont_fragment = false;
            ip.more_fragments = more;
            ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            [&whole[..ETH], &ip.to_bytes(), payload].concat()
        })
    };
    let [first, last] = fragments(&BLUE, &by_gateway(PEER));
    let first_out = redirected(&mut datapath, ENDPOINT_INGRESS, &first);
    let port = source_port_of(&first_out);
    let last_out = redirected(&mut datapath, ENDPOINT_INGRESS, &last);
    assert_eq!(last_out, Rewrite::source(SHARED.ipv4, None).of(&last));
    // Together they are a datagram whose checksum is right.
    let payload = [&first_out[ETH + 20..], &last_out[ETH + 20..]].concat();
    let (udp, rest) = UdpHeader::from_slice(&payload).unwrap();
    let ip = ip_of(&first_out);
    assert_eq!(udp.source_port, port);
    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, rest).unwrap());
}

#[test]
fn external_addresses_of_this_host_reach_each_other_without_leaving_it() {
    let mut datapath = connected();
    // RFC 4787 REQ-9: the other sees the external address.
    let sent = udp(&BLUE, &by_gateway(CYANS), 4000, 53);
    let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    let port = source_port_of(&output);
    let out = Rewrite::source(SHARED.ipv4, Some(port)).of(&sent);
    let expected = delivered(&Rewrite::destination(CYAN.ipv4, None).of(&out), &CYAN);
    assert_eq!(output, expected);
    assert_eq!(datapath.counter(Counter::OutsideHairpin), 1);
    assert_eq!(datapath.counter(Counter::OutsideSent), 0);
}

#[test]
fn the_hosts_own_packets_pass_beside_those_of_endpoints_that_share_its_address() {
    let mut datapath = connected();
    share(&mut datapath, OutsideEntry::HOST, 0);
    let sent = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    let port = source_port_of(&redirected(&mut datapath, ENDPOINT_INGRESS, &sent));
    let answer = udp(&PEER, &by_uplink(SHARED), 53, port);
    let expected = Rewrite::destination(BLUE.ipv4, Some(4000)).of(&answer);
    let table = [
        Case::redirect("answer", answer, delivered(&expected, &BLUE)),
        Case::pass("a stranger", udp(&STRANGER, &by_uplink(SHARED), 53, port)),
        Case::pass("the host's", tcp(&PEER, &by_uplink(SHARED), 80, 22, "S")),
        Case::pass("its ping", echo(&PEER, &by_uplink(SHARED), 1, false)),
        Case::pass(
            "an error about its packet",
            error(&PEER, &by_uplink(SHARED), &udp(&SHARED, &PEER, 50_000, 53)),
        ),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn without_a_way_out_the_sender_is_told() {
    let mut datapath = connected();
    let unreachable = Icmpv4Type::DestinationUnreachable;
    let frame = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    // No block: the endpoint has neither float nor SNAT.
    let map = datapath.ebpf.map_mut(map::NAT_CHAINS).unwrap();
    let mut chains: Array<_, NatChain> = map.try_into().unwrap();
    chains
        .set(id_of(LOOPBACK).into(), NatChain::default(), 0)
        .unwrap();
    let mut hop_less = ip_of(&frame);
    hop_less.time_to_live -= 1;
    hop_less.header_checksum = hop_less.calc_header_checksum();
    let quoted = patched(frame.clone(), ETH, &hop_less.to_bytes());
    let told = error4(
        &quoted,
        28,
        unreachable(DestUnreachableHeader::FilterProhibited),
    );
    datapath.check(
        ENDPOINT_INGRESS,
        &[Case::redirect("no SNAT", frame.clone(), told)],
    );
    // No uplink.
    let map = datapath.ebpf.map_mut(map::UPLINK).unwrap();
    let mut uplink: Array<_, UplinkEntry> = map.try_into().unwrap();
    uplink.set(0, UplinkEntry::zeroed(), 0).unwrap();
    let told = error4(&frame, 28, unreachable(DestUnreachableHeader::Network));
    datapath.check(
        ENDPOINT_INGRESS,
        &[Case::redirect("no uplink", frame, told)],
    );
}

#[test]
fn protocols_without_ports_are_refused_by_snat_and_pass_a_float() {
    let of = |protocol: u8| {
        let mut ip = Ipv4Header::new(40, 64, protocol.into(), BLUE.ipv4, PEER.ipv4).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let frame = udp(&BLUE, &by_gateway(PEER), 1, 2);
        [&frame[..ETH], &ip.to_bytes(), &[7; 40]].concat()
    };
    let told = |frame: &[u8]| {
        let mut ip = ip_of(frame);
        ip.time_to_live -= 1;
        ip.header_checksum = ip.calc_header_checksum();
        let quoted = patched(frame.to_vec(), ETH, &ip.to_bytes());
        error4(
            &quoted,
            28,
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited),
        )
    };
    let protocols = [("SCTP", 132), ("GRE", 47), ("ESP", 50)];
    let mut datapath = connected();
    let mut refused = Vec::new();
    for (name, protocol) in protocols {
        let frame = of(protocol);
        let error = told(&frame);
        refused.push(Case::redirect(name, frame, error));
    }
    datapath.check(ENDPOINT_INGRESS, &refused);
    give_blue_a_float(&mut datapath);
    let passed = protocols.map(|(name, protocol)| {
        let frame = of(protocol);
        let output = Rewrite::source(CYANS.ipv4, None).of(&frame);
        Case::redirect(name, frame, output)
    });
    datapath.check(ENDPOINT_INGRESS, &passed);
}

#[test]
fn ipv6_leaves_as_it_is_from_networks_that_are_reached_from_outside() {
    let mut datapath = connected();
    let frame = udp6(&BLUE, &by_gateway(PEER));
    let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    let Outcome::Redirect(told) = outcome else {
        panic!("{outcome}");
    };
    // ICMPv6: administratively prohibited.
    assert_eq!(told[ETH + 40..ETH + 42], [1, 1]);
    let mut prefix = BLUE.ipv6;
    prefix[8..].fill(0);
    let connected = RouteEntry::CONNECTED;
    router::add_route_of(
        &mut datapath.ebpf,
        RouteKey::OUTSIDE,
        prefix,
        64,
        connected,
        VNI,
    );
    let mut sent = frame.clone();
    sent[ETH + 7] -= 1;
    datapath.check(ENDPOINT_INGRESS, &[Case::redirect("out", frame, sent)]);
    let frame = udp6(&PEER, &by_uplink(BLUE));
    let mut got = delivered(&frame, &BLUE);
    got[ETH + 7] -= 1;
    datapath.check(UNDERLAY_INGRESS, &[Case::redirect("in", frame, got)]);
}

/// An ICMPv6 error about the packet in a frame.
fn error6(from: &Endpoint, to: &Endpoint, about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv6(from.ipv6, to.ipv6, 64)
        .icmpv6_raw(1, 4, [0; 4])
        .write_to_vec(&mut frame, &about[ETH..])
        .unwrap();
    frame
}

fn one_hop_further(mut frame: Vec<u8>) -> Vec<u8> {
    frame[ETH + 7] -= 1;
    frame
}

#[test]
fn a_prefix_is_another_one_outside_and_no_checksum_changes() {
    let mut datapath = connected();
    let mut inside = BLUE.ipv6;
    inside[8..].fill(0);
    let mut outside = [0; 16];
    outside[..8].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0xaa, 0, 0xbb]);
    let external = |own: [u8; 16]| {
        let adjustment = nptv6::adjustment(inside, outside).to_ne_bytes();
        let prefix = nptv6::prefix(outside, 64, adjustment);
        ipv6::octets(nptv6::translate(ipv6::halves(own), &prefix).unwrap())
    };
    for (number, own, other) in [
        (RouteKey::INSIDE | VNI, inside, outside),
        (RouteKey::OUTSIDE, outside, inside),
    ] {
        let entry = RouteEntry {
            vni: VNI,
            next_hop: other,
            kind: RouteEntry::TRANSLATED,
            prefix_len: 64,
            adjustment: nptv6::adjustment(own, other).to_ne_bytes(),
        };
        router::insert_route(&mut datapath.ebpf, RouteKey::ipv6(number, own), 64, entry);
    }
    let blues = Endpoint {
        ipv6: external(BLUE.ipv6),
        ..BLUE
    };
    // The expected frames have checksums that were summed up anew.
    let frame = udp6(&BLUE, &by_gateway(PEER));
    let sent = one_hop_further(udp6(&blues, &by_gateway(PEER)));
    let about = error6(&BLUE, &by_gateway(PEER), &udp6(&PEER, &BLUE));
    let told = one_hop_further(error6(&blues, &by_gateway(PEER), &udp6(&PEER, &blues)));
    datapath.check(
        ENDPOINT_INGRESS,
        &[
            Case::redirect("out", frame, sent),
            Case::redirect("an error, out", about, told),
        ],
    );
    let arrived = |frame: Vec<u8>| one_hop_further(delivered(&frame, &BLUE));
    let frame = udp6(&PEER, &by_uplink(blues));
    let got = arrived(udp6(&PEER, &by_uplink(BLUE)));
    let about = error6(&PEER, &by_uplink(blues), &udp6(&blues, &PEER));
    let heard = arrived(error6(&PEER, &by_uplink(BLUE), &udp6(&BLUE, &PEER)));
    datapath.check(
        UNDERLAY_INGRESS,
        &[
            Case::redirect("in", frame, got),
            Case::redirect("an error, in", about, heard),
        ],
    );
}
