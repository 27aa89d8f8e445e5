//! `uplink`, `outside` and `floats`: the way out of the overlay, and which external addresses lead back in.

use bytemuck::{Pod, Zeroable};

/// The one value of `uplink`: the interface to the outside. All zero: there is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UplinkEntry {
    /// Its index; 0: there is no way out.
    pub ifindex: u32,
    /// Longest IP packet that it takes, bytes.
    pub mtu: u32,
    /// Its MAC, order of the wire: what ARP for external addresses is answered with.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// The router of all that is not on its link, order of the wire. Zero: the kernel's routing table is asked for that.
    pub next_hop: [u8; 4],
    /// The address of its link's subnet, order of the wire.
    pub subnet: [u8; 4],
    /// The bits of an address that are the subnet's, order of the wire: what is in it is on the link. Zero: the kernel's
    /// routing table is asked for each packet.
    pub mask: [u8; 4],
}

super::assert_layout!(UplinkEntry, 28, {
    ifindex: 0, mtu: 4, mac: 8, reserved: 14, next_hop: 16, subnet: 20, mask: 24
});

/// Key of `outside`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct OutsideKey {
    /// An external IPv4 address, order of the wire.
    pub ip: [u8; 4],
}

super::assert_layout!(OutsideKey, 4, { ip: 0 });

/// Value of `outside`: whose an external address is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct OutsideEntry {
    /// [`OutsideEntry::FLOAT`]: the endpoint's network. Otherwise 0.
    pub vni: u32,
    /// [`OutsideEntry::FLOAT`]: the endpoint's own address, order of the wire. Otherwise zero.
    pub ip: [u8; 4],
    /// [`OutsideEntry::FLOAT`], [`OutsideEntry::SHARED`] or [`OutsideEntry::HOST`].
    pub kind: u8,
    /// Of a shared address: how many bits of a port tell the ports of one block apart. Otherwise 0.
    pub block_bits: u8,
    /// Zero.
    pub reserved: u16,
}

super::assert_layout!(OutsideEntry, 12, { vni: 0, ip: 4, kind: 8, block_bits: 9, reserved: 10 });

impl OutsideEntry {
    /// `kind`: one endpoint's alone.
    pub const FLOAT: u8 = 1;
    /// `kind`: shared by endpoints of this host, which have blocks of its ports.
    pub const SHARED: u8 = 2;
    /// `kind`: this host's own, of whose ports endpoints have blocks.
    pub const HOST: u8 = 3;
}

/// Key of `floats`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FloatKey {
    /// The endpoint's network, 1..=16777215.
    pub vni: u32,
    /// Its own address, order of the wire.
    pub ip: [u8; 4],
}

super::assert_layout!(FloatKey, 8, { vni: 0, ip: 4 });

/// Value of `floats`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct FloatEntry {
    /// The address that the outside sees, order of the wire.
    pub external: [u8; 4],
}

super::assert_layout!(FloatEntry, 4, { external: 0 });

super::user_pod!(UplinkEntry, OutsideKey, OutsideEntry, FloatKey, FloatEntry);
