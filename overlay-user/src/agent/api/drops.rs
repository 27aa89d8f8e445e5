//! Dropped packets: how many, and some of them.

use std::{collections::BTreeMap, net::IpAddr};

use overlay_api::{
    DropClass, DropCountView, DropSampleView, DropTotals, DroppedView, EndpointDropsView, Name,
};
use overlay_ebpf::abi::DropReason;

use super::milliseconds;
use crate::model::{DroppedFrame, EndpointDrops};

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
        .map(|frame| drop_sample(frame, names))
        .collect();
    views.sort_by_key(|view| view.dropped.class);
    views
}

/// The view of a frame, with names.
#[must_use]
pub fn drop_sample(dropped: DroppedFrame, names: &DropNames) -> DropSampleView {
    let endpoint = dropped.endpoint.and_then(|it| names.endpoints.get(&it));
    let node = dropped.peer.and_then(|peer| names.nodes.get(&peer.ip()));
    DropSampleView {
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

/// The sums of counts by reason.
#[must_use]
pub fn drop_totals<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> DropTotals {
    let mut totals = DropTotals::default();
    for (reason, packets) in counts {
        match drop_class(reason) {
            DropClass::Loss => totals.loss += packets,
            DropClass::Noise => totals.noise += packets,
        }
    }
    totals
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::fake, model::DropDirection};

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
            drop_totals(counts),
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
