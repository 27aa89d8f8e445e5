//! From desired state to kernel state, and the difference between two of those: pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use super::mirror::Mirror;
use crate::{
    model::{
        Endpoint, EndpointRow, FdbKey, FdbRow, FdbTarget, Name, NeighborKey, NeighborRow, Network,
        NetworkRow, Node, Tables, VtepRow,
    },
    platform::PortSpec,
};

/// What a tunnel over IPv4 takes from the underlay's MTU: IPv4, UDP, VXLAN, Ethernet.
const ENCAPSULATION: u32 = 50;

/// What this host adds to the registry's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// This node's name.
    pub node: Name,
    /// The underlay's MTU, bytes.
    pub underlay_mtu: u32,
}

impl Local {
    /// The longest IP packet that fits the underlay with its encapsulation, bytes.
    #[must_use]
    pub const fn longest_packet(&self) -> u32 {
        self.underlay_mtu.saturating_sub(ENCAPSULATION)
    }

    /// The MTU of a network's endpoints on this host, bytes. The error says why it can't be had.
    pub fn mtu(&self, network: &Network) -> Result<u32, String> {
        match network.mtu {
            0 => Ok(self.longest_packet()),
            mtu if mtu <= self.longest_packet() => Ok(mtu),
            mtu => Err(format!(
                "network {} has MTU {mtu}, but this node's underlay of {} leaves {}: raise the \
                 underlay's or make the network with a smaller one",
                network.name,
                self.underlay_mtu,
                self.longest_packet()
            )),
        }
    }

    /// The interface that an endpoint of this node shall have. `None`: it needs none here.
    #[must_use]
    pub fn port_spec(
        &self,
        mirror: &Mirror,
        endpoint: &Endpoint,
    ) -> Option<Result<PortSpec, String>> {
        if endpoint.node != self.node {
            return None;
        }
        let (netns, ifname) = (endpoint.netns.clone()?, endpoint.ifname.clone()?);
        let network = mirror.networks.get(&endpoint.vni)?;
        Some(self.mtu(network).map(|mtu| PortSpec {
            endpoint: endpoint.name.clone(),
            netns,
            ifname,
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            mtu,
        }))
    }
}

/// What this host was found to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Host-side indexes of the endpoints that stand here.
    pub ports: BTreeMap<Name, u32>,
    /// Next hops on the underlay by VTEP address.
    pub next_hops: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// The tables of a host.
#[must_use]
pub fn tables(mirror: &Mirror, local: &Local, found: &Found) -> Tables {
    let mut tables = Tables {
        networks: mirror
            .networks
            .values()
            .map(|network| {
                let mtu = local
                    .mtu(network)
                    .unwrap_or_else(|_| local.longest_packet());
                let row = NetworkRow {
                    mtu,
                    on_demand: false,
                };
                (network.vni, row)
            })
            .collect(),
        vteps: vteps(mirror, local, &found.next_hops),
        ..Tables::default()
    };
    for endpoint in mirror.endpoints.values() {
        add_rows(&mut tables, endpoint, mirror, local, found);
    }
    tables
}

/// The rows of these endpoints alone.
#[must_use]
pub fn rows_of(endpoints: &[Endpoint], mirror: &Mirror, local: &Local, found: &Found) -> Tables {
    let mut tables = Tables::default();
    for endpoint in endpoints {
        add_rows(&mut tables, endpoint, mirror, local, found);
    }
    tables
}

/// The rows of the other nodes' VTEPs.
#[must_use]
pub fn vteps(
    mirror: &Mirror,
    local: &Local,
    next_hops: &BTreeMap<Ipv4Addr, Ipv4Addr>,
) -> BTreeMap<Ipv4Addr, VtepRow> {
    let others = mirror.nodes.values().filter(|node| node.name != local.node);
    others
        .filter_map(|node| {
            let row = VtepRow {
                port: node.vtep.port,
                next_hop: next_hops.get(&ipv4_of(node)?).copied(),
            };
            Some((ipv4_of(node)?, row))
        })
        .collect()
}

/// The node's VTEP, if it is one of the IPv4 underlay.
fn ipv4_of(node: &Node) -> Option<Ipv4Addr> {
    match node.vtep.ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// Adds an endpoint's rows; none, if its node, its network or its interface is missing.
fn add_rows(
    tables: &mut Tables,
    endpoint: &Endpoint,
    mirror: &Mirror,
    local: &Local,
    found: &Found,
) {
    let Some(network) = mirror.networks.get(&endpoint.vni) else {
        return;
    };
    let generation = endpoint.generation;
    let target = if endpoint.node == local.node {
        let Some(&ifindex) = found.ports.get(&endpoint.name) else {
            return;
        };
        let first = |wanted: fn(&IpAddr) -> bool| endpoint.ips().find(wanted);
        let row = EndpointRow {
            vni: endpoint.vni,
            mac: endpoint.mac,
            ipv4: first(IpAddr::is_ipv4).and_then(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            ipv6: first(IpAddr::is_ipv6).and_then(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
            mtu: local
                .mtu(network)
                .unwrap_or_else(|_| local.longest_packet()),
            generation,
        };
        tables.endpoints.insert(ifindex, row);
        FdbTarget::Local { ifindex }
    } else {
        let Some(node) = mirror.nodes.get(&endpoint.node) else {
            return;
        };
        let Some(vtep) = ipv4_of(node) else { return };
        FdbTarget::Remote {
            vtep,
            port: node.vtep.port,
        }
    };
    let key = FdbKey {
        vni: endpoint.vni,
        mac: endpoint.mac,
    };
    tables.fdb.insert(
        key,
        FdbRow {
            target,
            generation,
            ages: false,
        },
    );
    for ip in endpoint.ips() {
        let key = NeighborKey {
            vni: endpoint.vni,
            ip,
        };
        tables.neighbors.insert(
            key,
            NeighborRow {
                mac: endpoint.mac,
                generation,
            },
        );
    }
}

/// What turns one state of the tables into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows to write.
    pub put: Tables,
    /// Rows to remove.
    pub remove: Tables,
}

impl Plan {
    /// The difference: `actual` with the plan carried out is `desired`. Rows that are equal are
    /// left alone, rows that nobody wants go.
    #[must_use]
    pub fn between(desired: &Tables, actual: &Tables) -> Self {
        let mut plan = Self::default();
        macro_rules! compare {
            ($($table:ident),+) => {
                $((plan.put.$table, plan.remove.$table) = difference(&desired.$table, &actual.$table);)+
            };
        }
        compare!(networks, vteps, fdb, neighbors, endpoints);
        plan
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn difference<K, V>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
) -> (BTreeMap<K, V>, BTreeMap<K, V>)
where
    K: Ord + Copy,
    V: PartialEq + Copy,
{
    let put = desired
        .iter()
        .filter(|(key, row)| actual.get(key) != Some(row))
        .map(|(key, row)| (*key, *row))
        .collect();
    let remove = actual
        .iter()
        .filter(|(key, _)| !desired.contains_key(key))
        .map(|(key, row)| (*key, *row))
        .collect();
    (put, remove)
}

#[cfg(test)]
mod tests;
