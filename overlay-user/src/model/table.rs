//! The kernel's tables in the model's words: what the BPF maps hold, or shall hold.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::{Mac, Revision, Vni};

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
    },
    /// Into a tunnel.
    Remote {
        /// The VTEP's underlay address.
        vtep: Ipv4Addr,
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

/// Value of the networks table; the key is the VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRow {
    /// Longest IP packet of an endpoint, bytes.
    pub mtu: u32,
    /// Whether what the tables don't hold raises a miss, instead of being unknown at once.
    pub on_demand: bool,
}

/// Value of the VTEPs table; the key is the VTEP's underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VtepRow {
    /// UDP port, host byte order.
    pub port: u16,
    /// The way to it.
    pub path: VtepPath,
}

/// The way to a VTEP, as the kernel's routing table has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VtepPath {
    /// First router on the way, or the VTEP itself on a shared link. `None`: the kernel's routing
    /// table is asked for each packet.
    pub next_hop: Option<Ipv4Addr>,
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
    /// The endpoint's generation.
    pub generation: Revision,
}

/// All tables of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Known networks.
    pub networks: BTreeMap<Vni, NetworkRow>,
    /// Known tunnel ends, this host's own left out.
    pub vteps: BTreeMap<Ipv4Addr, VtepRow>,
    /// (VNI, MAC) -> local interface or VTEP.
    pub fdb: BTreeMap<FdbKey, FdbRow>,
    /// (VNI, IP) -> MAC.
    pub neighbors: BTreeMap<NeighborKey, NeighborRow>,
    /// Local interfaces by host-side index.
    pub endpoints: BTreeMap<u32, EndpointRow>,
}

impl Tables {
    /// How many rows they have together.
    #[must_use]
    pub fn rows(&self) -> usize {
        let Self {
            networks,
            vteps,
            fdb,
            neighbors,
            endpoints,
        } = self;
        networks.len() + vteps.len() + fdb.len() + neighbors.len() + endpoints.len()
    }
}

/// How full a map is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUsage {
    /// Rows in it.
    pub entries: u64,
    /// Rows that it can hold.
    pub capacity: u64,
    /// Rows that it did not take because it was full, since the agent started.
    pub refused: u64,
    /// Rows that were not written because the map held a newer generation, since the agent started.
    pub stale: u64,
}

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
