//! The ICMP errors that endpoints are told by (RFC 792, RFC 1812 section 5.2.7, RFC 4443 section 3).

/// Why a packet goes no further, as its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum IcmpError {
    /// It is longer than the network or the path takes.
    TooBig = 0,
    /// It has taken all hops that it may.
    HopLimit = 1,
    /// The router has no route to its destination.
    NoRoute = 2,
    /// No endpoint of the destination's network has the address.
    HostUnreachable = 3,
    /// A route forbids it.
    Prohibited = 4,
    /// It is for the gateway itself, where nobody listens.
    PortUnreachable = 5,
    /// It is for the outside, and its host has no uplink.
    NoUplink = 6,
    /// It is for the outside, where nothing gives its sender an address.
    NatNone = 7,
    /// Address translation knows no ports of its protocol.
    NatProtocol = 8,
    /// All external ports of its sender are in use.
    NatExhausted = 9,
}

impl IcmpError {
    /// As one program leaves it to another.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The error of this number; [`Self::TooBig`] of any other.
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            1 => Self::HopLimit,
            2 => Self::NoRoute,
            3 => Self::HostUnreachable,
            4 => Self::Prohibited,
            5 => Self::PortUnreachable,
            6 => Self::NoUplink,
            7 => Self::NatNone,
            8 => Self::NatProtocol,
            9 => Self::NatExhausted,
            _ => Self::TooBig,
        }
    }

    /// Type and code in ICMP.
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(self) -> [u8; 2] {
        match self {
            Self::TooBig => [3, 4],
            Self::HopLimit => [11, 0],
            Self::NoRoute | Self::NoUplink => [3, 0],
            Self::HostUnreachable => [3, 1],
            // RFC 5508 REQ-8.
            Self::Prohibited | Self::NatNone | Self::NatProtocol | Self::NatExhausted => [3, 13],
            Self::PortUnreachable => [3, 3],
        }
    }

    /// Type and code in `ICMPv6`.
    #[must_use]
    #[inline(always)]
    pub const fn ipv6(self) -> [u8; 2] {
        match self {
            Self::TooBig => [2, 0],
            Self::HopLimit => [3, 0],
            Self::NoRoute | Self::NoUplink => [1, 0],
            Self::HostUnreachable => [1, 3],
            Self::Prohibited | Self::NatNone | Self::NatProtocol | Self::NatExhausted => [1, 1],
            Self::PortUnreachable => [1, 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [IcmpError; 10] = [
        IcmpError::TooBig,
        IcmpError::HopLimit,
        IcmpError::NoRoute,
        IcmpError::HostUnreachable,
        IcmpError::Prohibited,
        IcmpError::PortUnreachable,
        IcmpError::NoUplink,
        IcmpError::NatNone,
        IcmpError::NatProtocol,
        IcmpError::NatExhausted,
    ];

    #[test]
    fn errors_come_back_from_their_numbers() {
        for error in ALL {
            assert_eq!(IcmpError::of_number(error.number()), error);
        }
        assert_eq!(IcmpError::of_number(99), IcmpError::TooBig);
    }
}
