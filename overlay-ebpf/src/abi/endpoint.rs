//! `endpoints`: host-side interface index -> the endpoint behind it.

use bytemuck::{Pod, Zeroable};

/// Value of `endpoints`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct EndpointEntry {
    /// The registry's revision that this entry comes from.
    pub generation: u64,
    /// The network, 1..=16777215.
    pub vni: u32,
    /// Longest IP packet that the endpoint may send, bytes.
    pub mtu: u32,
    /// The only source MAC that it may use, order of the wire.
    pub mac: [u8; 6],
    /// Where its network is counted in `traffic`; 0: nowhere.
    pub slot: u16,
    /// Its first IPv4 address, order of the wire; zero: none. Others are found in `neighbors`.
    pub ipv4: [u8; 4],
    /// Its first IPv6 address, likewise.
    pub ipv6: [u8; 16],
    /// Its place in arrays that have one for each endpoint of this host, 1..=65535; 0: it has none.
    pub id: u32,
    /// [`EndpointEntry::METERED`] and [`EndpointEntry::DHCP`].
    pub flags: u16,
    /// The MAC of its network's gateway, order of the wire. Zero: there is none, or `router_ports` alone has it.
    pub gateway: [u8; 6],
}

super::assert_layout!(EndpointEntry, 56, {
    generation: 0, vni: 8, mtu: 12, mac: 16, slot: 22, ipv4: 24, ipv6: 28, id: 44, flags: 48, gateway: 50
});
super::user_pod!(EndpointEntry);

impl EndpointEntry {
    /// Bit of `flags`: the agent answers what it asks DHCP servers and routers.
    pub const DHCP: u16 = 1 << 1;

    /// `flags`: `meters` has an entry for what it sends.
    pub const METERED: u16 = 1;

    /// Whether what it sends is held to a limit, marked or given a priority.
    #[must_use]
    #[inline(always)]
    pub const fn is_metered(&self) -> bool {
        self.flags & Self::METERED != 0
    }
}
