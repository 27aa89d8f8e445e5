//! Keeps limits smooth: what an endpoint sends too fast waits in the queue of the interface that it leaves by, where that has
//! one for it (tc-fq). Elsewhere it leaves as it comes, within the same limits.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::outside::WayOut;
use crate::{
    datapath::Pacer,
    model::{Qos, Resource as _},
    platform::Linux,
    reconcile::{Observer, writer::on_kernel},
};

/// How often it looks at the interfaces' queues.
const TURN: Duration = Duration::from_secs(2);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps it so.
pub(super) struct Keeper {
    pub platform: Arc<Linux>,
    pub pacer: Arc<dyn Pacer>,
    pub observer: Observer,
    pub way_out: watch::Receiver<WayOut>,
}

impl Keeper {
    /// Runs as long as the agent.
    pub(super) async fn run(self) {
        let mut told = None;
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let paced = match self.wanted().await {
                Ok(wanted) => {
                    let set = on_kernel(|| self.pacer.set_paced(&wanted));
                    set.map(|()| wanted).map_err(|error| error.to_string())
                }
                // A look that failed says nothing about the queues.
                Err(problem) => Err(problem),
            };
            if told.as_ref() == Some(&paced) {
                continue;
            }
            match &paced {
                Ok(paced) if paced.is_empty() => {}
                Ok(paced) => tracing::info!(?paced, "what departs late waits in these queues"),
                Err(problem) => tracing::warn!(problem, "limits are as smooth as they were"),
            }
            told = Some(paced);
        }
    }

    /// The interfaces that limited packets leave by and that have a queue for them.
    async fn wanted(&self) -> Result<BTreeSet<u32>, String> {
        let is_limited = {
            let view = self.observer.view().await;
            view.mirror.objects().any(|it| Qos::known(it).is_some())
        };
        if !is_limited {
            return Ok(BTreeSet::new());
        }
        let fair = timeout(LOOK_TIMEOUT, self.platform.fair_queues()).await;
        let fair = fair.map_err(|_| format!("no answer of the kernel within {LOOK_TIMEOUT:?}"))?;
        let fair = fair.map_err(|error| error.to_string())?;
        let uplink = self.way_out.borrow().uplink.map(|uplink| uplink.ifindex);
        let leaving = [Some(self.pacer.underlay()), uplink];
        Ok(leaving
            .into_iter()
            .flatten()
            .filter(|ifindex| fair.contains(ifindex))
            .collect())
    }
}
