//! Decides whether a VTEP has the endpoint that a frame from its tunnel claims as its sender.

use crate::abi::FdbEntry;

/// Whether the endpoint of this entry is behind the VTEP with this underlay address. An entry of a
/// local endpoint has no VTEP, so no address is its, not even 0.0.0.0.
#[must_use]
#[inline(always)]
pub const fn is_behind(entry: &FdbEntry, vtep: [u8; 4]) -> bool {
    entry.ifindex == 0 && u32::from_ne_bytes(entry.vtep) == u32::from_ne_bytes(vtep)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VTEP: [u8; 4] = [10, 0, 0, 2];

    #[test]
    fn an_endpoint_is_behind_its_own_vtep_alone() {
        let entry = FdbEntry::remote(1, VTEP, 4789);
        assert!(is_behind(&entry, VTEP));
        assert!(!is_behind(&entry, [10, 0, 0, 3]));
    }

    #[test]
    fn a_local_endpoint_is_behind_no_vtep() {
        let entry = FdbEntry::local(1, 8);
        for vtep in [[0; 4], VTEP] {
            assert!(!is_behind(&entry, vtep));
        }
    }
}
