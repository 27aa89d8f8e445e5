//! What address translation works with on one host, and what it has in use.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{BlockKey, Mac};

/// The interface to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Longest IP packet that it takes, bytes.
    pub mtu: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its first IPv4 address with its subnet; `None`: it has none.
    pub address: Option<Ipv4Net>,
    /// Where IPv4 packets go that leave by it. `None`: that is more than one subnet and one router, and the kernel is to
    /// be asked for each packet.
    pub way: Option<UplinkWay>,
}

/// Where IPv4 packets go that leave by an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkWay {
    /// What is on the link.
    pub subnet: Ipv4Net,
    /// Who has all else; `None`: nobody.
    pub router: Option<Ipv4Addr>,
}

/// What of an endpoint's block is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockUse {
    /// Which block.
    pub key: BlockKey,
    /// The endpoint's host-side interface.
    pub ifindex: u32,
    /// How many ports it has for TCP, and for UDP.
    pub ports: u16,
    /// How many of these are in use: TCP's, UDP's, and ICMP's identifiers, of which there are a quarter.
    pub used: [u64; 3],
    /// Mappings that ended before their time because ports ran short.
    pub early: u64,
}

impl BlockUse {
    /// Whether three in four ports of a class are in use.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let ports = u64::from(self.ports);
        let classes = self.used.iter().zip([ports, ports, ports / 4]);
        classes
            .into_iter()
            .any(|(used, ports)| used * 4 >= ports * 3)
    }
}

/// An external port in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// IP protocol: 6, 17, or 1 for an identifier of ICMP.
    pub protocol: u8,
    /// The endpoint's host-side interface.
    pub ifindex: u32,
    /// The endpoint's address.
    pub own: Ipv4Addr,
    /// Its port.
    pub own_port: u16,
    /// The external address.
    pub ip: Ipv4Addr,
    /// The external port.
    pub port: u16,
    /// Connections that are established.
    pub established: u32,
    /// Seconds since it was last used.
    pub idle_s: u32,
}

/// A flow to the outside that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutsideFlow {
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's host-side interface; `None`: it is gone.
    pub ifindex: Option<u32>,
    /// The endpoint's address.
    pub own: Ipv4Addr,
    /// Its port.
    pub own_port: u16,
    /// The other end's address.
    pub remote: Ipv4Addr,
    /// Its port.
    pub remote_port: u16,
    /// The external address.
    pub ip: Ipv4Addr,
    /// The external port.
    pub port: u16,
    /// How far it has come: `open`, `established` or `closing`.
    pub state: &'static str,
    /// Seconds since it was last used.
    pub idle_s: u32,
}

/// What a sweep found to be over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// External ports.
    pub ports: u64,
    /// Flows.
    pub flows: u64,
}
