//! The kernel's tables in the model's words: what the BPF maps hold, or are to hold.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Mac, Revision, Vni, VtepAddr};

/// Calls a macro with every table: its field of [`Tables`] and the type of its rows.
///
/// The order is that in which rows are written, so that none points at one that is not there yet: what lets
/// frames in comes last. Rows are removed in the reverse order.
macro_rules! for_each_table {
    ($macro:ident) => {
        $macro! {
            /// Known networks.
            networks: $crate::model::NetworkRow,
            /// Gateways of networks by VNI.
            router_ports: $crate::model::RouterPortRow,
            /// (router, prefix) -> network.
            routes: $crate::model::RouteRow,
            /// External addresses that lead in.
            outside: $crate::model::OutsideRow,
            /// (VNI, IP) -> external address of the endpoint's own.
            floats: $crate::model::FloatRow,
            /// Limits of local endpoints by host-side index and direction.
            meters: $crate::model::MeterRow,
            /// Known tunnel ends but this host's own.
            vteps: $crate::model::VtepRow,
            /// (VNI, IP) -> MAC.
            neighbors: $crate::model::NeighborRow,
            /// (VNI, MAC) -> local interface or VTEP.
            fdb: $crate::model::FdbRow,
            /// Local interfaces by host-side index.
            endpoints: $crate::model::EndpointRow,
            /// Blocks of ports of this host's endpoints.
            blocks: $crate::model::BlockRow,
        }
    };
}
pub(crate) use for_each_table;

/// A row of one of the tables.
pub trait Row: Copy + PartialEq {
    /// What identifies it.
    type Key: Copy + Ord;

    /// Whether the table has rows for every endpoint of the registry. Such a table is compared in passes, may be
    /// full, and takes many new rows in one system call.
    const IS_LARGE: bool = false;

    /// The endpoint's generation. A row with a lower one never overwrites another. 0: the table's rows have
    /// none.
    fn generation(&self) -> Revision {
        0
    }
}

/// Rows of one table by their keys.
pub type Rows<R> = BTreeMap<<R as Row>::Key, R>;

/// Key of the FDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FdbKey {
    /// The network.
    pub vni: Vni,
    /// The endpoint's MAC.
    pub mac: Mac,
}

/// Where frames for a MAC go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbTarget {
    /// To the host side of a veth or tap of this host.
    Local {
        /// The host side's interface index.
        ifindex: u32,
        /// Whether frames go through the veth's queue, because a native XDP program waits for them there.
        is_queued: bool,
        /// Whether what the endpoint receives has a row of [`MeterRow`].
        is_metered: bool,
    },
    /// Into a tunnel.
    Remote {
        /// The VTEP's underlay address.
        vtep: VtepAddr,
        /// The VTEP's UDP port, host byte order.
        port: u16,
    },
}

/// Value of the FDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbRow {
    /// Where to.
    pub target: FdbTarget,
    /// The endpoint's generation.
    pub generation: Revision,
    /// Whether the row is a cached one of an on-demand network: then the programs note when frames
    /// use it. Writing the row counts as a use.
    pub ages: bool,
}

impl Row for FdbRow {
    type Key = FdbKey;

    const IS_LARGE: bool = true;

    fn generation(&self) -> Revision {
        self.generation
    }
}

/// Key of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NeighborKey {
    /// The network.
    pub vni: Vni,
    /// The endpoint's address.
    pub ip: IpAddr,
}

/// Value of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborRow {
    /// The MAC that ARP and ND answer with.
    pub mac: Mac,
    /// The endpoint's generation.
    pub generation: Revision,
}

impl Row for NeighborRow {
    type Key = NeighborKey;

    const IS_LARGE: bool = true;

    fn generation(&self) -> Revision {
        self.generation
    }
}

/// Value of the networks table; the key is the VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRow {
    /// Longest IP packet of an endpoint, bytes.
    pub mtu: u32,
    /// Whether what the tables don't hold raises a miss, instead of being unknown at once.
    pub on_demand: bool,
}

impl Row for NetworkRow {
    type Key = Vni;
}

/// Value of the VTEPs table; the key is the VTEP's underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VtepRow {
    /// UDP port, host byte order.
    pub port: u16,
    /// The way to it.
    pub path: VtepPath,
}

impl Row for VtepRow {
    type Key = VtepAddr;
}

/// The way to a VTEP, as the kernel's routing table has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VtepPath {
    /// First router on the way, or the VTEP itself on a shared link. `None`: the kernel's routing
    /// table is asked for each packet.
    pub next_hop: Option<IpAddr>,
    /// Longest outer packet that gets there, bytes. `None`: as long as the interface takes.
    pub mtu: Option<u16>,
}

/// Value of the endpoints table; the key is the host side's interface index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointRow {
    /// The network.
    pub vni: Vni,
    /// The only source MAC that it may use.
    pub mac: Mac,
    /// Its first IPv4 address: spares the fast path a look-up in the neighbour table, which
    /// decides about all others.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 address, likewise.
    pub ipv6: Option<Ipv6Addr>,
    /// Longest IP packet that it may send, bytes.
    pub mtu: u32,
    /// Whether the agent answers what it asks DHCP servers and routers.
    pub dhcp: bool,
    /// Whether what it sends has a row of [`MeterRow`].
    pub is_metered: bool,
    /// The MAC of its network's gateway: spares the fast path two look-ups. `None`: there is none.
    pub gateway: Option<Mac>,
    /// The endpoint's generation.
    pub generation: Revision,
}

impl Row for EndpointRow {
    type Key = u32;

    fn generation(&self) -> Revision {
        self.generation
    }
}

/// Which way an endpoint's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It sends them.
    Sent,
    /// It gets them.
    Received,
}

/// Key of the meters table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MeterKey {
    /// The endpoint's host-side interface.
    pub ifindex: u32,
    /// Which of its packets.
    pub direction: Direction,
}

/// Value of the meters table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterRow {
    /// Bits in a second; 0: as many as come.
    pub rate: u64,
    /// What an idle endpoint saves up, nanoseconds.
    pub burst_ns: u64,
    /// Packets in a second; 0: as many as come.
    pub packet_rate: u32,
    /// From how late on packets are marked for congestion, nanoseconds.
    pub mark_ns: u32,
    /// From how late on they are dropped, nanoseconds; not 0.
    pub drop_ns: u32,
    /// The DSCP that they get, up to 63. `None`: their own.
    pub dscp: Option<u8>,
    /// Their priority where they leave the host; 0: none.
    pub priority: u32,
}

impl Row for MeterRow {
    type Key = MeterKey;
}

/// Value of the router ports table; the key is the network's VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterPortRow {
    /// The router's number; 0: there is none, and the row is about the network's DHCP server.
    pub router: u32,
    /// The gateway's MAC.
    pub mac: Mac,
    /// The gateway's first IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Row for RouterPortRow {
    type Key = Vni;
}

/// Key of the routes table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The router's number.
    pub router: u32,
    /// Where to; the longest prefix that fits is taken.
    pub prefix: IpNet,
}

/// Which way a router sends packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteWay {
    /// To itself: the address is the gateway's in this network.
    Local {
        /// The network.
        vni: Vni,
    },
    /// To an endpoint of one of its networks.
    Connected {
        /// The network.
        vni: Vni,
    },
    /// To an endpoint that routes on.
    Via {
        /// The endpoint's network.
        vni: Vni,
        /// Its address.
        next_hop: IpAddr,
    },
    /// Nowhere.
    Blackhole,
    /// Out of the overlay.
    Outside,
    /// Into a network, or out of it: the prefix is another one, of the same length, on the other side of the way out.
    Translated {
        /// The network.
        vni: Vni,
        /// The other prefix.
        prefix: Ipv6Net,
    },
}

/// Value of the routes table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRow {
    /// Which way.
    pub way: RouteWay,
}

impl RouteRow {
    /// Of two rows with the same key the one of the lower rank counts.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self.way {
            RouteWay::Local { .. } => 0,
            RouteWay::Connected { .. } | RouteWay::Translated { .. } => 1,
            RouteWay::Via { .. } | RouteWay::Blackhole => 2,
            RouteWay::Outside => 3,
        }
    }
}

impl Row for RouteRow {
    type Key = RouteKey;
}

impl RouteKey {
    /// The number under which are the prefixes that are reached from outside.
    pub const OUTSIDE: u32 = 0;
    /// Routers have numbers below it.
    pub const INSIDE: u32 = 1 << 31;

    /// The number under which is the prefix of a network that is another one outside.
    #[must_use]
    pub const fn inside(vni: Vni) -> u32 {
        Self::INSIDE | vni.get()
    }
}

/// Value of the outside table, whose key is an external address: whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsideRow {
    /// One endpoint's own.
    Float {
        /// Its network.
        vni: Vni,
        /// Its address there.
        own: Ipv4Addr,
    },
    /// Shared by endpoints of this host.
    Shared {
        /// Ports of a block.
        block: u16,
    },
    /// This host's own, of whose ports endpoints have blocks.
    Host {
        /// Ports of a block.
        block: u16,
    },
}

impl Row for OutsideRow {
    type Key = Ipv4Addr;
}

/// Key of the floats table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FloatKey {
    /// The endpoint's network.
    pub vni: Vni,
    /// Its address there.
    pub own: Ipv4Addr,
}

/// Value of the floats table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatRow {
    /// The external address.
    pub ip: Ipv4Addr,
}

impl Row for FloatRow {
    type Key = FloatKey;
}

/// Key of the blocks table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The external address.
    pub ip: Ipv4Addr,
    /// The block's first port, divided by how many it has.
    pub number: u16,
}

/// Value of the blocks table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRow {
    /// The endpoint's host-side interface.
    pub ifindex: u32,
    /// Its network.
    pub vni: Vni,
    /// How many ports the block has.
    pub ports: u16,
    /// Which of the endpoint's it is.
    pub index: u8,
    /// Whether anybody outside may send to a mapping.
    pub is_open: bool,
}

impl Row for BlockRow {
    type Key = BlockKey;
}

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident: $row:ty,)+) => {
        /// All tables of one host.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Tables {
            $($(#[$doc])* pub $table: Rows<$row>,)+
        }

        impl Tables {
            /// The number of rows in all of them.
            #[must_use]
            pub fn rows(&self) -> usize {
                [$(self.$table.len()),+].iter().sum()
            }
        }
    };
}
for_each_table!(tables);

/// What the endpoints of a network on this host have sent and received since the network's first
/// one came here. Each segment of an aggregate counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames that endpoints sent and the datapath carried on.
    pub tx_packets: u64,
    /// Bytes of those, Ethernet headers included and tunnel headers not.
    pub tx_bytes: u64,
    /// Frames that were delivered to endpoints.
    pub rx_packets: u64,
    /// Bytes of those, likewise.
    pub rx_bytes: u64,
}
