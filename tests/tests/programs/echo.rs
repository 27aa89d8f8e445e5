//! Echoes: sent back, told of, or refused.

use std::time::Instant;

use aya::maps::RingBuf;
use overlay_ebpf::{
    abi::{Counter, DropReason, ECHOES, EchoEvent, program::UNDERLAY_INGRESS},
    wire::echo,
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings, windows},
    frames::{INNER, NEXT_HOP, OUTER_UDP, THIS_HOST, Tunnel, patched},
    network::{
        BLUE, CYAN, Endpoint, GREEN, GREEN_VTEP, NO_VNI, NOBODY, RED, STRANGE_VTEP, VIOLET, VNI,
        VTEP, mapped,
    },
};

const ID: [u8; 8] = *b"12345678";

/// Where the zeros begin that an echo carries.
const ZEROS: usize = INNER + 14 + echo::LEN;

/// An inner frame with an echo and its zeros.
fn echo_frame(kind: u8) -> Vec<u8> {
    frame([0; 6], [0; 6], 0, kind)
}

fn frame(to: [u8; 6], from: [u8; 6], vni: u32, kind: u8) -> Vec<u8> {
    [
        &to[..],
        &from,
        &echo::ETHER_TYPE.to_ne_bytes(),
        &echo::MAGIC,
        &[kind],
        &vni.to_be_bytes()[1..],
        &ID,
        &[0; echo::ZEROS],
    ]
    .concat()
}

/// A probe of one endpoint to another.
fn probe(from: &Endpoint, to: &Endpoint, kind: u8) -> Tunnel {
    Tunnel::to_this_host(frame(to.mac, from.mac, 0, kind))
}

/// An echo between hosts that asks for an endpoint.
fn asking_for(vni: u32, endpoint: &Endpoint) -> Vec<u8> {
    Tunnel {
        vni: echo::VNI,
        ..Tunnel::to_this_host(frame(endpoint.mac, [0; 6], vni, echo::REQUEST))
    }
    .frame()
}

fn from_green(kind: u8) -> Tunnel {
    Tunnel {
        vni: echo::VNI,
        ..Tunnel::to_this_host(echo_frame(kind))
    }
}

/// What green's host gets back. The kernel writes the outer MACs later.
fn sent_back() -> Vec<u8> {
    Tunnel {
        source_mac: NEXT_HOP,
        destination_mac: THIS_HOST,
        source: VTEP.ip,
        destination: GREEN_VTEP,
        ..from_green(echo::REPLY)
    }
    .frame()
}

pub(crate) fn refusals() -> Vec<Case> {
    let request = || from_green(echo::REQUEST).frame();
    let nobodys = |name, at, bytes: &[u8]| {
        Case::drop(name, patched(request(), at, bytes), DropReason::VniUnknown)
    };
    vec![
        nobodys("another EtherType", INNER + 12, &[0x88, 0xb6]),
        nobodys("another beginning", INNER + 14, b"OVE2"),
        nobodys("neither request nor reply", INNER + 18, &[3]),
        Case::drop(
            "one that was changed",
            patched(request(), ZEROS + 59, &[1]),
            DropReason::EchoDamaged,
        ),
        Case::drop(
            "a stranger's",
            Tunnel {
                source: STRANGE_VTEP.ip,
                ..from_green(echo::REQUEST)
            }
            .frame(),
            DropReason::VtepUnknown,
        ),
    ]
}

#[test]
fn a_request_is_sent_back_to_where_it_came_from() {
    let request = from_green(echo::REQUEST).frame();
    let with_checksum = patched(request.clone(), OUTER_UDP + 6, &[0xbe, 0xef]);
    let mut datapath = Datapath::load(Settings::default());
    datapath.check(
        UNDERLAY_INGRESS,
        &[
            Case::redirect("as it came", request, sent_back()),
            Case::redirect("without its UDP checksum", with_checksum, sent_back()),
        ],
    );
    assert_eq!(datapath.counter(Counter::EchoAnswered), 2);
}

#[test]
fn a_reply_is_told_to_the_agent_alone() {
    let mut datapath = Datapath::load(Settings::default());
    let reply = from_green(echo::REPLY).frame();
    let len = u32::try_from(reply.len()).unwrap() - 14;
    datapath.check(
        UNDERLAY_INGRESS,
        &[Case::new("a reply", reply, Outcome::Consume)],
    );
    let ring = datapath.ebpf.take_map(ECHOES).unwrap();
    let mut ring: RingBuf<_> = ring.try_into().unwrap();
    let record = ring.next().unwrap();
    let event: EchoEvent = bytemuck::pod_read_unaligned(&record);
    assert_eq!(
        (event.id, event.vtep, event.kind, event.len),
        (ID, mapped(GREEN_VTEP.ip), EchoEvent::BACK, len)
    );
}

#[test]
fn what_is_no_echo_of_a_known_host_is_dropped() {
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, &refusals());
}

#[test]
fn a_host_gets_so_many_back_and_no_more() {
    let mut datapath = Datapath::load(Settings::default());
    let request = from_green(echo::REQUEST).frame();
    let begun = Instant::now();
    let outcomes: Vec<Outcome> = (0..300)
        .map(|_| datapath.run(UNDERLAY_INGRESS, &request, 0).unwrap())
        .collect();
    let limited = Outcome::Drop(DropReason::EchoLimited);
    let refused = outcomes
        .iter()
        .filter(|outcome| **outcome == limited)
        .count();
    let answered = u64::try_from(300 - refused).unwrap();
    assert!(
        (128..=128 * windows(begun)).contains(&answered),
        "{answered}"
    );
    // The agent is told of no more either, and of none that a stranger sent.
    let stranger = Tunnel {
        source: STRANGE_VTEP.ip,
        ..from_green(echo::REQUEST)
    };
    let strange = datapath.run(UNDERLAY_INGRESS, &stranger.frame(), 0);
    assert!(strange == Ok(Outcome::Drop(DropReason::VtepUnknown)));
    let ring = datapath.ebpf.take_map(ECHOES).unwrap();
    let mut ring: RingBuf<_> = ring.try_into().unwrap();
    let mut told = 0;
    while ring.next().is_some() {
        told += 1;
    }
    assert_eq!(told, answered);
}

#[test]
fn a_host_that_is_asked_for_an_endpoint_answers_if_it_has_it() {
    let mut datapath = Datapath::load(Settings::default());
    let outcome = datapath.run(UNDERLAY_INGRESS, &asking_for(VNI, &CYAN), 0);
    assert!(matches!(outcome, Ok(Outcome::Redirect(_))));
    datapath.check(
        UNDERLAY_INGRESS,
        &[
            Case::drop("elsewhere", asking_for(VNI, &RED), DropReason::NotLocal),
            Case::drop(
                "nowhere",
                asking_for(VNI, &NOBODY),
                DropReason::DestinationUnknown,
            ),
            Case::drop(
                "in no network",
                asking_for(NO_VNI, &CYAN),
                DropReason::VniUnknown,
            ),
        ],
    );
}

#[test]
fn a_probe_is_sent_back_to_the_endpoint_that_it_is_of() {
    let sent_back = Tunnel {
        source_mac: NEXT_HOP,
        destination_mac: THIS_HOST,
        source: VTEP.ip,
        destination: GREEN_VTEP,
        ..probe(&CYAN, &GREEN, echo::REPLY)
    };
    let mut datapath = Datapath::load(Settings::default());
    datapath.check(
        UNDERLAY_INGRESS,
        &[Case::redirect(
            "as it came",
            probe(&GREEN, &CYAN, echo::REQUEST).frame(),
            sent_back.frame(),
        )],
    );
    assert_eq!(datapath.counter(Counter::EchoAnswered), 1);
}

#[test]
fn a_probe_that_could_be_no_frame_of_its_sender_is_dropped() {
    let request = |from, to| probe(from, to, echo::REQUEST).frame();
    let in_no_network = Tunnel {
        vni: NO_VNI,
        ..probe(&GREEN, &BLUE, echo::REQUEST)
    };
    Datapath::load(Settings::default()).check(
        UNDERLAY_INGRESS,
        &[
            Case::drop(
                "from another host's endpoint",
                request(&RED, &BLUE),
                DropReason::SourceVtep,
            ),
            Case::drop(
                "from nobody",
                request(&NOBODY, &BLUE),
                DropReason::SourceVtep,
            ),
            Case::drop(
                "for another host's endpoint",
                request(&GREEN, &RED),
                DropReason::NotLocal,
            ),
            Case::drop(
                "for another tenant's",
                request(&GREEN, &VIOLET),
                DropReason::DestinationUnknown,
            ),
            Case::drop(
                "of no network",
                in_no_network.frame(),
                DropReason::VniUnknown,
            ),
            Case::drop(
                "changed on the way",
                patched(request(&GREEN, &BLUE), ZEROS, &[1]),
                DropReason::EchoDamaged,
            ),
        ],
    );
}

#[test]
fn what_becomes_of_a_probe_is_told_with_its_number_and_the_reason() {
    let mut datapath = Datapath::load(Settings::default());
    for (frame, outcome) in [
        (probe(&GREEN, &BLUE, echo::REPLY), Outcome::Consume),
        (
            probe(&GREEN, &RED, echo::REQUEST),
            Outcome::Drop(DropReason::NotLocal),
        ),
    ] {
        let frame = frame.frame();
        datapath.check(UNDERLAY_INGRESS, &[Case::new("a probe", frame, outcome)]);
    }
    let ring = datapath.ebpf.take_map(ECHOES).unwrap();
    let mut ring: RingBuf<_> = ring.try_into().unwrap();
    for (kind, reason) in [
        (EchoEvent::BACK, 0),
        (EchoEvent::DROPPED, DropReason::NotLocal.number()),
    ] {
        let event: EchoEvent = bytemuck::pod_read_unaligned(&ring.next().unwrap());
        assert_eq!(
            (event.id, event.vtep, event.kind, event.reason),
            (ID, mapped(GREEN_VTEP.ip), kind, reason)
        );
    }
}
