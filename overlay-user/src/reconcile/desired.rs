//! The inputs of the kernel's tables: the registry's state, this host's, and what was found here.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    digest::{self, Hash},
    mirror::{EndpointRef, Mirror},
    status::LocalEndpoints,
};
use crate::{
    model::{
        Block, Direction, FdbKey, FdbRow, FdbTarget, Mac, MeterRow, Name, Network, Node,
        Resource as _, RouterPort, Vni, Vtep, VtepAddr, VtepPath,
    },
    platform::PortSpec,
};

/// Bytes that a tunnel puts around a packet. Tunnels go over IPv4.
const OVERHEAD: u32 = VtepAddr::IPV4_OVERHEAD;

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
        self.underlay_mtu.saturating_sub(OVERHEAD)
    }

    /// The MTU of a network's endpoints on this host, bytes. The error says why it can't be had.
    ///
    /// One that is automatic is the same on every host: what the `least` of all underlays leaves. What is
    /// longer would be dropped on the way to that one's host, and its sender would not hear of it.
    pub fn mtu(&self, network: &Network, least: Option<u32>) -> Result<u32, String> {
        match network.mtu {
            0 => {
                let least = least.unwrap_or(self.underlay_mtu).min(self.underlay_mtu);
                Ok(least.saturating_sub(OVERHEAD))
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
            FdbTarget::Remote { vtep, port } => Vtep { ip: vtep, port },
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

    /// The desired interface of an endpoint. `None`: it needs none on this node.
    #[must_use]
    pub fn port_spec(&self, mirror: &Mirror, endpoint: &Name) -> Option<Result<PortSpec, String>> {
        let known = mirror.endpoint(endpoint)?;
        let attachment = known.attachment()?;
        let network = mirror.network(known.vni())?;
        let mtu = self.mtu(network, mirror.underlay_mtu());
        Some(mtu.map(|mtu| PortSpec {
            endpoint: endpoint.clone(),
            attachment: attachment.clone(),
            mac: known.mac(),
            addresses: if attachment.dhcp() {
                Vec::new()
            } else {
                known.addresses().collect()
            },
            mtu,
            gateways: gateways(mirror, &known),
            local_ports: local_ports(mirror, endpoint),
        }))
    }
}

/// The gateways of an endpoint's network, one of each family that it has addresses of: the one in its subnet, or else the
/// first.
fn gateways(mirror: &Mirror, endpoint: &EndpointRef<'_>) -> Vec<IpAddr> {
    let port = mirror.object(&RouterPort::id(endpoint.vni().into()));
    let is_static = endpoint.attachment().is_some_and(|it| !it.dhcp());
    let Some(port) = port.filter(|_| is_static).and_then(RouterPort::known) else {
        return Vec::new();
    };
    let of = |is_ipv6: bool| {
        let own = endpoint.ips().find(|ip| ip.is_ipv6() == is_ipv6)?;
        let mut all = port.addresses.iter();
        let in_subnet = all.find(|address| address.contains(&own));
        let first = port.gateways().into_iter();
        let mut first = first.filter(|ip| ip.is_ipv6() == is_ipv6);
        in_subnet.map(IpNet::addr).or_else(|| first.next())
    };
    [of(false), of(true)].into_iter().flatten().collect()
}

/// The ports that an endpoint's sockets are to have, first and last, if it sends from those of its block.
fn local_ports(mirror: &Mirror, endpoint: &Name) -> Option<(u16, u16)> {
    let first = mirror.object(&Block::id(Block::key_of(endpoint, 0)));
    let block = first.and_then(Block::known)?;
    let range = block.port_range();
    block
        .ports_in_endpoint
        .then_some((*range.start(), *range.end()))
}

/// What this host was found to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// The endpoints of this host.
    pub endpoints: LocalEndpoints,
    /// Ways on the underlay by VTEP address.
    pub paths: BTreeMap<VtepAddr, VtepPath>,
}

/// Everything that desired rows follow from.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    /// The registry's state.
    pub mirror: &'a Mirror,
    /// What this host adds to it.
    pub local: &'a Local,
    /// What it was found to have.
    pub host: &'a HostState,
}

impl Desired<'_> {
    /// Where frames for an endpoint go. `None`: its node, its network or its interface is missing.
    pub(super) fn target(&self, endpoint: &EndpointRef<'_>) -> Option<FdbTarget> {
        self.mirror.network(endpoint.vni())?;
        if endpoint.is_local() {
            let ifindex = self.host.endpoints.ifindex(endpoint.name())?;
            return Some(FdbTarget::Local {
                ifindex,
                is_queued: self.host.endpoints.has_xdp(ifindex),
                is_metered: self.meter(endpoint, Direction::Received).is_some(),
            });
        }
        let vtep = endpoint.known_node()?.vtep;
        (!vtep.is_discard()).then_some(FdbTarget::Remote {
            vtep: vtep.ip,
            port: vtep.port,
        })
    }

    /// The MAC of a network's gateway. `None`: no router joins it.
    pub(super) fn gateway(&self, vni: Vni) -> Option<Mac> {
        let port = self.mirror.object(&RouterPort::id(vni.into()))?;
        RouterPort::known(port).map(|port| port.mac)
    }

    /// The limits of an endpoint of this host in a direction. `None`: it has none.
    pub(super) fn meter(
        &self,
        endpoint: &EndpointRef<'_>,
        direction: Direction,
    ) -> Option<MeterRow> {
        let (_, qos) = self.mirror.qos_of(endpoint.name(), endpoint.vni())?;
        qos.meter(direction)
    }

    /// See [`Local::usable_mtu`].
    pub(super) fn usable_mtu(&self, network: &Network) -> u32 {
        self.local.usable_mtu(network, self.mirror.underlay_mtu())
    }

    /// The other nodes.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.mirror.nodes();
        nodes.filter(|node| node.name != self.local.node)
    }
}
