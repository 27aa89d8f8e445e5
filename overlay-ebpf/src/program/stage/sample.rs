//! Counts a dropped frame by reason and for its endpoint, and samples some of them.

use core::mem::offset_of;

use bytemuck::{bytes_of_mut, must_cast_mut};
use overlay_ebpf::{
    abi::{DropReason, DropSample, EndpointDropKey},
    rule::sample as rule,
    wire::{
        arp::ArpHdr,
        eth::{self, Mac},
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{frame::Frame, maps};

/// Whose frame it is, as far as that is known when it is dropped. Two numbers, which a call takes in registers.
#[derive(Clone, Copy)]
pub struct Subject {
    /// Host-side interface of the endpoint of this host that sent it or is to get it, and above it its network; 0: not
    /// known.
    endpoint: u64,
    /// The VTEP that it came from, zero for none, and above it [`DropSample::SENT`] or [`DropSample::RECEIVED`].
    origin: u64,
}

impl Subject {
    /// A frame that an endpoint of this host sent.
    #[inline(always)]
    pub const fn sent() -> Self {
        Self::going(DropSample::SENT)
    }

    /// A frame that came out of a tunnel, or pretended to.
    #[inline(always)]
    pub const fn received() -> Self {
        Self::going(DropSample::RECEIVED)
    }

    #[inline(always)]
    const fn going(direction: u8) -> Self {
        Self {
            endpoint: 0,
            origin: (direction as u64) << 32,
        }
    }

    /// It is of the endpoint behind an interface of this host, or for it.
    #[inline(always)]
    pub const fn is_of(&mut self, ifindex: u32) {
        self.endpoint = self.vni_bits() | ifindex as u64;
    }

    /// It is for the endpoint behind an interface of this host, and lost on that one's account.
    #[inline(always)]
    pub const fn is_for(&mut self, ifindex: u32) {
        self.origin = Self::received().origin;
        self.is_of(ifindex);
    }

    /// It is of a network.
    #[inline(always)]
    pub const fn is_in(&mut self, vni: u32) {
        self.endpoint = (vni as u64) << 32 | self.ifindex() as u64;
    }

    /// It came from a VTEP.
    #[inline(always)]
    pub const fn is_from(&mut self, vtep: [u8; 4]) {
        self.origin = (self.direction() as u64) << 32 | u32::from_ne_bytes(vtep) as u64;
    }

    #[inline(always)]
    const fn ifindex(self) -> u32 {
        self.endpoint as u32
    }

    #[inline(always)]
    const fn vni_bits(self) -> u64 {
        self.endpoint >> 32 << 32
    }

    #[inline(always)]
    const fn direction(self) -> u8 {
        (self.origin >> 32) as u8
    }

    #[inline(always)]
    const fn peer(self) -> u32 {
        self.origin as u32
    }

    /// By what those are told apart whose frames take rows from each other alone.
    #[inline(always)]
    fn sender(self, frame: &Frame) -> u32 {
        if self.direction() == DropSample::SENT {
            frame.ifindex()
        } else {
            self.peer()
        }
    }
}

/// Counts a drop, and notes the frame down unless enough of them were lately. Noise is nobody's loss, so that
/// it does not count for endpoints.
#[inline(always)]
pub fn dropped(frame: &Frame, reason: DropReason, subject: Subject) {
    maps::count_drop(reason);
    if subject.ifindex() != 0 && !reason.is_noise() {
        maps::count_endpoint_drop(EndpointDropKey {
            ifindex: subject.ifindex(),
            reason: reason.number() as u16,
            direction: subject.direction() as u16,
        });
    }
    let group = reason.number() * DropSample::GROUPS + rule::group(subject.sender(frame));
    let now = maps::now();
    if let Some(Some(row)) = maps::with_drop_pace(group, |pace| rule::row(pace, now)) {
        let slot = group * DropSample::ROWS + row;
        note(frame.twin(), slot, subject.endpoint, subject.origin);
    }
}

/// Notes the frame down, in the row that its reason has there. The one function that is called: written out at the end
/// of each program it would make the verifier look at it over and over.
#[inline(never)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "what is called takes the context itself: the verifier follows no pointer to it"
)]
fn note(frame: Frame, slot: u32, endpoint: u64, origin: u64) {
    let subject = Subject { endpoint, origin };
    maps::with_drop_sample(slot, |row| {
        forget_packet(row);
        row.reason = slot / (DropSample::GROUPS * DropSample::ROWS);
        row.ifindex = frame.ifindex();
        row.endpoint = subject.ifindex();
        row.vni = (subject.endpoint >> 32) as u32;
        if subject.peer() != 0 {
            row.peer = ipv6::mapped(subject.peer().to_ne_bytes());
        }
        row.direction = subject.direction();
        row.len = frame.len().saturating_sub(frame.inner() as u32);
        // What lacks a header is shown without it.
        let _ = describe(&frame, row);
        find_other_end(row);
    });
}

/// Nothing of what the row showed before: whole words, which need no loop.
#[inline(always)]
fn forget_packet(row: &mut DropSample) {
    const WORD: usize = size_of::<u64>();
    const { assert!(offset_of!(DropSample, peer) == 3 * WORD) };
    const { assert!(offset_of!(DropSample, sealed_ns) == 12 * WORD) };
    let words: &mut [u64; size_of::<DropSample>() / WORD] = must_cast_mut(row);
    let [_, _, _, packet @ .., _] = words;
    *packet = [0; 9];
}

/// The field that begins at an offset of the row, and those behind it: so many bytes.
#[inline(always)]
fn field<const LEN: usize>(row: &mut DropSample, at: usize) -> Result<&mut [u8; LEN], DropReason> {
    bytes_of_mut(row)
        .get_mut(at..)
        .and_then(<[u8]>::first_chunk_mut)
        .ok_or(DropReason::Truncated)
}

const SOURCE_IP: usize = offset_of!(DropSample, source_ip);
const DESTINATION_IP: usize = offset_of!(DropSample, destination_ip);
const SOURCE_PORT: usize = offset_of!(DropSample, source_port);
/// Where an IPv4 address lies in an IPv6 one that it is mapped into, and what stands before it.
const MAPPED: usize = 12;
const MAPPED_PREFIX: [u8; 2] = [0xff; 2];

/// What the frame's headers say, as far as they are there. Bytes go straight into the row, where no alignment
/// is asked for.
#[inline(always)]
fn describe(frame: &Frame, row: &mut DropSample) -> Result<(), DropReason> {
    let begin = frame.inner();
    let header = offset_of!(DropSample, destination_mac);
    frame.load_into::<{ eth::LEN }>(begin, field(row, header)?)?;
    let packet = begin + eth::LEN;
    match u16::from_ne_bytes(row.ether_type) {
        eth::IPV4 => describe_ipv4(frame, row, packet),
        eth::IPV6 => describe_ipv6(frame, row, packet),
        eth::ARP => describe_pair(
            frame,
            row,
            packet,
            offset_of!(ArpHdr, spa),
            offset_of!(ArpHdr, tpa),
        ),
        _ => Ok(()),
    }
}

/// Two IPv4 addresses.
#[inline(always)]
fn describe_pair(
    frame: &Frame,
    row: &mut DropSample,
    offset: usize,
    source: usize,
    destination: usize,
) -> Result<(), DropReason> {
    for (field_at, packet_at) in [(SOURCE_IP, source), (DESTINATION_IP, destination)] {
        *field(row, field_at + MAPPED - MAPPED_PREFIX.len())? = MAPPED_PREFIX;
        frame.load_into::<4>(offset + packet_at, field(row, field_at + MAPPED)?)?;
    }
    Ok(())
}

#[inline(always)]
fn describe_ipv4(frame: &Frame, row: &mut DropSample, offset: usize) -> Result<(), DropReason> {
    let (source, destination) = (offset_of!(Ipv4Hdr, src_addr), offset_of!(Ipv4Hdr, dst_addr));
    describe_pair(frame, row, offset, source, destination)?;
    row.protocol = frame.load(offset + offset_of!(Ipv4Hdr, proto))?;
    let words = frame.load::<u8>(offset)? & 0x0f;
    let [flags, place] = frame.load::<[u8; 2]>(offset + offset_of!(Ipv4Hdr, frags))?;
    if flags & 0x1f != 0 || place != 0 {
        return Ok(());
    }
    describe_transport(frame, row, offset + words as usize * 4)
}

#[inline(always)]
fn describe_ipv6(frame: &Frame, row: &mut DropSample, offset: usize) -> Result<(), DropReason> {
    let addresses = offset_of!(Ipv6Hdr, source);
    frame.load_into::<32>(offset + addresses, field(row, SOURCE_IP)?)?;
    row.protocol = frame.load(offset + offset_of!(Ipv6Hdr, next_header))?;
    let mut transport = offset + ipv6::LEN;
    // MLD comes behind a router alert.
    if row.protocol == ipv6::HOP_BY_HOP {
        let [next, len] = frame.load::<[u8; 2]>(transport)?;
        row.protocol = next;
        transport += (len as usize + 1) * 8;
    }
    describe_transport(frame, row, transport)
}

#[inline(always)]
fn describe_transport(
    frame: &Frame,
    row: &mut DropSample,
    offset: usize,
) -> Result<(), DropReason> {
    match row.protocol {
        ipv4::TCP | ipv4::UDP | ipv4::SCTP => {
            frame.load_into::<4>(offset, field(row, SOURCE_PORT)?)
        }
        ipv4::ICMP | ipv6::ICMPV6 => frame.load_into::<2>(offset, field(row, SOURCE_PORT)?),
        _ => Ok(()),
    }
}

/// The frame's destination by the FDB: the VTEP, or the endpoint that did not get it.
#[inline(always)]
fn find_other_end(row: &mut DropSample) {
    if row.vni == 0 {
        return;
    }
    let Some(entry) = maps::fdb(row.vni, Mac::new(row.destination_mac)) else {
        return;
    };
    if row.direction == DropSample::SENT {
        row.peer = maps::vtep_of(&entry);
    } else if row.endpoint == 0 {
        row.endpoint = entry.interface().unwrap_or(0);
    }
}
