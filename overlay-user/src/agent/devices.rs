//! The devices that serve the tunnels, while the agent runs: what somebody removes, sets down or
//! changes is put back at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    datapath::Datapath,
    model::Event,
    platform::{Platform, PlatformError},
    reconcile::{
        event::Events,
        watchdog::{Part, Watchdog},
        writer::on_kernel,
    },
};

/// How often they are looked at though nothing was heard of them.
const ROUTINE: Duration = Duration::from_mins(5);
/// The same where the kernel does not tell of changes.
const CHECK: Duration = Duration::from_secs(30);
/// The first wait after a failure; doubles.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest one.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long one look may take, with what it mends.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it says at least that it goes on.
const TURN: Duration = Duration::from_secs(5);
/// The least time between two looks: somebody may undo each change as soon as it is made.
const PAUSE: Duration = Duration::from_millis(200);

/// Keeps the devices in their desired state.
pub(super) struct Keeper {
    pub platform: Arc<dyn Platform>,
    pub datapath: Arc<dyn Datapath>,
    /// UDP port of the tunnels, host byte order.
    pub port: u16,
}

/// Why the devices are not in their desired state, in a line. `None`: they are.
pub(super) type Problem = Option<String>;

/// The outcome.
pub(super) struct Ensured {
    pub problem: Problem,
    /// What was repaired.
    mended: Vec<String>,
}

impl Keeper {
    /// Makes or repairs the devices. Gives what is wrong with those that the tunnels can do
    /// without; an error says why they can't begin.
    pub(super) async fn ensure(&self) -> anyhow::Result<Ensured> {
        let ensured = self.make().await;
        if ensured.is_err() {
            self.close_slow_path();
        }
        ensured
    }

    /// Nothing is left to a device that may not be there.
    fn close_slow_path(&self) {
        if let Err(error) = on_kernel(|| self.datapath.set_slow_path(None)) {
            tracing::warn!(%error, "the programs may go on leaving packets to a VXLAN device that is gone");
        }
    }

    async fn make(&self) -> anyhow::Result<Ensured> {
        let external = self.platform.ensure_vxlan(self.port).await?;
        on_kernel(|| {
            let guarded = BTreeSet::from([external.ifindex]);
            self.datapath.attach_external(&guarded)
        })?;
        let opened = self.platform.open_vxlan(self.port, external).await;
        let devices = opened?;
        on_kernel(|| self.datapath.set_slow_path(Some(external.ifindex)))?;
        on_kernel(|| self.datapath.attach_external(&devices.ifindexes))?;
        Ok(Ensured {
            problem: devices.no_headroom.as_ref().map(headroom_problem),
            mended: devices.mended,
        })
    }

    /// Keeps them that way. Tells `problem` what is wrong; does not end.
    pub(super) async fn run(
        self,
        problem: watch::Sender<Problem>,
        events: Events,
        watchdog: Arc<Watchdog>,
    ) {
        watchdog.turned(Part::Devices);
        let mut changes = match self.platform.device_changes().await {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::warn!(%error, "what somebody changes is noticed within half a minute");
                None
            }
        };
        let mut backoff = MIN_BACKOFF;
        loop {
            let ensured = timeout(LOOK_TIMEOUT, self.ensure()).await.ok();
            if ensured.is_none() {
                self.close_slow_path();
            }
            // One that gets no answer has not turned, however often it tries.
            let turned = || {
                if ensured.is_some() {
                    watchdog.turned(Part::Devices);
                }
            };
            turned();
            let found = match &ensured {
                Some(Ok(ensured)) => {
                    for what in ensured.mended.iter().cloned() {
                        let endpoint = None;
                        events.tell(Event::Repaired { endpoint, what });
                    }
                    ensured.problem.clone()
                }
                Some(Err(error)) => Some(format!("{error:#}")),
                None => Some(format!("no answer of the kernel within {LOOK_TIMEOUT:?}")),
            };
            let longest = if changes.is_some() { ROUTINE } else { CHECK };
            let wait = if found.is_some() { backoff } else { longest };
            backoff = match &found {
                Some(_) => (backoff * 2).min(MAX_BACKOFF),
                None => MIN_BACKOFF,
            };
            problem.send_if_modified(|known| {
                if *known == found {
                    return false;
                }
                if let Some(problem) = &found {
                    tracing::warn!(problem, "the fast path is off");
                } else {
                    tracing::info!("the fast path is on");
                }
                *known = found;
                true
            });
            let next = Instant::now() + wait;
            sleep(PAUSE).await;
            while timeout(TURN, wait_for_change(&mut changes, next))
                .await
                .is_err()
            {
                turned();
            }
        }
    }
}

fn headroom_problem(error: &PlatformError) -> String {
    format!("each packet is copied to make room for the tunnel's headers: {error}")
}

/// Waits for a change, at the latest until `next`.
async fn wait_for_change(changes: &mut Option<mpsc::Receiver<()>>, next: Instant) {
    let change = async {
        match changes {
            Some(receiver) => receiver.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        change = change => {
            if change.is_none() {
                *changes = None;
            }
        }
        () = sleep_until(next) => {}
    }
}
