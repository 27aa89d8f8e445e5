//! Operations on the agent itself: `overlay status`, `overlay down`.

use std::{collections::BTreeMap, sync::Arc};

use overlay_ebpf::abi::ABI_VERSION;

use crate::agent::service::{Agent, named};
use crate::{
    agent::{
        api::{
            DatapathView, Down, DownView, EndpointCounts, ErrorKind, OperationError, RegistryView,
            RejectedView, ShowStatus, StalledView, StatusView, drop_totals,
        },
        server::{Handle, Outcome},
        teardown,
    },
    config::InstancePaths,
    model::EndpointState,
    platform::{Platform, netns::Netns},
    reconcile::View,
};

/// Rows of the registry that are left out, and are told of one by one.
const REJECTED: usize = 100;

impl Handle<ShowStatus> for Agent {
    async fn handle(&self, _: ShowStatus) -> Outcome<ShowStatus> {
        let read = self
            .maps
            .ask(|datapath| Ok((datapath.usage()?, datapath.counters()?, datapath.drops()?)));
        // Without the maps the rest is worth knowing all the more.
        let (maps, counters, drops, unread) = match read.await {
            Ok((maps, counters, drops)) => (maps, counters, drops, None),
            Err(error) => (
                BTreeMap::new(),
                BTreeMap::new(),
                BTreeMap::new(),
                Some(error.to_string()),
            ),
        };
        let stalled = self.observer.watchdog().stalled();
        let fast_path_error = self.fast_path_problem.borrow().clone();
        let view = self.observer.view().await;
        let refusal = view.refusal();
        Ok(StatusView {
            instance: self.config.instance.clone(),
            node: self.config.node.clone(),
            ready: view.is_ready() && unread.is_none() && stalled.is_empty(),
            agent: true,
            iface: self.config.iface.clone(),
            vtep: self.underlay.ip.into(),
            port: self.config.port,
            registry: RegistryView {
                url: self.registry.url(),
                connected: view.lost.is_none(),
                followed: view.is_followed(),
                revision: view.mirror.revision(),
                stale_for_s: view.stale_for().as_secs(),
                error: refusal.map(|lost| lost.reason),
                rejected: view
                    .rejected
                    .iter()
                    .take(REJECTED)
                    .map(|(row, why)| RejectedView {
                        row: row.to_string(),
                        why: why.clone(),
                    })
                    .collect(),
            },
            networks: view.mirror.networks().len(),
            endpoints: count(&view),
            paths: self.paths.count(),
            dhcp: self.answers.counts().map(named).collect(),
            datapath: DatapathView {
                attach: self.datapath.attach_mode(),
                abi: ABI_VERSION,
                fast_path: fast_path_error.is_none(),
                fast_path_error,
                maps: maps.into_iter().map(named).collect(),
                counters: counters.into_iter().map(named).collect(),
                drops: drop_totals(drops),
            },
            problems: view.errors.iter().cloned().chain(unread).collect(),
            stalled: stalled.into_iter().map(StalledView::from).collect(),
        })
    }
}

impl Handle<Down> for Agent {
    async fn handle(&self, _: Down) -> Outcome<Down> {
        if let Some(reconciling) = self.reconciling.lock().await.take() {
            reconciling.abort();
            // It ends cancelled; what it left half done goes now.
            let _ = reconciling.await;
        }
        if let Some(remembering) = self.remembering.lock().await.take() {
            // Its file is removed below.
            let _ = remembering.await;
        }
        if let Some(keeping) = self.keeping.lock().await.take() {
            keeping.abort();
            // Likewise: it would make the devices again.
            let _ = keeping.await;
        }
        let paths = InstancePaths::new(&self.config.instance);
        let mut errors = Vec::new();
        match Netns::current() {
            Ok(host) => {
                let platform = Arc::clone(&self.platform) as Arc<dyn Platform>;
                teardown::remove_from_host(&paths, platform, &host, &mut errors).await;
            }
            Err(error) => errors.push(error.to_string()),
        }
        let leaving = teardown::leave(&*self.registry, &self.config.node, &self.session);
        errors.extend(teardown::what_stays(&self.config.node, leaving).await);
        self.stop.send_replace(true);
        teardown::forget(&paths, &self.config.instance, &errors)
            .map_err(|error| OperationError::new(ErrorKind::Internal, format_args!("{error:#}")))?;
        Ok(DownView {})
    }
}

fn count(view: &View) -> EndpointCounts {
    let (local, remote) = view.mirror.counts();
    let own = view.mirror.local_endpoints();
    let states = own.map(|known| view.state_of(known.name()));
    states.fold(
        EndpointCounts {
            local,
            remote,
            ..EndpointCounts::default()
        },
        |counts, state| match state {
            EndpointState::Failed => EndpointCounts {
                failed: counts.failed + 1,
                ..counts
            },
            EndpointState::Pending => EndpointCounts {
                waiting: counts.waiting + 1,
                ..counts
            },
            _ => counts,
        },
    )
}
