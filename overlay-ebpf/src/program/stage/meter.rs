//! Holds endpoints to their limits: marks what departs late, drops what departs too late.
//!
//! Nothing waits here. A departure time is all that is kept of what an endpoint sent or received before
//! ([`overlay_ebpf::rule::departure`]). Where the interface that a frame leaves by has a queue for that, it waits there
//! ([`super::pace`]).

use aya_ebpf::bindings::__sk_buff;
use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, FdbEntry, MeterEntry},
    rule::{
        departure::{self, Departure, Verdict},
        ecn,
        volume::Volume,
    },
    wire::{
        eth,
        ipv4::{self, Ipv4Hdr},
        ipv6::Ipv6Hdr,
        vxlan::INNER_L3,
    },
};

use crate::{
    frame::Frame,
    maps,
    maps::MeterProgress,
    packet::{L3, Packet},
};

/// Charges a frame to the endpoint that sends it.
#[inline(always)]
pub fn sent(frame: &Frame, from: &EndpointEntry) -> Result<(), DropReason> {
    if !from.is_metered() {
        return Ok(());
    }
    passes(frame, MeterEntry::slot(from.id, MeterEntry::SENT))
}

/// Charges a frame to the endpoint of this host that is to get it: the last stage before it is handed over, with no
/// outer headers left.
#[inline(always)]
pub fn received(frame: &Frame, to: &FdbEntry) -> Result<(), DropReason> {
    if !to.is_metered() {
        return Ok(());
    }
    passes(frame, MeterEntry::slot(to.id.into(), MeterEntry::RECEIVED))
}

/// Gives a frame that leaves the host its endpoint's priority and its departure time, and an outer packet the DSCP inside: an
/// endpoint with a meter has that seen outside (the uniform model of RFC 2983), others have not.
#[inline(always)]
pub fn classify(frame: &Frame, from: &EndpointEntry) {
    if from.is_metered() {
        let has_outer = u32::from(frame.inner() != 0);
        let slot = MeterEntry::slot(from.id, MeterEntry::SENT);
        write_outer_class(frame.context(), slot, has_outer);
    }
}

/// Does that for the meter in a slot. The kernel's VXLAN device writes its outer header itself. A global function, which
/// gives nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_outer_class(skb: *mut __sk_buff, slot: u32, has_outer: u32) -> u32 {
    let mut frame = Frame::of_context(skb);
    if let Some(meter) = maps::meter(slot) {
        frame.prioritize(meter.priority);
    }
    if let (Some(secret), Some(departure_ns)) = (maps::voucher(), maps::departure()) {
        frame.leave_departure(secret, departure_ns);
    }
    if has_outer != 0 {
        // A frame that lacks a header now had it before: the outer ones were just written.
        let _ = show_dscp(&mut frame);
    }
    0
}

#[inline(always)]
fn show_dscp(frame: &mut Frame) -> Result<(), DropReason> {
    let inner = eth::Header::parse(frame.header(INNER_L3 - eth::LEN)?);
    let class = match inner.ether_type {
        eth::IPV4 => frame.header::<Ipv4Hdr>(INNER_L3)?.tos,
        eth::IPV6 => frame.header::<Ipv6Hdr>(INNER_L3)?.traffic_class(),
        _ => return Ok(()),
    };
    let outer = frame.header_mut::<Ipv4Hdr>(eth::LEN)?;
    let ecn = outer.tos & ipv4::ECN_MASK;
    ipv4::set_traffic_class(outer, class & !ipv4::ECN_MASK | ecn);
    Ok(())
}

#[inline(always)]
fn passes(frame: &Frame, slot: u32) -> Result<(), DropReason> {
    let volume = measure_frame(frame.context());
    let verdict = admit_volume(
        slot,
        volume >> PACKET_BITS,
        volume & ((1 << PACKET_BITS) - 1),
    );
    if verdict == DROPPED {
        return Err(DropReason::Rate);
    }
    classify_frame(frame.context(), slot, u32::from(verdict == MARKED));
    Ok(())
}

/// What the global functions give: [`Verdict`] as a number.
const PASSED: u32 = 0;
const MARKED: u32 = 1;
const DROPPED: u32 = 2;

/// Bits of a volume that are its packets: the others are its bytes.
const PACKET_BITS: u32 = 16;

/// How much a frame is on the wire, as a number. These are global functions: the verifier looks at each once and by itself,
/// not anew for each state that its callers may be in. None calls another, for the stack that they take together.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn measure_frame(skb: *mut __sk_buff) -> u64 {
    let frame = Frame::of_context(skb);
    let Ok(eth) = frame.header(0).map(eth::Header::parse) else {
        return 0;
    };
    let volume = Packet::parsed(eth).segments(&frame).volume();
    volume.bytes << PACKET_BITS | (volume.packets & ((1 << PACKET_BITS) - 1))
}

/// Gives a frame the DSCP of the meter in a slot, and the mark for congestion if it departs late. Moves no packet memory, so
/// that callers go on as before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn classify_frame(skb: *mut __sk_buff, slot: u32, is_late: u32) -> u32 {
    let mut frame = Frame::of_context(skb);
    let Ok(eth) = frame.header(0).map(eth::Header::parse) else {
        return 0;
    };
    let packet = Packet::parsed(eth);
    if let Ok(true) = write_class(&mut frame, &packet, slot, is_late != 0)
        && let Some(progress) = maps::meter_progress(slot)
    {
        let volume = packet.segments(&frame).volume();
        progress.count_marked(volume.packets);
        maps::add_to_counter(Counter::RateMarked, volume.packets);
    }
    0
}

/// Charges so much to the meter in a slot, unless it is dropped: what goes nowhere costs nothing. A global function too:
/// what the verifier finds out about a packet's length it need not know here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admit_volume(slot: u32, bytes: u64, packets: u64) -> u32 {
    let (Some(meter), Some(progress)) = (maps::meter(slot), maps::meter_progress(slot)) else {
        return PASSED;
    };
    match admit(&meter, &progress, Volume { packets, bytes }) {
        Verdict::Pass => PASSED,
        Verdict::Mark => MARKED,
        Verdict::Drop => {
            progress.count_dropped(packets);
            maps::add_to_counter(Counter::RateDroppedBytes, bytes);
            DROPPED
        }
    }
}

/// Charges the volume unless it is dropped.
#[inline(always)]
fn admit(meter: &MeterEntry, progress: &MeterProgress, volume: Volume) -> Verdict {
    let (rate, packet_rate) = (meter.rate, u64::from(meter.packet_rate));
    if rate == 0 && packet_rate == 0 {
        maps::keep_departure(0);
        return Verdict::Pass;
    }
    let now = departure::ticks(maps::exactly_now());
    let (mut by_bits, mut by_packets) = (Departure::AT_ONCE, Departure::AT_ONCE);
    let (mut next, mut next_packet) = (0, 0);
    if rate != 0 {
        next = progress.bits.next(rate, now);
        by_bits = departure::departure(next, now, meter);
    }
    if packet_rate != 0 {
        next_packet = progress.packets.next(packet_rate, now);
        by_packets = departure::departure(next_packet, now, meter);
    }
    let verdict = departure::verdict(by_bits.late.max(by_packets.late), meter);
    if verdict == Verdict::Drop {
        return verdict;
    }
    maps::keep_departure(departure::departs_ns(&by_bits, &by_packets));
    if rate != 0 {
        let cost = departure::cost(volume.bytes, rate);
        progress.bits.advance(next, by_bits.start, cost);
    }
    if packet_rate != 0 {
        let cost = departure::packet_cost(volume.packets, packet_rate);
        progress
            .packets
            .advance(next_packet, by_packets.start, cost);
    }
    verdict
}

/// Writes the meter's DSCP, and the mark for congestion into what can carry it (RFC 3168 section 5); whether that was
/// written.
#[inline(always)]
fn write_class(
    frame: &mut Frame,
    packet: &Packet,
    slot: u32,
    is_late: bool,
) -> Result<bool, DropReason> {
    if !matches!(packet.l3, L3::Ipv4 | L3::Ipv6) {
        return Ok(false);
    }
    let held = packet.traffic_class(frame)?;
    let mut class = held;
    if let Some(meter) = maps::meter(slot)
        && meter.flags & MeterEntry::SETS_DSCP != 0
    {
        class = meter.dscp << 2 | held & ipv4::ECN_MASK;
    }
    let marks = is_late && ecn::can_be_marked(held);
    if marks {
        class |= ecn::CE;
    }
    if class == held {
        return Ok(false);
    }
    if packet.l3 == L3::Ipv4 {
        ipv4::set_traffic_class(frame.header_mut::<Ipv4Hdr>(eth::LEN)?, class);
        return Ok(marks);
    }
    let ip = frame.header_mut::<Ipv6Hdr>(eth::LEN)?;
    let [first, second, ..] = ip.version_class_flow;
    ip.set_traffic_class(class);
    let [new_first, new_second, ..] = ip.version_class_flow;
    // IPv6 has no checksum of its own that would make up for it.
    frame.mend_sum([first, second], [new_first, new_second]);
    Ok(marks)
}
