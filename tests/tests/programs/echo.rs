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
    network::{GREEN_VTEP, STRANGE_VTEP, VTEP},
};

const ID: [u8; 8] = *b"12345678";

/// An inner frame with an echo and some zeros.
fn echo_frame(kind: u8) -> Vec<u8> {
    let header = [
        &[0; 12],
        &echo::ETHER_TYPE.to_ne_bytes()[..],
        &echo::MAGIC,
        &[kind, 0, 0, 0],
        &ID,
    ]
    .concat();
    [header, vec![0; 40]].concat()
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
        (ID, GREEN_VTEP.ip, u32::from(echo::REPLY), len)
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
}
