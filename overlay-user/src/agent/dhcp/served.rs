//! What an endpoint is told: its addresses, and what its network says.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    model::{
        Dhcp, LINK_LOCAL_SERVER, Mac, Network, Resource as _, Revision, RouterPort, Vni, responder,
    },
    reconcile::{
        desired::Local,
        mirror::{EndpointRef, Mirror},
    },
};

/// An endpoint of this host whose network answers DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with the lengths of their prefixes.
    pub addresses: Vec<IpNet>,
    /// Bytes of its longest IP packet.
    pub mtu: u32,
    /// The DHCPv4 server's address as it sees it.
    pub server: Ipv4Addr,
    /// Its default gateway of IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// What all of its network are told.
    pub told: Arc<Told>,
}

/// What a network tells its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// What was set.
    pub dhcp: Dhcp,
    /// The MAC that answers come from.
    pub mac: Mac,
    /// The gateways' addresses; without a router none.
    pub gateways: Vec<IpNet>,
    /// The server's address where no gateway has one.
    server: Ipv4Addr,
}

impl Told {
    /// From its network, if that answers DHCP.
    fn of(network: &Network, dhcp: Dhcp, port: Option<&RouterPort>) -> Option<Self> {
        let row = responder(port, Some(network))?;
        Some(Self {
            mac: row.mac,
            gateways: port.map_or_else(Vec::new, |port| port.addresses.clone()),
            server: row.ipv4.unwrap_or(LINK_LOCAL_SERVER),
            dhcp,
        })
    }

    /// Whether it has a gateway of IPv6.
    pub(super) fn routes_ipv6(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.addr().is_ipv6())
    }

    /// The gateway for an address: the one of its subnet, or else the first.
    fn gateway(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let mut gateways = self.gateways.iter().filter_map(|gateway| match gateway {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        });
        let first = gateways.clone().next();
        let own = gateways.find(|gateway| gateway.contains(&ip));
        own.or(first).map(Ipv4Net::addr)
    }

    /// Name servers of IPv4.
    pub(super) fn dns4(&self) -> Vec<Ipv4Addr> {
        only_ipv4(&self.dhcp.dns)
    }

    /// Name servers of IPv6.
    pub(super) fn dns6(&self) -> Vec<Ipv6Addr> {
        only_ipv6(&self.dhcp.dns)
    }

    /// NTP servers of IPv4.
    pub(super) fn ntp4(&self) -> Vec<Ipv4Addr> {
        only_ipv4(&self.dhcp.ntp)
    }

    /// NTP servers of IPv6.
    pub(super) fn ntp6(&self) -> Vec<Ipv6Addr> {
        only_ipv6(&self.dhcp.ntp)
    }
}

fn only_ipv4(ips: &[IpAddr]) -> Vec<Ipv4Addr> {
    let ips = ips.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    ips.collect()
}

fn only_ipv6(ips: &[IpAddr]) -> Vec<Ipv6Addr> {
    let ips = ips.iter().filter_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(*ip),
    });
    ips.collect()
}

impl Served {
    /// Its addresses of IPv4.
    pub(super) fn ipv4(&self) -> impl Iterator<Item = Ipv4Net> {
        self.addresses.iter().filter_map(|address| match address {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        })
    }

    /// Its addresses of IPv6.
    pub(super) fn ipv6(&self) -> impl Iterator<Item = Ipv6Net> {
        self.addresses.iter().filter_map(|address| match address {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(*net),
        })
    }
}

/// The networks that answer DHCP, read once for each change of what they follow from.
#[derive(Debug, Default)]
pub(super) struct Networks(BTreeMap<Vni, Read>);

/// A network as it was read.
#[derive(Debug)]
struct Read {
    dhcp: Revision,
    port: Option<Revision>,
    network: Network,
    told: Option<Arc<Told>>,
}

impl Networks {
    /// What an endpoint is told. `None`: its network does not answer DHCP.
    pub(super) fn served(
        &mut self,
        mirror: &Mirror,
        endpoint: &EndpointRef<'_>,
        local: &Local,
    ) -> Option<Served> {
        let network = mirror.network(endpoint.vni())?;
        let told = self.told(mirror, endpoint.vni())?;
        let addresses: Vec<IpNet> = endpoint.addresses().collect();
        let ip = endpoint.ips().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let gateway = ip.and_then(|ip| told.gateway(ip));
        let is_taken = |ip: Ipv4Addr| mirror.by_ip(endpoint.vni(), ip.into()).is_some();
        // An endpoint may have chosen it; the others then ask all when they renew.
        let otherwise = Some(told.server).filter(|ip| !is_taken(*ip));
        Some(Served {
            mac: endpoint.mac(),
            addresses,
            mtu: local.usable_mtu(network, mirror.underlay_mtu()),
            server: gateway.or(otherwise).unwrap_or(LINK_LOCAL_SERVER),
            gateway,
            told,
        })
    }

    fn told(&mut self, mirror: &Mirror, vni: Vni) -> Option<Arc<Told>> {
        let object = mirror.object(&Dhcp::id_of(vni));
        let object = object.filter(|object| Dhcp::is_on(object));
        let (Some(object), Some(network)) = (object, mirror.network(vni)) else {
            self.0.remove(&vni);
            return None;
        };
        let port = mirror.object(&RouterPort::id(vni.into()));
        let revision = port.map(|port| port.revision);
        if let Some(read) = self.0.get(&vni)
            && (read.dhcp, read.port) == (object.revision, revision)
            && read.network == *network
        {
            return read.told.clone();
        }
        let port = port.and_then(RouterPort::known);
        let told = Dhcp::known(object).and_then(|dhcp| Told::of(network, dhcp, port.as_ref()));
        let read = Read {
            dhcp: object.revision,
            port: revision,
            network: network.clone(),
            told: told.map(Arc::new),
        };
        let told = read.told.clone();
        self.0.insert(vni, read);
        told
    }
}

/// An endpoint for tests of what it is told.
#[cfg(test)]
pub(super) fn sample(addresses: &[&str], gateways: &[&str], dhcp: Dhcp) -> Served {
    let mut network = Network::new("blue".parse().unwrap(), dhcp.vni);
    network.subnets = vec!["7.7.7.0/24".parse().unwrap()];
    let port = RouterPort {
        vni: dhcp.vni,
        router: "r1".parse().unwrap(),
        router_id: 1,
        mac: "02:00:5e:00:01:01".parse().unwrap(),
        outside: crate::model::Outside::None,
        nptv6: None,
        addresses: gateways.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let port = Some(port).filter(|port| !port.addresses.is_empty());
    let told = Told::of(&network, dhcp, port.as_ref()).unwrap();
    let addresses: Vec<IpNet> = addresses.iter().map(|net| net.parse().unwrap()).collect();
    let gateway = addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(ip) => told.gateway(ip),
        IpAddr::V6(_) => None,
    });
    Served {
        mac: "02:42:07:07:07:02".parse().unwrap(),
        addresses,
        mtu: 1450,
        server: gateway.unwrap_or(told.server),
        gateway,
        told: Arc::new(told),
    }
}
