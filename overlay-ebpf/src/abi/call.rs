//! `calls`: the programs that others continue with, so that what is rare takes no room in what every frame passes.

/// The slots of `calls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// Turns a frame of an endpoint round into the ICMP error about it, as [`super::Scratch`] says.
    IcmpError = 0,
    /// Sends a probe of the agent's that came in by an endpoint's interface.
    SendProbe = 1,
    /// Takes care of an echo or a probe that came out of a tunnel.
    Echo = 2,
    /// Routes a frame of an endpoint's to its network's gateway, as [`super::Scratch`] says.
    Route = 3,
    /// Sends a packet of an endpoint's out of the overlay.
    ToOutside = 5,
    /// Takes in a packet from outside for an external address.
    FromOutside = 6,
    /// Gives a flow an external port, then continues with [`Call::ToOutside`].
    NatOpen = 7,
    /// Translates an ICMP error about a flow, out or in as [`super::Scratch`] says.
    NatError = 8,
    /// Hands the agent a frame of an endpoint's that it is to answer.
    Punt = 4,
}

impl Call {
    /// Every slot that is taken, with the program in it.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::IcmpError, super::program::ICMP_ERROR),
        (Self::SendProbe, super::program::SEND_PROBE),
        (Self::Echo, super::program::ECHO),
        (Self::Route, super::program::ROUTE),
        (Self::ToOutside, super::program::TO_OUTSIDE),
        (Self::FromOutside, super::program::FROM_OUTSIDE),
        (Self::NatOpen, super::program::NAT_OPEN),
        (Self::NatError, super::program::NAT_ERROR),
        (Self::Punt, super::program::PUNT),
    ];

    /// Slots of `calls`; leaves room for programs to come.
    pub const SLOTS: u32 = 32;

    /// The program in a slot. `None`: there is none.
    #[must_use]
    pub fn program_of_slot(slot: u32) -> Option<&'static str> {
        let mut all = Self::ALL.into_iter();
        all.find(|(call, _)| call.slot() == slot)
            .map(|(_, program)| program)
    }

    /// The slot.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self as u32
    }
}
