//! Builds the echoes that the programs send, and reads those that they report.

use std::{net::Ipv4Addr, os::fd::AsFd as _, thread, time::Duration};

use aya::maps::{MapData, RingBuf};
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, UdpHeader};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use overlay_ebpf::{
    abi::{DropReason, EchoEvent},
    wire::{echo, vxlan},
};
use tokio::sync::mpsc;

use crate::model::{Echo, EchoKind, EchoRequest, ProbeRequest, VtepAddr};

/// Echoes that wait for the agent. More are forgotten: they come again.
const BACKLOG: usize = 1024;

/// First of the UDP ports that echoes are sent from: those of encapsulated frames.
const FIRST_PORT: u16 = 49152;

/// Hops that an echo may take.
const TTL: u8 = 64;

/// Reads the ring for as long as somebody listens, on a thread of its own.
pub(super) fn listen(mut ring: RingBuf<MapData>) -> mpsc::Receiver<Echo> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    thread::spawn(move || {
        while !sender.is_closed() {
            while let Some(record) = ring.next() {
                if let Some(echo) = parse(&record) {
                    // One that finds no place is like one that was lost.
                    let _ = sender.try_send(echo);
                }
            }
            let mut readable = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::from(u16::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::warn!(%errno, "no more echoes are heard of"),
            }
        }
    });
    receiver
}

/// `None`: no record that this version's programs make.
fn parse(record: &[u8]) -> Option<Echo> {
    let event: EchoEvent = bytemuck::try_pod_read_unaligned(record).ok()?;
    Some(Echo {
        id: u64::from_ne_bytes(event.id),
        vtep: VtepAddr::from(event.vtep),
        kind: match event.kind {
            EchoEvent::ASKED => EchoKind::Theirs,
            EchoEvent::BACK => EchoKind::Ours,
            EchoEvent::LEFT => EchoKind::Left,
            EchoEvent::DROPPED => EchoKind::Dropped(DropReason::of_number(event.reason)?.name()),
            _ => return None,
        },
        len: u16::try_from(event.len).ok()?,
        at: Duration::from_nanos(event.at_ns),
    })
}

/// Bytes of the Ethernet frame with a packet of so many.
pub(super) fn frame_len(packet: u16) -> u32 {
    const ETHERNET: u32 = 14;
    u32::from(packet) + ETHERNET
}

/// The frame that becomes a probe, with as many of the zeros that it ends with as the kernel wants to see of an IPv4
/// packet: it says that it is one until the program has made room for the outer headers.
pub(super) fn probe(request: &ProbeRequest) -> Vec<u8> {
    let ethernet = Ethernet2Header {
        source: request.from.octets(),
        destination: request.to.octets(),
        ether_type: EtherType::IPV4,
    };
    let zeros = [0; Ipv4Header::MIN_LEN];
    [
        &ethernet.to_bytes()[..],
        &header([0; 3], request.id),
        &zeros,
    ]
    .concat()
}

/// An echo's own header.
fn header(vni: [u8; 3], id: u64) -> Vec<u8> {
    [&echo::MAGIC[..], &[echo::REQUEST], &vni, &id.to_ne_bytes()].concat()
}

/// The tunnel packet that asks for an echo, without the zeros that it ends with: the program adds them.
pub(super) fn request(from: Ipv4Addr, request: &EchoRequest) -> Option<Vec<u8>> {
    let EchoRequest {
        id,
        vtep,
        port,
        len,
        target,
    } = *request;
    let udp_len = len.max(EchoRequest::SHORTEST) - Ipv4Header::MIN_LEN_U16;
    let to = vtep.ipv4()?.octets();
    let mut ip = Ipv4Header::new(udp_len, TTL, IpNumber::UDP, from.octets(), to).ok()?;
    ip.dont_fragment = true;
    ip.header_checksum = ip.calc_header_checksum();
    let [low, high, ..] = id.to_ne_bytes();
    let udp = UdpHeader {
        // Each echo may take another of several paths.
        source_port: FIRST_PORT | u16::from_ne_bytes([low, high]),
        destination_port: port,
        length: udp_len,
        checksum: 0,
    };
    // Nobody reads the outer MACs: the kernel writes others.
    let outer = Ethernet2Header {
        ether_type: EtherType::IPV4,
        ..Ethernet2Header::default()
    };
    let (vni, mac) = target.map_or(([0; 3], [0; 6]), |(vni, mac)| {
        let [_, high, middle, low] = vni.get().to_be_bytes();
        ([high, middle, low], mac.octets())
    });
    let inner = Ethernet2Header {
        ether_type: EtherType(u16::from_be(echo::ETHER_TYPE)),
        destination: mac,
        ..Ethernet2Header::default()
    };
    Some(
        [
            &outer.to_bytes()[..],
            &ip.to_bytes(),
            &udp.to_bytes(),
            &vxlan::header(echo::VNI),
            &inner.to_bytes(),
            &header(vni, id),
        ]
        .concat(),
    )
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use overlay_ebpf::wire::vxlan::OVERHEAD_IPV4;

    use super::*;

    #[test]
    fn a_request_is_a_tunnel_packet_of_no_network() {
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let wanted = EchoRequest {
            id: 0x0123_4567_89ab_cdef,
            vtep: [10, 0, 0, 2].into(),
            port: 4789,
            len: EchoRequest::SHORTEST,
            target: None,
        };
        // What the programs put around a packet is what the model reckons with.
        assert_eq!(VtepAddr::IPV4_OVERHEAD as usize, OVERHEAD_IPV4);
        let frame = request(from, &wanted).unwrap();
        assert_eq!(frame.len(), 14 + usize::from(EchoRequest::SHORTEST));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = packet.transport else {
            panic!("no UDP");
        };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert!(udp.source_port() >= FIRST_PORT);
        let (vxlan, inner) = udp.payload().split_at(8);
        assert_eq!(vxlan, [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(inner[12..18], [0x88, 0xb5, b'O', b'V', b'E', b'1']);
    }

    #[test]
    fn a_longer_one_says_so_and_leaves_the_zeros_to_the_program() {
        let wanted = EchoRequest {
            id: 1,
            vtep: [10, 0, 0, 2].into(),
            port: 4789,
            len: 9000,
            target: None,
        };
        let frame = request(Ipv4Addr::new(10, 0, 0, 1), &wanted).unwrap();
        assert_eq!(frame.len(), 14 + usize::from(EchoRequest::SHORTEST));
        assert_eq!(frame[16..18], 9000_u16.to_be_bytes());
    }
}
