//! Limits of what endpoints send and receive, and the class that their packets get: quality of service.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    BitRate, ByteSize, Dscp, ErrorKind, Method, Name, Operation, OperationError, OrNone,
    RemovedView, Vni,
};

/// Makes a set of limits. It does nothing until endpoints or networks have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct CreateQos {
    /// Its name
    pub name: Name,
    /// Bits in a second that an endpoint may send, counted with Ethernet headers and without those of tunnels
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATE"))]
    #[serde(default)]
    pub egress: Option<BitRate>,
    /// Bits in a second that an endpoint may receive, likewise
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATE"))]
    #[serde(default)]
    pub ingress: Option<BitRate>,
    /// Bytes that may pass at once after a pause, beyond the rate; less than the default is less than the rate for TCP
    /// [default: what takes 200 ms at the rate]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES"))]
    #[serde(default)]
    pub burst: Option<ByteSize>,
    /// Packets in a second that an endpoint may send, and receive
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..)))]
    #[serde(default)]
    pub pps: Option<u32>,
    /// The DSCP of what an endpoint sends, inside and outside tunnels: cs0 to cs7, af11 to af43, ef, le, or 0 to 63
    /// [default: the packets' own]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DSCP"))]
    #[serde(default)]
    pub dscp: Option<Dscp>,
    /// The priority (`skb->priority`) of what leaves the host, by which the underlay device's queues choose
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..)))]
    #[serde(default)]
    pub priority: Option<u32>,
}

impl CreateQos {
    /// One that limits nothing.
    #[must_use]
    pub const fn new(name: Name) -> Self {
        Self {
            name,
            egress: None,
            ingress: None,
            burst: None,
            pps: None,
            dscp: None,
            priority: None,
        }
    }
}

impl Operation for CreateQos {
    type Answer = QosView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/qos";
    const VERB: &'static str = "qos create";

    fn check(&self) -> Result<(), OperationError> {
        if self.name.as_str() == "none" {
            return Err(OperationError::new(
                ErrorKind::Refused,
                "a qos can't be called none, which takes one away: choose another name",
            ));
        }
        check_numbers(self.pps, self.priority)
    }
}

/// Changes a set of limits while traffic runs: endpoints that have it follow at once, wherever they live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct SetQos {
    /// Its name
    pub name: Name,
    /// Bits in a second that an endpoint may send; none: as many as come
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATE|none"))]
    #[serde(default)]
    pub egress: Option<OrNone<BitRate>>,
    /// Bits in a second that an endpoint may receive; none: as many as come
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATE|none"))]
    #[serde(default)]
    pub ingress: Option<OrNone<BitRate>>,
    /// Bytes that may pass at once after a pause; none: what follows from the rate
    #[cfg_attr(feature = "cli", arg(long, value_name = "BYTES|none"))]
    #[serde(default)]
    pub burst: Option<OrNone<ByteSize>>,
    /// Packets in a second that an endpoint may send, and receive; none: as many as come
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|none"))]
    #[serde(default)]
    pub pps: Option<OrNone<u32>>,
    /// The DSCP of what an endpoint sends; none: the packets' own
    #[cfg_attr(feature = "cli", arg(long, value_name = "DSCP|none"))]
    #[serde(default)]
    pub dscp: Option<OrNone<Dscp>>,
    /// The priority of what leaves the host; none: none
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|none"))]
    #[serde(default)]
    pub priority: Option<OrNone<u32>>,
}

impl SetQos {
    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.egress.is_none()
            && self.ingress.is_none()
            && self.burst.is_none()
            && self.pps.is_none()
            && self.dscp.is_none()
            && self.priority.is_none()
    }
}

impl Operation for SetQos {
    type Answer = QosView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/qos/{name}";
    const VERB: &'static str = "qos set";

    fn check(&self) -> Result<(), OperationError> {
        check_numbers(
            self.pps.and_then(OrNone::into_option),
            self.priority.and_then(OrNone::into_option),
        )
    }
}

fn check_numbers(pps: Option<u32>, priority: Option<u32>) -> Result<(), OperationError> {
    let refused = |message| Err(OperationError::new(ErrorKind::Refused, message));
    if pps == Some(0) {
        return refused("0 packets in a second would let nothing pass: say how many may");
    }
    if priority == Some(0) {
        return refused("priority 0 is what packets have without one: leave it away");
    }
    Ok(())
}

/// Lists every set of limits, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListQos {}

impl Operation for ListQos {
    type Answer = Vec<QosView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/qos";
    const VERB: &'static str = "qos ls";
}

/// Shows a set of limits, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ShowQos {
    /// Its name
    pub name: Name,
}

impl Operation for ShowQos {
    type Answer = QosView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/qos/{name}";
    const VERB: &'static str = "qos show";
}

/// Removes a set of limits that neither endpoint nor network has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveQos {
    /// Its name
    pub name: Name,
}

impl Operation for RemoveQos {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/qos/{name}";
    const VERB: &'static str = "qos rm";
}

/// A set of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QosView {
    /// Its name, unique in the registry.
    pub name: Name,
    /// Bits in a second that an endpoint may send; `null`: as many as come.
    pub egress: Option<BitRate>,
    /// Bits in a second that an endpoint may receive; `null`: as many as come.
    pub ingress: Option<BitRate>,
    /// Bytes that may pass at once after a pause; `null`: what follows from the rate.
    pub burst: Option<ByteSize>,
    /// Packets in a second that an endpoint may send, and receive; `null`: as many as come.
    pub pps: Option<u32>,
    /// The DSCP of what an endpoint sends; `null`: the packets' own.
    pub dscp: Option<Dscp>,
    /// The priority of what leaves the host; `null`: none.
    pub priority: Option<u32>,
    /// The endpoints that have it themselves, by name.
    pub endpoints: Vec<Name>,
    /// The networks whose endpoints have it, by VNI.
    pub networks: Vec<Vni>,
}

/// The limits of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointQosView {
    /// The set's name.
    pub name: Name,
    /// Whether it has them because its network does.
    pub of_network: bool,
    /// Bits in a second that it may send; `null`: as many as come.
    pub egress: Option<BitRate>,
    /// Bits in a second that it may receive; `null`: as many as come.
    pub ingress: Option<BitRate>,
    /// Packets in a second that it may send, and receive; `null`: as many as come.
    pub pps: Option<u32>,
    /// What came of them; absent unless it is ready on the host that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<QosCountsView>,
}

impl fmt::Display for EndpointQosView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if self.of_network {
            f.write_str(" (of its network)")?;
        }
        let rate =
            |rate: &Option<BitRate>| rate.map_or_else(|| "any".to_owned(), |it| it.to_string());
        write!(
            f,
            ": sends {}, receives {}",
            rate(&self.egress),
            rate(&self.ingress)
        )?;
        if let Some(pps) = self.pps {
            write!(f, ", {pps} packets/s each")?;
        }
        let Some(counts) = &self.counts else {
            return Ok(());
        };
        write!(f, "; sent {}; received {}", counts.sent, counts.received)
    }
}

impl fmt::Display for MeteredView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} marked, {} dropped", self.marked, self.dropped)
    }
}

/// What came of an endpoint's limits since it is on its host. Each segment of an aggregate counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QosCountsView {
    /// Of what it sent.
    pub sent: MeteredView,
    /// Of what was for it.
    pub received: MeteredView,
}

/// Packets that were over a limit, or close to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MeteredView {
    /// Those that were marked for congestion (ECN).
    pub marked: u64,
    /// Those that were dropped.
    pub dropped: u64,
}
