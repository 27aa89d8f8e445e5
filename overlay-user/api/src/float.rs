//! Floats: external addresses of one endpoint each.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{Method, Name, Operation, RemovedView, Vni};

/// Gives an endpoint an external address of its own, both ways, whatever it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct AddFloat {
    /// The external address, IPv4
    pub ip: Ipv4Addr,
    /// The endpoint
    #[cfg_attr(feature = "cli", arg(long))]
    pub endpoint: Name,
    /// Which of its addresses [default: its first IPv4 address]
    #[cfg_attr(feature = "cli", arg(long = "ip", id = "own", value_name = "A"))]
    #[serde(default)]
    pub own: Option<Ipv4Addr>,
}

impl Operation for AddFloat {
    type Answer = FloatView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/floats";
    const VERB: &'static str = "float add";
}

/// Gives an external address to another endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct MoveFloat {
    /// The external address
    pub ip: Ipv4Addr,
    /// The endpoint that gets it
    #[cfg_attr(feature = "cli", arg(long))]
    pub endpoint: Name,
    /// Which of its addresses [default: its first IPv4 address]
    #[cfg_attr(feature = "cli", arg(long = "ip", id = "own", value_name = "A"))]
    #[serde(default)]
    pub own: Option<Ipv4Addr>,
}

impl Operation for MoveFloat {
    type Answer = FloatView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/floats/{ip}";
    const VERB: &'static str = "float move";
}

/// Lists every float, by its address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListFloats {}

impl Operation for ListFloats {
    type Answer = Vec<FloatView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/floats";
    const VERB: &'static str = "float ls";
}

/// Takes an external address from its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveFloat {
    /// The external address
    pub ip: Ipv4Addr,
}

impl Operation for RemoveFloat {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/floats/{ip}";
    const VERB: &'static str = "float rm";
}

/// An external address of one endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FloatView {
    /// The external address.
    pub ip: Ipv4Addr,
    /// The endpoint.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// Its address there.
    pub own: Ipv4Addr,
    /// Its node; `null`: it is not known.
    pub node: Option<Name>,
    /// Why it does not work, in a line; `null`: nothing is known to be wrong.
    pub problem: Option<String>,
}
