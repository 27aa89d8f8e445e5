//! What `overlay monitor` prints.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::{MissedTickBehavior, interval},
};

use super::{
    api::{ErrorKind, Event, EventView, OperationError, RegistryChange},
    map_reader::MapReader,
    operations::Agent,
};
use crate::{
    datapath::Datapath,
    reconcile::event::{self as reconcile, DropCause},
    registry::WatchEvent,
};

/// How often the drop counters are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Readers at once: each has a watch on the registry.
pub(super) const READERS: usize = 16;
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
        let maps = self.maps.clone();
        let mut stopped = self.stopped();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = watch_drops(maps, &sender) => {}
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
async fn watch_loop(
    mut happening: broadcast::Receiver<reconcile::Event>,
    sender: &mpsc::Sender<EventView>,
) {
    loop {
        let event = match happening.recv().await {
            Ok(event) => of_loop(event),
            Err(RecvError::Lagged(events)) => Some(Event::Lost { events }),
            Err(RecvError::Closed) => return,
        };
        if let Some(event) = event
            && sender.send(EventView::now(event)).await.is_err()
        {
            return;
        }
    }
}

/// What the loop's event tells people. `None`: the registry's watch tells it.
fn of_loop(event: reconcile::Event) -> Option<Event> {
    use reconcile::Event as Told;
    Some(match event {
        Told::Miss { vni, wanted, asker } => Event::Miss { vni, wanted, asker },
        Told::Resolved {
            vni,
            wanted,
            endpoint,
            node,
            micros,
        } => Event::Resolved {
            vni,
            wanted,
            endpoint,
            node,
            took_us: micros,
        },
        Told::Unresolved { vni, wanted } => Event::Unresolved {
            vni,
            wanted,
            error: None,
        },
        Told::LookupFailed {
            vni,
            wanted,
            reason,
        } => Event::Unresolved {
            vni,
            wanted,
            error: Some(reason),
        },
        Told::Dropped {
            endpoint,
            vni,
            reason,
        } => Event::Evict {
            vni,
            endpoint,
            idle: reason == DropCause::Idle,
        },
        Told::Moved {
            endpoint,
            vni,
            from,
            to,
            generation,
        } => Event::Move {
            vni,
            endpoint,
            from,
            to,
            generation,
        },
        Told::EndpointReady { endpoint } => Event::Endpoint {
            endpoint,
            error: None,
        },
        Told::EndpointFailed { endpoint, reason } => Event::Endpoint {
            endpoint,
            error: Some(reason),
        },
        Told::EndpointGone { endpoint } => Event::Gone { endpoint },
        Told::Repaired { endpoint, what } => Event::Repaired { endpoint, what },
        Told::RegistryRead {
            revision,
            endpoints,
            millis,
        } => Event::Registry {
            change: RegistryChange::Read {
                revision,
                endpoints,
                took_ms: millis,
            },
        },
        Told::Mended { put, removed } => Event::Mended { put, removed },
        Told::Failed { reason } => Event::Failed { error: reason },
        Told::NodeAlive { .. }
        | Told::NodeSilent { .. }
        | Told::RegistryLost { .. }
        | Told::RegistryRestored => return None,
    })
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

/// Tells of drops as they grow; ends when nobody listens.
async fn watch_drops(maps: MapReader, sender: &mpsc::Sender<EventView>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Drops> = None;
    loop {
        look.tick().await;
        let drops = match maps.ask(Datapath::drops).await {
            Ok(drops) => drops,
            Err(error) => {
                tracing::warn!(%error, "drops can't be watched");
                continue;
            }
        };
        for event in seen.iter().flat_map(|seen| grown(seen, &drops)) {
            if sender.send(EventView::now(event)).await.is_err() {
                return;
            }
        }
        seen = Some(drops);
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
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Delta;

    #[test]
    fn of_a_delta_removals_are_told_first() {
        let delta = Delta {
            nodes_removed: vec!["h2".parse().unwrap()],
            networks: vec![crate::agent::api::fake::network()],
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
        };
        assert_eq!(grown(&before, &now), [expected]);
    }

    #[test]
    fn counters_that_began_anew_are_no_growth_below_zero() {
        let (before, now) = (Drops::from([("too_big", 7)]), Drops::from([("too_big", 2)]));
        assert!(grown(&before, &now).is_empty());
    }
}
