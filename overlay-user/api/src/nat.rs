//! What address translation has in use, and whose external ports were.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Filter, Method, Name, Operation, Vni};

/// Lists the blocks of ports that endpoints have, and what is in use of this host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ListNat {
    /// Of this endpoint alone
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Name>,
    /// Of this pool alone
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
}

impl Operation for ListNat {
    type Answer = NatView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/nat";
    const VERB: &'static str = "nat ls";
}

/// Says whose an external address and port are, or were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CheckNat {
    /// The external address
    pub ip: Ipv4Addr,
    /// The external port; of a float it does not matter
    pub port: u16,
    /// When, seconds since 1970 [default: now]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

impl Operation for CheckNat {
    type Answer = Vec<OwnerView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/nat/owners";
    const VERB: &'static str = "nat check";
}

/// What address translation has in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NatView {
    /// The blocks of all hosts, by endpoint.
    pub blocks: Vec<BlockView>,
    /// External ports in use on this host.
    pub mappings: Vec<MappingView>,
    /// Endpoints of this host that should have a block and have none.
    pub without_block: Vec<WithoutBlockView>,
}

/// A block of ports of an external address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockView {
    /// The endpoint that has it.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// Its node.
    pub node: Name,
    /// The pool; `null`: the address is the node's own.
    pub pool: Option<Name>,
    /// The external address.
    pub ip: Ipv4Addr,
    /// Its first port.
    pub first_port: u16,
    /// How many ports it has.
    pub ports: u16,
    /// Who outside may send to a port that is in use.
    pub filter: Filter,
    /// What of it is in use; `null`: it is another host's.
    pub used: Option<UsedView>,
}

/// What of a block is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UsedView {
    /// Ports of TCP.
    pub tcp: u64,
    /// Ports of UDP.
    pub udp: u64,
    /// Identifiers of ICMP, of which there are a quarter as many.
    pub icmp: u64,
    /// Mappings that ended before their time because ports ran short.
    pub early: u64,
}

/// An external port in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MappingView {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The endpoint; `null`: it has gone.
    pub endpoint: Option<Name>,
    /// Its address.
    pub own: Ipv4Addr,
    /// Its port, or its identifier of ICMP.
    pub own_port: u16,
    /// The external address.
    pub ip: Ipv4Addr,
    /// The external port.
    pub port: u16,
    /// Connections over it that are established.
    pub established: u32,
    /// Seconds since it was last used.
    pub idle_s: u32,
}

/// An endpoint that should have a block of ports and has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WithoutBlockView {
    /// The endpoint.
    pub endpoint: Name,
    /// Why, in a line.
    pub reason: String,
}

/// Who had an external port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OwnerView {
    /// The endpoint.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// The node that it was on.
    pub node: Option<Name>,
    /// Since when, seconds since 1970.
    pub from: u64,
    /// Until when, likewise; `null`: it has it.
    pub until: Option<u64>,
}

/// Lists the flows between this host's endpoints and the outside that were answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ListFlows {
    /// Of this endpoint alone
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Name>,
}

impl Operation for ListFlows {
    type Answer = Vec<FlowView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/flows";
    const VERB: &'static str = "flow ls";
}

/// Ends flows: what comes in for them is nobody's until the endpoint sends again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct RemoveFlows {
    /// Of this endpoint alone [default: all of this host]
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Name>,
}

impl Operation for RemoveFlows {
    type Answer = FlowsEndedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/flows";
    const VERB: &'static str = "flow rm";
}

/// How many flows were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FlowsEndedView {
    /// How many.
    pub ended: u64,
}

/// A flow between an endpoint of this host and the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FlowView {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The endpoint; `null`: it has gone.
    pub endpoint: Option<Name>,
    /// Its address.
    pub own: Ipv4Addr,
    /// Its port, or its identifier of ICMP.
    pub own_port: u16,
    /// The external address.
    pub ip: Ipv4Addr,
    /// The external port.
    pub port: u16,
    /// The other end's address.
    pub remote: Ipv4Addr,
    /// Its port.
    pub remote_port: u16,
    /// `open`, `established` or `closing`.
    pub state: String,
    /// Seconds since it was last used.
    pub idle_s: u32,
}

/// An external address and a port: `203.0.113.5:40960`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalPort {
    /// The address.
    pub ip: Ipv4Addr,
    /// The port; 0: none was named.
    pub port: u16,
}

impl FromStr for ExternalPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ip, port) = text.split_once(':').unwrap_or((text, "0"));
        match (ip.parse(), port.parse()) {
            (Ok(ip), Ok(port)) => Ok(Self { ip, port }),
            _ => Err(format!(
                "{text:?} is no external address and port: write for example 203.0.113.5:40960"
            )),
        }
    }
}

impl fmt::Display for ExternalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ip, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_port_prints_as_it_parses() {
        for text in ["203.0.113.5:40960", "203.0.113.5:0"] {
            assert_eq!(text.parse::<ExternalPort>().unwrap().to_string(), text);
        }
        assert_eq!("203.0.113.5".parse::<ExternalPort>().unwrap().port, 0);
        for text in ["", "x", "203.0.113.5:", "203.0.113.5:70000", "fd00::1:80"] {
            assert!(text.parse::<ExternalPort>().is_err(), "{text}");
        }
    }
}
