//! Dropped packets: how many, and some of them.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;
use overlay_ebpf::abi::DropReason;
use serde::{Deserialize, Serialize};

use super::milliseconds;
use crate::model::{DropClass, DropDirection, DroppedFrame, EndpointDrops, FrameView, Name, Vni};

/// Whose drops are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropsFilter {
    /// Those of this endpoint alone, which lives on the host that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Name>,
}

/// Dropped packets by reason, and some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsView {
    /// The endpoint that they are of; null: all that this host dropped.
    pub endpoint: Option<Name>,
    /// The reasons: loss before noise, the most frequent first. Of an endpoint those that occurred, without
    /// noise, which is not counted for endpoints.
    pub reasons: Vec<DropCountView>,
    /// The last few packets of each reason: loss before noise, the newest first.
    pub samples: Vec<DropSampleView>,
}

/// How many packets were dropped for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCountView {
    /// Why.
    pub reason: String,
    /// Whether anybody misses them.
    pub class: DropClass,
    /// How many there were.
    pub packets: u64,
    /// How many of them the endpoint sent; absent if no endpoint was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// How many of them were for it; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// What the reason means, in a line.
    pub meaning: String,
}

/// A packet that was dropped, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropSampleView {
    /// When, RFC 3339, by this host's clock.
    pub time: Timestamp,
    /// What it was.
    #[serde(flatten)]
    pub dropped: DroppedView,
}

/// A packet that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedView {
    /// Why.
    pub reason: String,
    /// Whether anybody misses it.
    pub class: DropClass,
    /// Which way it went, seen from the endpoint.
    pub direction: DropDirection,
    /// The endpoint of this host that sent it, or was to get it; null if it is not known.
    pub endpoint: Option<Name>,
    /// Its network; likewise.
    pub vni: Option<Vni>,
    /// The other host's underlay address; null if there is none, or it is not known.
    pub peer: Option<IpAddr>,
    /// Its node; null if it is no node's.
    pub node: Option<Name>,
    /// What was in it.
    #[serde(flatten)]
    pub frame: FrameView,
}

/// The names that samples show.
#[derive(Debug, Clone, Default)]
pub struct DropNames {
    /// Endpoints of this host by their host-side interfaces.
    pub endpoints: BTreeMap<u32, Name>,
    /// Nodes by their underlay addresses.
    pub nodes: BTreeMap<IpAddr, Name>,
}

/// Views of frames, the oldest of which comes first: loss before noise, and the newest first. Only those of the
/// endpoint behind an interface, if one is named.
#[must_use]
pub fn drop_samples(
    frames: Vec<DroppedFrame>,
    of: Option<u32>,
    names: &DropNames,
) -> Vec<DropSampleView> {
    let wanted = |frame: &DroppedFrame| of.is_none() || frame.endpoint == of;
    let mut views: Vec<_> = frames
        .into_iter()
        .rev()
        .filter(wanted)
        .map(|frame| DropSampleView::new(frame, names))
        .collect();
    views.sort_by_key(|view| view.dropped.class);
    views
}

impl DropSampleView {
    /// The view of a frame, with names.
    #[must_use]
    pub fn new(dropped: DroppedFrame, names: &DropNames) -> Self {
        let endpoint = dropped.endpoint.and_then(|it| names.endpoints.get(&it));
        let node = dropped.peer.and_then(|peer| names.nodes.get(&peer.ip()));
        Self {
            time: milliseconds(dropped.time).unwrap_or_default(),
            dropped: DroppedView {
                reason: dropped.reason.to_owned(),
                class: dropped.class,
                direction: dropped.direction,
                endpoint: endpoint.cloned(),
                vni: dropped.vni,
                peer: dropped.peer.map(IpAddr::from),
                node: node.cloned(),
                frame: dropped.frame,
            },
        }
    }
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

/// Whether anybody misses what is dropped for a reason. One that is not known here is a newer agent's.
#[must_use]
pub fn drop_class(reason: &str) -> DropClass {
    match DropReason::of_name(reason) {
        Some(reason) if reason.is_noise() => DropClass::Noise,
        _ => DropClass::Loss,
    }
}

/// Counts by reason, loss before noise and the most frequent first.
#[must_use]
pub fn drop_counts<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<DropCountView> {
    let view = |(reason, packets): (&str, u64)| DropCountView {
        reason: reason.to_owned(),
        class: drop_class(reason),
        packets,
        sent: None,
        received: None,
        meaning: DropReason::of_name(reason)
            .map_or("", DropReason::describe)
            .to_owned(),
    };
    sorted(counts.into_iter().map(view).collect())
}

/// The same of an endpoint.
#[must_use]
pub fn endpoint_drop_counts(drops: &EndpointDrops) -> Vec<DropCountView> {
    let count = |of: &BTreeMap<&str, u64>, reason: &str| of.get(reason).copied().unwrap_or(0);
    let reasons: BTreeMap<&str, u64> = drops
        .sent
        .keys()
        .chain(drops.received.keys())
        .map(|reason| {
            let packets = count(&drops.sent, reason) + count(&drops.received, reason);
            (*reason, packets)
        })
        .collect();
    let mut views = drop_counts(reasons);
    for view in &mut views {
        view.sent = Some(count(&drops.sent, &view.reason));
        view.received = Some(count(&drops.received, &view.reason));
    }
    views
}

fn sorted(mut counts: Vec<DropCountView>) -> Vec<DropCountView> {
    counts.sort_by(|one, other| {
        let key = |it: &DropCountView| (it.class, std::cmp::Reverse(it.packets));
        key(one).cmp(&key(other))
    });
    counts
}

/// Drops as loss and noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropTotals {
    /// Packets that somebody may miss.
    pub loss: u64,
    /// Packets that nobody misses.
    pub noise: u64,
}

impl DropTotals {
    /// The sums of counts by reason.
    #[must_use]
    pub fn of<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut totals = Self::default();
        for (reason, packets) in counts {
            match drop_class(reason) {
                DropClass::Loss => totals.loss += packets,
                DropClass::Noise => totals.noise += packets,
            }
        }
        totals
    }
}

/// What was dropped of an endpoint, noise apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointDropsView {
    /// Of what it sent, by reason; reasons that never occurred are missing.
    pub sent: BTreeMap<String, u64>,
    /// Of what was for it, likewise.
    pub received: BTreeMap<String, u64>,
}

impl From<&EndpointDrops> for EndpointDropsView {
    fn from(drops: &EndpointDrops) -> Self {
        let named = |counts: &BTreeMap<&'static str, u64>| {
            let counts = counts.iter();
            counts
                .map(|(reason, packets)| ((*reason).to_owned(), *packets))
                .collect()
        };
        Self {
            sent: named(&drops.sent),
            received: named(&drops.received),
        }
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
    use crate::agent::api::fake;

    #[test]
    fn loss_is_told_before_noise_and_the_most_frequent_first() {
        let counts = [
            ("arp_gratuitous", 99),
            ("too_big", 1),
            ("source_ip", 7),
            ("a_newer_agents", 2),
        ];
        let order: Vec<_> = drop_counts(counts)
            .into_iter()
            .map(|count| count.reason)
            .collect();
        assert_eq!(
            order,
            ["source_ip", "a_newer_agents", "too_big", "arp_gratuitous"]
        );
        assert_eq!(
            DropTotals::of(counts),
            DropTotals {
                loss: 10,
                noise: 99
            }
        );
    }

    #[test]
    fn a_sample_says_who_sent_what_to_whom() {
        let sent = fake::drop_sample().dropped;
        assert_eq!(
            sent.to_string(),
            "source_ip of web to h2 (VNI 42, 7.7.7.9 -> 7.7.7.3 icmp type 8, 98 bytes)"
        );
        let received = DroppedView {
            direction: DropDirection::Received,
            node: None,
            endpoint: None,
            vni: None,
            ..sent
        };
        assert_eq!(
            received.to_string(),
            "source_ip from 10.0.0.2 (7.7.7.9 -> 7.7.7.3 icmp type 8, 98 bytes)"
        );
    }

    #[test]
    fn an_endpoints_drops_are_told_in_a_line_with_their_reasons() {
        let mut drops = EndpointDrops::default();
        let told = |drops: &EndpointDrops| EndpointDropsView::from(drops).to_string();
        assert_eq!(told(&drops), "0 sent, 0 received");
        drops.sent = BTreeMap::from([("source_ip", 3), ("too_big", 70)]);
        drops.received = BTreeMap::from([("source_ip", 1)]);
        assert_eq!(
            told(&drops),
            "73 (too_big 70, source_ip 3) sent, 1 (source_ip 1) received"
        );
        let counts = endpoint_drop_counts(&drops);
        let of = |reason: &str| {
            let mut counts = counts.iter();
            let count = counts.find(|count| count.reason == reason).unwrap();
            (count.packets, count.sent, count.received)
        };
        assert_eq!(of("source_ip"), (4, Some(3), Some(1)));
        assert_eq!(of("too_big"), (70, Some(70), Some(0)));
    }
}
