//! Translates the prefixes of IPv6 packets, and of those that ICMP errors quote (RFC 6296).
//!
//! No checksum covers the difference, in the packet, in an error about it, or in the kernel's sum of either.

use overlay_ebpf::{
    abi::DropReason,
    wire::{
        eth, icmp, icmpv6,
        ipv6::{self, Ipv6Hdr},
    },
};

use super::{Frame, Side};

/// Where an ICMP error behind the header has the packet that it is about.
const QUOTED: usize = eth::LEN + ipv6::LEN + icmp::LEN;

impl Frame {
    /// Puts an address in another's place at one end of the IPv6 packet behind the Ethernet header; and at the other end
    /// of a packet that it quotes, which went the other way.
    #[inline(always)]
    pub fn translate_ipv6(
        &mut self,
        side: Side,
        from: [u64; 2],
        to: [u64; 2],
    ) -> Result<(), DropReason> {
        if self.quotes_ipv6()? {
            let quoted = self.header_mut::<Ipv6Hdr>(QUOTED)?;
            let address = match side {
                Side::Source => &mut quoted.destination,
                Side::Destination => &mut quoted.source,
            };
            if ipv6::halves(*address) == from {
                *address = ipv6::octets(to);
            }
        }
        let ip = self.header_mut::<Ipv6Hdr>(eth::LEN)?;
        match side {
            Side::Source => ip.source = ipv6::octets(to),
            Side::Destination => ip.destination = ipv6::octets(to),
        }
        Ok(())
    }

    /// Whether it is an ICMP error with enough of a packet in it. Behind extension headers none is looked for.
    #[inline(always)]
    fn quotes_ipv6(&mut self) -> Result<bool, DropReason> {
        if self.header::<Ipv6Hdr>(eth::LEN)?.next_header != ipv6::ICMPV6
            || self.require(QUOTED + ipv6::LEN).is_err()
        {
            return Ok(false);
        }
        let kind: u8 = self.load(eth::LEN + ipv6::LEN)?;
        Ok(icmpv6::is_error(kind))
    }
}
