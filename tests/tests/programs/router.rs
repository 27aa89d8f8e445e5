//! Routed packets: from blue's network by its gateway to another one of the same router.
//!
//! ```text
//!  VNI 42: BLUE           router 9           VNI 50: LIME (this host), ORANGE (green's host)
//!          gateway 7.7.7.1, fd00::1                  gateway 8.8.8.1, fd08::1
//! ```

use std::slice;

use aya::{
    Ebpf,
    maps::{
        HashMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use bytemuck::Zeroable as _;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
    icmpv6, ip_number,
};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use overlay_ebpf::abi::{
    Counter, DropReason, EndpointEntry, FdbEntry, FdbKey, NeighborEntry, NeighborKey, NetworkEntry,
    RouteEntry, RouteKey, RouterPortEntry, map, program::ENDPOINT_INGRESS,
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings},
    frames::{
        ETH, Tunnel, arp_reply, arp_request, fragment4, ipv4, ipv6, patched, solicitation,
        source_link_layer_address, source_port, udp4, udp4_of, udp6, udp6_of,
    },
    network::{
        self, BLUE, CYAN_IFINDEX, Endpoint, GENERATION, GREEN_VTEP, LOOPBACK, MTU, VNI, insert,
        mapped, remove,
    },
};

pub(crate) const ROUTER: u32 = 9;
/// The network behind the router.
const FAR_VNI: u32 = 50;
const FAR_MTU: u16 = 1400;

const MAC: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x01, 0x01];

/// In blue's network.
pub(crate) const GATEWAY: Endpoint = Endpoint {
    mac: MAC,
    ipv4: [7, 7, 7, 1],
    ipv6: ip6(0, 1),
};
/// Behind the router, on this host.
const LIME: Endpoint = far(4);
/// Behind the router, behind green's VTEP.
pub(crate) const ORANGE: Endpoint = far(3);
/// Routes on for others.
const HOP: Endpoint = far(9);
/// Of that network, and nobody.
const NOBODY: Endpoint = far(200);

const fn ip6(network: u8, host: u8) -> [u8; 16] {
    [0xfd, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

const fn far(number: u8) -> Endpoint {
    Endpoint {
        mac: [0x02, 0x42, 8, 8, 8, number],
        ipv4: [8, 8, 8, number],
        ipv6: ip6(8, number),
    }
}

/// The endpoint as it is addressed by way of the gateway.
pub(crate) const fn by_gateway(to: Endpoint) -> Endpoint {
    Endpoint { mac: MAC, ..to }
}

/// Adds a route of any router that needs no next hop.
pub(crate) fn add_route_of(
    ebpf: &mut Ebpf,
    router: u32,
    ip: [u8; 16],
    bits: u32,
    kind: u8,
    vni: u32,
) {
    insert_route(
        ebpf,
        RouteKey::ipv6(router, ip),
        bits,
        RouteEntry {
            vni,
            kind,
            ..RouteEntry::zeroed()
        },
    );
}

fn add_route(ebpf: &mut Ebpf, ip: [u8; 16], bits: u32, kind: u8, vni: u32, next_hop: [u8; 16]) {
    insert_route(
        ebpf,
        RouteKey::ipv6(ROUTER, ip),
        bits,
        RouteEntry {
            vni,
            next_hop,
            kind,
            ..RouteEntry::zeroed()
        },
    );
}

pub(crate) fn insert_route(ebpf: &mut Ebpf, key: RouteKey, bits: u32, entry: RouteEntry) {
    let map = ebpf.map_mut(map::ROUTES).unwrap();
    let mut routes: LpmTrie<_, RouteKey, RouteEntry> = map.try_into().unwrap();
    let key = Key::new(RouteKey::ROUTER_BITS + bits, key);
    routes.insert(&key, entry, 0).unwrap();
}

pub(crate) fn joined() -> Datapath {
    let mut datapath = Datapath::load(Settings::default());
    join(&mut datapath);
    datapath
}

/// Joins blue's network with another one by a router.
pub(crate) fn join(datapath: &mut Datapath) {
    let ebpf = &mut datapath.ebpf;
    let network = NetworkEntry {
        mtu: FAR_MTU.into(),
        ..NetworkEntry::zeroed()
    };
    insert(ebpf, map::NETWORKS, &[(FAR_VNI, network)]);
    let port = |gateway: Endpoint| RouterPortEntry {
        router: ROUTER,
        ipv4: gateway.ipv4,
        ipv6: gateway.ipv6,
        mac: MAC,
        reserved: [0; 2],
    };
    insert(
        ebpf,
        map::ROUTER_PORTS,
        &[(VNI, port(GATEWAY)), (FAR_VNI, port(far(1)))],
    );
    let local = FdbEntry::local(GENERATION, CYAN_IFINDEX);
    let remote = GREEN_VTEP.remote(GENERATION);
    insert(
        ebpf,
        map::FDB,
        &[
            (FdbKey::new(FAR_VNI, LIME.mac), local),
            (FdbKey::new(FAR_VNI, ORANGE.mac), remote),
            (FdbKey::new(FAR_VNI, HOP.mac), remote),
        ],
    );
    for endpoint in [LIME, ORANGE, HOP] {
        let entry = NeighborEntry::new(GENERATION, endpoint.mac);
        let rows = [
            (NeighborKey::ipv4(FAR_VNI, endpoint.ipv4), entry),
            (NeighborKey::ipv6(FAR_VNI, endpoint.ipv6), entry),
        ];
        insert(ebpf, map::NEIGHBORS, &rows);
    }
    for (vni, gateway) in [(VNI, GATEWAY), (FAR_VNI, far(1))] {
        let [a, b, c, _] = gateway.ipv4;
        let [first, second, ..] = gateway.ipv6;
        let mut prefix6 = [0; 16];
        prefix6[..2].copy_from_slice(&[first, second]);
        let (local, connected) = (RouteEntry::LOCAL, RouteEntry::CONNECTED);
        add_route(ebpf, mapped(gateway.ipv4), 128, local, vni, [0; 16]);
        add_route(ebpf, gateway.ipv6, 128, local, vni, [0; 16]);
        add_route(ebpf, mapped([a, b, c, 0]), 120, connected, vni, [0; 16]);
        add_route(ebpf, prefix6, 64, connected, vni, [0; 16]);
    }
    let via = RouteEntry::VIA;
    add_route(
        ebpf,
        mapped([10, 9, 0, 0]),
        112,
        via,
        FAR_VNI,
        mapped(HOP.ipv4),
    );
    add_route(ebpf, ip6(0x99, 0), 64, via, FAR_VNI, HOP.ipv6);
    let blackhole = RouteEntry::BLACKHOLE;
    add_route(ebpf, mapped([10, 66, 0, 0]), 112, blackhole, 0, [0; 16]);
    add_route(ebpf, ip6(0x66, 0), 64, blackhole, 0, [0; 16]);
    let mut endpoints: HashMap<_, u32, EndpointEntry> =
        ebpf.map_mut(map::ENDPOINTS).unwrap().try_into().unwrap();
    let entry = endpoints.get(&LOOPBACK, 0).unwrap();
    let entry = EndpointEntry {
        gateway: MAC,
        ..entry
    };
    endpoints.insert(LOOPBACK, entry, 0).unwrap();
    datapath.hold_lease();
}

/// The frame as the router passes it on: a hop less, from its own MAC.
fn routed(frame: &[u8], to: &Endpoint) -> Vec<u8> {
    let mut frame = [&to.mac[..], &MAC, &frame[12..]].concat();
    if frame[12..14] == [0x08, 0x00] {
        frame[ETH + 8] -= 1;
        let mut ip = Ipv4Header::from_slice(&frame[ETH..]).unwrap().0;
        ip.header_checksum = ip.calc_header_checksum();
        frame[ETH..ETH + 20].copy_from_slice(&ip.to_bytes());
    } else {
        frame[ETH + 7] -= 1;
    }
    frame
}

/// What goes to green's host in the network behind the router.
fn tunnelled(inner: &[u8]) -> Vec<u8> {
    let port = source_port(inner, true);
    let tunnel = Tunnel {
        vni: FAR_VNI,
        ..Tunnel::from_this_host(inner, GREEN_VTEP, port)
    };
    tunnel.frame()
}

/// An ICMP error of the gateway's about a frame, which is quoted as far as there is more than `quoted` bytes of it.
pub(crate) fn error4(about: &[u8], quoted: usize, kind: Icmpv4Type) -> Vec<u8> {
    let ip = Ipv4Header::new(0, 64, ip_number::ICMP, GATEWAY.ipv4, BLUE.ipv4).unwrap();
    let mut ip = ip;
    ip.dont_fragment = true;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MAC, BLUE.mac)
        .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .icmpv4(kind)
        .write_to_vec(&mut frame, &about[ETH..ETH + quoted])
        .unwrap();
    frame
}

fn error6(about: &[u8], quoted: usize, kind: Icmpv6Type) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MAC, BLUE.mac)
        .ipv6(GATEWAY.ipv6, BLUE.ipv6, 64)
        .icmpv6(kind)
        .write_to_vec(&mut frame, &about[ETH..ETH + quoted])
        .unwrap();
    frame
}

const SHORT4: usize = 28;
const SHORT6: usize = 48;
const LONG: usize = 128;

#[test]
fn packets_to_the_gateway_go_on_in_the_destinations_network() {
    let mut datapath = joined();
    let mut table = Vec::new();
    for (name, frame, to) in [
        ("IPv4 here", udp4(&BLUE, &by_gateway(LIME)), LIME),
        ("IPv6 here", udp6(&BLUE, &by_gateway(LIME)), LIME),
    ] {
        let output = routed(&frame, &to);
        table.push(Case::redirect(name, frame, output));
    }
    for (name, frame, to) in [
        ("IPv4 there", udp4(&BLUE, &by_gateway(ORANGE)), ORANGE),
        ("IPv6 there", udp6(&BLUE, &by_gateway(ORANGE)), ORANGE),
        (
            "IPv4 by a next hop",
            udp4(&BLUE, &away([10, 9, 1, 1], 0x99)),
            HOP,
        ),
        (
            "IPv6 by a next hop",
            udp6(&BLUE, &away([10, 9, 1, 1], 0x99)),
            HOP,
        ),
    ] {
        let output = tunnelled(&routed(&frame, &to));
        table.push(Case::redirect(name, frame, output));
    }
    datapath.check(ENDPOINT_INGRESS, &table);
    assert_eq!(datapath.counter(Counter::RouterForwarded), 6);
}

#[test]
fn an_endpoint_whose_row_names_no_gateway_is_routed_too() {
    let mut datapath = joined();
    network::fill(&mut datapath.ebpf);
    let frame = udp4(&BLUE, &by_gateway(LIME));
    let output = routed(&frame, &LIME);
    datapath.check(ENDPOINT_INGRESS, &[Case::redirect("here", frame, output)]);
}

#[test]
fn a_hop_is_remembered_for_as_long_as_the_edition_of_the_rows_stays() {
    let mut datapath = joined();
    stay_on_this_cpu();
    let key = FdbKey::new(FAR_VNI, ORANGE.mac);
    for frame in [
        udp4(&BLUE, &by_gateway(ORANGE)),
        udp6(&BLUE, &by_gateway(ORANGE)),
    ] {
        let there = Case::redirect("there", frame.clone(), tunnelled(&routed(&frame, &ORANGE)));
        let nowhere = Case::drop("nowhere", frame, DropReason::DestinationUnknown);
        let mut check_after = |edition, is_remembered| {
            insert(
                &mut datapath.ebpf,
                map::FDB,
                &[(key, GREEN_VTEP.remote(GENERATION))],
            );
            datapath.set_edition(edition);
            datapath.check(ENDPOINT_INGRESS, slice::from_ref(&there));
            remove::<_, FdbEntry>(&mut datapath.ebpf, map::FDB, &key);
            let expected = if is_remembered { &there } else { &nowhere };
            datapath.check(ENDPOINT_INGRESS, slice::from_ref(expected));
        };
        // None yet, one that the agent writes in, one that it closed.
        for (edition, is_remembered) in [(0, false), (1, false), (2, true)] {
            check_after(edition, is_remembered);
        }
        // The rows of the next one are not those that the hop is remembered by.
        for edition in [3, 4] {
            datapath.set_edition(edition);
            datapath.check(ENDPOINT_INGRESS, slice::from_ref(&nowhere));
        }
    }
}

#[test]
fn a_remembered_hop_takes_no_packet_further_than_it_may_go() {
    let mut datapath = joined();
    stay_on_this_cpu();
    datapath.set_edition(2);
    let frame = udp4(&BLUE, &by_gateway(ORANGE));
    let there = tunnelled(&routed(&frame, &ORANGE));
    let last = patched_ttl(frame.clone());
    let time = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    let over = error4(&last, SHORT4, time);
    let long = udp4_of(&BLUE, &by_gateway(ORANGE), usize::from(FAR_MTU) + 1);
    let too_big = DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: FAR_MTU,
    };
    let too_big = error4(&long, LONG, Icmpv4Type::DestinationUnreachable(too_big));
    let table = [
        Case::redirect("there", frame, there),
        Case::redirect("hop limit", last, over),
        Case::redirect("too big", long, too_big),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
}

/// Each CPU remembers by itself.
fn stay_on_this_cpu() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// Behind the router, in none of its networks.
fn away(ipv4: [u8; 4], network: u8) -> Endpoint {
    Endpoint {
        mac: MAC,
        ipv4,
        ipv6: ip6(network, 5),
    }
}

#[test]
fn what_a_router_refuses_is_told_to_its_sender() {
    use DestUnreachableHeader as Code4;
    use icmpv6::DestUnreachableCode as Code6;
    let mut datapath = joined();
    let expiring4 = patched_ttl(udp4(&BLUE, &by_gateway(ORANGE)));
    let expiring6 = patched(udp6(&BLUE, &by_gateway(ORANGE)), ETH + 7, &[1]);
    let code4 = TimeExceededCode::TtlExceededInTransit;
    let code6 = icmpv6::TimeExceededCode::HopLimitExceeded;
    let error = error4(&expiring4, SHORT4, Icmpv4Type::TimeExceeded(code4));
    let error_6 = error6(&expiring6, SHORT6, Icmpv6Type::TimeExceeded(code6));
    let mut table = vec![
        Case::redirect("IPv4 hop limit", expiring4, error),
        Case::redirect("IPv6 hop limit", expiring6, error_6),
    ];
    for (name, to, code4, code6) in [
        (
            "no route",
            away([9, 9, 9, 9], 0x77),
            Code4::Network,
            Code6::NoRoute,
        ),
        (
            "blackhole",
            away([10, 66, 0, 1], 0x66),
            Code4::FilterProhibited,
            Code6::Prohibited,
        ),
        ("nobody", by_gateway(NOBODY), Code4::Host, Code6::Address),
        ("the gateway", GATEWAY, Code4::Port, Code6::Port),
    ] {
        let (frame4, frame6) = (udp4(&BLUE, &to), udp6(&BLUE, &to));
        let error = error4(&frame4, SHORT4, Icmpv4Type::DestinationUnreachable(code4));
        table.push(Case::redirect(name, frame4, error));
        let error = error6(&frame6, SHORT6, Icmpv6Type::DestinationUnreachable(code6));
        table.push(Case::redirect(&format!("{name}, IPv6"), frame6, error));
    }
    datapath.check(ENDPOINT_INGRESS, &table);
    assert_eq!(datapath.counter(Counter::RouterAnswered), 10);
}

#[test]
fn what_is_longer_than_the_other_networks_mtu_is_told_that() {
    use DestUnreachableHeader as Unreachable;
    const { assert!((FAR_MTU as u32) < MTU) };
    let mut datapath = joined();
    let unreachable = Icmpv4Type::DestinationUnreachable;
    let long4 = udp4_of(&BLUE, &by_gateway(ORANGE), usize::from(FAR_MTU) + 1);
    let long6 = udp6_of(&BLUE, &by_gateway(ORANGE), usize::from(FAR_MTU) + 1);
    let table = [
        (
            "IPv4 too big",
            long4.clone(),
            error4(
                &long4,
                LONG,
                unreachable(Unreachable::FragmentationNeeded {
                    next_hop_mtu: FAR_MTU,
                }),
            ),
        ),
        (
            "IPv6 too big",
            long6.clone(),
            error6(
                &long6,
                LONG,
                Icmpv6Type::PacketTooBig {
                    mtu: FAR_MTU.into(),
                },
            ),
        ),
    ];
    let table = table.map(|(name, frame, error)| Case::redirect(name, frame, error));
    datapath.check(ENDPOINT_INGRESS, &table);
    assert_eq!(datapath.counter(Counter::TooBigAnswered), 2);
}

fn patched_ttl(frame: Vec<u8>) -> Vec<u8> {
    let mut ip = Ipv4Header::from_slice(&frame[ETH..]).unwrap().0;
    ip.time_to_live = 1;
    ip.header_checksum = ip.calc_header_checksum();
    patched(frame, ETH, &ip.to_bytes())
}

#[test]
fn what_means_something_on_its_link_alone_is_not_routed() {
    let mut datapath = joined();
    for ipv4 in [[127, 0, 0, 1], [169, 254, 1, 1], [224, 0, 0, 251], [255; 4]] {
        let frame = udp4(&BLUE, &away(ipv4, 0x77));
        let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        let error = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);
        assert!(
            outcome == Outcome::Redirect(error4(&frame, SHORT4, error)),
            "{ipv4:?}: {outcome}"
        );
    }
}

/// Later fragments, about which nobody is told.
pub(crate) fn refusals() -> Vec<Case> {
    let fragment = |to: &Endpoint| fragment4(&BLUE, to, 8, true);
    let expiring = patched_ttl(fragment(&by_gateway(ORANGE)));
    let away = |ipv4| fragment(&away(ipv4, 0x77));
    vec![
        Case::drop("no route", away([9, 9, 9, 9]), DropReason::NoRoute),
        Case::drop(
            "blackhole",
            away([10, 66, 0, 1]),
            DropReason::RouteProhibited,
        ),
        Case::drop("hop limit", expiring, DropReason::HopLimit),
        Case::drop(
            "nobody",
            fragment(&by_gateway(NOBODY)),
            DropReason::HostUnreachable,
        ),
        Case::drop(
            "the gateway",
            fragment(&GATEWAY),
            DropReason::GatewayService,
        ),
    ]
}

#[test]
fn no_error_tells_of_an_error_or_of_a_later_fragment() {
    let mut datapath = joined();
    let no_route = away([9, 9, 9, 9], 0x77);
    let error = error4(
        &udp4(&BLUE, &no_route),
        SHORT4,
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
    );
    let mut frame = [&MAC[..], &BLUE.mac, &error[12..]].concat();
    let mut ip = Ipv4Header::from_slice(&frame[ETH..]).unwrap().0;
    (ip.source, ip.destination) = (BLUE.ipv4, no_route.ipv4);
    ip.header_checksum = ip.calc_header_checksum();
    frame[ETH..ETH + 20].copy_from_slice(&ip.to_bytes());
    let mut table = refusals();
    table.push(Case::drop("an error", frame, DropReason::NoRoute));
    datapath.check(ENDPOINT_INGRESS, &table);
}

#[test]
fn gateways_answer_ping_arp_and_neighbour_discovery() {
    let mut datapath = joined();
    let ping4 = |from: &Endpoint, to: &Endpoint, reply: bool| {
        let mut frame = Vec::new();
        let ip = ipv4(from, to, 0);
        let echo = if reply {
            ip.icmpv4_echo_reply(1, 1)
        } else {
            ip.icmpv4_echo_request(1, 1)
        };
        echo.write_to_vec(&mut frame, b"hello to the gateway")
            .unwrap();
        frame
    };
    let ping6 = |from: &Endpoint, to: &Endpoint, reply: bool| {
        let mut frame = Vec::new();
        let ip = ipv6(from, to, 0);
        let echo = if reply {
            ip.icmpv6_echo_reply(1, 1)
        } else {
            ip.icmpv6_echo_request(1, 1)
        };
        echo.write_to_vec(&mut frame, b"hello to the gateway")
            .unwrap();
        frame
    };
    let table = [
        Case::redirect(
            "ping",
            ping4(&BLUE, &GATEWAY, false),
            ping4(&GATEWAY, &BLUE, true),
        ),
        Case::redirect(
            "IPv6 ping",
            ping6(&BLUE, &GATEWAY, false),
            ping6(&GATEWAY, &BLUE, true),
        ),
        Case::redirect(
            "the other network's gateway",
            ping4(&BLUE, &by_gateway(far(1)), false),
            ping4(&by_gateway(far(1)), &BLUE, true),
        ),
        Case::redirect(
            "ARP",
            arp_request(&BLUE, GATEWAY.ipv4),
            arp_reply(&GATEWAY, &BLUE),
        ),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
    // The other network's gateway is in no neighbour's reach here.
    let elsewhere = arp_request(&BLUE, far(1).ipv4);
    let outcome = datapath.run(ENDPOINT_INGRESS, &elsewhere, 0).unwrap();
    assert!(
        outcome == Outcome::Drop(DropReason::NeighborUnknown),
        "{outcome}"
    );
}

#[test]
fn a_gateway_says_in_its_advertisement_that_it_is_a_router() {
    let mut datapath = joined();
    let option = source_link_layer_address(BLUE.mac);
    let frame = solicitation(BLUE.mac, BLUE.ipv6, GATEWAY.ipv6, &option);
    let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    let Outcome::Redirect(answer) = outcome else {
        panic!("{outcome}");
    };
    let message = &answer[ETH + 40..];
    assert_eq!(message[0], 136);
    assert_eq!(message[4] & 0xe0, 0xe0, "router, solicited, override");
    assert_eq!(message[8..24], GATEWAY.ipv6);
    assert_eq!(message[26..32], MAC);
}

/// The interface identifier of a MAC (RFC 4291, appendix A).
fn eui64(mac: [u8; 6]) -> [u8; 8] {
    let mut id = [0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    id[..3].copy_from_slice(&mac[..3]);
    id[5..].copy_from_slice(&mac[3..]);
    id[0] ^= 2;
    id
}

#[test]
fn every_gateway_has_the_link_local_address_that_it_is_advertised_with() {
    let mut datapath = joined();
    let advertised = Endpoint {
        ipv6: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ..GATEWAY
    };
    let option = source_link_layer_address(BLUE.mac);
    // Also from the address that an interface makes itself.
    let mut own = advertised.ipv6;
    own[8..].copy_from_slice(&eui64(BLUE.mac));
    for source in [BLUE.ipv6, own] {
        let frame = solicitation(BLUE.mac, source, advertised.ipv6, &option);
        let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        let Outcome::Redirect(answer) = outcome else {
            panic!("{outcome}");
        };
        let message = &answer[ETH + 40..];
        assert_eq!(message[4] & 0xe0, 0xe0, "router, solicited, override");
        assert_eq!(message[8..24], advertised.ipv6);
        assert_eq!(message[26..32], MAC);
    }
}

#[test]
fn a_network_without_a_router_has_no_gateway() {
    let mut datapath = Datapath::load(Settings::default());
    let table = [
        Case::drop(
            "a frame",
            udp4(&BLUE, &by_gateway(ORANGE)),
            DropReason::DestinationUnknown,
        ),
        Case::drop(
            "ARP",
            arp_request(&BLUE, GATEWAY.ipv4),
            DropReason::NeighborUnknown,
        ),
    ];
    datapath.check(ENDPOINT_INGRESS, &table);
}
