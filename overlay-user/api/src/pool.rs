//! Pools: external addresses that endpoints share.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{Method, Name, Operation, RemovedView};

/// Who outside may send to an endpoint's mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// Whom the endpoint has sent to, from that port.
    #[default]
    Flow,
    /// Anybody: games and WebRTC want that.
    EndpointIndependent,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Flow => "flow",
            Self::EndpointIndependent => "endpoint-independent",
        })
    }
}

/// Whose addresses a network's endpoints share: `none`, `host`, or a pool's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["host", "public", "none"]))
)]
#[serde(try_from = "String", into = "String")]
pub enum SnatChoice {
    /// Nobody's: endpoints without a float do not reach the outside.
    #[default]
    None,
    /// Each host's own.
    Host,
    /// A pool's.
    Pool(Name),
}

impl FromStr for SnatChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            pool => pool
                .parse()
                .map(Self::Pool)
                .map_err(|error| format!("{error}: write none, host, or a pool's name")),
        }
    }
}

impl TryFrom<String> for SnatChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnatChoice> for String {
    fn from(choice: SnatChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for SnatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Host => f.pad("host"),
            Self::Pool(name) => name.fmt(f),
        }
    }
}

/// Makes a pool of external addresses, which endpoints share by blocks of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// Its name, other than none and host
    pub name: Name,
    /// Its addresses, CIDR or one address; may be repeated
    #[cfg_attr(
        feature = "cli",
        arg(long = "ip", value_name = "CIDR", required = true, value_parser = range)
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub ips: Vec<Ipv4Net>,
    /// Ports of a block, a power of two from 64 to 1024
    #[cfg_attr(feature = "cli", arg(long, value_name = "PORTS", default_value_t = default_block()))]
    #[serde(default = "default_block")]
    pub block: u16,
    /// Most blocks that an endpoint gets, 1 to 8
    #[cfg_attr(feature = "cli", arg(long, value_name = "COUNT", default_value_t = default_max_blocks()))]
    #[serde(default = "default_max_blocks")]
    pub max_blocks: u8,
    /// Who outside may send to a port that an endpoint uses
    #[cfg_attr(feature = "cli", arg(long, value_name = "WHO", default_value = "flow"))]
    #[serde(default)]
    pub filter: Filter,
    /// Have endpoints send from the ports of their first block: port numbers stay as they are. Of namespaces that the
    /// agent made; it sets their range of local ports
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default)]
    pub ports_in_endpoint: bool,
}

const fn default_block() -> u16 {
    1024
}

const fn default_max_blocks() -> u8 {
    8
}

#[cfg(feature = "cli")]
fn range(text: &str) -> Result<Ipv4Net, String> {
    text.parse()
        .or_else(|_| text.parse().map(|ip: Ipv4Addr| Ipv4Net::from(ip)))
        .map_err(|_| {
            format!("{text:?} is no IPv4 address or prefix: write for example 203.0.113.8/29")
        })
}

impl Operation for CreatePool {
    type Answer = PoolView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/pools";
    const VERB: &'static str = "pool create";
}

/// Lists every pool, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListPools {}

impl Operation for ListPools {
    type Answer = Vec<PoolView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/pools";
    const VERB: &'static str = "pool ls";
}

/// Removes a pool that no network uses and no endpoint has a block of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemovePool {
    /// Its name
    pub name: Name,
}

impl Operation for RemovePool {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/pools/{name}";
    const VERB: &'static str = "pool rm";
}

/// External addresses that endpoints share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolView {
    /// Its name, unique in the registry.
    pub name: Name,
    /// Its addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub ips: Vec<Ipv4Net>,
    /// Ports of a block.
    pub block: u16,
    /// Most blocks that an endpoint gets.
    pub max_blocks: u8,
    /// Who outside may send to a port that an endpoint uses.
    pub filter: Filter,
    /// Whether endpoints send from the ports of their first block.
    #[serde(default)]
    pub ports_in_endpoint: bool,
    /// Blocks that endpoints have.
    pub used: u64,
    /// Blocks that there are.
    pub blocks: u64,
    /// Names of the networks that use it.
    pub networks: Vec<Name>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_print_as_they_parse() {
        for text in ["none", "host", "public"] {
            assert_eq!(text.parse::<SnatChoice>().unwrap().to_string(), text);
        }
        assert!("not a name".parse::<SnatChoice>().is_err());
    }
}
