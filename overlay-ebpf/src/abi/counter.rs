//! `counters`: what the programs count beside drops and traffic.

/// Defines [`Counter`] with its numbers, names and explanations in one place.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Something that is counted. Numbers are stable: retire them, never renumber.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Counter {
            /// Every counter, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that the metrics use.
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

counters! {
    /// Misses that the agent was told of.
    MissesRaised = 1, "misses_raised";
    /// Misses that it was not told of because its queue was full; the next frame tries again.
    MissesLost = 2, "misses_lost";
    /// Misses that were put off because one CPU raised too many; the next frame tries again.
    MissesLimited = 3, "misses_limited";
    /// Packets into tunnels whose next hop the kernel's routing table had to be asked for.
    SlowRoute = 4, "slow_route";
    /// Packets that went through the queue of the endpoint's veth.
    SlowQueue = 5, "slow_queue";
    /// Misses that were put off because one endpoint, or one network's tunnels, raised too many; the next
    /// frame tries again.
    MissesLimitedEndpoint = 6, "misses_limited_endpoint";
    /// Misses that were put off because one network raised too many; the next frame tries again.
    MissesLimitedNetwork = 7, "misses_limited_network";
    /// Frames that the VXLAN device encapsulates because the programs can't: of a tunnel inside, forwarded out
    /// of one, aggregates of SCTP.
    SlowSendRefused = 8, "slow_send_refused";
    /// ARP packets of endpoints to other hosts, which the VXLAN device encapsulates.
    SlowSendArp = 9, "slow_send_arp";
    /// IPv4 packets that may be fragmented and are longer than the path takes: the VXLAN device does it.
    SlowSendFragmented = 10, "slow_send_fragmented";
    /// Aggregates of UDP or SCTP out of tunnels, which the VXLAN device unpacks.
    SlowReceiveAggregate = 11, "slow_receive_aggregate";
    /// Packets that follow such an aggregate and must not overtake it.
    SlowReceiveOrder = 12, "slow_receive_order";
    /// First fragments of tunnel packets, which the kernel puts together and the VXLAN device unpacks.
    SlowReceiveFragment = 13, "slow_receive_fragment";
    /// Packets out of tunnels that the programs could not unpack, and the VXLAN device does.
    SlowReceiveRefused = 14, "slow_receive_refused";
    /// Packets too long for the network or the path whose sender was told by ICMP.
    TooBigAnswered = 15, "too_big_answered";
    /// Packets too long whose sender was not told because it was told so often before; counted as drops.
    TooBigLimited = 16, "too_big_limited";
    /// Echoes of other hosts that were sent back.
    EchoAnswered = 17, "echo_answered";
    /// Answers to this host's echoes.
    EchoReceived = 18, "echo_received";
    /// Packets that a router refused and whose sender was told by ICMP.
    RouterAnswered = 19, "router_answered";
    /// Packets that a router refused and whose sender was not told because it was told so often before; counted as
    /// drops.
    RouterLimited = 20, "router_limited";
    /// Packets from one network of a router to another.
    RouterForwarded = 21, "router_forwarded";
    /// Packets of endpoints that left for the outside.
    OutsideSent = 22, "outside_sent";
    /// Packets from outside that were delivered.
    OutsideReceived = 23, "outside_received";
    /// Packets between external addresses of this host, which never left it.
    OutsideHairpin = 24, "outside_hairpin";
    /// External ports that were given to flows.
    NatOpened = 25, "nat_opened";
    /// External ports whose mappings ended early because their endpoint ran short of them.
    NatEarly = 26, "nat_early";
    /// Flows that were answered and found no room in their table: they stay among those that were not.
    NatFlowsFull = 27, "nat_flows_full";
    /// Flows that were answered and whose endpoint has as many of these as it may: they stay among those that were not.
    NatFlowsLimited = 28, "nat_flows_limited";
    /// Questions of endpoints to DHCP servers and routers that the agent was told of.
    PuntsRaised = 40, "punts_raised";
    /// Those that it was not told of because its queue was full; their senders ask again.
    PuntsLost = 41, "punts_lost";
    /// Those that it was not told of because their endpoint, its network or one CPU had too many.
    PuntsLimited = 42, "punts_limited";
    /// Packets that were marked for congestion because their endpoint is close to its limit.
    RateMarked = 45, "rate_marked";
    /// Bytes of packets that were dropped because their endpoint is over its limit.
    RateDroppedBytes = 46, "rate_dropped_bytes";
}

impl Counter {
    /// Slots of the `counters` array; leaves room for counters to come without a new ABI.
    pub const SLOTS: u32 = 64;

    /// The counter's slot in `counters`.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }
}
