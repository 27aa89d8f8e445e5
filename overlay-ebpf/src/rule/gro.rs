//! Decides which TCP segments from a tunnel go through GRO on their last hop.
//!
//! Most devices deliver a stream's segments as aggregates, which the fast path into the endpoint takes whole. Without
//! that, each segment would cost the endpoint's TCP as much as an aggregate, and an acknowledgement for every second one.
//! The veth's queue aggregates them, for a little delay.
//!
//! The two paths meet in one receive path, but don't keep the order of arrival. So a CPU switches between them only when
//! a stream begins or pauses.

use crate::abi::GroState;

/// For how long after an aggregate all packets go the short way, nanoseconds.
const AGGREGATES: u64 = 1_000_000_000;

/// For how long after a segment that went the long way all others follow it, nanoseconds: three
/// ticks of the coarse clock at 250 Hz, in which the queue has long been emptied.
const QUEUED: u64 = 12_000_000;

/// Shortest frame that can be a segment amid a stream, bytes. Acknowledgements are shorter.
const STREAM: u32 = 512;

/// What is to be known of a TCP packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Bytes of the frame.
    pub len: u32,
    /// Whether the kernel or the device made it of several segments.
    pub is_aggregate: bool,
    /// The PSH flag: the sender had no more to send (RFC 9293 section 3.9.1).
    pub pushes: bool,
}

/// Whether the packet, which came at `now`, has to go the long way.
#[must_use]
#[inline(always)]
pub const fn wants_gro(state: &mut GroState, packet: Packet, now: u64) -> bool {
    if packet.is_aggregate {
        state.aggregate_ns = now;
        return false;
    }
    if now < state.aggregate_ns + AGGREGATES {
        return false;
    }
    if !packet.pushes && packet.len >= STREAM {
        state.queued_ns = now;
        return true;
    }
    now < state.queued_ns + QUEUED
}

/// Whether the kernel has to unpack a packet that is not TCP's, which came at `now`: an aggregate, whose marks
/// of the tunnel the programs can't take off, or one that must not overtake such an aggregate.
#[must_use]
#[inline(always)]
pub const fn wants_kernel(state: &mut GroState, is_aggregate: bool, now: u64) -> bool {
    if is_aggregate {
        state.kernel_ns = now;
        return true;
    }
    now < state.kernel_ns + QUEUED
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3_600_000_000_000;
    const SEGMENT: Packet = Packet {
        len: 1464,
        is_aggregate: false,
        pushes: false,
    };
    const LAST: Packet = Packet {
        pushes: true,
        ..SEGMENT
    };
    const ACK: Packet = Packet { len: 66, ..SEGMENT };
    const AGGREGATE: Packet = Packet {
        len: 40_000,
        is_aggregate: true,
        pushes: false,
    };

    #[test]
    fn messages_of_one_packet_and_acknowledgements_go_the_short_way() {
        let mut state = GroState::default();
        for packet in [LAST, ACK] {
            assert!(!wants_gro(&mut state, packet, START));
        }
    }

    #[test]
    fn what_follows_a_queued_segment_is_queued_behind_it() {
        let mut state = GroState::default();
        for packet in [SEGMENT, LAST, ACK] {
            assert!(wants_gro(&mut state, packet, START));
        }
        assert!(!wants_gro(&mut state, LAST, START + QUEUED));
    }

    #[test]
    fn what_follows_an_aggregate_that_the_kernel_unpacks_does_not_overtake_it() {
        let mut state = GroState::default();
        assert!(!wants_kernel(&mut state, false, START));
        assert!(wants_kernel(&mut state, true, START));
        assert!(wants_kernel(&mut state, false, START + QUEUED - 1));
        assert!(!wants_kernel(&mut state, false, START + QUEUED));
    }

    #[test]
    fn beside_aggregates_no_segment_is_queued() {
        let mut state = GroState::default();
        assert!(!wants_gro(&mut state, AGGREGATE, START));
        assert!(!wants_gro(&mut state, SEGMENT, START + AGGREGATES - 1));
        assert!(wants_gro(&mut state, SEGMENT, START + AGGREGATES));
    }
}
