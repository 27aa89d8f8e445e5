//! Derives the outer source port from a flow.
//!
//! Flows spread over the underlay's paths and the receiver's queues by it.

/// What encapsulation needs to know of the packet inside.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// The kernel's hash of the flow, or [`flow_hash`] where it has none.
    pub hash: u32,
    /// The ECN field.
    pub ecn: u8,
}

/// First port of the range that RFC 7348 section 5 recommends.
pub const FIRST_PORT: u16 = 49152;

/// The source port (host byte order) for a flow's hash: the hash scaled into 49152..=65535.
#[must_use]
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    // The top 14 bits: the best ones of the kernel's hash and of ours.
    FIRST_PORT | (hash >> 18) as u16
}

/// A flow's hash for frames that carry none (raw sockets, unconnected UDP). Costs a handful of
/// instructions where `bpf_get_hash_recalc` dissects the frame again.
#[must_use]
#[inline(always)]
pub const fn flow_hash(source: u32, destination: u32, protocol: u8, ports: u32) -> u32 {
    let mut hash = source ^ destination.rotate_left(16) ^ ports.rotate_left(8) ^ protocol as u32;
    // The finaliser of MurmurHash3: every input bit reaches the top bits.
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_cover_the_dynamic_range_and_nothing_else() {
        assert_eq!(source_port(0), 49152);
        assert_eq!(source_port(u32::MAX), 65535);
    }

    #[test]
    fn neighbouring_flows_spread_over_many_ports() {
        let ports: BTreeSet<u16> = (0..1000_u32)
            .map(|port| {
                source_port(flow_hash(
                    0x0707_0702,
                    0x0707_0703,
                    17,
                    (port << 16) | 0x1389,
                ))
            })
            .collect();
        assert!(ports.len() > 900, "{}", ports.len());
    }
}
