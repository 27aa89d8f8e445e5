//! Packets left to the kernel's VXLAN device, and packets too long for the path.

use std::time::Instant;

use etherparse::Ipv4Header;
use overlay_ebpf::abi::{
    Counter, DropReason,
    program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings, windows},
    endpoint::encapsulated,
    frames::{
        OUTER_IP, Tunnel, arp_reply, ipv4, other, patched, too_big, udp4, udp4_of, udp6, udp6_of,
        with_tcp,
    },
    network::{self, BLUE, GREEN, RED, STRANGE_VTEP},
    underlay::with_ip_length,
};

/// Where an IPv4 packet names its protocol, in a frame.
const PROTOCOL: usize = 23;
const SCTP: u8 = 132;
/// `GSO_BY_FRAGS`.
const BY_PARTS: u32 = 0xffff;

fn without_device() -> Datapath {
    Datapath::load(Settings {
        without_device: true,
        ..Settings::default()
    })
}

/// The tunnel packet as the first fragment of one twice as long.
fn first_fragment(tunnel: &Tunnel) -> Vec<u8> {
    let frame = tunnel.frame();
    let (mut ip, _) = Ipv4Header::from_slice(&frame[OUTER_IP..]).unwrap();
    ip.dont_fragment = false;
    ip.more_fragments = true;
    ip.header_checksum = ip.calc_header_checksum();
    patched(frame, OUTER_IP, &ip.to_bytes())
}

fn from_green(inner: Vec<u8>) -> Tunnel {
    Tunnel::to_this_host(inner)
}

fn sctp() -> Vec<u8> {
    patched(udp4(&GREEN, &BLUE), PROTOCOL, &[SCTP])
}

#[test]
fn aggregates_of_datagrams_and_first_fragments_are_left_to_the_kernel() {
    let table = [
        Case::vouch("UDP over IPv4", from_green(udp4(&GREEN, &BLUE)).frame()).of_segments(8),
        Case::vouch("UDP over IPv6", from_green(udp6(&GREEN, &BLUE)).frame()).of_segments(8),
        Case::vouch("SCTP", from_green(sctp()).frame()).of_segments(BY_PARTS),
        Case::vouch("UDP whose outer length means nothing", {
            with_ip_length(from_green(udp4(&GREEN, &BLUE)).frame(), [0xff, 0xff])
        })
        .of_segments(1000),
        // `bpf_skb_adjust_room` leaves no frame without room for an IPv4 header behind.
        Case::vouch(
            "19 bytes of another protocol",
            from_green(other(&GREEN, BLUE.mac, &[0; 19])).frame(),
        ),
        Case::vouch(
            "a first fragment",
            first_fragment(&from_green(udp4(&GREEN, &BLUE))),
        ),
    ];
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, &table);
}

/// Runs an aggregate and a datagram after it, until the second comes within the 12 ms that count: an emulated
/// machine may take longer.
fn follow(datapath: &mut Datapath) -> bool {
    let frame = from_green(udp4(&GREEN, &BLUE)).frame();
    (0..50).any(|_| {
        let first = datapath.run(UNDERLAY_INGRESS, &frame, 8).unwrap();
        let second = datapath.run(UNDERLAY_INGRESS, &frame, 0).unwrap();
        assert_eq!(first.to_string(), "vouch");
        second == Outcome::Vouch
    })
}

#[test]
fn datagrams_that_follow_an_aggregate_do_not_overtake_it() {
    let mut datapath = Datapath::load(Settings::default());
    assert!(follow(&mut datapath));
    let tcp = with_tcp(ipv4(&GREEN, &BLUE, 0));
    let frame = from_green(tcp.clone()).frame();
    datapath.check(
        UNDERLAY_INGRESS,
        &[Case::redirect(
            "TCP, which has an order of its own",
            frame,
            tcp,
        )],
    );
}

#[test]
fn what_a_stranger_sends_in_fragments_is_not_vouched_for() {
    let strange = Tunnel {
        source: STRANGE_VTEP.ip,
        ..from_green(udp4(&GREEN, &BLUE))
    };
    let table = [Case::drop(
        "a first fragment",
        first_fragment(&strange),
        DropReason::VtepUnknown,
    )];
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, &table);
}

/// Tunnel packets that nothing but the device could unpack.
pub(crate) fn lost_from_tunnel() -> Vec<Case> {
    vec![
        Case::drop(
            "an aggregate of datagrams",
            from_green(udp4(&GREEN, &BLUE)).frame(),
            DropReason::DecapFailed,
        )
        .of_segments(8),
        Case::drop(
            "a first fragment",
            first_fragment(&from_green(udp4(&GREEN, &BLUE))),
            DropReason::OuterFragment,
        ),
    ]
}

/// Frames that nothing but the device could encapsulate.
pub(crate) fn lost_from_endpoint() -> Vec<Case> {
    vec![
        Case::drop("ARP", arp_reply(&BLUE, &GREEN), DropReason::EncapFailed),
        Case::drop(
            "an aggregate of datagrams",
            udp4(&BLUE, &GREEN),
            DropReason::EncapFailed,
        )
        .of_segments(8),
        Case::drop(
            "ARP to a VTEP with a port of its own, to which the device does not send",
            arp_reply(&BLUE, &RED),
            DropReason::EncapFailed,
        ),
    ]
}

#[test]
fn without_a_device_what_it_would_carry_is_counted_and_dropped() {
    let mut datapath = without_device();
    datapath.check(UNDERLAY_INGRESS, &lost_from_tunnel());
    datapath.check(ENDPOINT_INGRESS, &lost_from_endpoint());
}

#[test]
fn each_cause_of_the_slow_path_is_counted() {
    let mut datapath = Datapath::load(Settings::default());
    assert!(follow(&mut datapath));
    let fragment = first_fragment(&from_green(udp4(&GREEN, &BLUE)));
    datapath.run(UNDERLAY_INGRESS, &fragment, 0).unwrap();
    let reply = arp_reply(&BLUE, &GREEN);
    datapath.run(ENDPOINT_INGRESS, &reply, 0).unwrap();
    let refused = udp4(&BLUE, &GREEN);
    datapath.run(ENDPOINT_INGRESS, &refused, 8).unwrap();
    for counter in [
        Counter::SlowReceiveAggregate,
        Counter::SlowReceiveOrder,
        Counter::SlowReceiveFragment,
        Counter::SlowSendArp,
        Counter::SlowSendRefused,
    ] {
        assert_ne!(datapath.counter(counter), 0, "{}", counter.name());
    }
}

/// The tunnel leaves 50 bytes less of what the path takes.
const PATH: u16 = 1350;
const LIMIT: usize = 1300;

#[test]
fn what_the_path_to_the_host_does_not_take_is_told_or_fragmented() {
    let mut datapath = Datapath::load(Settings::default());
    network::narrow_path(&mut datapath.ebpf, PATH);
    let told = |name, frame: Vec<u8>| {
        let answer = too_big(&BLUE, &GREEN, &frame, u16::try_from(LIMIT).unwrap());
        Case::redirect(name, frame, answer)
    };
    let as_it_is = |name, frame: Vec<u8>| Case::redirect(name, frame.clone(), frame);
    datapath.check(
        ENDPOINT_INGRESS,
        &[
            encapsulated("IPv4 that fits", udp4_of(&BLUE, &GREEN, LIMIT), true),
            told("IPv4 that does not", udp4_of(&BLUE, &GREEN, LIMIT + 1)),
            told("IPv6 that does not", udp6_of(&BLUE, &GREEN, LIMIT + 1)),
            as_it_is(
                "IPv4 that may be fragmented, to the VXLAN device",
                patched(udp4_of(&BLUE, &GREEN, LIMIT + 1), 20, &[0]),
            ),
        ],
    );
    assert_eq!(datapath.counter(Counter::TooBigAnswered), 2);
    assert_eq!(datapath.counter(Counter::SlowSendFragmented), 1);
}

#[test]
fn ipv6_below_its_least_mtu_is_fragmented_on_the_way() {
    let mut datapath = Datapath::load(Settings::default());
    network::narrow_path(&mut datapath.ebpf, 1000);
    let least = udp6_of(&BLUE, &GREEN, 1280);
    let longer = udp6_of(&BLUE, &GREEN, 1281);
    let answer = too_big(&BLUE, &GREEN, &longer, 1280);
    datapath.check(
        ENDPOINT_INGRESS,
        &[
            Case::redirect("1280 bytes", least.clone(), least),
            Case::redirect("1281 bytes", longer, answer),
        ],
    );
}

#[test]
fn one_who_does_not_listen_is_told_no_more_than_so_often() {
    let mut datapath = Datapath::load(Settings::default());
    let frame = udp4_of(&BLUE, &GREEN, 1451);
    let begun = Instant::now();
    for _ in 0..300 {
        datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    }
    let told = datapath.counter(Counter::TooBigAnswered);
    let limited = datapath.counter(Counter::TooBigLimited);
    assert!((64..=64 * windows(begun)).contains(&told), "{told}");
    assert_eq!(told + limited, 300);
}
