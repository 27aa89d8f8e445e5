//! Checks that an endpoint sends with its own MAC and addresses.

use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{DropReason, EndpointEntry},
    rule::{
        flow::{self, Flow},
        source,
    },
    wire::{
        eth::{self, Mac},
        ipv4::{self, Ipv4Hdr},
        ipv6::{self, Ipv6Hdr},
    },
};

use crate::{maps, packet::Frame};

/// The MAC is the endpoint's.
#[inline(always)]
pub fn check_mac(endpoint: &EndpointEntry, header: &eth::Header) -> Result<(), DropReason> {
    if header.source == Mac::new(endpoint.mac) {
        Ok(())
    } else {
        Err(DropReason::SourceMac)
    }
}

/// The IPv4 source is the endpoint's.
#[inline(always)]
pub fn check_ipv4(frame: &mut Frame, endpoint: &EndpointEntry) -> Result<Flow, DropReason> {
    require_with_ports(frame, eth::LEN + ipv4::LEN)?;
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    if !owns_ipv4(endpoint, ip.src_addr) {
        return Err(DropReason::SourceIp);
    }
    let hash = match frame.hash() {
        0 => {
            let has_ports = (ip.proto == ipv4::UDP || ip.proto == ipv4::TCP)
                && ip.vihl == ipv4::NO_OPTIONS
                && !ipv4::is_fragment(ip);
            let ports = ports(frame, has_ports, eth::LEN + ipv4::LEN);
            flow::flow_hash(
                u32::from_ne_bytes(ip.src_addr),
                u32::from_ne_bytes(ip.dst_addr),
                ip.proto,
                ports,
            )
        }
        hash => hash,
    };
    Ok(Flow {
        hash,
        ecn: ip.tos & ipv4::ECN_MASK,
    })
}

/// The IPv6 source is the endpoint's; in neighbour discovery it may be the link-local one of its MAC too.
#[inline(always)]
pub fn check_ipv6(
    frame: &mut Frame,
    endpoint: &EndpointEntry,
    is_discovery: bool,
) -> Result<Flow, DropReason> {
    require_with_ports(frame, eth::LEN + ipv6::LEN)?;
    let ip = frame.header::<Ipv6Hdr>(eth::LEN)?;
    if ipv6::is_mapped(ip.source) || ipv6::is_mapped(ip.destination) {
        return Err(DropReason::Ipv4Mapped);
    }
    let is_own_link_local = is_discovery && ipv6::is_link_local_of(ip.source, endpoint.mac);
    if !is_own_link_local && !owns_ipv6(endpoint, ip.source) {
        return Err(DropReason::SourceIp);
    }
    let hash = match frame.hash() {
        0 => {
            let has_ports = ip.next_header == ipv6::UDP || ip.next_header == ipv6::TCP;
            let ports = ports(frame, has_ports, eth::LEN + ipv6::LEN);
            let [_, _, _, source] = must_cast::<_, [u32; 4]>(ip.source);
            let [_, _, _, destination] = must_cast::<_, [u32; 4]>(ip.destination);
            flow::flow_hash(source, destination, ip.next_header, ports)
        }
        hash => hash,
    };
    Ok(Flow {
        hash,
        ecn: ip.ecn(),
    })
}

/// Whether the address is the endpoint's: its first one, or one that the neighbour table knows.
#[inline(always)]
pub fn owns_ipv4(endpoint: &EndpointEntry, ip: [u8; 4]) -> bool {
    source::is_first_ipv4(endpoint, ip)
        || maps::neighbor_ipv4(endpoint.vni, ip)
            .is_some_and(|neighbor| source::owned_by(endpoint, &neighbor))
}

/// The same for IPv6.
#[inline(always)]
pub fn owns_ipv6(endpoint: &EndpointEntry, ip: [u8; 16]) -> bool {
    source::is_first_ipv6(endpoint, ip)
        || maps::neighbor_ipv6(endpoint.vni, ip)
            .is_some_and(|neighbor| source::owned_by(endpoint, &neighbor))
}

/// Makes sure of the headers, and of the ports behind them if the frame goes so far: in one step,
/// since a raw socket's frame begins with little more than its Ethernet header in linear memory.
#[inline(always)]
fn require_with_ports(frame: &mut Frame, headers: usize) -> Result<(), DropReason> {
    frame
        .require(headers + size_of::<[u8; 4]>())
        .or_else(|_| frame.require(headers))
}

/// Source and destination port as they lie in memory; 0 where there are none.
#[inline(always)]
fn ports(frame: &Frame, has_ports: bool, offset: usize) -> u32 {
    if has_ports {
        frame
            .header::<[u8; 4]>(offset)
            .map_or(0, |ports| u32::from_ne_bytes(*ports))
    } else {
        0
    }
}
