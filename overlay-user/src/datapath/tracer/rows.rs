//! Rows of the maps as a trace tells them: the fields that decide, named as `docs/abi.md` names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use overlay_ebpf::{
    abi::{
        BlockEntry, BlockKey, EndpointEntry, FdbEntry, FdbKey, FloatEntry, FloatKey, FlowEntry,
        FlowKey, MappingEntry, MappingKey, MeterEntry, NatChain, NeighborEntry, NeighborKey,
        NetworkEntry, OutsideEntry, OutsideKey, PathEntry, RouteEntry, RouteKey, RouterPortEntry,
        Table, UplinkEntry, VtepEntry, VtepKey,
    },
    rule::nat::phase,
};

use super::super::kernel::interface_name;
use crate::model::TracedForward;

/// A look-up, for people.
pub(super) struct Described {
    pub(super) key: String,
    /// Where nothing was found, it is of zeros.
    pub(super) row: String,
    pub(super) forward: Option<TracedForward>,
}

/// `None`: the bytes are too few.
pub(super) fn describe(table: Table, key: &[u8], value: &[u8]) -> Option<Described> {
    let mut forward = None;
    let (key, row) = match table {
        Table::Endpoints => (interface(of(key)?), endpoint(&of(value)?)),
        Table::Networks => (vni(of(key)?), network(&of(value)?)),
        Table::RouterPorts => (vni(of(key)?), router_port(&of(value)?)),
        Table::Routes => (route_key(&of(key)?), route(&of(value)?)),
        Table::Neighbors => {
            let (key, row): (NeighborKey, NeighborEntry) = (of(key)?, of(value)?);
            (format!("{}, {}", vni(key.vni), ip(key.ip)), mac(row.mac))
        }
        Table::Fdb => {
            let (key, row): (FdbKey, FdbEntry) = (of(key)?, of(value)?);
            forward = match row.kind {
                FdbEntry::LOCAL => Some(TracedForward::Interface(row.target)),
                FdbEntry::REMOTE => Some(TracedForward::Tunnel),
                _ => None,
            };
            (format!("{}, {}", vni(key.vni), mac(key.mac)), fdb(&row))
        }
        Table::Paths => (format!("slot {}", of::<u32>(key)?), path(&of(value)?)),
        Table::Vteps => {
            let (key, row): (VtepKey, VtepEntry) = (of(key)?, of(value)?);
            (ip(key.ip).to_string(), format!("path {}", row.id))
        }
        Table::Uplink => (String::new(), uplink(&of(value)?)),
        Table::Outside => {
            let key: OutsideKey = of(key)?;
            (Ipv4Addr::from(key.ip).to_string(), outside(&of(value)?))
        }
        Table::Floats => {
            let (key, row): (FloatKey, FloatEntry) = (of(key)?, of(value)?);
            (
                format!("{}, {}", vni(key.vni), Ipv4Addr::from(key.ip)),
                format!("external {}", Ipv4Addr::from(row.external)),
            )
        }
        Table::Blocks => {
            let key: BlockKey = of(key)?;
            (
                format!("{}, block {}", Ipv4Addr::from(key.ip), key.number),
                block(&of(value)?),
            )
        }
        Table::NatChains => (format!("endpoint {}", of::<u32>(key)?), chain(&of(value)?)),
        Table::Mappings => {
            let (key, row): (MappingKey, MappingEntry) = (of(key)?, of(value)?);
            (
                format!(
                    "endpoint {}, {} {}:{}",
                    key.endpoint,
                    protocol(key.protocol),
                    Ipv4Addr::from(key.ip),
                    u16::from_be_bytes(key.port)
                ),
                format!("port slot {}", row.slot),
            )
        }
        Table::Flows | Table::NewFlows => (flow_key(&of(key)?), flow(&of(value)?)),
        Table::Meters => (format!("slot {}", of::<u32>(key)?), meter(&of(value)?)),
    };
    Some(Described { key, row, forward })
}

/// The value that the bytes begin with.
fn of<T: AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(pod_read_unaligned)
}

fn vni(number: u32) -> String {
    format!("vni {number}")
}

fn mac(octets: [u8; 6]) -> String {
    // Zeros and groups, which no `Mac` is, may have been looked up too.
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

fn ip(octets: [u8; 16]) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
}

/// An interface's name and index; it may have gone by now.
fn interface(ifindex: u32) -> String {
    interface_name(ifindex).map_or_else(
        |_| format!("interface {ifindex}"),
        |name| format!("{name} ({ifindex})"),
    )
}

fn protocol(number: u32) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The addresses that there are, in the order given.
fn addresses(ipv4: [u8; 4], ipv6: [u8; 16]) -> String {
    let ips = [IpAddr::from(ipv4), IpAddr::from(ipv6)];
    let known = ips.into_iter().filter(|ip| !ip.is_unspecified());
    known.fold(String::new(), |text, ip| format!("{text}, {ip}"))
}

fn endpoint(row: &EndpointEntry) -> String {
    let own = addresses(row.ipv4, row.ipv6);
    let metered = if row.is_metered() { ", metered" } else { "" };
    let gateway = match row.gateway {
        [0, 0, 0, 0, 0, 0] => String::new(),
        gateway => format!(", gateway {}", mac(gateway)),
    };
    format!(
        "{}, {}{own}, mtu {}{gateway}{metered}",
        vni(row.vni),
        mac(row.mac),
        row.mtu
    )
}

fn network(row: &NetworkEntry) -> String {
    let resolves = if row.flags & NetworkEntry::ON_DEMAND == 0 {
        "proactive"
    } else {
        "on demand"
    };
    format!("mtu {}, {resolves}", row.mtu)
}

fn router_port(row: &RouterPortEntry) -> String {
    let whose = match row.router {
        0 => "DHCP server".to_owned(),
        number => format!("gateway of router {number}"),
    };
    format!("{whose}{}, {}", addresses(row.ipv4, row.ipv6), mac(row.mac))
}

fn route_key(key: &RouteKey) -> String {
    match key.router {
        RouteKey::OUTSIDE => format!("from outside, {}", ip(key.ip)),
        number if number & RouteKey::INSIDE != 0 => {
            let network = vni(number & !RouteKey::INSIDE);
            format!("outside of {network}, {}", ip(key.ip))
        }
        number => format!("router {number}, {}", ip(key.ip)),
    }
}

fn route(row: &RouteEntry) -> String {
    match row.kind {
        RouteEntry::LOCAL => format!("an address of the router, {}", vni(row.vni)),
        RouteEntry::CONNECTED => format!("connected, {}", vni(row.vni)),
        RouteEntry::VIA => format!("via {}, {}", ip(row.next_hop), vni(row.vni)),
        RouteEntry::BLACKHOLE => "blackhole".to_owned(),
        RouteEntry::OUTSIDE => "outside".to_owned(),
        RouteEntry::TRANSLATED => {
            let other = ip(row.next_hop);
            format!(
                "{other}/{} on the other side, {}",
                row.prefix_len,
                vni(row.vni)
            )
        }
        other => format!("kind {other}"),
    }
}

fn fdb(row: &FdbEntry) -> String {
    let metered = if row.is_metered() { ", metered" } else { "" };
    match row.kind {
        FdbEntry::LOCAL => format!("local, {}{metered}", interface(row.target)),
        FdbEntry::REMOTE if row.vtep == [0; 4] => format!("remote, path {}", row.target),
        FdbEntry::REMOTE => format!(
            "remote, path {}, VTEP {}",
            row.target,
            Ipv4Addr::from(row.vtep)
        ),
        other => format!("kind {other}"),
    }
}

fn path(row: &PathEntry) -> String {
    let port = u16::from_be_bytes(row.port);
    let told = [
        Some(format!("VTEP {}, port {port}", ip(row.vtep))),
        (row.next_hop != [0; 16]).then(|| format!("next hop {}", ip(row.next_hop))),
        (row.mtu != 0).then(|| format!("mtu {}", row.mtu)),
    ];
    told.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn uplink(row: &UplinkEntry) -> String {
    format!("{}, mtu {}", interface(row.ifindex), row.mtu)
}

fn outside(row: &OutsideEntry) -> String {
    match row.kind {
        OutsideEntry::FLOAT => format!("float of {}, {}", Ipv4Addr::from(row.ip), vni(row.vni)),
        OutsideEntry::SHARED => {
            format!("shared, blocks of {} ports", 1u32 << (row.block_bits & 31))
        }
        OutsideEntry::HOST => {
            format!(
                "this host's, blocks of {} ports",
                1u32 << (row.block_bits & 31)
            )
        }
        other => format!("kind {other}"),
    }
}

fn block(row: &BlockEntry) -> String {
    let filter = if row.flags & BlockEntry::OPEN == 0 {
        "flow"
    } else {
        "endpoint-independent"
    };
    format!(
        "{}, {}, {} ports, filter {filter}",
        interface(row.ifindex),
        vni(row.vni),
        row.ports
    )
}

fn chain(row: &NatChain) -> String {
    let blocks = row.blocks.iter().filter(|slot| **slot != 0);
    match blocks.count() {
        0 => "no blocks".to_owned(),
        1 => "1 block".to_owned(),
        count => format!("{count} blocks"),
    }
}

fn flow_key(key: &FlowKey) -> String {
    format!(
        "endpoint {}, {} {}:{} > {}:{}",
        key.endpoint,
        protocol(key.protocol.into()),
        Ipv4Addr::from(key.local),
        u16::from_be_bytes(key.local_port),
        Ipv4Addr::from(key.remote),
        u16::from_be_bytes(key.remote_port)
    )
}

fn flow(row: &FlowEntry) -> String {
    let state = match row.state & phase::MASK {
        phase::NEW => "new",
        phase::OPEN => "open",
        phase::ESTABLISHED => "established",
        phase::CLOSING => "closing",
        _ => "over",
    };
    format!(
        "as {}:{}, {state}",
        Ipv4Addr::from(row.external),
        u16::from_be_bytes(row.port)
    )
}

fn meter(row: &MeterEntry) -> String {
    let mut limits = Vec::new();
    if row.rate != 0 {
        limits.push(format!("{} bit/s", row.rate));
    }
    if row.packet_rate != 0 {
        limits.push(format!("{} packets/s", row.packet_rate));
    }
    if row.flags & MeterEntry::SETS_DSCP != 0 {
        limits.push(format!("dscp {}", row.dscp));
    }
    if row.priority != 0 {
        limits.push(format!("priority {}", row.priority));
    }
    if limits.is_empty() {
        return "no limit".to_owned();
    }
    limits.join(", ")
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable as _, bytes_of};

    use super::*;

    #[test]
    fn a_row_is_told_by_the_fields_that_decide() {
        let key = RouteKey::ipv4(7, [8, 8, 8, 3]);
        let row = RouteEntry {
            vni: 43,
            kind: RouteEntry::CONNECTED,
            ..RouteEntry::zeroed()
        };
        let told = describe(Table::Routes, bytes_of(&key), bytes_of(&row)).unwrap();
        assert_eq!(
            (told.key.as_str(), told.row.as_str()),
            ("router 7, 8.8.8.3", "connected, vni 43")
        );
    }

    #[test]
    fn every_table_can_be_told() {
        let (key, value) = ([0; 24], [0; 56]);
        for (table, name) in Table::ALL {
            assert!(describe(table, &key, &value).is_some(), "{name}");
        }
    }
}
