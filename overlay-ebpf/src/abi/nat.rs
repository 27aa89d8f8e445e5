//! `blocks`, `nat_blocks`, `nat_ports`, `nat_chains`, `mappings`, `flows`, `new_flows` and `fragments`: how endpoints share
//! external addresses.
//!
//! A mapping gives an endpoint's port an external one, whatever it talks to (RFC 4787 section 4.1). A flow is one
//! conversation over a mapping. The agent gives endpoints blocks of ports; all else the programs do.

use bytemuck::{Pod, Zeroable};

/// Key of `blocks`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BlockKey {
    /// The external address, order of the wire.
    pub ip: [u8; 4],
    /// The block's first port, divided by its length.
    pub number: u16,
    /// Zero.
    pub reserved: u16,
}

super::assert_layout!(BlockKey, 8, { ip: 0, number: 4, reserved: 6 });

/// Value of `blocks`: an endpoint's block, as the agent wrote it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct BlockEntry {
    /// Its place in `nat_blocks`.
    pub slot: u32,
    /// The endpoint's host-side interface.
    pub ifindex: u32,
    /// The endpoint's network.
    pub vni: u32,
    /// How many ports it has, 64..=1024, a power of two.
    pub ports: u16,
    /// Which of the endpoint's blocks it is, from 0.
    pub index: u8,
    /// [`BlockEntry::OPEN`] or nothing.
    pub flags: u8,
}

super::assert_layout!(BlockEntry, 16, { slot: 0, ifindex: 4, vni: 8, ports: 12, index: 14, flags: 15 });

impl BlockEntry {
    /// `flags`: whoever is outside may send to a mapping (endpoint-independent filtering, RFC 4787 section 5).
    pub const OPEN: u8 = 1;
}

/// Value of `nat_blocks`: a block that the programs give ports from. All zero: none has this slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct NatBlock {
    /// The external address, order of the wire.
    pub ip: [u8; 4],
    /// Its first port, host byte order.
    pub first_port: u16,
    /// How many ports it has; of ICMP identifiers a quarter as many. 0: the slot is free.
    pub ports: u16,
    /// The endpoint's id.
    pub endpoint: u32,
    /// The endpoint's network.
    pub vni: u32,
    /// As in [`BlockEntry`].
    pub flags: u32,
    /// Where the next expired port is looked for, by [`NatBlock::TCP`], [`NatBlock::UDP`] and [`NatBlock::ICMP`].
    pub cursor: [u32; 3],
    /// Ports in use, likewise.
    pub used: [u64; 3],
    /// Mappings that ended early because ports ran short.
    pub early: u64,
    /// Which ports are in use, a bit each: those of TCP, of UDP, and the identifiers of ICMP.
    pub bits: [u64; 36],
}

super::assert_layout!(NatBlock, 352, {
    ip: 0, first_port: 4, ports: 6, endpoint: 8, vni: 12, flags: 16, cursor: 20, used: 32, early: 56, bits: 64
});

impl NatBlock {
    /// Slots of `nat_blocks` that the object asks for; the loader sets what the configuration says.
    pub const SLOTS: u32 = 256;
    /// Most ports of a block.
    pub const PORTS: u32 = 1024;
    /// Its slots of `nat_ports`: TCP's, UDP's and ICMP's.
    pub const PORT_SLOTS: u32 = 2 * Self::PORTS + Self::PORTS / 4;
    /// Slots that one run of the program `nat_sweep` looks at.
    pub const SWEPT: u32 = 4;
    /// Most blocks of an endpoint.
    pub const CHAIN: usize = 8;

    /// Index of `used` and `cursor`.
    pub const TCP: usize = 0;
    /// Index of `used` and `cursor`.
    pub const UDP: usize = 1;
    /// Index of `used` and `cursor`.
    pub const ICMP: usize = 2;
}

/// Value of `nat_ports`: an external port, by [`NatBlock::PORT_SLOTS`] times its block's slot and its place there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct NatPort {
    /// The endpoint's own address, order of the wire.
    pub ip: [u8; 4],
    /// Its own port, order of the wire.
    pub port: [u8; 2],
    /// The endpoint's id.
    pub endpoint: u16,
    /// Flows of it that are established.
    pub established: u32,
    /// Counts the mappings that had the port: a mapping or a flow of another number is over.
    pub epoch: u16,
    /// IP protocol.
    pub protocol: u8,
    /// By [`crate::rule::nat::phase`]; 0: it is free.
    pub phase: u8,
    /// The second of `CLOCK_MONOTONIC` of its last use.
    pub used_s: u32,
    /// Zero.
    pub reserved: u32,
}

super::assert_layout!(NatPort, 24, {
    ip: 0, port: 4, endpoint: 6, established: 8, epoch: 12, protocol: 14, phase: 15, used_s: 16, reserved: 20
});

/// Value of `nat_chains`, an array by an endpoint's id: its blocks.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct NatChain {
    /// Slots of `nat_blocks` plus one, in the order in which they are used; 0: no block.
    pub blocks: [u16; NatBlock::CHAIN],
}

super::assert_layout!(NatChain, 16, { blocks: 0 });

impl NatChain {
    /// Slots of `nat_chains`: endpoints with greater ids have no blocks.
    pub const SLOTS: u32 = 8192;
}

/// Key of `mappings`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct MappingKey {
    /// The endpoint's id.
    pub endpoint: u16,
    /// Its own port, or an identifier of ICMP, order of the wire.
    pub port: [u8; 2],
    /// Its own address, order of the wire.
    pub ip: [u8; 4],
    /// IP protocol.
    pub protocol: u32,
}

super::assert_layout!(MappingKey, 12, { endpoint: 0, port: 2, ip: 4, protocol: 8 });

/// Value of `mappings`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct MappingEntry {
    /// Slot of `nat_ports`.
    pub slot: u32,
    /// As in [`NatPort`].
    pub epoch: u32,
}

super::assert_layout!(MappingEntry, 8, { slot: 0, epoch: 4 });

/// Key of `flows` and `new_flows`, as the endpoint sees the flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// The endpoint's id.
    pub endpoint: u16,
    /// IP protocol.
    pub protocol: u16,
    /// The endpoint's own address, order of the wire.
    pub local: [u8; 4],
    /// The other end's, likewise.
    pub remote: [u8; 4],
    /// The endpoint's own port, or an identifier of ICMP, order of the wire.
    pub local_port: [u8; 2],
    /// The other end's; of ICMP zero.
    pub remote_port: [u8; 2],
}

super::assert_layout!(FlowKey, 16, {
    endpoint: 0, protocol: 2, local: 4, remote: 8, local_port: 12, remote_port: 14
});

/// Value of `flows` and `new_flows`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEntry {
    /// Slot of `nat_ports`.
    pub slot: u32,
    /// The second of `CLOCK_MONOTONIC` of its last use.
    pub used_s: u32,
    /// By [`crate::rule::nat`].
    pub state: u64,
    /// The external address, order of the wire.
    pub external: [u8; 4],
    /// The external port, order of the wire.
    pub port: [u8; 2],
    /// As in [`NatPort`].
    pub epoch: u16,
}

super::assert_layout!(FlowEntry, 24, { slot: 0, used_s: 4, state: 8, external: 16, port: 20, epoch: 22 });

impl FlowEntry {
    /// Entries of each table of flows that the object asks for; the loader sets what the configuration says.
    pub const ENTRIES: usize = 65_536;

    /// Most entries of `flows` that one endpoint has: a quarter, so that it takes three others to fill the table.
    pub const PER_ENDPOINT: u64 = Self::ENTRIES as u64 / 4;
}

/// Key of `fragments`: a packet of which more is to come.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FragmentKey {
    /// The endpoint that sent it; 0: it came from outside.
    pub endpoint: u32,
    /// Its source as it was before translation, order of the wire.
    pub source: [u8; 4],
    /// Its destination, likewise.
    pub destination: [u8; 4],
    /// Its identification, order of the wire.
    pub id: [u8; 2],
    /// IP protocol.
    pub protocol: u16,
}

super::assert_layout!(FragmentKey, 16, { endpoint: 0, source: 4, destination: 8, id: 12, protocol: 14 });

/// Value of `fragments`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentEntry {
    /// What takes the place of the source of one that leaves, of the destination of one that comes in; order of the wire.
    pub ip: [u8; 4],
    /// The network of the endpoint that it comes in for.
    pub vni: u32,
    /// Until when it counts, seconds of `CLOCK_MONOTONIC`.
    pub until_s: u32,
}

super::assert_layout!(FragmentEntry, 12, { ip: 0, vni: 4, until_s: 8 });

/// What the agent asks of `nat_sweep`: a frame of its own, behind [`Sweep::OFFSET`] bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Sweep {
    /// [`Sweep::PORTS`], [`Sweep::FLOWS`] or [`Sweep::EVERY_FLOW`].
    pub kind: u32,
    /// [`Sweep::PORTS`]: the block's slot. Otherwise how many keys there are.
    pub count: u32,
    /// [`Sweep::PORTS`]: the first of the block's ports that is looked at.
    pub start: u32,
    /// Zero.
    pub reserved: u32,
    /// Flows.
    pub keys: [FlowKey; 4],
}

super::assert_layout!(Sweep, 80, { kind: 0, count: 4, start: 8, reserved: 12, keys: 16 });

impl Sweep {
    /// `kind`: frees ports whose time is over.
    pub const PORTS: u32 = 1;
    /// `kind`: removes those of the flows whose time is over.
    pub const FLOWS: u32 = 2;
    /// `kind`: removes the flows.
    pub const EVERY_FLOW: u32 = 3;
    /// Most flows of one run.
    pub const KEYS: usize = 4;
    /// Where it begins in the frame: behind an Ethernet header, aligned.
    pub const OFFSET: usize = 16;
}

super::user_pod!(
    BlockKey,
    BlockEntry,
    NatBlock,
    NatPort,
    NatChain,
    MappingKey,
    MappingEntry,
    FlowKey,
    FlowEntry,
    FragmentKey,
    FragmentEntry
);
