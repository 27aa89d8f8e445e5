//! What the programs do with a packet of an endpoint's, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Method, Name, Operation, OperationError};

/// Runs a packet of an endpoint's through the programs of its host, and of the host that gets it, and tells each row
/// that they look up. Nothing is sent; counters count it, and it may get an external port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The endpoint that sends the packet
    #[cfg_attr(feature = "cli", arg(index = 1, value_name = "ENDPOINT"))]
    pub endpoint: Name,
    /// Its destination
    #[cfg_attr(feature = "cli", arg(index = 2, value_name = "DST"))]
    pub destination: IpAddr,
    /// What it is: the first packet of such a conversation
    #[cfg_attr(
        feature = "cli",
        arg(long = "proto", value_name = "PROTOCOL", value_enum, default_value_t)
    )]
    #[serde(default)]
    pub protocol: ExplainProtocol,
    /// The destination's port, of TCP and UDP
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The port that it is sent from [default: 40000]
    #[cfg_attr(feature = "cli", arg(long))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
}

impl Operation for Explain {
    type Answer = Explained;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/explain";
    const VERB: &'static str = "explain";
    const READ_ONLY: bool = true;

    fn check(&self) -> Result<(), OperationError> {
        let refuse = |why: &str| Err(OperationError::new(ErrorKind::Usage, why));
        let has_ports = self.protocol != ExplainProtocol::Icmp;
        if has_ports && self.port.is_none() {
            return refuse("TCP and UDP need --port: the destination's");
        }
        if !has_ports && (self.port.is_some() || self.source_port.is_some()) {
            return refuse("ICMP has no ports: add --proto tcp or --proto udp");
        }
        let ip = self.destination.to_canonical();
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_broadcast {
            return refuse("the destination is one host's address");
        }
        Ok(())
    }
}

/// The kind of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ExplainProtocol {
    /// An echo request.
    #[default]
    Icmp,
    /// A SYN.
    Tcp,
    /// A datagram without data.
    Udp,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explained {
    /// The endpoint that sends it.
    pub from: Name,
    /// Its node.
    pub node: Name,
    /// The packet, in a few words.
    pub packet: String,
    /// Whether it gets to its destination, or out of the overlay; null: the host that it goes to could not be asked.
    pub passes: Option<bool>,
    /// What happens, in its order: the question for the next hop's MAC, the packet at its sender's host, and at its
    /// receiver's.
    pub legs: Vec<Leg>,
}

/// The way of a frame through the programs of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leg {
    /// The node.
    pub node: Name,
    /// The frame, in a few words.
    pub frame: String,
    /// What the programs looked up.
    pub steps: Vec<Step>,
    /// What came of it.
    pub fate: Fate,
    /// Why it was dropped or refused, as `overlay drops` names it; null if it was not.
    pub reason: Option<String>,
    /// The same in a line.
    pub message: String,
}

/// A row that a program looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// The program.
    pub program: String,
    /// The table, as `overlay verify` and bpftool name it; `calls` where another program went on.
    pub table: String,
    /// What was looked up.
    pub key: String,
    /// What was found; null: there is no such row.
    pub row: Option<String>,
}

/// What came of a frame at one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// An endpoint of the host gets it.
    Delivered,
    /// It goes to another host in a tunnel.
    Tunnelled,
    /// It leaves the overlay by the uplink.
    Left,
    /// The programs send an answer to it.
    Answered,
    /// The agent answers it.
    Punted,
    /// It goes no further, and an ICMP error tells its sender.
    Refused,
    /// It goes no further.
    Dropped,
    /// It is not the overlay's, and goes on to the host's own stack.
    Passed,
    /// The host that it goes to could not be asked.
    Unknown,
}

impl Fate {
    /// Whether the frame got where it was to get at this host. `None`: that is not known.
    #[must_use]
    pub const fn is_good(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Refused | Self::Dropped | Self::Passed => Some(false),
            _ => Some(true),
        }
    }
}
