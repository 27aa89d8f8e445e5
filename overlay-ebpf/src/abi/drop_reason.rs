//! `drops`: why a frame went no further.

/// Defines [`DropReason`] with its numbers, names and explanations in one place.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a frame was dropped. Numbers are stable: retire them, never renumber.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that `overlay drops` and the metrics use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One line for people.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its headers do.
    Truncated = 1, "truncated";
    /// It came from an interface that is no endpoint's.
    EndpointUnknown = 2, "endpoint_unknown";
    /// The source MAC is not the endpoint's.
    SourceMac = 3, "source_mac";
    /// The source IP, or an ARP sender field, is not the endpoint's.
    SourceIp = 4, "source_ip";
    /// An ARP packet that is neither request nor reply for Ethernet and IPv4, or has an impossible target.
    ArpMalformed = 5, "arp_malformed";
    /// Gratuitous ARP, or an address probe: noted, not answered.
    ArpGratuitous = 6, "arp_gratuitous";
    /// ARP or ND asked for an address that nobody has.
    NeighborUnknown = 7, "neighbor_unknown";
    /// A neighbour solicitation that breaks RFC 4861 section 7.1.1.
    NdMalformed = 8, "nd_malformed";
    /// Duplicate address detection for an address that nobody else has: silence is the answer.
    NdDetection = 9, "nd_detection";
    /// Neither IPv4, IPv6 nor ARP.
    EtherType = 10, "ether_type";
    /// Broadcast or multicast, and the network does not flood.
    Multicast = 11, "multicast";
    /// No endpoint of the network has the destination MAC.
    DestinationUnknown = 12, "destination_unknown";
    /// The packet is longer than the network or the path to its host takes, and its sender can't be told.
    TooBig = 13, "too_big";
    /// The kernel refused to grow the frame by the outer headers, and its VXLAN device can't do it either.
    EncapFailed = 14, "encap_failed";
    /// The outer header's checksum is wrong, or its lengths contradict each other or the frame.
    OuterMalformed = 15, "outer_malformed";
    /// The outer packet is a fragment that is too short to be judged, or nobody is there to put it together.
    OuterFragment = 16, "outer_fragment";
    /// The outer IPv4 header has options.
    OuterOptions = 17, "outer_options";
    /// The VXLAN header's I flag is clear (RFC 7348 section 5).
    VxlanFlags = 18, "vxlan_flags";
    /// A reserved bit of the VXLAN header is set, and --strict-reserved asks to mind.
    VxlanReserved = 19, "vxlan_reserved";
    /// The sender is no VTEP of the registry.
    VtepUnknown = 20, "vtep_unknown";
    /// No network has the VNI.
    VniUnknown = 21, "vni_unknown";
    /// The inner destination is behind another VTEP: what came from a tunnel never goes to one.
    NotLocal = 22, "not_local";
    /// The inner frame has a VLAN tag (RFC 7348 section 6.1).
    InnerVlan = 23, "inner_vlan";
    /// The outer packet was marked for congestion and the inner one can't carry that (RFC 6040).
    EcnNotCapable = 24, "ecn_not_capable";
    /// The kernel refused to shrink the frame, and its VXLAN device can't do it either.
    DecapFailed = 25, "decap_failed";
    /// The kernel refused to hand the frame to its next interface.
    RedirectFailed = 26, "redirect_failed";
    /// The endpoint's frame has two VLAN tags, or one that the kernel could not take off.
    VlanTag = 27, "vlan_tag";
    /// A router's announcement, a redirect, or a neighbour's of an address that is not its own.
    NdForged = 28, "nd_forged";
    /// The network resolves on demand, and the agent is looking for the destination.
    Resolving = 29, "resolving";
    /// The frame comes from a VTEP that does not have its source MAC.
    SourceVtep = 30, "source_vtep";
    /// The kernel's VXLAN device took the packet in: it came by another way than the underlay's IPv4.
    VxlanDevice = 31, "vxlan_device";
    /// An IPv6 address is an IPv4 one mapped into it, which no packet may carry (RFC 4291 section 2.5.5.2).
    Ipv4Mapped = 32, "ipv4_mapped";
    /// An echo of a VTEP that sends more of them than are answered.
    EchoLimited = 33, "echo_limited";
    /// An echo that something on the way has changed.
    EchoDamaged = 34, "echo_damaged";
    /// An IGMP or MLD message: who listens to which group. The network does not flood.
    MulticastMembership = 35, "multicast_membership";
    /// A question to all routers on the link: the network has none.
    RouterSolicitation = 36, "router_solicitation";
    /// A neighbour advertisement to all, which nobody asked for: noted, not passed on.
    NdUnsolicited = 37, "nd_unsolicited";
    /// The destination's VTEP has an IPv6 address, and this host's tunnels go over IPv4.
    VtepUnreachable = 38, "vtep_unreachable";
    /// A program that another one continues with is not there.
    ProgramMissing = 39, "program_missing";
    /// The router has no route to the destination, or it is one that routers don't forward to.
    NoRoute = 40, "no_route";
    /// A blackhole route of the router's forbids the destination.
    RouteProhibited = 41, "route_prohibited";
    /// The packet was to be routed and has no hop left.
    HopLimit = 42, "hop_limit";
    /// No endpoint of the network that the router leads to has the destination's address.
    HostUnreachable = 43, "host_unreachable";
    /// It is for a gateway itself, which answers ping alone.
    GatewayService = 44, "gateway_service";
    /// It is for the outside, and this host has no uplink.
    NoUplink = 45, "no_uplink";
    /// It is for the outside, and its network has neither SNAT nor its sender a float.
    NatNone = 46, "nat_none";
    /// Address translation knows no ports of its protocol: neither TCP, UDP nor ICMP.
    NatProtocol = 47, "nat_protocol";
    /// All external ports that its endpoint may have are in use, or a table of translation is full.
    NatExhausted = 48, "nat_exhausted";
    /// It comes from outside, and no flow of an endpoint asked for it.
    NatUnsolicited = 49, "nat_unsolicited";
    /// A later fragment of a packet whose first was not seen here.
    NatFragment = 50, "nat_fragment";
    /// An ICMP error about a packet that no flow sent.
    NatError = 51, "nat_error";
    /// The endpoint, or all of its network, asks DHCP servers or routers more often than is answered.
    PuntLimited = 60, "punt_limited";
    /// A question to a DHCP server or a router found no room on its way to the agent, which is slow or not there.
    PuntLost = 61, "punt_lost";
    /// The endpoint answers DHCP, which its network does itself.
    DhcpServer = 62, "dhcp_server";
    /// A question to a DHCP server or a router that is longer than any of them.
    PuntTooLong = 63, "punt_too_long";
    /// The endpoint sends or receives more than its limit.
    Rate = 65, "rate";
}

impl DropReason {
    /// Slots of the `drops` array; leaves room for reasons to come without a new ABI.
    pub const SLOTS: u32 = 96;

    /// What hosts send to all of a link when it or an address comes up. Nobody waits for an answer, and nobody
    /// misses what is dropped.
    const NOISE: u64 = 1 << Self::ArpGratuitous as u32
        | 1 << Self::NdDetection as u32
        | 1 << Self::MulticastMembership as u32
        | 1 << Self::RouterSolicitation as u32
        | 1 << Self::NdUnsolicited as u32;

    /// Whether what is dropped for this reason is no loss to anybody.
    #[must_use]
    #[inline(always)]
    pub const fn is_noise(self) -> bool {
        self.number() < u64::BITS && Self::NOISE >> self.number() & 1 != 0
    }

    /// The reason of this number. `None`: none of this version's.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.number() == number)
    }

    /// The reason of this name. `None`: none of this version's.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.name() == name)
    }

    /// The reason's slot in `drops`.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit_the_map() {
        let numbers: BTreeSet<_> = DropReason::ALL
            .iter()
            .map(|reason| reason.number())
            .collect();
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(numbers.len(), DropReason::ALL.len());
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(
            numbers
                .iter()
                .all(|number| (1..DropReason::SLOTS).contains(number))
        );
    }

    #[test]
    fn noise_is_what_a_link_that_comes_up_brings_and_nothing_else() {
        let noise: Vec<_> = DropReason::ALL
            .iter()
            .filter(|reason| reason.is_noise())
            .map(|reason| reason.name())
            .collect();
        let expected = [
            "arp_gratuitous",
            "nd_detection",
            "multicast_membership",
            "router_solicitation",
            "nd_unsolicited",
        ];
        assert_eq!(noise, expected);
    }

    #[test]
    fn every_reason_explains_itself_in_one_line() {
        for reason in DropReason::ALL {
            let line = reason.describe();
            assert!(
                line.ends_with('.') && !line.starts_with(' ') && !line.contains('\n'),
                "{line:?}"
            );
        }
    }
}
