//! What the BPF programs and user space share.
//!
//! Numbers are in host byte order; addresses are byte arrays in the order of the wire. Every type
//! is `repr(C)`, free of padding, and has its size and offsets asserted beside it: a change of any
//! of them is a change of [`ABI_VERSION`].

mod call;
mod counter;
mod drop_reason;
mod drop_sample;
mod echo;
mod endpoint;
mod external;
mod fdb;
mod feature;
mod gro;
mod hop;
mod miss;
mod nat;
mod neighbor;
mod network;
mod outside;
mod port_traffic;
mod punt;
mod rate;
mod route;
mod scratch;
mod trace;
mod traffic;
mod vtep;

pub use call::Call;
pub use counter::Counter;
pub use drop_reason::DropReason;
pub use drop_sample::{DropPace, DropSample, EndpointDropKey};
pub use echo::EchoEvent;
pub use endpoint::EndpointEntry;
pub use external::External;
pub use fdb::{FdbEntry, FdbKey};
pub use feature::Feature;
pub use gro::GroState;
pub use hop::{Edition, Hop};
pub use miss::{Meter, MeterKey, MissEvent, MissKey, Negative};
pub use nat::{
    BlockEntry, BlockKey, FlowEntry, FlowKey, FragmentEntry, FragmentKey, MappingEntry, MappingKey,
    NatBlock, NatChain, NatPort, Sweep,
};
pub use neighbor::{NeighborEntry, NeighborKey};
pub use network::NetworkEntry;
pub use outside::{FloatEntry, FloatKey, OutsideEntry, OutsideKey, UplinkEntry};
pub use punt::{Punt, PuntHeader};
pub use rate::{MeterClock, MeterEntry, MeterState};
pub use route::{RouteEntry, RouteKey, RouterPortEntry};
pub use scratch::Scratch;
pub use trace::{Table, TraceStep};
pub use traffic::Traffic;
pub use vtep::{PathEntry, VtepEntry, VtepKey};

/// Version of the maps' layout; part of the folder that they are pinned under.
pub const ABI_VERSION: u32 = 3;

/// A map's name, and the sizes of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLayout {
    /// As bpftool and the pin show it.
    pub name: &'static str,
    /// Bytes of a key; 0: a ring buffer, which has no entries.
    pub key_size: usize,
    /// Bytes of a value; of a per-CPU map, for one CPU.
    pub value_size: usize,
}

macro_rules! maps {
    ($($(#[$doc:meta])* $const:ident = $name:literal: $key:ty => $value:ty,)+) => {
        /// Names of the maps, as bpftool and the pins show them.
        pub mod map {
            use super::*;

            $($(#[$doc])* pub const $const: &str = $name;)+

            /// Every map of the datapath that is pinned.
            pub const ALL: [&str; LAYOUTS.len()] = [$($const),+];

            /// Their layouts.
            pub const LAYOUTS: &[MapLayout] = &[
                $(MapLayout {
                    name: $name,
                    key_size: size_of::<$key>(),
                    value_size: size_of::<$value>(),
                }),+
            ];
        }
    };
}

maps! {
    /// (VNI, MAC) -> local interface, VTEP or router.
    FDB = "fdb": FdbKey => FdbEntry,
    /// (VNI, IP) -> MAC.
    NEIGHBORS = "neighbors": NeighborKey => NeighborEntry,
    /// Host-side interface index -> endpoint.
    ENDPOINTS = "endpoints": u32 => EndpointEntry,
    /// Underlay address -> known tunnel end.
    VTEPS = "vteps": VtepKey => VtepEntry,
    /// Number -> VTEP and the way to it.
    PATHS = "paths": u32 => PathEntry,
    /// VNI -> gateway of the router that joins the network.
    ROUTER_PORTS = "router_ports": u32 => RouterPortEntry,
    /// (router, prefix) -> network: a trie, whose keys begin with the number of bits that count.
    ROUTES = "routes": (u32, RouteKey) => RouteEntry,
    /// The interface to the outside.
    UPLINK = "uplink": u32 => UplinkEntry,
    /// External address -> whose it is.
    OUTSIDE = "outside": OutsideKey => OutsideEntry,
    /// (VNI, IP) -> external address of the endpoint's own.
    FLOATS = "floats": FloatKey => FloatEntry,
    /// (external address, number) -> block of ports.
    BLOCKS = "blocks": BlockKey => BlockEntry,
    /// Blocks of ports by slot, with the ports in use.
    NAT_BLOCKS = "nat_blocks": u32 => NatBlock,
    /// External ports by slot.
    NAT_PORTS = "nat_ports": u32 => NatPort,
    /// Endpoint -> its blocks.
    NAT_CHAINS = "nat_chains": u32 => NatChain,
    /// (endpoint, port) -> external port.
    MAPPINGS = "mappings": MappingKey => MappingEntry,
    /// Flows over mappings that were answered.
    FLOWS = "flows": FlowKey => FlowEntry,
    /// How many of these an endpoint has, by its number.
    FLOW_COUNTS = "flow_counts": u32 => u64,
    /// Flows that were not.
    NEW_FLOWS = "new_flows": FlowKey => FlowEntry,
    /// Packets in fragments, of which more is to come.
    FRAGMENTS = "fragments": FragmentKey => FragmentEntry,
    /// VNI -> network.
    NETWORKS = "networks": u32 => NetworkEntry,
    /// Until when the agent vouches for the VTEPs' next hops: one value, nanoseconds of `CLOCK_MONOTONIC`.
    LEASE = "lease": u32 => u64,
    /// What the rows of the tables above belong to: one value of [`Edition`].
    EDITION = "edition": u32 => u64,
    /// The VXLAN device that does what the programs can't, by slot of [`External`].
    EXTERNAL = "external": u32 => u32,
    /// Per-CPU counters by [`DropReason`] number.
    DROPS = "drops": u32 => u64,
    /// Per-CPU rows of frames that were dropped, some of each reason.
    DROP_SAMPLES = "drop_samples": u32 => DropSample,
    /// Per-CPU counts of endpoints' drops.
    ENDPOINT_DROPS = "endpoint_drops": EndpointDropKey => u64,
    /// Ring buffer of [`MissEvent`]: what frames of on-demand networks did not find.
    MISSES = "misses": () => (),
    /// Which misses are not raised again, and until when.
    NEGATIVE = "negative": MissKey => Negative,
    /// Per-CPU traffic of networks by slot.
    TRAFFIC = "traffic": u32 => Traffic,
    /// Per-CPU traffic of endpoints by id.
    PORT_TRAFFIC = "port_traffic": u32 => Traffic,
    /// Limits of endpoints by id and direction.
    METERS = "meters": u32 => MeterEntry,
    /// What the programs have made of them.
    METER_STATE = "meter_state": u32 => MeterState,
    /// Per-CPU counters by [`Counter`] number.
    COUNTERS = "counters": u32 => u64,
}

/// Name of the ring of `EchoEvent`, which is not pinned: it is of no use without the agent that made it.
pub const ECHOES: &str = "echoes";

/// Name of the ring of `Punt`, which is not pinned either.
pub const PUNTS: &str = "punts";

/// Name of the array of `TraceStep`, which is not pinned: it belongs to programs that the agent loads to run itself.
pub const TRACE: &str = "trace";

/// Name of the program array, whose slots are [`Call`]'s. It belongs to the programs of one start and is pinned beside
/// the maps, under a number: the kernel empties it with its last pin.
pub const CALLS: &str = "calls";

/// Names of the programs.
pub mod program {
    /// TC ingress on the host side of an endpoint's interface.
    pub const ENDPOINT_INGRESS: &str = "endpoint_ingress";
    /// TC ingress on the underlay device.
    pub const UNDERLAY_INGRESS: &str = "underlay_ingress";
    /// TC ingress on the kernel's VXLAN device: delivers what `underlay_ingress` left to it, and drops all
    /// else.
    pub const EXTERNAL_INGRESS: &str = "external_ingress";
    /// In `calls`: what an endpoint's frame becomes that is answered by an ICMP error.
    pub const ICMP_ERROR: &str = "icmp_error";
    /// In `calls`: a probe of the agent's on its way out.
    pub const SEND_PROBE: &str = "send_probe";
    /// In `calls`: an echo or a probe out of a tunnel.
    pub const ECHO: &str = "echo";
    /// In `calls`: a frame of an endpoint's to its gateway.
    pub const ROUTE: &str = "route";
    /// TC ingress on the uplink, where that is not the underlay device.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// In `calls`: a packet of an endpoint's that leaves the overlay.
    pub const TO_OUTSIDE: &str = "to_outside";
    /// In `calls`: a packet from outside for an external address.
    pub const FROM_OUTSIDE: &str = "from_outside";
    /// In `calls`: a packet of an endpoint's that begins a flow to the outside.
    pub const NAT_OPEN: &str = "nat_open";
    /// In `calls`: an ICMP error about a flow.
    pub const NAT_ERROR: &str = "nat_error";
    /// Run by the agent, never attached: frees ports whose time is over.
    pub const NAT_SWEEP: &str = "nat_sweep";
    /// TC egress on the underlay device and on the uplink, where these have a queue that holds packets until they are to
    /// leave.
    pub const PACE: &str = "pace";
    /// In `calls`: a frame of an endpoint's that the agent answers.
    pub const PUNT: &str = "punt";
    /// Run once by the loader, on a packet of its own: tells whether `bpf_skb_adjust_room` takes
    /// `BPF_F_ADJ_ROOM_ENCAP_L2_ETH` (Linux 5.13), without which there is no encapsulation.
    pub const PROBE_ENCAP: &str = "probe_encap";
    /// Likewise: tells whether it takes
    /// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6` (Linux 6.3) and so fixes the protocol of a shrunk frame.
    pub const PROBE_DECAP_L3: &str = "probe_decap_l3";
    /// Run once by the loader: tells whether `bpf_skb_adjust_room` takes
    /// `BPF_F_ADJ_ROOM_DECAP_L4_UDP` and so clears the tunnel's GSO bits.
    pub const PROBE_DECAP_L4: &str = "probe_decap_l4";
    /// Run by the agent, never attached: sends a frame of the agent's out of the interface whose
    /// index is in the context's `mark`.
    pub const INJECT: &str = "inject";
    /// Likewise: sends a tunnel packet of the agent's through the VXLAN device whose index is in `mark`, on the
    /// way that encapsulated frames take.
    pub const INJECT_ECHO: &str = "inject_echo";
}

/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP` of `linux/bpf.h`, newer than bindings have it.
pub const DECAP_L4_UDP: u64 = 1 << 10;

/// What the probe programs are run on: a tunnel packet as far as they look. An IPv4 header, and
/// enough behind it to take an encapsulation away and leave an IPv6 header.
pub const PROBE_PACKET: [u8; 128] = {
    let mut packet = [0; 128];
    // Ethernet: IPv4.
    packet[12] = 0x08;
    // IPv4: version 4, five words.
    packet[14] = 0x45;
    packet
};

/// Names of the read-only globals that the loader sets before the verifier sees the programs.
pub mod global {
    /// `u32`: interface index of the underlay device.
    pub const UNDERLAY_IFINDEX: &str = "UNDERLAY_IFINDEX";
    /// `u32`: this host's VTEP address; its bytes lie in memory as on the wire.
    pub const VTEP_IP_BE: &str = "VTEP_IP_BE";
    /// `u16`: this host's VTEP port, likewise.
    pub const VTEP_PORT_BE: &str = "VTEP_PORT_BE";
    /// `u32`: what is switched on, by the bits of [`super::Feature`].
    pub const FEATURES: &str = "FEATURES";
    /// `u64`: flags for `bpf_skb_adjust_room` that this kernel takes in addition on decapsulation
    /// of an IPv4 frame.
    pub const DECAP_FLAGS_IPV4: &str = "DECAP_FLAGS_IPV4";
    /// `u64`: the same for an IPv6 frame.
    pub const DECAP_FLAGS_IPV6: &str = "DECAP_FLAGS_IPV6";
}

/// Asserts at compile time that a type has this size and these field offsets.
macro_rules! assert_layout {
    ($type:ty, $size:literal, { $($field:ident: $offset:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
        };
    };
}
use assert_layout;

/// An IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2).
#[inline(always)]
const fn mapped(ip: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = ip;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Marks ABI types as plain old data for aya's typed maps.
macro_rules! user_pod {
    ($($type:ty),+) => {
        $(
            #[cfg(feature = "user")]
            // SAFETY: the type is `repr(C)`, `Copy`, free of padding (bytemuck's derive checks
            // that) and has no invalid bit patterns.
            unsafe impl aya::Pod for $type {}
        )+
    };
}
use user_pod;
