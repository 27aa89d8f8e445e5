//! What the mirror tells of its changes: things of the registry, and no rows of the kernel's tables.

use std::net::IpAddr;

use super::store::Addresses;
use crate::model::{Mac, Name, Node, Object, Vni};

/// Something that is about to change, come or go.
///
/// An endpoint, a node and an object are told as they are and as they will be, a network by its VNI.
#[derive(Debug, Clone, Copy)]
pub enum Fact<'a> {
    /// An endpoint that this host holds.
    Endpoint(EndpointFact<'a>),
    /// A network.
    Network(Vni),
    /// A node.
    Node(&'a Node),
    /// An object of a kind that this binary knows.
    Object(&'a Object),
}

/// What an endpoint claims in its network.
#[derive(Debug, Clone, Copy)]
pub struct EndpointFact<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Whether it is on this node.
    pub is_local: bool,
    pub(super) addresses: &'a Addresses,
}

impl EndpointFact<'_> {
    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.addr())
    }
}
