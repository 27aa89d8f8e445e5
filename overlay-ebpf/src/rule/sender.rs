//! Decides whether a VTEP has the endpoint that its frame names as sender.

use crate::abi::FdbEntry;

/// Whether the endpoint of this entry is behind the VTEP with this IPv4 address. An entry of a
/// local endpoint, or of one behind an IPv6 VTEP, has none, so no address is its, not even 0.0.0.0.
#[must_use]
#[inline(always)]
pub const fn is_behind(entry: &FdbEntry, vtep: [u8; 4]) -> bool {
    entry.kind == FdbEntry::REMOTE
        && u32::from_ne_bytes(vtep) != 0
        && u32::from_ne_bytes(entry.vtep) == u32::from_ne_bytes(vtep)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VTEP: [u8; 4] = [10, 0, 0, 2];

    #[test]
    fn an_endpoint_is_behind_its_own_vtep_alone() {
        let entry = FdbEntry::remote(1, 7, VTEP);
        assert!(is_behind(&entry, VTEP));
        assert!(!is_behind(&entry, [10, 0, 0, 3]));
    }

    #[test]
    fn an_endpoint_behind_an_ipv6_vtep_is_behind_no_ipv4_address() {
        let entry = FdbEntry::remote(1, 7, [0; 4]);
        for vtep in [[0; 4], VTEP] {
            assert!(!is_behind(&entry, vtep));
        }
    }

    #[test]
    fn a_local_endpoint_is_behind_no_vtep() {
        let entry = FdbEntry::local(1, 8);
        for vtep in [[0; 4], VTEP] {
            assert!(!is_behind(&entry, vtep));
        }
    }
}
