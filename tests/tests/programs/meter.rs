//! Limits: what is marked and dropped, what it costs, and the class that frames get.

use std::thread;

use aya::{
    maps::{Array, HashMap},
    programs::{TestRun as _, TestRunOptions},
};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::{
    abi::{
        Counter, DropReason, EndpointEntry, FdbEntry, FdbKey, MeterClock, MeterEntry, MeterState,
        map,
        program::{ENDPOINT_INGRESS, EXTERNAL_INGRESS, PACE, UNDERLAY_INGRESS},
    },
    rule::departure::{self, ticks},
};

use crate::{
    datapath::{Case, Context, Datapath, Outcome, Settings, VOUCHER, classifier},
    frames::{Tunnel, arp_reply, ipv4, ipv6, source_port, udp4, udp6, with_tcp},
    network::{BLUE, CYAN, CYAN_IFINDEX, GREEN, GREEN_VTEP, LOOPBACK, NOBODY, VNI, id_of},
};

const SECOND: u64 = 1_000_000_000;
/// Expedited forwarding (RFC 3246).
const EF: u8 = 46;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// A limit with times that no slow machine gets past: late from a second on, too late from four on.
const LIMIT: MeterEntry = MeterEntry {
    rate: 1_000_000,
    burst_ns: 0,
    packet_rate: 0,
    mark_ns: 1_000_000_000,
    drop_ns: 4_000_000_000,
    priority: 0,
    dscp: 0,
    flags: 0,
    reserved: [0; 6],
};

const BLUE_SENT: u32 = MeterEntry::slot(id_of(LOOPBACK) as u32, MeterEntry::SENT);
const BLUE_RECEIVED: u32 = MeterEntry::slot(id_of(LOOPBACK) as u32, MeterEntry::RECEIVED);
const CYAN_RECEIVED: u32 = MeterEntry::slot(id_of(CYAN_IFINDEX) as u32, MeterEntry::RECEIVED);

/// How far a meter's next frame is from now, nanoseconds.
#[derive(Clone, Copy)]
struct Ahead(u64);

const IDLE: Ahead = Ahead(0);
const LATE: Ahead = Ahead(2 * SECOND);
const TOO_LATE: Ahead = Ahead(100 * SECOND);

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec()).unwrap() * SECOND + u64::try_from(now.tv_nsec()).unwrap()
}

/// A datapath in which a slot has a meter, and the endpoint's rows say so.
fn metered(slot: u32, meter: MeterEntry, ahead: Ahead) -> Datapath {
    let mut datapath = Datapath::load(Settings::default());
    set_meter(&mut datapath, slot, meter);
    set_ahead(&mut datapath, slot, ahead);
    let map = datapath.ebpf.map_mut(map::ENDPOINTS).unwrap();
    let mut endpoints: HashMap<_, u32, EndpointEntry> = map.try_into().unwrap();
    if slot == BLUE_SENT {
        let flags = EndpointEntry::METERED;
        let entry = endpoints.get(&LOOPBACK, 0).unwrap();
        let entry = EndpointEntry { flags, ..entry };
        endpoints.insert(LOOPBACK, entry, 0).unwrap();
        return datapath;
    }
    let map = datapath.ebpf.map_mut(map::FDB).unwrap();
    let mut fdb: HashMap<_, FdbKey, FdbEntry> = map.try_into().unwrap();
    let mac = if slot == BLUE_RECEIVED {
        BLUE.mac
    } else {
        CYAN.mac
    };
    let key = FdbKey::new(VNI, mac);
    let entry = fdb.get(&key, 0).unwrap();
    let flags = entry.flags | FdbEntry::METERED;
    fdb.insert(key, FdbEntry { flags, ..entry }, 0).unwrap();
    datapath
}

fn set_meter(datapath: &mut Datapath, slot: u32, meter: MeterEntry) {
    let map = datapath.ebpf.map_mut(map::METERS).unwrap();
    let mut meters: Array<_, MeterEntry> = map.try_into().unwrap();
    meters.set(slot, meter, 0).unwrap();
}

fn set_ahead(datapath: &mut Datapath, slot: u32, Ahead(ns): Ahead) {
    let map = datapath.ebpf.map_mut(map::METERS).unwrap();
    let meters: Array<_, MeterEntry> = map.try_into().unwrap();
    let meter = meters.get(&slot, 0).unwrap();
    let map = datapath.ebpf.map_mut(map::METER_STATE).unwrap();
    let mut states: Array<_, MeterState> = map.try_into().unwrap();
    let clock = |rate| MeterClock {
        next: ticks(now() + ns),
        rate,
    };
    let state = MeterState {
        bits: clock(meter.rate),
        packets: clock(meter.packet_rate.into()),
        ..MeterState::default()
    };
    states.set(slot, state, 0).unwrap();
}

fn state(datapath: &mut Datapath, slot: u32) -> MeterState {
    let map = datapath.ebpf.map_mut(map::METER_STATE).unwrap();
    let states: Array<_, MeterState> = map.try_into().unwrap();
    states.get(&slot, 0).unwrap()
}

/// What leaves the host of a frame of blue's.
fn outer(inner: &[u8], class: u8) -> Vec<u8> {
    let port = source_port(inner, true);
    let tunnel = Tunnel {
        dscp: class >> 2,
        ecn: class & 3,
        ..Tunnel::from_this_host(inner, GREEN_VTEP, port)
    };
    tunnel.frame()
}

/// Frames of a class and what they are in another: TCP, of both versions of IP.
fn of_classes(from: u8, to: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    let v4 = |class| with_tcp(ipv4(&BLUE, &GREEN, class));
    let v6 = |class| with_tcp(ipv6(&BLUE, &GREEN, class));
    vec![(v4(from), v4(to)), (v6(from), v6(to))]
}

pub(crate) fn refusals() -> Vec<Case> {
    vec![
        Case::drop("IPv4", udp4(&BLUE, &GREEN), DropReason::Rate),
        Case::drop("IPv6", udp6(&BLUE, &GREEN), DropReason::Rate),
        Case::drop("ARP", arp_reply(&BLUE, &GREEN), DropReason::Rate),
        Case::drop(
            "one that can be marked",
            with_tcp(ipv4(&BLUE, &GREEN, ECT_0)),
            DropReason::Rate,
        ),
        Case::drop("of this host", udp4(&BLUE, &CYAN), DropReason::Rate),
        Case::drop("for nobody", udp4(&BLUE, &NOBODY), DropReason::Rate),
        Case::drop(
            "an aggregate",
            with_tcp(ipv4(&BLUE, &GREEN, 0)),
            DropReason::Rate,
        )
        .of_segments(10),
    ]
}

#[test]
fn what_an_endpoint_sends_too_late_is_dropped_and_costs_nothing() {
    let mut datapath = metered(BLUE_SENT, LIMIT, TOO_LATE);
    let before = state(&mut datapath, BLUE_SENT);
    datapath.check(ENDPOINT_INGRESS, &refusals());
    let after = state(&mut datapath, BLUE_SENT);
    assert_eq!(after.bits, before.bits);
    // The aggregate has 32 bytes of payload: four segments.
    assert_eq!(after.dropped, 6 + 4);
    let bytes: usize = refusals().iter().map(|case| case.frame.len()).sum();
    assert_eq!(
        datapath.counter(Counter::RateDroppedBytes),
        bytes as u64 + 3 * 54
    );
    assert_eq!(datapath.port_traffic(id_of(LOOPBACK)), [0; 4]);
}

#[test]
fn what_is_late_is_marked_if_it_can_be() {
    let mut datapath = metered(BLUE_SENT, LIMIT, LATE);
    let dscp = EF << 2;
    for (class, marked) in [(ECT_0, CE), (ECT_1, CE), (CE, CE), (0, 0)] {
        for (frame, inner) in of_classes(dscp | class, dscp | marked) {
            // A mark does not go outside (RFC 6040).
            let outside = if marked == CE { ECT_0 } else { marked };
            let expected = Outcome::Redirect(outer(&inner, dscp | outside));
            assert_eq!(datapath.run(ENDPOINT_INGRESS, &frame, 0), Ok(expected));
        }
    }
    assert_eq!(state(&mut datapath, BLUE_SENT).marked, 4);
    assert_eq!(datapath.counter(Counter::RateMarked), 4);
}

#[test]
fn what_an_endpoint_receives_is_held_to_its_own_limit_wherever_it_comes_from() {
    let [v4, v6] =
        [ipv4, ipv6].map(|version| [ECT_0, CE].map(|class| with_tcp(version(&BLUE, &CYAN, class))));
    for [frame, marked] in [v4, v6] {
        let mut datapath = metered(CYAN_RECEIVED, LIMIT, LATE);
        assert_eq!(
            datapath.run(ENDPOINT_INGRESS, &frame, 0),
            Ok(Outcome::Redirect(marked))
        );
        set_ahead(&mut datapath, CYAN_RECEIVED, TOO_LATE);
        assert_eq!(
            datapath.run(ENDPOINT_INGRESS, &frame, 0),
            Ok(Outcome::Drop(DropReason::Rate))
        );
        // Who sent it has no limit.
        assert_eq!(state(&mut datapath, BLUE_SENT), MeterState::default());
    }
    for version in [ipv4, ipv6] {
        let [frame, marked] = [ECT_0, CE].map(|class| with_tcp(version(&GREEN, &BLUE, class)));
        let tunnel = Tunnel::to_this_host(frame).frame();
        let mut datapath = metered(BLUE_RECEIVED, LIMIT, LATE);
        assert_eq!(
            datapath.run(UNDERLAY_INGRESS, &tunnel, 0),
            Ok(Outcome::Redirect(marked))
        );
        set_ahead(&mut datapath, BLUE_RECEIVED, TOO_LATE);
        assert_eq!(
            datapath.run(UNDERLAY_INGRESS, &tunnel, 0),
            Ok(Outcome::Drop(DropReason::Rate))
        );
    }
}

#[test]
fn what_the_kernel_has_unpacked_is_charged_there_and_once() {
    let mut datapath = metered(BLUE_RECEIVED, LIMIT, TOO_LATE);
    let aggregate = Tunnel::to_this_host(udp4(&GREEN, &BLUE)).frame();
    assert_eq!(
        datapath.run(UNDERLAY_INGRESS, &aggregate, 10),
        Ok(Outcome::Vouch)
    );
    assert_eq!(state(&mut datapath, BLUE_RECEIVED).dropped, 0);
    let _ = EXTERNAL_INGRESS;
}

#[test]
fn a_frame_costs_its_bytes_on_the_wire() {
    let mut datapath = metered(BLUE_SENT, LIMIT, LATE);
    let tcp = with_tcp(ipv4(&BLUE, &GREEN, 0));
    let short = udp4(&BLUE, &CYAN);
    for (frame, gso_size, bytes) in [
        (&short, 0, short.len()),
        (&tcp, 0, tcp.len()),
        // Four segments with headers of 54 bytes each.
        (&tcp, 10, 4 * 54 + 32),
    ] {
        let before = state(&mut datapath, BLUE_SENT).bits.next;
        datapath.run(ENDPOINT_INGRESS, frame, gso_size).unwrap();
        let cost = departure::cost(bytes as u64, LIMIT.rate);
        assert_eq!(state(&mut datapath, BLUE_SENT).bits.next, before + cost);
    }
}

#[test]
fn frames_are_counted_against_a_packet_rate() {
    let meter = MeterEntry {
        rate: 0,
        packet_rate: 10,
        ..LIMIT
    };
    let mut datapath = metered(BLUE_SENT, meter, LATE);
    let before = state(&mut datapath, BLUE_SENT).packets.next;
    let frame = with_tcp(ipv4(&BLUE, &GREEN, 0));
    datapath.run(ENDPOINT_INGRESS, &frame, 10).unwrap();
    let after = state(&mut datapath, BLUE_SENT).packets.next;
    assert_eq!(after, before + ticks(4 * SECOND / 10));
    set_ahead(&mut datapath, BLUE_SENT, TOO_LATE);
    assert_eq!(
        datapath.run(ENDPOINT_INGRESS, &frame, 0),
        Ok(Outcome::Drop(DropReason::Rate))
    );
}

#[test]
fn an_idle_endpoint_saves_up_its_burst_and_no_more() {
    let meter = MeterEntry {
        burst_ns: 3 * SECOND,
        ..LIMIT
    };
    let mut datapath = metered(BLUE_SENT, meter, IDLE);
    let frame = udp4(&BLUE, &GREEN);
    let map = datapath.ebpf.map_mut(map::METER_STATE).unwrap();
    let mut states: Array<_, MeterState> = map.try_into().unwrap();
    let mut idle = MeterState::default();
    idle.bits.rate = meter.rate;
    states.set(BLUE_SENT, idle, 0).unwrap();
    let earliest = ticks(now() - 3 * SECOND);
    datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    let latest = ticks(now() - 3 * SECOND);
    let cost = departure::cost(frame.len() as u64, meter.rate);
    let next = state(&mut datapath, BLUE_SENT).bits.next;
    assert!((earliest + cost..=latest + cost).contains(&next));
}

#[test]
fn another_rate_starts_anew_without_debt_and_without_burst() {
    let mut datapath = metered(BLUE_SENT, LIMIT, Ahead(3600 * SECOND));
    let frame = udp4(&BLUE, &GREEN);
    let run = |datapath: &mut Datapath| datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    assert_eq!(run(&mut datapath), Outcome::Drop(DropReason::Rate));
    let fast = MeterEntry {
        rate: 10_000_000_000,
        burst_ns: SECOND,
        ..LIMIT
    };
    set_meter(&mut datapath, BLUE_SENT, fast);
    let begun = ticks(now());
    assert_eq!(run(&mut datapath), Outcome::Redirect(outer(&frame, 0)));
    assert!(state(&mut datapath, BLUE_SENT).bits.next >= begun);
}

#[test]
fn a_slot_that_was_never_used_owes_nothing() {
    let mut datapath = metered(BLUE_SENT, LIMIT, IDLE);
    let map = datapath.ebpf.map_mut(map::METER_STATE).unwrap();
    let mut states: Array<_, MeterState> = map.try_into().unwrap();
    states.set(BLUE_SENT, MeterState::default(), 0).unwrap();
    let frame = udp4(&BLUE, &GREEN);
    assert_eq!(
        datapath.run(ENDPOINT_INGRESS, &frame, 0),
        Ok(Outcome::Redirect(outer(&frame, 0)))
    );
}

#[test]
fn frames_get_the_dscp_of_their_meter_inside_and_outside() {
    let meter = MeterEntry {
        rate: 0,
        dscp: EF,
        flags: MeterEntry::SETS_DSCP,
        ..LIMIT
    };
    let mut datapath = metered(BLUE_SENT, meter, IDLE);
    for ecn in [0, ECT_0, ECT_1] {
        for dscp in [0, 10 << 2, 63 << 2] {
            for (frame, inner) in of_classes(dscp | ecn, EF << 2 | ecn) {
                let expected = Outcome::Redirect(outer(&inner, EF << 2 | ecn));
                assert_eq!(datapath.run(ENDPOINT_INGRESS, &frame, 0), Ok(expected));
            }
        }
    }
    for version in [ipv4, ipv6] {
        let [frame, inner] = [0, EF << 2].map(|class| with_tcp(version(&BLUE, &CYAN, class)));
        assert_eq!(
            datapath.run(ENDPOINT_INGRESS, &frame, 0),
            Ok(Outcome::Redirect(inner))
        );
    }
    assert_eq!(state(&mut datapath, BLUE_SENT).marked, 0);
}

#[test]
fn frames_leave_the_host_with_their_meters_priority() {
    let meter = MeterEntry {
        rate: 0,
        priority: 5,
        ..LIMIT
    };
    let mut datapath = metered(BLUE_SENT, meter, IDLE);
    let [out, here] = [&GREEN, &CYAN].map(|to| udp4(&BLUE, to));
    assert_eq!(datapath.marks_after(ENDPOINT_INGRESS, &out, 0, 3), (0, 5));
    assert_eq!(datapath.marks_after(ENDPOINT_INGRESS, &here, 0, 3), (0, 0));
}

/// What the harness has for the packets of the programs' own.
const SECRET: u32 = VOUCHER;

fn with_departure(secret: u32, departure_ns: u64) -> Context {
    let mut context = Context::default();
    context.set(Context::CB, secret);
    context.set(
        Context::CB + 4,
        u32::try_from(departure_ns & 0xffff_ffff).unwrap(),
    );
    context.set(Context::CB + 8, u32::try_from(departure_ns >> 32).unwrap());
    context
}

fn departure_of(context: &Context) -> Option<u64> {
    (context.get(Context::CB) == SECRET).then(|| context.get_u64(Context::CB + 4))
}

#[test]
fn a_late_frame_takes_its_departure_time_along_when_it_leaves_the_host() {
    let [out, here] = [&GREEN, &CYAN].map(|to| udp4(&BLUE, to));
    for meter in [
        LIMIT,
        MeterEntry {
            rate: 0,
            packet_rate: 1000,
            ..LIMIT
        },
    ] {
        let mut datapath = metered(BLUE_SENT, meter, Ahead(SECOND));
        let due = now() + SECOND;
        let mut departure = |frame| {
            let after = datapath.context_after(ENDPOINT_INGRESS, frame, &Context::default());
            departure_of(&after)
        };
        let first = departure(&out).unwrap();
        assert!(
            (due - SECOND..=due).contains(&first),
            "{first} is not {due}"
        );
        // The next one follows when the line is free again, and what stays here waits nowhere.
        assert!(departure(&out).unwrap() > first);
        assert_eq!(departure(&here), None);
    }
}

#[test]
fn a_frame_that_is_not_late_leaves_at_once() {
    let frame = udp4(&BLUE, &GREEN);
    let without_limit = MeterEntry { rate: 0, ..LIMIT };
    for (meter, ahead) in [(LIMIT, IDLE), (without_limit, LATE)] {
        let mut datapath = metered(BLUE_SENT, meter, ahead);
        let after = datapath.context_after(ENDPOINT_INGRESS, &frame, &Context::default());
        assert_eq!(departure_of(&after), None);
    }
}

#[test]
fn a_queue_is_told_the_departure_times_of_the_programs_alone() {
    let mut datapath = Datapath::load(Settings::default());
    classifier(&mut datapath.ebpf, PACE).load().unwrap();
    let frame = udp4(&BLUE, &GREEN);
    let soon = now() + SECOND;
    for (context, told) in [
        (with_departure(SECRET, soon), soon),
        // Whatever else is there, and what no limit lets wait so long.
        (with_departure(SECRET ^ 1, soon), 0),
        (with_departure(0, soon), 0),
        (with_departure(SECRET, soon + 100 * SECOND), 0),
    ] {
        let after = datapath.context_after(PACE, &frame, &context);
        assert_eq!(after.get_u64(Context::TSTAMP), told);
        assert_eq!(departure_of(&after), None);
    }
}

#[test]
fn what_several_cpus_charge_at_the_same_time_adds_up() {
    const RUNS: u32 = 50_000;
    let mut datapath = metered(BLUE_SENT, LIMIT, IDLE);
    // So that nothing is too late: every frame is charged.
    let meter = MeterEntry {
        rate: 400_000_000_000,
        mark_ns: u32::MAX,
        drop_ns: u32::MAX,
        ..LIMIT
    };
    set_meter(&mut datapath, BLUE_SENT, meter);
    set_ahead(&mut datapath, BLUE_SENT, LATE);
    let before = state(&mut datapath, BLUE_SENT).bits.next;
    let frame = udp4(&BLUE, &CYAN);
    let program = &*classifier(&mut datapath.ebpf, ENDPOINT_INGRESS);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    repeat: RUNS,
                    ..TestRunOptions::default()
                };
                program.test_run(options).unwrap();
            });
        }
    });
    let cost = departure::cost(frame.len() as u64, meter.rate);
    let after = state(&mut datapath, BLUE_SENT).bits.next;
    assert_eq!(after - before, cost * u64::from(RUNS) * 4);
}
