//! Dropped frames: what is known of some of them, and how many there were of each endpoint.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::SystemTime};

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use super::{Vni, VtepAddr};

/// Whether anybody misses what was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropClass {
    /// Somebody may.
    Loss,
    /// Nobody: hosts send it to all of a link when it or an address comes up.
    Noise,
}

impl DropClass {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Noise => "noise",
        }
    }
}

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropDirection {
    /// An endpoint of this host sent it.
    Sent,
    /// It came out of a tunnel, or pretended to.
    Received,
}

/// An address of an Ethernet frame, a group's or nobody's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// What was in a frame, as far as its headers were there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameView {
    /// Its source MAC.
    pub source_mac: FrameAddress,
    /// Its destination MAC.
    pub destination_mac: FrameAddress,
    /// What its Ethernet header says that it carries: `ipv4`, `ipv6`, `arp`, or a number as `0x88cc`.
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

/// A frame that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedFrame {
    /// When, nanoseconds since this host booted: by this they are told apart.
    pub at_ns: u64,
    /// The same by this host's clock.
    pub time: SystemTime,
    /// Why: the name of the reason.
    pub reason: &'static str,
    /// Whether anybody misses it.
    pub class: DropClass,
    /// Which way it went.
    pub direction: DropDirection,
    /// Host-side interface of the endpoint that sent it or was to get it. `None`: it is not known.
    pub endpoint: Option<u32>,
    /// Its network; likewise.
    pub vni: Option<Vni>,
    /// The other host's underlay address. `None`: there is none, or it is not known.
    pub peer: Option<VtepAddr>,
    /// What was in it.
    pub frame: FrameView,
}

/// How many frames of one endpoint were dropped, by the names of the reasons, noise apart. Those that never
/// occurred are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointDrops {
    /// Of those that it sent.
    pub sent: BTreeMap<&'static str, u64>,
    /// Of those that were for it.
    pub received: BTreeMap<&'static str, u64>,
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
