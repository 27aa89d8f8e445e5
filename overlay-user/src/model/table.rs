//! The kernel's tables in the model's words: what the BPF maps hold, or shall hold.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Mac, Revision, Vni};

/// Key of the FDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
}

/// Key of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
}

/// Value of the VTEPs table; the key is the VTEP's underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VtepRow {
    /// UDP port, host byte order.
    pub port: u16,
    /// First router on the way to it, or itself on a shared link. `None`: the kernel's routing
    /// table is asked for each packet.
    pub next_hop: Option<Ipv4Addr>,
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
