//! Looks up ways to VTEPs, and whether the agent vouches for them.

use bytemuck::must_cast;
use overlay_ebpf::abi::{DropReason, FdbEntry, Table};

use super::{LEASE, PATHS, now, trace, vtep};

/// A VTEP and the way to it.
#[derive(Clone, Copy)]
pub struct Path {
    /// Its underlay address as it lies in memory, where it has the order of the wire: numbers are aligned on the stack.
    vtep: u32,
    /// Its UDP port, likewise.
    port: u16,
    /// Its next hop, order of the wire. `None`: the kernel's routing table has to be asked, because the agent
    /// could not tell or no longer follows the routes.
    pub next_hop: Option<[u8; 4]>,
    /// As in [`VtepEntry`]: what was last known of it, with or without the agent.
    pub mtu: u16,
}

impl Path {
    /// The VTEP's underlay address, order of the wire.
    #[inline(always)]
    pub const fn vtep(&self) -> [u8; 4] {
        self.vtep.to_ne_bytes()
    }

    /// Its UDP port, order of the wire.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port.to_ne_bytes()
    }
}

/// The way to the VTEP with this slot of `paths`. `VtepUnreachable`: it has no IPv4 address, or there is none.
#[inline(always)]
fn path(slot: u32) -> Result<Path, DropReason> {
    let entry = PATHS.get(slot);
    trace::looked(Table::Paths, &raw const slot, entry);
    let entry = entry.ok_or(DropReason::VtepUnreachable)?;
    Ok(Path {
        vtep: ipv4(entry.vtep).ok_or(DropReason::VtepUnreachable)?,
        port: u16::from_ne_bytes(entry.port),
        next_hop: current_next_hop(entry.next_hop),
        mtu: entry.mtu,
    })
}

/// The way to the VTEP that an FDB entry names. `DestinationUnknown`: it names none.
#[inline(always)]
pub fn path_of(entry: &FdbEntry) -> Result<Path, DropReason> {
    match entry.kind {
        FdbEntry::REMOTE => path(entry.target),
        _ => Err(DropReason::DestinationUnknown),
    }
}

/// The underlay address of the VTEP that an FDB entry names, IPv6 or IPv4 mapped into it; `::`: it names none.
#[inline(always)]
pub fn vtep_of(entry: &FdbEntry) -> [u8; 16] {
    let path = match entry.kind {
        FdbEntry::REMOTE => PATHS.get(entry.target),
        _ => None,
    };
    path.map_or([0; 16], |path| path.vtep)
}

/// The next hop on the way to an IPv4 address of the underlay, as in [`Path`].
#[inline(always)]
pub fn next_hop(ip: [u8; 4]) -> Option<[u8; 4]> {
    vtep(ip).and_then(|entry| current_next_hop(entry.next_hop))
}

/// A next hop that the agent vouches for now.
#[inline(always)]
fn current_next_hop(ip: [u8; 16]) -> Option<[u8; 4]> {
    ipv4(ip).filter(|_| has_lease()).map(u32::to_ne_bytes)
}

/// Whether the agent vouches for next hops now.
#[inline(always)]
pub fn has_lease() -> bool {
    now() < LEASE.get(0).copied().unwrap_or_default()
}

/// The IPv4 address that is mapped into an IPv6 one, as it lies in memory.
#[inline(always)]
fn ipv4(ip: [u8; 16]) -> Option<u32> {
    let [_, _, prefix, ip] = must_cast::<_, [u32; 4]>(ip);
    (prefix == u32::from_ne_bytes([0, 0, 0xff, 0xff])).then_some(ip)
}
