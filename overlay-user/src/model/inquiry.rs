//! Questions between agents that go through the registry, and their answers.

use serde::{Deserialize, Serialize};

use super::{Explain, Explained, Leg, Name, PathView, PingSize, Pinged};

/// What agents are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inquiry {
    /// How the ways to the other hosts are; they are tried first.
    Paths,
    /// What the programs of a node have seen of an echo.
    Seen {
        /// The node that is asked.
        node: Name,
        /// The echo.
        id: u64,
    },
    /// To send an echo, and to say what became of it.
    Ping {
        /// The node that is asked.
        node: Name,
        /// The echo.
        ping: Ping,
    },
    /// To explain what becomes of a packet of one of its endpoints.
    Explain {
        /// The node that is asked.
        node: Name,
        /// The packet.
        packet: Explain,
    },
    /// To explain what becomes of a tunnel packet that comes in by the underlay.
    Arrival {
        /// The node that is asked.
        node: Name,
        /// The frame, two hexadecimal digits a byte.
        frame: String,
    },
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Inquiry::Paths`].
    Paths(Box<PathsTold>),
    /// To [`Inquiry::Seen`]: what became of it, in the order in which it was seen; empty: nothing was.
    Seen(Vec<Sighting>),
    /// To [`Inquiry::Ping`].
    Ping(Box<Pinged>),
    /// To [`Inquiry::Explain`].
    Explained(Box<Explained>),
    /// To [`Inquiry::Arrival`].
    Arrived(Box<Leg>),
    /// To any: it could not be done, and why.
    Failed(String),
}

/// What a host says of the ways to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathsTold {
    /// Its clock, milliseconds since 1970.
    pub at_ms: i64,
    /// The version of its agent.
    pub version: String,
    /// The ABI version of its datapath.
    pub abi: u32,
    /// The paths; of more than [`PathsTold::MOST`] only those that are not well.
    pub paths: Vec<PathTold>,
    /// Networks whose packets do not get through, though those of the hosts do.
    pub networks: Vec<NetworkTold>,
    /// Problems that it found on itself, a line each.
    pub problems: Vec<String>,
}

impl PathsTold {
    /// Paths that are told of one by one: what is told ends up in the registry, from every host.
    pub const MOST: usize = 128;
}

/// One of the ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathTold {
    /// The other host.
    pub node: Name,
    /// How the way there is.
    #[serde(flatten)]
    pub path: PathView,
}

/// A network whose packets do not get to another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTold {
    /// The other host.
    pub node: Name,
    /// The network.
    pub network: Name,
    /// What was tried, and where it was lost.
    pub pinged: Pinged,
}

/// What a program has seen of an echo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sighting {
    /// It came and was sent back.
    Answered,
    /// It is back.
    Back,
    /// It has left.
    Left,
    /// It was dropped, for the reason of this name.
    Dropped(String),
}

/// An echo that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The endpoint that it is sent from. `None`: the host itself.
    pub from: Option<Name>,
    /// Where it is sent.
    pub to: PingTarget,
    /// How long it is.
    pub size: PingSize,
}

/// Where an echo is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PingTarget {
    /// To an endpoint.
    Endpoint(Name),
    /// To a node.
    Host(Name),
}
