//! From desired state to rows: what each row of the kernel's tables shall be, and what a change
//! makes of those that it bears upon. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use super::{
    digest::{self, Books, Hash},
    mirror::{Key, Known, Mirror},
};
use crate::{
    model::{
        ENCAPSULATION, EndpointRow, FdbKey, FdbRow, FdbTarget, Name, NeighborKey, NeighborRow,
        Network, NetworkRow, Node, Revision, Tables, Vni, Vtep, VtepPath, VtepRow,
    },
    platform::PortSpec,
};

/// What this host adds to the registry's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// This node's name.
    pub node: Name,
    /// Its tunnel end.
    pub vtep: Vtep,
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
    ///
    /// One that is automatic is the same on every host: what the `least` of all underlays leaves. What is
    /// longer would be dropped on the way to that one's host, and its sender would not hear of it.
    pub fn mtu(&self, network: &Network, least: Option<u32>) -> Result<u32, String> {
        match network.mtu {
            0 => {
                let least = least.unwrap_or(self.underlay_mtu).min(self.underlay_mtu);
                Ok(least.saturating_sub(ENCAPSULATION))
            }
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

    /// Behind which tunnel end a row's endpoint is, as every other host sees it.
    #[must_use]
    pub fn vtep_of(&self, row: &FdbRow) -> Vtep {
        match row.target {
            FdbTarget::Local { .. } => self.vtep,
            FdbTarget::Remote { vtep, port } => Vtep {
                ip: vtep.into(),
                port,
            },
        }
    }

    /// The hash of a row of this host's FDB.
    #[must_use]
    pub fn hash_of(&self, key: FdbKey, row: &FdbRow) -> Hash {
        digest::of_fdb(key, self.vtep_of(row), row.generation)
    }

    /// Bytes of the longest packet of a network's endpoints here, where the least of the nodes' underlays has this MTU.
    #[must_use]
    pub fn usable_mtu(&self, network: &Network, least: Option<u32>) -> u32 {
        self.mtu(network, least)
            .unwrap_or_else(|_| self.longest_packet())
    }

    /// The interface that an endpoint of this node shall have. `None`: it needs none here.
    #[must_use]
    pub fn port_spec(&self, mirror: &Mirror, endpoint: &Name) -> Option<Result<PortSpec, String>> {
        let known = mirror.endpoint(endpoint)?;
        let (netns, ifname) = known.interface()?;
        let network = mirror.network(known.vni())?;
        let mtu = self.mtu(network, mirror.underlay_mtu());
        Some(mtu.map(|mtu| PortSpec {
            endpoint: endpoint.clone(),
            netns: netns.clone(),
            ifname: ifname.clone(),
            mac: known.mac(),
            addresses: known.addresses().collect(),
            mtu,
        }))
    }
}

/// What this host was found to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Host-side indexes of the endpoints that stand here.
    pub ports: BTreeMap<Name, u32>,
    /// Those of them in whose endpoint a native XDP program is attached.
    pub queued: BTreeSet<u32>,
    /// Ways on the underlay by VTEP address.
    pub paths: BTreeMap<Ipv4Addr, VtepPath>,
}

impl Found {
    /// Notes whether a native XDP program is attached in the endpoint with this interface, and forgets what
    /// was known of interfaces that are no endpoint's any more.
    pub fn note_xdp(&mut self, ifindex: u32, has_xdp: bool) {
        if has_xdp {
            self.queued.insert(ifindex);
        } else {
            self.queued.remove(&ifindex);
        }
        if !self.queued.is_empty() {
            let there: BTreeSet<u32> = self.ports.values().copied().collect();
            self.queued.retain(|ifindex| there.contains(ifindex));
        }
    }
}

/// What each row shall be, from all that is known.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// The registry's state.
    pub mirror: &'a Mirror,
    /// What this host adds to it.
    pub local: &'a Local,
    /// What it was found to have.
    pub found: &'a Found,
}

impl Desired<'_> {
    /// A row of the FDB.
    #[must_use]
    pub fn fdb(&self, key: FdbKey) -> Option<FdbRow> {
        let owner = self.mirror.by_mac(key.vni, key.mac)?;
        let target = self.target(&owner)?;
        Some(FdbRow {
            target,
            generation: owner.generation(),
            ages: !owner.is_resident(),
        })
    }

    /// A row of the neighbour table.
    #[must_use]
    pub fn neighbor(&self, key: NeighborKey) -> Option<NeighborRow> {
        let owner = self.mirror.by_ip(key.vni, key.ip)?;
        self.target(&owner)?;
        Some(NeighborRow {
            mac: owner.mac(),
            generation: owner.generation(),
        })
    }

    /// A row of the networks table.
    #[must_use]
    pub fn network(&self, vni: Vni) -> Option<NetworkRow> {
        let network = self.mirror.network(vni)?;
        Some(NetworkRow {
            mtu: self.usable_mtu(network),
            on_demand: self.mirror.is_on_demand(vni),
        })
    }

    /// A row of the VTEPs table: one of another node.
    #[must_use]
    pub fn vtep(&self, ip: Ipv4Addr) -> Option<VtepRow> {
        let mut others = self.mirror.nodes().filter(|node| self.is_peer(node));
        let node = others.find(|node| node.vtep.ip == ip)?;
        Some(self.vtep_row(ip, node))
    }

    /// The tables that have no row for each endpoint of the registry; the others are empty.
    #[must_use]
    pub fn small_tables(&self) -> Tables {
        let networks = self.mirror.networks().map(|network| network.vni);
        let endpoints = self.found.ports.keys();
        Tables {
            networks: networks
                .filter_map(|vni| Some((vni, self.network(vni)?)))
                .collect(),
            vteps: self.vteps(),
            endpoints: endpoints.filter_map(|name| self.endpoint(name)).collect(),
            ..Tables::default()
        }
    }

    /// Every row of the VTEPs table.
    #[must_use]
    pub fn vteps(&self) -> BTreeMap<Ipv4Addr, VtepRow> {
        let others = self.mirror.nodes().filter(|node| self.is_peer(node));
        others
            .filter_map(|node| match node.vtep.ip {
                IpAddr::V4(ip) => Some((ip, self.vtep_row(ip, node))),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// The row of a local endpoint in the endpoints table, and its key. `None`: it does not stand.
    #[must_use]
    pub fn endpoint(&self, name: &Name) -> Option<(u32, EndpointRow)> {
        let &ifindex = self.found.ports.get(name)?;
        let known = self.mirror.endpoint(name).filter(Known::is_local)?;
        let network = self.mirror.network(known.vni())?;
        let row = EndpointRow {
            vni: known.vni(),
            mac: known.mac(),
            ipv4: known.ips().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            ipv6: known.ips().find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
            mtu: self.usable_mtu(network),
            generation: known.generation(),
        };
        Some((ifindex, row))
    }

    /// Adds the row that `key` stands for, if there shall be one.
    pub(super) fn put(&self, key: Key, tables: &mut Tables) {
        match key {
            Key::Fdb(key) => tables.fdb.extend(self.fdb(key).map(|row| (key, row))),
            Key::Neighbor(key) => {
                let row = self.neighbor(key);
                tables.neighbors.extend(row.map(|row| (key, row)));
            }
            Key::Network(vni) => tables
                .networks
                .extend(self.network(vni).map(|row| (vni, row))),
            Key::Vtep(ip) => tables.vteps.extend(self.vtep(ip).map(|row| (ip, row))),
            Key::Port(name) => tables.endpoints.extend(self.endpoint(&name)),
        }
    }

    /// Where frames for an endpoint go. `None`: its node, its network or its interface is missing.
    fn target(&self, endpoint: &Known<'_>) -> Option<FdbTarget> {
        self.mirror.network(endpoint.vni())?;
        if endpoint.is_local() {
            let ifindex = *self.found.ports.get(endpoint.name())?;
            return Some(FdbTarget::Local {
                ifindex,
                is_queued: self.found.queued.contains(&ifindex),
            });
        }
        let vtep = endpoint.known_node()?.vtep;
        match vtep.ip {
            IpAddr::V4(ip) => Some(FdbTarget::Remote {
                vtep: ip,
                port: vtep.port,
            }),
            IpAddr::V6(_) => None,
        }
    }

    fn usable_mtu(&self, network: &Network) -> u32 {
        self.local.usable_mtu(network, self.mirror.underlay_mtu())
    }

    fn is_peer(&self, node: &Node) -> bool {
        node.name != self.local.node
    }

    fn vtep_row(&self, ip: Ipv4Addr, node: &Node) -> VtepRow {
        VtepRow {
            port: node.vtep.port,
            path: self.found.paths.get(&ip).copied().unwrap_or_default(),
        }
    }
}

/// A change under way: each row that it bears upon, as it was before.
#[derive(Debug, Default)]
pub struct Draft {
    fdb: BTreeMap<FdbKey, Option<FdbRow>>,
    neighbors: BTreeMap<NeighborKey, Option<NeighborRow>>,
    networks: BTreeMap<Vni, Option<NetworkRow>>,
    vteps: BTreeMap<Ipv4Addr, Option<VtepRow>>,
    endpoints: BTreeMap<Name, Option<(u32, EndpointRow)>>,
}

impl Draft {
    /// Notes what `key` stands for, as it still is.
    pub fn note(&mut self, desired: &Desired<'_>, key: Key) {
        match key {
            Key::Fdb(key) => {
                self.fdb.entry(key).or_insert_with(|| desired.fdb(key));
            }
            Key::Neighbor(key) => {
                let row = || desired.neighbor(key);
                self.neighbors.entry(key).or_insert_with(row);
            }
            Key::Network(vni) => {
                let row = || desired.network(vni);
                self.networks.entry(vni).or_insert_with(row);
            }
            Key::Vtep(ip) => {
                self.vteps.entry(ip).or_insert_with(|| desired.vtep(ip));
            }
            Key::Port(name) => {
                let row = desired.endpoint(&name);
                self.endpoints.entry(name).or_insert(row);
            }
        }
    }

    /// Whether nothing was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fdb.is_empty()
            && self.neighbors.is_empty()
            && self.networks.is_empty()
            && self.vteps.is_empty()
            && self.endpoints.is_empty()
    }

    /// The endpoints of this node whose interface the change bears upon.
    pub fn ports(&self) -> impl Iterator<Item = &Name> {
        self.endpoints.keys()
    }

    /// The rows of the neighbour table that it bears upon, as they were before.
    pub(super) fn neighbors(&self) -> impl Iterator<Item = (&NeighborKey, Option<&NeighborRow>)> {
        let rows = self.neighbors.iter();
        rows.map(|(key, before)| (key, before.as_ref()))
    }

    /// Whether it bears upon endpoints' rows alone, and none of them was there.
    #[must_use]
    pub fn is_addition(&self) -> bool {
        self.networks.is_empty()
            && self.vteps.is_empty()
            && self.endpoints.is_empty()
            && self.fdb.values().all(Option::is_none)
            && self.neighbors.values().all(Option::is_none)
    }

    /// The VTEPs that it bears upon.
    pub fn vteps(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.vteps.keys().copied()
    }

    /// What the change makes of its rows, now that it is done. The books are kept up to date.
    pub fn settle(self, desired: &Desired<'_>, books: &mut Books) -> Plan {
        let mut plan = Plan::default();
        let Plan { put, remove } = &mut plan;
        let fdb = difference(
            self.fdb,
            |key| desired.fdb(*key),
            |key, before, after| {
                let hash = |row: &FdbRow| desired.local.hash_of(*key, row);
                books.exchange(key.vni, before.map(hash), after.map(hash));
            },
        );
        let neighbors = difference(
            self.neighbors,
            |key| desired.neighbor(*key),
            |key, before, after| {
                let hash = |row: &NeighborRow| digest::of_neighbor(*key, row.mac, row.generation);
                books.exchange(key.vni, before.map(hash), after.map(hash));
            },
        );
        (put.fdb, remove.fdb) = fdb;
        (put.neighbors, remove.neighbors) = neighbors;
        let networks = difference(self.networks, |vni| desired.network(*vni), |_, _, _| ());
        (put.networks, remove.networks) = networks;
        let vteps = difference(self.vteps, |ip| desired.vtep(*ip), |_, _, _| ());
        (put.vteps, remove.vteps) = vteps;
        for (name, before) in self.endpoints {
            let after = desired.endpoint(&name);
            let is_elsewhere =
                after.map(|(ifindex, _)| ifindex) != before.map(|(ifindex, _)| ifindex);
            if is_elsewhere {
                remove.endpoints.extend(before);
            }
            if before != after {
                put.endpoints.extend(after);
            }
        }
        plan
    }
}

/// What turns one state of the tables into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows to write.
    pub put: Tables,
    /// Rows to remove first.
    pub remove: Tables,
}

impl Plan {
    /// The difference: `actual` with the plan carried out is `desired`.
    #[must_use]
    pub fn between(desired: &Tables, actual: &Tables) -> Self {
        let mut plan = Self::default();
        macro_rules! compare {
            ($($table:ident),+) => {
                $({
                    let keys = actual.$table.keys().chain(desired.$table.keys());
                    let before = keys.map(|key| (*key, actual.$table.get(key).copied())).collect();
                    (plan.put.$table, plan.remove.$table) =
                        difference(before, |key| desired.$table.get(key).copied(), |_, _, _| ());
                })+
            };
        }
        compare!(networks, vteps, fdb, neighbors, endpoints);
        plan
    }

    /// How many rows it writes and removes.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.put.rows() + self.remove.rows()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}

/// Rows whose generation the kernel's tables mind.
pub(super) trait Row: Copy + PartialEq {
    /// 0: it has none.
    fn generation(&self) -> Revision {
        0
    }
}

impl Row for FdbRow {
    fn generation(&self) -> Revision {
        self.generation
    }
}

impl Row for NeighborRow {
    fn generation(&self) -> Revision {
        self.generation
    }
}

impl Row for EndpointRow {
    fn generation(&self) -> Revision {
        self.generation
    }
}

impl Row for NetworkRow {}
impl Row for VtepRow {}

/// Plans that a row takes the place of another, or none of one. A row that goes back to an older
/// generation, the one of two claimants that is left for example, must be removed first.
pub(super) fn exchange<K: Ord + Copy, R: Row>(
    key: K,
    before: Option<R>,
    after: Option<R>,
    put: &mut BTreeMap<K, R>,
    remove: &mut BTreeMap<K, R>,
) {
    let must_go = |row: &R| after.is_none_or(|after| row.generation() > after.generation());
    remove.extend(before.filter(must_go).map(|row| (key, row)));
    put.extend(after.map(|row| (key, row)));
}

/// The rows to put and those to remove first.
fn difference<K: Ord + Copy, R: Row>(
    rows: BTreeMap<K, Option<R>>,
    desired: impl Fn(&K) -> Option<R>,
    mut changes: impl FnMut(&K, Option<&R>, Option<&R>),
) -> (BTreeMap<K, R>, BTreeMap<K, R>) {
    let (mut put, mut remove) = (BTreeMap::new(), BTreeMap::new());
    for (key, before) in rows {
        let after = desired(&key);
        if before == after {
            continue;
        }
        changes(&key, before.as_ref(), after.as_ref());
        exchange(key, before, after, &mut put, &mut remove);
    }
    (put, remove)
}

#[cfg(test)]
mod tests;
