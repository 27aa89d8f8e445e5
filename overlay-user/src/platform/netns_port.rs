//! The desired state of an interface in a namespace, for every kind of interface.

use std::net::IpAddr;

use ipnet::IpNet;

use super::PortSpec;
use crate::model::{IfName, InNetns, Mac, Name};

/// The desired state of an interface in a namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetnsPort<'a> {
    pub(super) endpoint: &'a Name,
    pub(super) netns: &'a Name,
    pub(super) ifname: &'a IfName,
    pub(super) mac: Mac,
    pub(super) addresses: &'a [IpNet],
    /// Bytes.
    pub(super) mtu: u32,
    pub(super) gateways: &'a [IpAddr],
    pub(super) local_ports: Option<(u16, u16)>,
}

impl<'a> NetnsPort<'a> {
    /// The port of `spec`, which is in `place`.
    pub(super) fn new(spec: &'a PortSpec, place: &'a InNetns) -> Self {
        Self {
            endpoint: &spec.endpoint,
            netns: &place.netns,
            ifname: &place.ifname,
            mac: spec.mac,
            addresses: &spec.addresses,
            mtu: spec.mtu,
            gateways: &spec.gateways,
            local_ports: spec.local_ports,
        }
    }
}
