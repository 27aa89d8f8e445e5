//! Networks that resolve on demand: what is not known raises a miss, once, and is dropped meanwhile.

use std::{thread, time::Duration};

use aya::maps::{HashMap, PerCpuArray};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::{
    abi::{
        Counter, DropReason, FdbEntry, FdbKey, Meter, MeterKey, MissEvent, MissKey, Negative, map,
        program::{ENDPOINT_INGRESS, INJECT, UNDERLAY_INGRESS},
    },
    rule::miss::{CPU_LIMIT, ENDPOINT_LIMIT, NETWORK_LIMIT},
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings, classifier},
    endpoint,
    frames::{Tunnel, arp_request, solicitation, source_link_layer_address, udp4, udp6},
    live, neighbor,
    network::{
        BLUE, BLUE_AGAIN, Endpoint, GENERATION, GREEN, GREEN_VTEP, LOOPBACK, NOBODY, VIOLET, VNI,
        insert,
    },
};

const UNSPECIFIED: [u8; 16] = [0; 16];

fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// A key of `negative` for a MAC.
pub(crate) fn mac_key(mac: [u8; 6]) -> MissKey {
    let mut address = [0; 16];
    address[..6].copy_from_slice(&mac);
    MissKey {
        vni: VNI,
        kind: MissKey::MAC,
        address,
    }
}

fn ip_key(address: [u8; 16]) -> MissKey {
    MissKey {
        vni: VNI,
        kind: MissKey::IP,
        address,
    }
}

fn event(key: MissKey, requester_ip: [u8; 16]) -> MissEvent {
    MissEvent {
        key,
        ifindex: LOOPBACK,
        requester_mac: BLUE.mac,
        reserved: [0; 6],
        requester_ip,
    }
}

fn ask(source: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    solicitation(
        BLUE.mac,
        source,
        target,
        &source_link_layer_address(BLUE.mac),
    )
}

/// Each miss, and the event that the agent gets.
fn raising() -> Vec<(Case, MissEvent)> {
    let missing = |name, frame, event| (Case::drop(name, frame, DropReason::Resolving), event);
    let (ipv4, ipv6) = (mapped(NOBODY.ipv4), NOBODY.ipv6);
    vec![
        missing(
            "IPv4 to a MAC",
            udp4(&BLUE, &NOBODY),
            event(mac_key(NOBODY.mac), UNSPECIFIED),
        ),
        missing(
            "IPv6 to a MAC",
            udp6(&BLUE, &NOBODY),
            event(mac_key(NOBODY.mac), UNSPECIFIED),
        ),
        missing(
            "another tenant's MAC",
            udp4(&BLUE, &VIOLET),
            event(mac_key(VIOLET.mac), UNSPECIFIED),
        ),
        missing(
            "ARP",
            arp_request(&BLUE, NOBODY.ipv4),
            event(ip_key(ipv4), mapped(BLUE.ipv4)),
        ),
        missing(
            "ARP from a second address",
            arp_request(&BLUE_AGAIN, NOBODY.ipv4),
            event(ip_key(ipv4), mapped(BLUE_AGAIN.ipv4)),
        ),
        missing(
            "neighbour solicitation",
            ask(BLUE.ipv6, ipv6),
            event(ip_key(ipv6), BLUE.ipv6),
        ),
        missing(
            "duplicate address detection",
            solicitation(BLUE.mac, UNSPECIFIED, ipv6, &[]),
            event(ip_key(ipv6), UNSPECIFIED),
        ),
    ]
}

pub(crate) fn misses() -> Vec<Case> {
    raising().into_iter().map(|(case, _)| case).collect()
}

/// What the agent writes when it has asked the registry.
fn rest(datapath: &mut Datapath, key: MissKey, until_ns: u64) {
    let negative = Negative {
        until_ns,
        is_unknown: 1,
        reserved: 0,
    };
    insert(&mut datapath.ebpf, map::NEGATIVE, &[(key, negative)]);
}

#[test]
fn what_is_not_known_is_told_of_once_and_dropped_meanwhile() {
    for (case, expected) in raising() {
        let mut datapath = Datapath::on_demand();
        for expected in [vec![expected], vec![]] {
            datapath.check(ENDPOINT_INGRESS, std::slice::from_ref(&case));
            assert_eq!(datapath.raised(), expected, "{}", case.name);
        }
        assert_eq!(datapath.counter(Counter::MissesRaised), 1);
    }
}

#[test]
fn a_miss_is_told_of_again_after_a_second() {
    let mut datapath = Datapath::on_demand();
    let frame = udp4(&BLUE, &NOBODY);
    for _ in 0..2 {
        datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        assert_eq!(datapath.raised().len(), 1);
        thread::sleep(Duration::from_millis(1100));
    }
}

#[test]
fn what_nobody_has_is_dropped_as_unknown_until_it_may_be_asked_for_again() {
    let table = [
        (
            udp4(&BLUE, &NOBODY),
            mac_key(NOBODY.mac),
            DropReason::DestinationUnknown,
        ),
        (
            arp_request(&BLUE, NOBODY.ipv4),
            ip_key(mapped(NOBODY.ipv4)),
            DropReason::NeighborUnknown,
        ),
        (
            ask(BLUE.ipv6, NOBODY.ipv6),
            ip_key(NOBODY.ipv6),
            DropReason::NeighborUnknown,
        ),
        (
            solicitation(BLUE.mac, UNSPECIFIED, NOBODY.ipv6, &[]),
            ip_key(NOBODY.ipv6),
            DropReason::NdDetection,
        ),
    ];
    let mut datapath = Datapath::on_demand();
    for (frame, key, reason) in table {
        rest(&mut datapath, key, u64::MAX);
        let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        assert_eq!(outcome.to_string(), Outcome::Drop(reason).to_string());
        assert_eq!(datapath.raised(), []);
        rest(&mut datapath, key, 1);
        let outcome = datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
        assert_eq!(outcome.to_string(), "drop resolving");
        assert_eq!(datapath.raised().len(), 1);
    }
}

#[test]
fn what_is_known_is_carried_and_answered_as_elsewhere() {
    let mut datapath = Datapath::on_demand();
    for table in [
        endpoint::encapsulation(),
        endpoint::local_delivery(),
        endpoint::sources(),
        endpoint::sizes(),
        neighbor::arp_answers(),
        neighbor::nd_answers(),
    ] {
        datapath.check(ENDPOINT_INGRESS, &table);
    }
    assert_eq!(datapath.raised(), []);
}

#[test]
fn questions_that_deserve_no_answer_raise_no_miss() {
    let mut datapath = Datapath::on_demand();
    let asks_somebody = |case: &Case| {
        ![
            Outcome::Drop(DropReason::NeighborUnknown),
            Outcome::Drop(DropReason::NdDetection),
        ]
        .contains(&case.expected)
    };
    let mut table = [neighbor::arp_refusals(), neighbor::nd_refusals()].concat();
    table.retain(asks_somebody);
    datapath.check(ENDPOINT_INGRESS, &table);
    let own = |source| ask(source, BLUE_AGAIN.ipv6);
    datapath.check(
        ENDPOINT_INGRESS,
        &[
            Case::drop(
                "its own address",
                own(BLUE.ipv6),
                DropReason::NeighborUnknown,
            ),
            Case::drop(
                "about to take its own address",
                own(UNSPECIFIED),
                DropReason::NdDetection,
            ),
        ],
    );
    assert_eq!(datapath.raised(), []);
}

#[test]
fn other_networks_raise_no_miss() {
    let mut datapath = Datapath::load(Settings::default());
    datapath.check(ENDPOINT_INGRESS, &endpoint::refusals());
    datapath.check(ENDPOINT_INGRESS, &neighbor::arp_refusals());
    datapath.check(ENDPOINT_INGRESS, &neighbor::nd_refusals());
    assert_eq!(datapath.raised(), []);
}

/// A frame to an endpoint that nobody has asked for yet.
fn fresh(number: u32) -> Vec<u8> {
    udp4(&BLUE, &somebody(number))
}

/// An endpoint that nobody has asked for.
fn somebody(number: u32) -> Endpoint {
    let [_, a, b, c] = number.to_be_bytes();
    Endpoint {
        mac: [0x02, 0x99, 0, a, b, c],
        ..NOBODY
    }
}

#[test]
fn a_miss_that_finds_the_ring_full_is_counted_and_tried_again() {
    let mut datapath = Datapath::on_demand();
    let mut number = 0;
    while datapath.counter(Counter::MissesLost) == 0 {
        assert!(number < 100, "the ring of 4096 bytes never fills");
        let outcome = datapath.run(ENDPOINT_INGRESS, &fresh(number), 0).unwrap();
        assert_eq!(outcome.to_string(), "drop resolving");
        number += 1;
    }
    let raised = datapath.raised().len();
    assert_eq!(datapath.counter(Counter::MissesRaised), raised as u64);
    datapath
        .run(ENDPOINT_INGRESS, &fresh(number - 1), 0)
        .unwrap();
    assert_eq!(datapath.raised().len(), 1);
}

/// A side that misses come from.
#[derive(Clone, Copy)]
struct Side {
    program: &'static str,
    /// A frame of this side that misses an address nobody has asked for.
    frame: fn(u32) -> Vec<u8>,
    /// What counts its misses, beside the network and the CPU.
    meter: MeterKey,
}

const ENDPOINT: Side = Side {
    program: ENDPOINT_INGRESS,
    frame: fresh,
    meter: MeterKey::endpoint(LOOPBACK),
};

const TUNNEL: Side = Side {
    program: UNDERLAY_INGRESS,
    frame: |number| Tunnel::to_this_host(udp4(&somebody(number), &BLUE)).frame(),
    meter: MeterKey::tunnel(VNI),
};

/// An endpoint that has raised as many misses as a window takes.
#[derive(Clone, Copy)]
enum Scanner {
    Meter(MeterKey, u64),
    Cpu,
}

/// The counter of the limit that a side's miss exceeds after a scan; `None`: it is raised all the same.
fn limit_after(side: Side, scanner: Scanner) -> Option<Counter> {
    const LIMITS: [Counter; 3] = [
        Counter::MissesLimitedEndpoint,
        Counter::MissesLimitedNetwork,
        Counter::MissesLimited,
    ];
    let mut datapath = Datapath::on_demand();
    // A window may end between the two frames, never between two pairs of them.
    for number in 0..3 {
        let frame = (side.frame)(2 * number);
        datapath.run(side.program, &frame, 0).unwrap();
        assert_eq!(datapath.raised().len(), 1);
        use_up_the_window(&mut datapath, side, scanner);
        let frame = (side.frame)(2 * number + 1);
        let outcome = datapath.run(side.program, &frame, 0).unwrap();
        // A packet out of a tunnel misses its sender and is delivered meanwhile.
        let is_held = outcome.to_string() == "drop resolving";
        assert_eq!(is_held, side.program == ENDPOINT_INGRESS, "{outcome}");
        let limited = LIMITS
            .into_iter()
            .find(|limit| datapath.counter(*limit) == 1);
        let raised = datapath.raised().len();
        assert_eq!(raised, usize::from(limited.is_none()));
        if limited.is_some() {
            return limited;
        }
    }
    None
}

#[test]
fn who_scans_a_network_raises_only_so_many_misses() {
    for side in [ENDPOINT, TUNNEL] {
        let own = Scanner::Meter(side.meter, ENDPOINT_LIMIT);
        let limit = Some(Counter::MissesLimitedEndpoint);
        assert_eq!(limit_after(side, own), limit);
        let network = Scanner::Meter(MeterKey::network(VNI), NETWORK_LIMIT);
        let limit = Some(Counter::MissesLimitedNetwork);
        assert_eq!(limit_after(side, network), limit);
        let limit = Some(Counter::MissesLimited);
        assert_eq!(limit_after(side, Scanner::Cpu), limit);
    }
}

#[test]
fn the_scan_of_another_endpoint_network_or_tunnel_puts_no_miss_off() {
    for (side, other, limit) in [
        (ENDPOINT, MeterKey::endpoint(LOOPBACK + 1), ENDPOINT_LIMIT),
        (ENDPOINT, MeterKey::network(VNI + 1), NETWORK_LIMIT),
        (ENDPOINT, TUNNEL.meter, ENDPOINT_LIMIT),
        (TUNNEL, MeterKey::tunnel(VNI + 1), ENDPOINT_LIMIT),
        (TUNNEL, ENDPOINT.meter, ENDPOINT_LIMIT),
    ] {
        assert_eq!(limit_after(side, Scanner::Meter(other, limit)), None);
    }
}

#[test]
fn a_frame_that_goes_nowhere_asks_for_nobody() {
    let mut datapath = Datapath::on_demand();
    for receiver in [GREEN, NOBODY] {
        let frame = Tunnel::to_this_host(udp4(&somebody(1), &receiver)).frame();
        datapath.run(UNDERLAY_INGRESS, &frame, 0).unwrap();
        assert_eq!(datapath.raised(), []);
    }
}

/// Makes it seem that so many misses were raised in the window of the last one.
fn use_up_the_window(datapath: &mut Datapath, side: Side, scanner: Scanner) {
    match scanner {
        Scanner::Meter(key, limit) => {
            let map = datapath.ebpf.map_mut("meter").unwrap();
            let mut meters: HashMap<_, MeterKey, Meter> = map.try_into().unwrap();
            let own = meters.get(&side.meter, 0).unwrap();
            let full = Meter {
                raised: limit,
                ..own
            };
            meters.insert(key, full, 0).unwrap();
        }
        Scanner::Cpu => {
            let map = datapath.ebpf.map_mut("meter_cpu").unwrap();
            let mut meters: PerCpuArray<_, Meter> = map.try_into().unwrap();
            let now = meters.get(&0, 0).unwrap();
            let full = now.iter().map(|meter| Meter {
                raised: CPU_LIMIT,
                ..*meter
            });
            let full: Vec<Meter> = full.collect();
            meters.set(0, full.try_into().unwrap(), 0).unwrap();
        }
    }
}

/// As of the last tick, which is the time that the programs read.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .unwrap()
        .into()
}

/// Gives green's entry these flags and this moment of its last use, sends it a frame and tells the moment after.
fn used_s(datapath: &mut Datapath, flags: u8, used_s: u16) -> u16 {
    let key = FdbKey::new(VNI, GREEN.mac);
    let entry = FdbEntry {
        flags,
        used_s,
        ..GREEN_VTEP.remote(GENERATION)
    };
    insert(&mut datapath.ebpf, map::FDB, &[(key, entry)]);
    let outcome = datapath.run(ENDPOINT_INGRESS, &udp4(&BLUE, &GREEN), 0);
    assert!(matches!(outcome, Ok(Outcome::Redirect(_))));
    let map = datapath.ebpf.map_mut(map::FDB).unwrap();
    let fdb: HashMap<_, FdbKey, FdbEntry> = map.try_into().unwrap();
    fdb.get(&key, 0).unwrap().used_s
}

#[test]
fn frames_note_the_use_of_an_entry_that_ages_and_of_no_other() {
    let mut datapath = Datapath::on_demand();
    assert_eq!(used_s(&mut datapath, 0, 7), 7);
    let before = u16::try_from(monotonic().as_secs() % (1 << 16)).unwrap();
    // One that was never that long ago.
    let used = used_s(&mut datapath, FdbEntry::AGES, before.wrapping_sub(1000));
    assert!(used.wrapping_sub(before) <= 10, "{used}, {before} before");
}

#[test]
fn the_agent_sends_frames_out_of_an_interface() {
    let mut datapath = Datapath::load(Settings::default());
    classifier(&mut datapath.ebpf, INJECT).load().unwrap();
    let wire = live::Listener::on_loopback();
    let frame = arp_request(&BLUE, GREEN.ipv4);
    assert_eq!(datapath.inject(&frame, LOOPBACK), 1);
    assert_eq!(wire.next(), frame);
    assert_eq!(datapath.inject(&frame, 4711), 0);
}
