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
            Self::NoRoute => [3, 0],
            Self::HostUnreachable => [3, 1],
            Self::Prohibited => [3, 13],
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
            Self::NoRoute => [1, 0],
            Self::HostUnreachable => [1, 3],
            Self::Prohibited => [1, 1],
            Self::PortUnreachable => [1, 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [IcmpError; 6] = [
        IcmpError::TooBig,
        IcmpError::HopLimit,
        IcmpError::NoRoute,
        IcmpError::HostUnreachable,
        IcmpError::Prohibited,
        IcmpError::PortUnreachable,
    ];

    #[test]
    fn errors_come_back_from_their_numbers() {
        for error in ALL {
            assert_eq!(IcmpError::of_number(error.number()), error);
        }
        assert_eq!(IcmpError::of_number(99), IcmpError::TooBig);
    }
}
