//! The endpoints table: who may send what from each of this host's interfaces.

use std::net::IpAddr;

use super::Derived;
use crate::{
    model::{Dhcp, Direction, EndpointRow, Name, Rows},
    reconcile::{
        desired::Desired,
        mirror::{EndpointRef, Fact},
    },
};

impl Derived for EndpointRow {
    /// The endpoint: its interface's index is known once it is there.
    type Id = Name;

    fn affected(fact: &Fact<'_>, mark: &mut impl FnMut(Name)) {
        if let Fact::Endpoint(endpoint) = fact
            && endpoint.is_local
        {
            mark(endpoint.name.clone());
        }
    }

    fn desired(desired: &Desired<'_>, name: &Name) -> Option<(u32, Self)> {
        let ifindex = desired.host.endpoints.ifindex(name)?;
        let known = desired
            .mirror
            .endpoint(name)
            .filter(EndpointRef::is_local)?;
        let network = desired.mirror.network(known.vni())?;
        let row = Self {
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
            mtu: desired.usable_mtu(network),
            dhcp: (desired.mirror.object(&Dhcp::id_of(known.vni()))).is_some_and(Dhcp::is_on),
            is_metered: desired.meter(&known, Direction::Sent).is_some(),
            gateway: desired.gateway(known.vni()),
            generation: known.generation(),
        };
        Some((ifindex, row))
    }

    fn all(desired: &Desired<'_>) -> Rows<Self> {
        let names = desired.host.endpoints.interfaces();
        names
            .filter_map(|(name, _)| Self::desired(desired, name))
            .collect()
    }
}
