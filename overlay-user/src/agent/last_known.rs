//! What the agent knew of the registry, for the next one: a registry that has lost it meanwhile is no more
//! believed by that one than by this.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::instance;
use crate::{
    config::InstancePaths,
    model::{RegistryId, Revision, Snapshot},
    reconcile::{Handover, Observer},
    registry::Registry,
};

/// How often what the loop knows is compared with what is written, whether or not it told of a change.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes at least.
const PAUSE: Duration = Duration::from_millis(100);

/// What there is to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastKnown {
    /// The registry that it is about.
    pub identity: Option<RegistryId>,
    /// The last revision that was carried over to the kernel.
    pub revision: Revision,
    /// See [`Handover::held`].
    pub held: Snapshot,
    /// See [`Handover::doubted`].
    #[serde(default)]
    pub doubted: Snapshot,
    /// See [`Handover::unfollowed`].
    #[serde(default)]
    pub unfollowed: Snapshot,
}

impl LastKnown {
    /// What the loop takes in of it.
    pub(super) fn handover(self) -> Handover {
        Handover {
            held: self.held,
            doubted: self.doubted,
            unfollowed: self.unfollowed,
        }
    }

    /// What the instance's last agent knew of this registry; nothing, if it knew another one.
    pub(super) fn read(
        paths: &InstancePaths,
        identity: Option<RegistryId>,
    ) -> anyhow::Result<Self> {
        let found: Option<Self> = instance::find(&paths.last_known)?;
        Ok(found
            .filter(|known| known.identity == identity)
            .unwrap_or_default())
    }
}

/// Writes down what the loop knows, as often as that changes. `previous` is the revision that the last agent
/// followed. Ends with the loop.
pub(super) async fn keep(
    mut observer: Observer,
    registry: Arc<dyn Registry>,
    paths: InstancePaths,
    previous: Revision,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            goes_on = observer.moved() => if !goes_on { return },
        }
        let view = observer.view().await;
        // Until all has been read, what the previous agent wrote is the better word.
        if view.counters.readings == 0 {
            continue;
        }
        let now = (
            registry.identity(),
            view.applied,
            view.mirror.withheld_version(),
            view.rejected.keys().cloned().collect::<Vec<_>>(),
        );
        if written.as_ref() == Some(&now) {
            continue;
        }
        let Handover {
            held,
            doubted,
            unfollowed,
        } = view.handover();
        let known = LastKnown {
            identity: now.0,
            // Nothing is followed while all that is known is held.
            revision: if now.1 == 0 { previous } else { now.1 },
            held,
            doubted,
            unfollowed,
        };
        drop(view);
        let path = paths.last_known.clone();
        let writing = tokio::task::spawn_blocking(move || instance::leave(&path, &known));
        match writing.await {
            Ok(Ok(())) => written = Some(now),
            Ok(Err(error)) => tracing::warn!(error = format_args!("{error:#}"), "not remembered"),
            Err(error) => tracing::warn!(%error, "not remembered"),
        }
        sleep(PAUSE).await;
    }
}
