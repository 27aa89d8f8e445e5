//! IPv6 extension headers, where neighbour discovery could hide behind them.

use overlay_ebpf::{
    abi::DropReason,
    wire::{
        icmpv6::{self, Claim},
        ipv6,
    },
};

use super::Frame;

/// Headers that a packet may have before the one that says what it is. RFC 8504 section 5.3 has hosts
/// take eight at least.
const HEADERS: usize = 8;

impl Frame {
    /// Looks behind the extension headers of the IPv6 packet at `offset`, of which `first` is the first.
    /// `NdForged`: a neighbour discovery message is there, or one could be where nobody looks. What is in
    /// later fragments is none: hosts ignore those that are in pieces (RFC 6980).
    #[inline(always)]
    pub fn check_extensions(&self, offset: usize, first: u8) -> Result<(), DropReason> {
        let (mut next, mut offset) = (first, offset + ipv6::LEN);
        for _ in 0..HEADERS {
            match next {
                ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS => {
                    let [following, len] = self.load::<[u8; 2]>(offset)?;
                    next = following;
                    offset += (len as usize + 1) * 8;
                }
                ipv6::FRAGMENT => {
                    let [following, _, place, flags] = self.load::<[u8; 4]>(offset)?;
                    if place != 0 || flags & 0xf8 != 0 {
                        return Ok(());
                    }
                    next = following;
                    offset += 8;
                }
                ipv6::ICMPV6 => {
                    return match icmpv6::claim(self.load(offset)?) {
                        Claim::Nothing => Ok(()),
                        _ => Err(DropReason::NdForged),
                    };
                }
                _ => return Ok(()),
            }
        }
        Err(DropReason::NdForged)
    }
}
