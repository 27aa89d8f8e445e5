//! The events of `overlay monitor`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::{MissedTickBehavior, interval},
};

use super::{
    api::{ErrorKind, Event, EventView, OperationError, RegistryChange, drop_class, drop_sample},
    map_reader::MapReader,
    service::{Agent, names_of},
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{DropClass, DroppedFrame},
    reconcile::Observer,
    registry::WatchEvent,
};

/// How often the drop counters are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Dropped packets that one look tells of at most.
const AT_ONCE: usize = 20;
/// Events that wait for a slow reader.
const EVENTS_AHEAD: usize = 1024;

impl Agent {
    /// What happens from now on, until the reader goes away or the agent ends.
    pub(super) async fn events(&self) -> Result<mpsc::Receiver<EventView>, OperationError> {
        let place = Arc::clone(&self.monitors).try_acquire_owned();
        let place = place.map_err(|_| {
            OperationError::new(
                ErrorKind::Unavailable,
                "as many monitors run as the agent serves at once: end one of them",
            )
        })?;
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let changes = self.registry.watch().await?;
        let happening = self.observer.events().listen();
        let (maps, observer) = (self.maps.clone(), self.observer.clone());
        let mut stopped = self.stopped();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = watch_drops(maps, observer, &sender) => {}
                () = watch_registry(changes, &sender) => {}
                () = watch_loop(happening, &sender) => {}
                () = sender.closed() => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
        Ok(receiver)
    }
}

/// Tells of the registry's changes; ends with the watch, or when nobody listens.
async fn watch_registry(mut changes: mpsc::Receiver<WatchEvent>, sender: &mpsc::Sender<EventView>) {
    while let Some(event) = changes.recv().await {
        for change in told(event) {
            let event = EventView::now(Event::Registry { change });
            if sender.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Tells of what the control loop does; ends with it, or when nobody listens.
async fn watch_loop(mut happening: broadcast::Receiver<Event>, sender: &mpsc::Sender<EventView>) {
    loop {
        let event = match happening.recv().await {
            Ok(event) if is_told_by_watch(&event) => continue,
            Ok(event) => event,
            Err(RecvError::Lagged(events)) => Event::Lost { events },
            Err(RecvError::Closed) => return,
        };
        if sender.send(EventView::now(event)).await.is_err() {
            return;
        }
    }
}

/// Whether the registry's watch, which a monitor has too, tells of the same.
fn is_told_by_watch(event: &Event) -> bool {
    let Event::Registry { change } = event else {
        return false;
    };
    !matches!(change, RegistryChange::Read { .. })
}

/// What a watch's event tells people.
fn told(event: WatchEvent) -> Vec<RegistryChange> {
    let delta = match event {
        WatchEvent::Delta(delta) => delta,
        WatchEvent::Resync => return vec![RegistryChange::Resync],
        WatchEvent::Lost(reason) | WatchEvent::Foreign(reason) => {
            return vec![RegistryChange::Lost { reason }];
        }
        WatchEvent::Restored => return vec![RegistryChange::Restored],
        WatchEvent::Alive(node) => return vec![RegistryChange::NodeAlive { node }],
        WatchEvent::Silent(node) => return vec![RegistryChange::NodeSilent { node }],
        WatchEvent::Question(_) => return Vec::new(),
    };
    let removed = delta.networks_removed.into_iter();
    let mut changes: Vec<_> = removed
        .map(|vni| RegistryChange::NetworkRemoved { vni })
        .collect();
    let removed = delta.nodes_removed.into_iter();
    changes.extend(removed.map(|node| RegistryChange::NodeRemoved { node }));
    let removed = delta.endpoints_removed.into_iter();
    changes.extend(removed.map(|endpoint| RegistryChange::EndpointRemoved { endpoint }));
    changes.extend(
        delta
            .networks
            .into_iter()
            .map(|network| RegistryChange::NetworkPut {
                vni: network.vni,
                network: network.name,
            }),
    );
    changes.extend(delta.nodes.into_iter().map(|node| RegistryChange::NodePut {
        vtep: node.vtep.to_string(),
        node: node.name,
    }));
    changes.extend(
        delta
            .endpoints
            .into_iter()
            .map(|endpoint| RegistryChange::EndpointPut {
                vni: endpoint.vni,
                mac: endpoint.mac,
                node: endpoint.node,
                generation: endpoint.generation,
                endpoint: endpoint.name,
            }),
    );
    changes
}

/// Drops by reason.
type Drops = BTreeMap<&'static str, u64>;

/// What was seen of drops up to a look.
#[derive(Default)]
struct Seen {
    drops: Drops,
    /// When the last packet was dropped that is noted down, by reason.
    frames: BTreeMap<&'static str, u64>,
}

/// Tells of drops as they grow; ends when nobody listens.
async fn watch_drops(maps: MapReader, observer: Observer, sender: &mpsc::Sender<EventView>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Seen> = None;
    loop {
        look.tick().await;
        let (drops, frames) = match maps.ask(read_drops(seen.as_ref())).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "drops can't be watched");
                continue;
            }
        };
        let is_first = seen.is_none();
        let seen = seen.get_or_insert_default();
        let frames = seen.fresh(frames);
        if !is_first {
            let names = names_of(&*observer.view().await);
            let dropped = frames.into_iter();
            let dropped = dropped.map(|frame| drop_sample(frame, &names).into());
            let grown = grown(&seen.drops, &drops);
            let grown = grown.into_iter().map(EventView::now);
            for event in dropped.chain(grown) {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
        seen.drops = drops;
    }
}

/// Reads the counters, and the packets of those that have grown since the last look.
fn read_drops(
    seen: Option<&Seen>,
) -> impl FnOnce(&dyn Datapath) -> Result<(Drops, Vec<DroppedFrame>), DatapathError> + use<> {
    let before = seen.map(|seen| seen.drops.clone()).unwrap_or_default();
    move |datapath| {
        let drops = datapath.drops()?;
        let grown: BTreeSet<&str> = drops
            .iter()
            .filter(|(reason, total)| before.get(*reason).copied().unwrap_or(0) != **total)
            .map(|(reason, _)| *reason)
            .collect();
        let frames = datapath.dropped_frames(&grown)?;
        Ok((drops, frames))
    }
}

impl Seen {
    /// The packets that are new and somebody may miss, the last few of them; notes them.
    fn fresh(&mut self, frames: Vec<DroppedFrame>) -> Vec<DroppedFrame> {
        let mut fresh = Vec::new();
        for frame in frames {
            let last = self.frames.get(frame.reason).copied().unwrap_or(0);
            if frame.at_ns > last {
                self.frames.insert(frame.reason, frame.at_ns);
                if frame.class == DropClass::Loss {
                    fresh.push(frame);
                }
            }
        }
        let surplus = fresh.len().saturating_sub(AT_ONCE);
        fresh.drain(..surplus);
        fresh
    }
}

/// What grew between two looks.
fn grown(before: &Drops, now: &Drops) -> Vec<Event> {
    let packets = |reason, total: u64| total - before.get(reason).copied().unwrap_or(0).min(total);
    now.iter()
        .map(|(reason, total)| (*reason, packets(reason, *total), *total))
        .filter(|(_, packets, _)| *packets > 0)
        .map(|(reason, packets, total)| Event::Drop {
            reason: reason.to_owned(),
            packets,
            total,
            class: drop_class(reason),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    use crate::{
        agent::fake,
        model::{Delta, DropDirection},
    };

    #[test]
    fn of_a_delta_removals_are_told_first() {
        let delta = Delta {
            nodes_removed: vec!["h2".parse().unwrap()],
            networks: vec![fake::network()],
            ..Delta::default()
        };
        let lines: Vec<_> = told(WatchEvent::Delta(delta))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines, ["node h2 removed", "network blue put: VNI 42"]);
    }

    #[test]
    fn only_reasons_that_grew_are_told_with_their_growth() {
        let before = Drops::from([("vni_unknown", 3), ("too_big", 7), ("malformed", 0)]);
        let now = Drops::from([("vni_unknown", 5), ("too_big", 7), ("malformed", 0)]);
        let expected = Event::Drop {
            reason: "vni_unknown".to_owned(),
            packets: 2,
            total: 5,
            class: DropClass::Loss,
        };
        assert_eq!(grown(&before, &now), [expected]);
    }

    fn frame(at_ns: u64, reason: &'static str, class: DropClass) -> DroppedFrame {
        DroppedFrame {
            at_ns,
            time: SystemTime::UNIX_EPOCH,
            reason,
            class,
            direction: DropDirection::Sent,
            endpoint: None,
            vni: None,
            peer: None,
            frame: fake::drop_sample().dropped.frame,
        }
    }

    #[test]
    fn each_packet_is_told_once_and_noise_never() {
        let mut seen = Seen::default();
        let loss = |at_ns| frame(at_ns, "source_ip", DropClass::Loss);
        let noise = frame(7, "nd_detection", DropClass::Noise);
        let fresh = seen.fresh(vec![loss(5), noise.clone(), loss(8)]);
        assert_eq!(fresh, [loss(5), loss(8)]);
        // Of another reason one may come to light later that is older.
        let late = frame(6, "too_big", DropClass::Loss);
        let fresh = seen.fresh(vec![loss(5), late.clone(), noise, loss(8), loss(9)]);
        assert_eq!(fresh, [late, loss(9)]);
    }

    #[test]
    fn of_many_packets_the_last_are_told() {
        let many = (1..=100).map(|at_ns| frame(at_ns, "source_ip", DropClass::Loss));
        let fresh = Seen::default().fresh(many.collect());
        assert_eq!(fresh.len(), AT_ONCE);
        assert_eq!(fresh.last().unwrap().at_ns, 100);
    }

    #[test]
    fn counters_that_began_anew_are_no_growth_below_zero() {
        let (before, now) = (Drops::from([("too_big", 7)]), Drops::from([("too_big", 2)]));
        assert!(grown(&before, &now).is_empty());
    }
}
