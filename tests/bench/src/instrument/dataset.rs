//! The networks, nodes and endpoints that registries are filled with: each follows from its number.

use std::net::Ipv4Addr;

use anyhow::Result;
use overlay_user::model::{Endpoint, Mac, Name, Network, Node, Resolve, Vni, Vtep};

/// The VNI of network 0.
pub(super) const FIRST_VNI: u32 = 1000;
/// Nodes that the endpoints are spread over: several hundred hosts.
pub(super) const NODES: u32 = 400;

/// UDP port of every VTEP.
pub(super) const PORT: u16 = 4789;

/// The VTEP of agent `number`. Addresses for benchmarks (RFC 2544, appendix C.2.2).
pub(super) fn agent_ip(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 19, high, low)
}

/// Network `number`.
pub(super) fn network(number: u32, resolve: Resolve) -> Result<Network> {
    let vni = Vni::try_from(FIRST_VNI + number)?;
    Ok(Network {
        resolve,
        ..Network::new(format!("bench-{number}").parse()?, vni)
    })
}

/// The name of node `number`, which wraps round.
pub(super) fn node_name(number: u32) -> Result<Name> {
    Ok(format!("bench-node-{}", number % NODES).parse()?)
}

/// Node `number`: no agent runs there, so no agent makes interfaces for its endpoints.
pub(super) fn node(number: u32) -> Result<Node> {
    let [_, _, high, low] = number.to_be_bytes();
    // Addresses for benchmarks (RFC 2544, appendix C.2.2).
    let vtep = Vtep {
        ip: [198, 18, high, low].into(),
        port: PORT,
    };
    Ok(Node::new(node_name(number)?, vtep, false))
}

/// The address of endpoint `number`.
pub(super) fn ip(number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(10, b, c, d)
}

/// Endpoint `number` of all, in one of `networks`: each has as many as the others.
pub(super) fn endpoint(number: u32, networks: u32) -> Result<Endpoint> {
    let ip = ip(number);
    Ok(Endpoint {
        name: format!("bench-{number}").parse()?,
        vni: Vni::try_from(FIRST_VNI + number % networks)?,
        mac: Mac::from_ipv4(ip),
        addresses: vec![format!("{ip}/8").parse()?],
        node: node_name(number / networks)?,
        attachment: None,
        generation: 0,
    })
}
