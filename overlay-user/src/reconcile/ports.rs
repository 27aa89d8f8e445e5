//! Makes, looks at and removes the interfaces of this node's endpoints.
//!
//! The owner of a namespace can make each of these take arbitrarily long. So the loop awaits one for a moment
//! and then continues; the result arrives as a completion. An endpoint that failed or was slow before is
//! handled in the background from the start.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};

use super::{
    Observer, Reconciler,
    apply::Applier,
    mirror::Mirror,
    plan::ChangeSet,
    ports_at_work::{Made, Making, Unsent},
    wake::Completion,
    work::Work,
    writer::SmallTablesDirty,
};
use crate::{
    model::Name,
    platform::{Platform, PlatformError, Port, PortSpec},
};

/// How many interfaces are made or removed at the same time while the loop waits.
const AT_ONCE: usize = 16;
/// How often namespaces are looked for that a crash left behind, if none has failed to be removed since.
const ORPHANS: Duration = Duration::from_mins(10);
/// For how long the loop waits for one. It takes some 30 ms where nothing is in its way.
const PORT_WAIT: Duration = Duration::from_secs(1);

/// What came of the wait for an interface.
enum Waited {
    Done(PortSpec, Made),
    TakesLonger(PortSpec, Making),
    NotBegun(PortSpec),
}

/// What is done of a port.
#[derive(Clone, Copy)]
enum Step {
    /// All but what lets its endpoint send.
    Make,
    /// That.
    Open,
}

impl Step {
    async fn take(self, platform: &dyn Platform, spec: &PortSpec) -> Made {
        match self {
            Self::Make => platform.ensure_port(spec).await,
            Self::Open => platform.refresh_port(spec).await?.ok_or_else(|| {
                let name = &spec.endpoint;
                PlatformError::Kernel {
                    what: format!("setting up the interface of endpoint {name}"),
                    cause: "somebody removed it meanwhile".to_owned(),
                }
            }),
        }
    }
}

impl Applier {
    /// Makes the interfaces of these endpoints as far as they have one here, then their rows, then attaches the
    /// programs, then lets the endpoints send.
    pub(super) async fn ensure_ports(&mut self, mirror: &Mirror, names: Vec<Name>) -> Vec<String> {
        let mut specs = Vec::new();
        let (mut impossible, mut unmade) = (Vec::new(), Vec::new());
        for name in names {
            self.host.endpoints.mark_changed(name.clone());
            match self.local.port_spec(mirror, &name) {
                // Its end is heard of, and what is wanted then looked at.
                Some(_) if self.ports_at_work.making.contains(&name) => {}
                Some(Ok(spec)) if self.host.endpoints.has_failed(&name) => self.retry(spec),
                Some(Ok(spec)) => specs.push(spec),
                Some(Err(reason)) => impossible.push((name, reason)),
                None => {
                    self.missed.remove(&name);
                    self.host.endpoints.clear_degraded(&name);
                    if self.host.endpoints.clear_failed(&name) {
                        unmade.push(name);
                    }
                }
            }
        }
        // Of one that never stood there may be parts and records.
        let mut errors = self.remove_ports(&unmade).await;
        let made = self.on_step(Step::Make, specs).await;
        for (name, reason) in impossible {
            self.fail(&name, &reason);
        }
        errors.extend(self.on_made(mirror, made).await);
        errors
    }

    /// Does this with each of the ports; gives those that the loop waited for.
    async fn on_step(&mut self, step: Step, specs: Vec<PortSpec>) -> Vec<(PortSpec, Made)> {
        // Where one takes its time, many may: none is begun any more that the loop would wait for.
        let (platform, is_slow) = (&self.platform, &AtomicBool::new(false));
        let made = stream::iter(specs).map(|spec| async move {
            if is_slow.load(Ordering::Relaxed) {
                return Waited::NotBegun(spec);
            }
            let (platform, wanted) = (Arc::clone(platform), spec.clone());
            let mut making = Work::begin(async move { step.take(&*platform, &wanted).await });
            if let Ok(made) = timeout(PORT_WAIT, making.end()).await {
                return Waited::Done(spec, made);
            }
            is_slow.store(true, Ordering::Relaxed);
            Waited::TakesLonger(spec, making)
        });
        let all: Vec<_> = made.buffer_unordered(AT_ONCE).collect().await;
        let mut made = Vec::new();
        for one in all {
            match one {
                Waited::Done(spec, outcome) => made.push((spec, outcome)),
                Waited::TakesLonger(spec, making) => self.make_beside(spec, making),
                Waited::NotBegun(spec) => self.retry(spec),
            }
        }
        made
    }

    /// Lets endpoints send whose interfaces are up on the host's side by now.
    async fn open(&mut self, mirror: &Mirror, mut closed: Vec<PortSpec>) {
        closed.retain(|spec| {
            let ifindex = self.host.endpoints.ifindex(&spec.endpoint);
            ifindex.is_some_and(|ifindex| self.attached.up.contains(&ifindex))
        });
        if closed.is_empty() {
            return;
        }
        if self.writer.small_tables_dirty == Some(SmallTablesDirty::Unread)
            && let Err(error) = self.repair_small_tables(mirror)
        {
            return self.mark_degraded(closed.into_iter().map(|spec| spec.endpoint), &error);
        }
        for (spec, opened) in self.on_step(Step::Open, closed).await {
            if let Err(error) = opened {
                self.fail(&spec.endpoint, &error.to_string());
            }
        }
    }

    /// Makes one beside the loop from the beginning.
    fn retry(&mut self, spec: PortSpec) {
        let retries = Arc::clone(&self.ports_at_work.retries);
        let (platform, wanted) = (Arc::clone(&self.platform), spec.clone());
        let making = Work::begin(async move {
            // Never closed; without a permit it would be one more at the same time.
            let _permit = retries.acquire().await.ok();
            platform.ensure_port(&wanted).await
        });
        self.make_beside(spec, making);
    }

    fn make_beside(&mut self, spec: PortSpec, making: Making) {
        self.ports_at_work.making.insert(spec.endpoint.clone());
        self.ports_at_work.unsent.push(Unsent::Making(spec, making));
    }

    /// Takes in an interface that was made beside the loop; makes it anew if another one is wanted by now.
    pub(super) async fn finish_port(
        &mut self,
        mirror: &Mirror,
        spec: PortSpec,
        made: Made,
    ) -> Vec<String> {
        let name = spec.endpoint.clone();
        self.ports_at_work.making.remove(&name);
        self.ports_at_work.made += 1;
        match self.local.port_spec(mirror, &name) {
            Some(Ok(wanted)) if wanted == spec => self.on_made(mirror, vec![(spec, made)]).await,
            wanted => {
                let mut errors = Vec::new();
                // A making that failed leaves things behind too.
                if wanted.is_none() {
                    self.host.endpoints.clear_failed(&name);
                    errors.extend(self.remove_ports(std::slice::from_ref(&name)).await);
                }
                errors.extend(self.ensure_ports(mirror, vec![name]).await);
                errors
            }
        }
    }

    /// Takes in what became of interfaces: their rows, then their programs, then their endpoints may send.
    async fn on_made(&mut self, mirror: &Mirror, made: Vec<(PortSpec, Made)>) -> Vec<String> {
        let mut changes = ChangeSet::default();
        let (mut standing, mut closed) = (Vec::new(), Vec::new());
        for (spec, made) in made {
            closed.extend(matches!(&made, Ok(port) if !port.is_open).then(|| spec.clone()));
            let name = spec.endpoint;
            self.note_endpoint(mirror, &name, &mut changes);
            match made {
                Ok(Port {
                    host_ifindex,
                    has_xdp,
                    ..
                }) => {
                    self.host.endpoints.clear_failed(&name);
                    if self.missed.remove(&name) {
                        let what = "its interface was gone and is made anew".to_owned();
                        self.note_repair(Some(name.clone()), what);
                    }
                    let endpoints = &mut self.host.endpoints;
                    endpoints.set_attachment(&name, spec.attachment);
                    endpoints.set_interface(&name, host_ifindex, has_xdp);
                    self.attached.up.remove(&host_ifindex);
                    standing.push(name);
                }
                // No word on whether its interface is gone: if it was there, it is.
                Err(error) => self.fail(&name, &error.to_string()),
            }
        }
        let written = self.write_changes(mirror, changes).err();
        let attached = self.attach().await.err();
        self.open(mirror, closed).await;
        // What is wrong with another's interface is not wrong with these.
        let is_served = |name: &Name| {
            let ifindex = self.host.endpoints.ifindex(name);
            ifindex.is_some_and(|ifindex| {
                self.attached.up.contains(&ifindex)
                    && self.writer.datapath.is_attached(ifindex) == Some(true)
            })
        };
        let error = written.as_ref().or(attached.as_ref());
        let is_hit = |name: &Name| written.is_some() || (attached.is_some() && !is_served(name));
        let (hit, well): (Vec<Name>, Vec<Name>) = standing.into_iter().partition(is_hit);
        if let Some(error) = error {
            self.mark_degraded(hit, error);
        }
        if !self.writer.needs_sweep && self.writer.small_tables_dirty.is_none() {
            for name in &well {
                self.host.endpoints.clear_degraded(name);
            }
        }
        written.into_iter().chain(attached).collect()
    }

    fn fail(&mut self, name: &Name, reason: &str) {
        if self.host.endpoints.set_failed(name, reason) {
            tracing::warn!(endpoint = %name, reason, "endpoint can't be made");
        }
    }

    /// Takes in what a look at a port has found: makes anew what is not there, and what the look may have
    /// put back to a previous spec.
    pub(super) async fn on_look(
        &mut self,
        mirror: &Mirror,
        spec: PortSpec,
        looked: Result<Option<Port>, PlatformError>,
    ) -> Vec<String> {
        let Some(wanted) = self.local.port_spec(mirror, &spec.endpoint) else {
            return Vec::new();
        };
        let name = spec.endpoint.clone();
        let known = self.host.endpoints.ifindex(&name);
        match looked {
            Ok(Some(port))
                if wanted.as_ref() == Ok(&spec)
                    && known == Some(port.host_ifindex)
                    && self.host.endpoints.has_xdp(port.host_ifindex) == port.has_xdp
                    && !self.host.endpoints.has_failed(&name) =>
            {
                let mut mended = port.mended;
                if !port.is_up && self.attached.up.contains(&port.host_ifindex) {
                    mended.push("its host side was down".to_owned());
                }
                if !mended.is_empty() {
                    self.note_repair(Some(name.clone()), mended.join(", "));
                }
                // The look puts right all but this, which needs to know of programs.
                self.attached.up.remove(&port.host_ifindex);
                let set = self.set_up(&BTreeSet::from([port.host_ifindex])).await;
                if let Err(error) = &set {
                    self.mark_degraded([name], error);
                }
                if !port.is_open {
                    self.open(mirror, vec![spec]).await;
                }
                set.err().into_iter().collect()
            }
            Ok(looked) => {
                if looked.is_none() && known.is_some() {
                    self.missed.insert(name.clone());
                }
                self.ensure_ports(mirror, vec![name]).await
            }
            Err(error) => {
                self.fail(&name, &error.to_string());
                Vec::new()
            }
        }
    }

    /// Removes interfaces. One that takes longer is gone later, or found again by the next look at the host.
    pub(super) async fn remove_ports(&mut self, names: &[Name]) -> Vec<String> {
        let (platform, retries) = (&self.platform, &self.ports_at_work.retries);
        let is_slow = &AtomicBool::new(false);
        let removals = stream::iter(names.to_vec()).map(|name| async move {
            let (platform, gone) = (Arc::clone(platform), name.clone());
            let waits = is_slow.load(Ordering::Relaxed);
            let retries = waits.then(|| Arc::clone(retries));
            let mut removal = Work::begin(async move {
                let _permit = match &retries {
                    Some(retries) => retries.acquire().await.ok(),
                    None => None,
                };
                platform.remove_port(&gone).await
            });
            let patience = if waits { Duration::ZERO } else { PORT_WAIT };
            if let Ok(removed) = timeout(patience, removal.end()).await {
                return Ok((name, removed));
            }
            is_slow.store(true, Ordering::Relaxed);
            Err((name, removal))
        });
        let all: Vec<_> = removals.buffer_unordered(AT_ONCE).collect().await;
        let mut errors = Vec::new();
        for one in all {
            match one {
                Ok((name, removed)) => errors.extend(self.on_removed(&name, removed)),
                Err((name, removal)) => {
                    // What comes next is not to be held against where this one was.
                    self.host.endpoints.remove_attachment(&name);
                    let unsent = &mut self.ports_at_work.unsent;
                    unsent.push(Unsent::Removal(name, removal));
                }
            }
        }
        errors
    }

    /// Takes in that an interface was removed; gives the error if it was not.
    pub(super) fn on_removed(
        &mut self,
        name: &Name,
        removed: Result<(), PlatformError>,
    ) -> Option<String> {
        // It may stand again by now.
        if removed.is_ok() && self.host.endpoints.ifindex(name).is_none() {
            self.host.endpoints.remove_attachment(name);
        }
        if removed.is_err() {
            self.ports_at_work.next_orphans = None;
        }
        removed.err().map(|error| error.to_string())
    }

    /// Removes namespaces of ours that no interface leads to, now and then: it has to ask for each of them.
    pub(super) async fn remove_orphan_namespaces(&mut self) -> Option<String> {
        let (now, at_work) = (Instant::now(), &mut self.ports_at_work);
        if at_work.next_orphans.is_some_and(|next| now < next) {
            return None;
        }
        let platform = Arc::clone(&self.platform);
        let begin = || Work::begin(async move { platform.remove_orphan_namespaces().await });
        let mut removal = at_work.orphans.take().unwrap_or_else(begin);
        let Ok(removed) = timeout(PORT_WAIT, removal.end()).await else {
            // The next look at the host asks for its end.
            at_work.orphans = Some(removal);
            return None;
        };
        at_work.next_orphans = removed.is_ok().then_some(now + ORPHANS);
        removed.err().map(|error| error.to_string())
    }
}

impl Observer {
    /// Waits until it is known what became of the endpoint's interface, if that is being made.
    pub async fn made(&mut self, name: &Name) {
        loop {
            self.progress.mark_unchanged();
            let is_over = !self.view().await.making.contains(name);
            if is_over || !self.moved().await {
                return;
            }
        }
    }
}

impl Reconciler {
    /// Sends on its way what the loop does not wait for any longer.
    pub(super) fn send_unfinished(&mut self) {
        for unsent in mem::take(&mut self.applier.ports_at_work.unsent) {
            match unsent {
                Unsent::Making(spec, mut making) => self
                    .wake
                    .spawn_request(async move { Completion::Made(spec, making.end().await) }),
                Unsent::Removal(name, mut removal) => self
                    .wake
                    .spawn_request(async move { Completion::Removed(name, removal.end().await) }),
            }
        }
    }

    pub(super) async fn on_made(&mut self, spec: PortSpec, made: Made) {
        let view = self.view.read().await;
        let errors = self.applier.finish_port(&view.mirror, spec, made).await;
        drop(view);
        self.errors.extend(errors);
    }

    pub(super) async fn on_removed(&mut self, name: Name, removed: Result<(), PlatformError>) {
        let view = self.view.read().await;
        // It may have come after its successor.
        let is_doubtful = removed.is_ok() && self.applier.host.endpoints.ifindex(&name).is_some();
        let mut errors = Vec::from_iter(self.applier.on_removed(&name, removed));
        if is_doubtful {
            errors.extend(self.applier.ensure_ports(&view.mirror, vec![name]).await);
        }
        drop(view);
        self.errors.extend(errors);
    }
}
