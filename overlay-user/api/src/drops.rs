//! Dropped packets: how many, and some of them.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;
use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::{Method, Name, Operation, Vni};

/// Counts dropped packets by reason since the maps were made. Every reason is there, zeros too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CountDrops {}

impl Operation for CountDrops {
    type Answer = BTreeMap<String, u64>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/drops";
    const VERB: &'static str = "drops";
}

/// Shows dropped packets by reason with a few samples, of all endpoints or of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShowDrops {
    /// Only those of this endpoint, which lives on the host that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Name>,
}

impl Operation for ShowDrops {
    type Answer = DropsView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/drops/detail";
    const VERB: &'static str = "drops";
}

/// Dropped packets by reason, and some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DropsView {
    /// The endpoint that they are of; null: all that this host dropped.
    pub endpoint: Option<Name>,
    /// The reasons: loss before noise, the most frequent first. Of an endpoint only those that occurred, and no
    /// noise, which is not counted for endpoints.
    pub reasons: Vec<DropCountView>,
    /// The last few packets of each reason: loss before noise, the newest first.
    pub samples: Vec<DropSampleView>,
}

/// Dropped packets of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DropCountView {
    /// The reason's name, for example `source_ip`.
    pub reason: String,
    /// Loss or noise.
    pub class: DropClass,
    /// Packets, sent and received.
    pub packets: u64,
    /// Those that the endpoint sent; absent if no endpoint was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Those that were for the endpoint; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// What the reason means, in a line.
    pub meaning: String,
}

/// A dropped packet, and when it was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DropSampleView {
    /// When, RFC 3339, by this host's clock.
    pub time: Timestamp,
    /// The packet.
    #[serde(flatten)]
    pub dropped: DroppedView,
}

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DroppedView {
    /// The reason's name, for example `source_ip`.
    pub reason: String,
    /// Loss or noise.
    pub class: DropClass,
    /// Its direction, seen from the endpoint.
    pub direction: DropDirection,
    /// The endpoint of this host at its one end; null if it is not known.
    pub endpoint: Option<Name>,
    /// Its network; null if it is not known.
    pub vni: Option<Vni>,
    /// The underlay address of the host at its other end; null if there is none, or it is not known.
    pub peer: Option<IpAddr>,
    /// The node with that address; null if there is none.
    pub node: Option<Name>,
    /// Its headers.
    #[serde(flatten)]
    pub frame: FrameView,
}

/// Whether a dropped packet may be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DropClass {
    /// It may: a tenant or an operator should look.
    Loss,
    /// It is not: hosts send such packets to the whole link when it or an address comes up.
    Noise,
}

impl DropClass {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Noise => "noise",
        }
    }
}

/// The direction of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DropDirection {
    /// An endpoint of this host sent it.
    Sent,
    /// It came out of a tunnel, or claimed to.
    Received,
}

/// A MAC address of a frame, unicast or not: six octets with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct FrameAddress(MacAddr6);

impl From<[u8; 6]> for FrameAddress {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets.into())
    }
}

impl fmt::Display for FrameAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0.into_array().map(|octet| format!("{octet:02x}"));
        f.write_str(&octets.join(":"))
    }
}

impl TryFrom<String> for FrameAddress {
    type Error = macaddr::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<FrameAddress> for String {
    fn from(address: FrameAddress) -> Self {
        address.to_string()
    }
}

/// The headers of a frame, as far as it has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FrameView {
    /// Its source MAC.
    pub source_mac: FrameAddress,
    /// Its destination MAC.
    pub destination_mac: FrameAddress,
    /// Its `EtherType`: `ipv4`, `ipv6`, `arp`, or a number as `0x88cc`.
    pub ether_type: String,
    /// The source address, or an ARP sender's; null: it has none.
    pub source_ip: Option<IpAddr>,
    /// The destination address, or an ARP target's; likewise.
    pub destination_ip: Option<IpAddr>,
    /// The IP protocol: `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `igmp`, or its number; null: it has none.
    pub protocol: Option<String>,
    /// The source port; null: it has none.
    pub source_port: Option<u16>,
    /// The destination port; likewise.
    pub destination_port: Option<u16>,
    /// The type of an ICMP message; null: it is none.
    pub icmp_type: Option<u8>,
    /// Its code; likewise.
    pub icmp_code: Option<u8>,
    /// Bytes, Ethernet header included.
    pub length: u32,
}

impl fmt::Display for FrameView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source_ip, self.destination_ip) {
            (Some(source), Some(destination)) => {
                let end = |ip: IpAddr, port: Option<u16>| match (ip, port) {
                    (ip, None) => ip.to_string(),
                    (IpAddr::V4(ip), Some(port)) => format!("{ip}:{port}"),
                    (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
                };
                let source = end(source, self.source_port);
                let destination = end(destination, self.destination_port);
                let what = self.protocol.as_deref().unwrap_or(&self.ether_type);
                write!(f, "{source} -> {destination} {what}")?;
            }
            _ => write!(
                f,
                "{} -> {} {}",
                self.source_mac, self.destination_mac, self.ether_type
            )?,
        }
        match self.icmp_type {
            Some(kind) => write!(f, " type {kind}, {} bytes", self.length),
            None => write!(f, ", {} bytes", self.length),
        }
    }
}

/// Dropped packets, loss and noise apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DropTotals {
    /// Packets that may be missed.
    pub loss: u64,
    /// Packets that are not missed.
    pub noise: u64,
}

/// Dropped packets of an endpoint, without noise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointDropsView {
    /// Those that it sent, by reason; reasons that never occurred are missing.
    pub sent: BTreeMap<String, u64>,
    /// Those that were for it, likewise.
    pub received: BTreeMap<String, u64>,
}

impl DroppedView {
    /// The other host, by its name if it has one.
    #[must_use]
    pub fn peer_name(&self) -> Option<String> {
        match (&self.node, self.peer) {
            (Some(node), _) => Some(node.to_string()),
            (None, Some(peer)) => Some(peer.to_string()),
            (None, None) => None,
        }
    }
}

/// Whose it was, from where or to where, and what it was.
impl fmt::Display for DroppedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        let (side, other) = match self.direction {
            DropDirection::Sent => ("of", "to"),
            DropDirection::Received => ("for", "from"),
        };
        if let Some(endpoint) = &self.endpoint {
            write!(f, " {side} {endpoint}")?;
        }
        if let Some(peer) = self.peer_name() {
            write!(f, " {other} {peer}")?;
        }
        write!(f, " (")?;
        if let Some(vni) = self.vni {
            write!(f, "VNI {vni}, ")?;
        }
        write!(f, "{})", self.frame)
    }
}

/// The sums, and the reasons behind them.
impl fmt::Display for EndpointDropsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |counts: &BTreeMap<String, u64>| {
            let sum: u64 = counts.values().sum();
            let mut reasons: Vec<_> = counts.iter().collect();
            reasons.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
            let reasons: Vec<_> = reasons
                .into_iter()
                .map(|(reason, packets)| format!("{reason} {packets}"))
                .collect();
            if reasons.is_empty() {
                "0".to_owned()
            } else {
                format!("{sum} ({})", reasons.join(", "))
            }
        };
        write!(
            f,
            "{} sent, {} received",
            told(&self.sent),
            told(&self.received)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> FrameView {
        FrameView {
            source_mac: [2, 0x42, 7, 7, 7, 2].into(),
            destination_mac: [0xff; 6].into(),
            ether_type: "0x88cc".to_owned(),
            source_ip: None,
            destination_ip: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            icmp_type: None,
            icmp_code: None,
            length: 98,
        }
    }

    #[test]
    fn frames_are_told_by_the_addresses_that_say_most() {
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            frame().to_string(),
            "02:42:07:07:07:02 -> ff:ff:ff:ff:ff:ff 0x88cc, 98 bytes"
        );
        let ping = FrameView {
            source_ip: ip("7.7.7.2"),
            destination_ip: ip("7.7.7.9"),
            protocol: Some("icmp".to_owned()),
            icmp_type: Some(8),
            icmp_code: Some(0),
            ..frame()
        };
        assert_eq!(ping.to_string(), "7.7.7.2 -> 7.7.7.9 icmp type 8, 98 bytes");
        let datagram = FrameView {
            source_ip: ip("fd00::2"),
            destination_ip: ip("fd00::3"),
            protocol: Some("udp".to_owned()),
            source_port: Some(5353),
            destination_port: Some(53),
            ..frame()
        };
        assert_eq!(
            datagram.to_string(),
            "[fd00::2]:5353 -> [fd00::3]:53 udp, 98 bytes"
        );
        let question = FrameView {
            source_ip: ip("7.7.7.2"),
            destination_ip: ip("7.7.7.9"),
            ether_type: "arp".to_owned(),
            ..frame()
        };
        assert_eq!(question.to_string(), "7.7.7.2 -> 7.7.7.9 arp, 98 bytes");
    }

    #[test]
    fn frames_are_the_same_after_a_trip_through_json() {
        let text = serde_json::to_string(&frame()).unwrap();
        assert!(text.contains("\"02:42:07:07:07:02\""), "{text}");
        assert_eq!(serde_json::from_str::<FrameView>(&text).unwrap(), frame());
    }
}
