//! What becomes of a mapping and of its flows, packet by packet and when nothing comes (RFC 4787, 5382, 5508, 7857).

use crate::{abi::NatBlock, wire::ipv4};

/// TCP flags as the header has them.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection ends at once.
    pub const RST: u8 = 0x04;
    /// An acknowledgement is there.
    pub const ACK: u8 = 0x10;
}

/// How far a flow has come, in the low byte of its state; of a port, how far the furthest of its flows.
pub mod phase {
    /// The endpoint has sent.
    pub const NEW: u64 = 1;
    /// The other end has answered.
    pub const OPEN: u64 = 2;
    /// Both ends of a TCP connection have acknowledged.
    pub const ESTABLISHED: u64 = 3;
    /// A TCP connection was reset, or both ends have ended it.
    pub const CLOSING: u64 = 4;
    /// The bits of a state that it is in.
    pub const MASK: u64 = 0xff;
}

/// Set once the endpoint has ended its direction of a TCP connection.
const FIN_OUT: u64 = 1 << 8;
/// Set once the other end has.
const FIN_IN: u64 = 1 << 9;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the endpoint.
    Out,
    /// To it.
    In,
}

/// Where a protocol has its ports in a block. `None`: it has none that could be translated.
#[must_use]
#[inline(always)]
pub const fn class(protocol: u8) -> Option<usize> {
    match protocol {
        ipv4::TCP => Some(NatBlock::TCP),
        ipv4::UDP => Some(NatBlock::UDP),
        ipv4::ICMP => Some(NatBlock::ICMP),
        _ => None,
    }
}

/// How many ports a class of a block of `ports` has: of ICMP's identifiers a quarter.
#[must_use]
#[inline(always)]
pub const fn ports_of(class: usize, ports: u32) -> u32 {
    if class == NatBlock::ICMP {
        ports / 4
    } else {
        ports
    }
}

/// The place of a class's first port among a block's slots of `nat_ports`, and of its first bit among the block's.
#[must_use]
#[inline(always)]
pub const fn start_of(class: usize) -> u32 {
    match class {
        NatBlock::TCP => 0,
        NatBlock::UDP => NatBlock::PORTS,
        _ => 2 * NatBlock::PORTS,
    }
}

/// The state of a flow after a packet.
#[must_use]
#[inline(always)]
pub const fn next(state: u64, protocol: u8, direction: Direction, flags: u8) -> u64 {
    let now = state & phase::MASK;
    if protocol != ipv4::TCP {
        return match (direction, now) {
            (Direction::In, phase::NEW) => phase::OPEN,
            _ => state,
        };
    }
    if flags & tcp_flags::RST != 0 {
        return state & !phase::MASK | phase::CLOSING;
    }
    let is_syn = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    if now == phase::CLOSING {
        let both = FIN_OUT | FIN_IN;
        return match direction {
            // The same ports for another connection.
            Direction::Out if is_syn => phase::NEW,
            // Data after a reset: the reset was not the last word (RFC 7857 section 2.2).
            _ if state & both != both && flags & tcp_flags::SYN == 0 => phase::ESTABLISHED,
            _ => state,
        };
    }
    let mut next = match (now, direction) {
        (phase::NEW, Direction::In) => state & !phase::MASK | phase::OPEN,
        (phase::OPEN, Direction::Out) if flags & tcp_flags::SYN == 0 => {
            state & !phase::MASK | phase::ESTABLISHED
        }
        _ => state,
    };
    if flags & tcp_flags::FIN != 0 {
        next |= match direction {
            Direction::Out => FIN_OUT,
            Direction::In => FIN_IN,
        };
        if next & (FIN_OUT | FIN_IN) == FIN_OUT | FIN_IN {
            next = next & !phase::MASK | phase::CLOSING;
        }
    }
    next
}

/// Whether a flow in this state keeps its port for as long as an established connection may be silent.
#[must_use]
#[inline(always)]
pub const fn is_established(state: u64) -> bool {
    state & phase::MASK == phase::ESTABLISHED
}

/// Whether a packet is a sign of life of its mapping. What comes in is none, nor is a reset (RFC 4787 REQ-6, RFC 7857
/// section 2.2); but both ends of a TCP connection keep it.
#[must_use]
#[inline(always)]
pub const fn refreshes(protocol: u8, direction: Direction, flags: u8) -> bool {
    match (protocol, direction) {
        (ipv4::TCP, _) => flags & tcp_flags::RST == 0,
        (_, Direction::Out) => true,
        (_, Direction::In) => false,
    }
}

/// How short an endpoint's ports are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// There are enough.
    None,
    /// Three in four are in use.
    Some,
    /// Nine in ten are.
    High,
}

impl Pressure {
    /// That of `used` ports of `ports`.
    #[must_use]
    #[inline(always)]
    pub const fn of(used: u32, ports: u32) -> Self {
        if used * 10 > ports * 9 {
            Self::High
        } else if used * 4 > ports * 3 {
            Self::Some
        } else {
            Self::None
        }
    }
}

/// For how long an established connection may be silent, seconds (RFC 5382 REQ-5: 2 h 4 min).
pub const ESTABLISHED_S: u32 = 7440;

/// For how long a port without an established connection may be silent, seconds.
#[must_use]
#[inline(always)]
pub const fn idle_limit_s(protocol: u8, phase: u64, pressure: Pressure) -> u32 {
    let limit = match (protocol, phase) {
        // RFC 5382 REQ-5, RFC 7857 section 2.1.
        (ipv4::TCP, _) => 240,
        // RFC 5508 REQ-1.
        (ipv4::ICMP, _) => 60,
        // RFC 4787 REQ-5.
        (_, phase::NEW) => 120,
        _ => 300,
    };
    let is_over = phase == phase::NEW || phase == phase::CLOSING;
    let least = match pressure {
        Pressure::None => limit,
        Pressure::Some if is_over => 30,
        // What has ended would keep what begins from it.
        Pressure::High if phase == phase::CLOSING => 1,
        Pressure::High if is_over => 10,
        Pressure::Some | Pressure::High => 60,
    };
    if least < limit { least } else { limit }
}

/// Whether a port that was last used `idle_s` seconds ago is free again.
#[must_use]
#[inline(always)]
pub const fn is_expired(
    protocol: u8,
    phase: u64,
    established: u32,
    idle_s: u32,
    pressure: Pressure,
) -> bool {
    let limit = if established > 0 {
        ESTABLISHED_S
    } else {
        idle_limit_s(protocol, phase, pressure)
    };
    idle_s > limit
}

/// Whether a flow that was last used `idle_s` seconds ago is over.
#[must_use]
#[inline(always)]
pub const fn is_flow_over(protocol: u8, state: u64, idle_s: u32) -> bool {
    is_expired(
        protocol,
        state & phase::MASK,
        is_established(state) as u32,
        idle_s,
        Pressure::None,
    )
}

#[cfg(test)]
mod tests {
    use super::{tcp_flags::*, *};

    fn run(packets: &[(Direction, u8)]) -> u64 {
        packets
            .iter()
            .fold(phase::NEW, |state, (direction, flags)| {
                next(state, ipv4::TCP, *direction, *flags)
            })
            & phase::MASK
    }

    use Direction::{In, Out};

    #[test]
    fn a_connection_is_established_by_three_packets() {
        assert_eq!(run(&[(Out, SYN)]), phase::NEW);
        assert_eq!(run(&[(Out, SYN), (In, SYN | ACK)]), phase::OPEN);
        let established = [(Out, SYN), (In, SYN | ACK), (Out, ACK)];
        assert_eq!(run(&established), phase::ESTABLISHED);
    }

    #[test]
    fn ends_that_open_at_the_same_time_are_established_too() {
        // RFC 5382 REQ-2.
        let packets = [
            (Out, SYN),
            (In, SYN),
            (Out, SYN | ACK),
            (In, SYN | ACK),
            (Out, ACK),
        ];
        assert_eq!(run(&packets), phase::ESTABLISHED);
    }

    #[test]
    fn a_connection_closes_once_both_ends_have_ended_it() {
        let half = [
            (Out, SYN),
            (In, SYN | ACK),
            (Out, ACK),
            (Out, FIN | ACK),
            (In, ACK),
        ];
        assert_eq!(run(&half), phase::ESTABLISHED);
        let mut whole = half.to_vec();
        whole.extend([(In, FIN | ACK), (Out, ACK)]);
        assert_eq!(run(&whole), phase::CLOSING);
        whole.push((Out, SYN));
        assert_eq!(run(&whole), phase::NEW);
    }

    #[test]
    fn data_revives_what_a_reset_ended() {
        let reset = [(Out, SYN), (In, SYN | ACK), (Out, ACK), (In, RST)];
        assert_eq!(run(&reset), phase::CLOSING);
        let mut revived = reset.to_vec();
        revived.push((In, ACK));
        assert_eq!(run(&revived), phase::ESTABLISHED);
    }

    #[test]
    fn an_answer_opens_a_flow_of_udp() {
        assert_eq!(next(phase::NEW, ipv4::UDP, Out, 0), phase::NEW);
        assert_eq!(next(phase::NEW, ipv4::UDP, In, 0), phase::OPEN);
        assert_eq!(next(phase::OPEN, ipv4::UDP, In, 0), phase::OPEN);
    }

    #[test]
    fn silence_ends_mappings_after_the_times_of_the_rfcs() {
        for (protocol, phase, established, limit) in [
            (ipv4::UDP, phase::NEW, 0, 120),
            (ipv4::UDP, phase::OPEN, 0, 300),
            (ipv4::TCP, phase::NEW, 0, 240),
            (ipv4::TCP, phase::CLOSING, 0, 240),
            (ipv4::TCP, phase::ESTABLISHED, 1, 7440),
            (ipv4::TCP, phase::CLOSING, 1, 7440),
            (ipv4::ICMP, phase::OPEN, 0, 60),
        ] {
            for (idle_s, expected) in [(limit, false), (limit + 1, true)] {
                let expired = is_expired(protocol, phase, established, idle_s, Pressure::None);
                assert_eq!(expired, expected, "{protocol} {phase} {idle_s}");
            }
        }
    }

    #[test]
    fn pressure_shortens_all_but_established_connections() {
        let limit = |phase, pressure| idle_limit_s(ipv4::TCP, phase, pressure);
        assert_eq!(limit(phase::CLOSING, Pressure::Some), 30);
        assert_eq!(limit(phase::NEW, Pressure::High), 10);
        assert_eq!(limit(phase::CLOSING, Pressure::High), 1);
        assert_eq!(idle_limit_s(ipv4::UDP, phase::OPEN, Pressure::High), 60);
        assert!(!is_expired(
            ipv4::TCP,
            phase::ESTABLISHED,
            1,
            7440,
            Pressure::High
        ));
        assert_eq!(Pressure::of(768, 1024), Pressure::None);
        assert_eq!(Pressure::of(769, 1024), Pressure::Some);
        assert_eq!(Pressure::of(922, 1024), Pressure::High);
    }

    #[test]
    fn only_the_endpoint_keeps_a_mapping_of_udp_alive() {
        assert!(refreshes(ipv4::UDP, Out, 0) && !refreshes(ipv4::UDP, In, 0));
        assert!(refreshes(ipv4::TCP, In, ACK) && !refreshes(ipv4::TCP, Out, RST));
    }

    #[test]
    fn the_classes_of_a_block_lie_side_by_side() {
        assert_eq!(start_of(NatBlock::UDP), 1024);
        let icmp = start_of(NatBlock::ICMP);
        assert_eq!(
            icmp + ports_of(NatBlock::ICMP, NatBlock::PORTS),
            NatBlock::PORT_SLOTS
        );
    }
}
