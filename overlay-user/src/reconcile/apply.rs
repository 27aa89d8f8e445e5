//! Applies the desired state to the kernel.
//!
//! A row never points at a missing interface, and no interface is up without its program: its frames would
//! reach the host's own stack. Removal order: rows, interface (its program goes with it). Creation order:
//! interface (down), rows, program, host side up, and last the endpoint's own side, so that its first frame is
//! answered like all later ones. All removals come before any creation, because a new endpoint may reuse a
//! name, namespace or address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    announcer::Announcer,
    cache::Lookup,
    desired::{Desired, HostState, Local},
    digest::RowDigests,
    mirror::{EndpointRef, Mirror},
    plan::{ChangeSet, Plan},
    ports_at_work::AtWork,
    status::{PortState, Repair},
    tables::Derived as _,
    writer::{BACKGROUND_THRESHOLD, SmallTablesDirty, Writer, on_kernel},
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{AttachMode, Name, VtepAddr, VtepRow},
    platform::Platform,
};

/// The state of this host's kernel, and the means to change it.
pub struct Applier {
    pub(super) platform: Arc<dyn Platform>,
    pub(super) writer: Writer,
    pub(super) local: Local,
    /// Local interfaces and next hops to the other VTEPs.
    pub(super) host: HostState,
    pub(super) digests: RowDigests,
    pub(super) readings: Readings,
    pub(super) attached: Attached,
    pub(super) ports_at_work: AtWork,
    /// Addresses of rows that a previous agent left and the registry does not know: the next sweep removes
    /// them.
    pub(super) orphaned: BTreeSet<Lookup>,
    pub(super) announcer: Announcer,
    /// Repairs that are not reported yet.
    pub(super) repairs: Vec<Repair>,
    /// Endpoints whose interface was found missing.
    pub(super) missed: BTreeSet<Name>,
}

/// What was read from the kernel so far.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// A previous agent of this boot left rows that were not compared yet.
    pub(super) has_older: bool,
    /// The host's interfaces were listed. Until then none counts as missing.
    pub(super) has_ports: bool,
    /// The last route look-up failed: the known next hops get no lease.
    lacks_paths: bool,
}

/// Where programs are.
#[derive(Debug, Default)]
pub(super) struct Attached {
    underlay: bool,
    endpoints: bool,
    /// Interfaces that are up.
    pub(super) up: BTreeSet<u32>,
}

impl Applier {
    /// Nothing is known of the host yet: begin with [`Self::check`].
    pub fn new(platform: Arc<dyn Platform>, datapath: Arc<dyn Datapath>, local: Local) -> Self {
        Self {
            platform,
            writer: Writer::new(datapath),
            local,
            host: HostState::default(),
            digests: RowDigests::default(),
            readings: Readings::default(),
            attached: Attached::default(),
            ports_at_work: AtWork::default(),
            orphaned: BTreeSet::new(),
            announcer: Announcer::new(Instant::now()),
            repairs: Vec::new(),
            missed: BTreeSet::new(),
        }
    }

    /// What this host adds to the registry's state.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The desired rows.
    #[must_use]
    pub fn desired<'a>(&'a self, mirror: &'a Mirror) -> Desired<'a> {
        Desired {
            mirror,
            local: &self.local,
            host: &self.host,
        }
    }

    /// Whether an endpoint of this node failed, a write did, or the kernel could not be asked.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.writer.needs_sweep
            || self.readings.lacks_paths
            || !self.host.endpoints.unwell().is_empty()
    }

    /// Whether rows were written since this was last asked.
    pub fn take_written_flag(&mut self) -> bool {
        std::mem::take(&mut self.writer.has_written)
    }

    /// The endpoints of this node whose state may have changed since the last call. `None`: one is not wanted here,
    /// or its network is not known.
    pub fn drain_changes(&mut self, mirror: &Mirror) -> Vec<(Name, Option<PortState>)> {
        let changed = self.host.endpoints.drain_changes().into_iter();
        let states = changed.map(|name| {
            let is_wanted = self.local.port_spec(mirror, &name).is_some();
            let state = self.host.endpoints.state(&name);
            let is_told = |state: &PortState| is_wanted || state.reason().is_some();
            (name, state.filter(is_told))
        });
        states.collect()
    }

    /// Writes the rows that a change affects. The cost follows from the change, not from the size of the state.
    /// Goes on past errors and gives each in a line.
    pub async fn apply_change(&mut self, mirror: &Mirror, changes: ChangeSet) -> Vec<String> {
        let mut errors = Vec::new();
        let touched: Vec<Name> = changes.endpoints.ids().cloned().collect();
        let were_unread = self.readings.lacks_paths;
        self.find_paths(mirror, changes.vteps.ids().copied().collect())
            .await;
        self.readings.lacks_paths |= were_unread;
        let gone: Vec<Name> = touched
            .iter()
            .filter(|name| self.is_misplaced(mirror, name))
            .cloned()
            .collect();
        for name in &gone {
            self.host.endpoints.remove_interface(name);
        }
        if let Err(error) = self.write_changes(mirror, changes) {
            self.mark_degraded(touched.iter().cloned(), &error);
            errors.push(error);
        }
        if !gone.is_empty() {
            errors.extend(self.remove_ports(&gone).await);
            errors.extend(self.attach().await.err());
        }
        if !touched.is_empty() {
            errors.extend(self.ensure_ports(mirror, touched).await);
        }
        errors
    }

    /// Makes interfaces, small tables and programs of the whole host what the mirror says, orphans
    /// and all. Goes on past errors and gives each in a line. Changes nothing if the host's interfaces
    /// can't be listed.
    pub async fn check(&mut self, mirror: &Mirror) -> Vec<String> {
        let mut errors: Vec<String> = self.finish_write().err().into_iter().collect();
        // Their folders are where the links of what is attached below are pinned.
        let restored = on_kernel(|| self.writer.datapath.restore_pins());
        errors.extend(restored.err().map(|error| error.to_string()));
        match self.list_ports(mirror).await {
            Ok(orphans) => errors.extend(self.remove_orphans(mirror, orphans).await),
            Err(error) => {
                errors.push(error);
                return errors;
            }
        }
        let vteps = VtepRow::all(&self.desired(mirror)).into_keys().collect();
        self.find_paths(mirror, vteps).await;
        if self.writer.datapath.attach_mode() == AttachMode::Clsact {
            // It does not tell of programs that were taken off, see `Datapath::detached`.
            self.writer.datapath.recheck_attachments();
        }
        // What is inside the others is looked at beside the loop.
        let names = mirror.local_endpoints().map(|known| known.name().clone());
        let names = names.filter(|name| {
            let endpoints = &self.host.endpoints;
            endpoints.ifindex(name).is_none() || endpoints.attachment(name).is_none()
        });
        let uncertain = self.host.endpoints.unwell().iter().cloned();
        let names: BTreeSet<Name> = names.chain(uncertain).collect();
        errors.extend(self.ensure_ports(mirror, names.into_iter().collect()).await);
        errors.extend(self.repair_small_tables(mirror).err());
        errors.extend(self.remove_orphan_namespaces().await);
        errors
    }

    /// Follows the kernel's routes: asks for the next hops again and writes those that changed.
    pub async fn follow_routes(&mut self, mirror: &Mirror) -> Result<(), String> {
        let before = VtepRow::all(&self.desired(mirror));
        self.find_paths(mirror, before.keys().copied().collect())
            .await;
        let after = VtepRow::all(&self.desired(mirror));
        let is_new = |(ip, row): &(VtepAddr, VtepRow)| before.get(ip) != Some(row);
        let mut plan = Plan::default();
        plan.put.vteps = after.into_iter().filter(is_new).collect();
        self.write(&plan)
    }

    /// Vouches for the next hops for this long, if they are known to be written.
    pub fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError> {
        if self.writer.small_tables_dirty == Some(SmallTablesDirty::Failed)
            || self.readings.lacks_paths
        {
            return Ok(());
        }
        self.writer
            .on_datapath(|datapath| datapath.renew_lease(valid))
    }

    /// Writes what a change makes of its rows.
    pub(super) fn write_changes(
        &mut self,
        mirror: &Mirror,
        changes: ChangeSet,
    ) -> Result<(), String> {
        self.note_neighbors(mirror, &changes, Instant::now());
        let desired = Desired {
            mirror,
            local: &self.local,
            host: &self.host,
        };
        let is_addition = changes.is_addition();
        let plan = changes.into_plan(&desired, &mut self.digests);
        let has_ports = !(plan.put.endpoints.is_empty() && plan.remove.endpoints.is_empty());
        if !has_ports && plan.put.fdb.len() >= BACKGROUND_THRESHOLD {
            let previous = self.writer.write_behind(plan, is_addition);
            self.mark_hit();
            previous
        } else {
            self.write(&plan)
        }
    }

    /// Takes the endpoint's rows into a change, as they are: whether its interface stands is about to change.
    pub(super) fn note_endpoint(&mut self, mirror: &Mirror, name: &Name, changes: &mut ChangeSet) {
        self.host.endpoints.mark_changed(name.clone());
        if let Some(known) = mirror.endpoint(name) {
            changes.record_before(&self.desired(mirror), &known.fact());
        }
    }

    /// Whether the endpoint's interface exists and is to go, or to be made elsewhere.
    fn is_misplaced(&self, mirror: &Mirror, name: &Name) -> bool {
        let wanted = mirror.endpoint(name).and_then(|known| known.attachment());
        match self.host.endpoints.attachment(name) {
            Some(attachment) => wanted != Some(attachment),
            // A previous agent made it, and where is not known.
            None => wanted.is_none() && self.host.endpoints.ifindex(name).is_some(),
        }
    }

    /// Asks for the next hops of these VTEPs. Where the kernel can't be asked, those that are known stay,
    /// and without a lease on them the kernel finds each packet's way itself.
    async fn find_paths(&mut self, mirror: &Mirror, vteps: Vec<VtepAddr>) {
        let desired = self.desired(mirror);
        let (wanted, gone): (Vec<_>, Vec<_>) = vteps
            .into_iter()
            .partition(|ip| VtepRow::desired(&desired, ip).is_some());
        for ip in &gone {
            self.host.paths.remove(ip);
        }
        if wanted.is_empty() {
            self.readings.lacks_paths = false;
            return;
        }
        match self.platform.paths(&wanted).await {
            Ok(paths) => {
                for ip in &wanted {
                    self.host.paths.remove(ip);
                }
                self.host.paths.extend(paths);
                self.readings.lacks_paths = false;
            }
            Err(error) => {
                tracing::warn!(%error, "no next hops: the kernel looks for each packet's");
                self.readings.lacks_paths = true;
            }
        }
    }

    /// Lists the host's interfaces: those of ours that are there carry rows, also where a look inside
    /// fails, and those that the kernel does not have any more carry none. Gives the ones that no
    /// endpoint of this node wants, or not there.
    pub(super) async fn list_ports(&mut self, mirror: &Mirror) -> Result<Vec<Name>, String> {
        let listed = self.platform.ports().await;
        let listed = listed.map_err(|error| error.to_string())?;
        let up = listed.iter().filter(|port| port.is_up);
        self.attached = Attached {
            up: up.map(|port| port.host_ifindex).collect(),
            ..Attached::default()
        };
        let listed = listed.into_iter();
        let listed: BTreeMap<Name, u32> = listed
            .map(|port| (port.endpoint, port.host_ifindex))
            .collect();
        let orphans: Vec<Name> = listed
            .keys()
            .filter(|name| {
                // What is made just now replaces what is elsewhere.
                let is_misplaced =
                    !self.ports_at_work.making.contains(*name) && self.is_misplaced(mirror, name);
                self.local.port_spec(mirror, name).is_none() || is_misplaced
            })
            .cloned()
            .collect();
        let known = self.host.endpoints.interfaces();
        let mut found: BTreeMap<Name, Option<u32>> = known
            .filter(|(name, ifindex)| listed.get(*name) != Some(ifindex))
            .map(|(name, _)| (name.clone(), None))
            .collect();
        // What an agent before this one made.
        for (name, ifindex) in listed {
            if !self.readings.has_ports && self.host.endpoints.ifindex(&name).is_none() {
                found.insert(name, Some(ifindex));
            }
        }
        self.readings.has_ports = true;
        let mut changes = ChangeSet::default();
        for (name, ifindex) in found {
            self.note_endpoint(mirror, &name, &mut changes);
            if let Some(ifindex) = ifindex {
                self.host.endpoints.set_interface(&name, ifindex, false);
            } else {
                self.host.endpoints.remove_interface(&name);
                self.missed.insert(name);
            }
        }
        self.write_changes(mirror, changes)?;
        Ok(orphans)
    }

    /// Writes to the kernel's tables. After a failure, what they hold is looked at before long. Rows
    /// that a full one refuses are no failure yet: see [`Writer::overflow`].
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), String> {
        let written = self.writer.write(plan);
        self.mark_hit();
        written
    }

    /// Waits for the write that is under way, if one is.
    pub(super) fn finish_write(&mut self) -> Result<(), String> {
        let written = self.writer.finish();
        self.mark_hit();
        written
    }

    /// Writes rows again that found no room. What finds none now is looked for by the next sweep.
    pub(super) fn retry_overflow(&mut self, mirror: &Mirror) -> Result<(), String> {
        let desired = Desired {
            mirror,
            local: &self.local,
            host: &self.host,
        };
        self.writer
            .retry_overflow(&desired)
            .map_err(|(keys, error)| {
                let rows = keys.iter();
                let owners = rows.filter_map(|key| mirror.by_mac(key.vni, key.mac));
                let local = owners.filter(EndpointRef::is_local);
                let local: Vec<Name> = local.map(|known| known.name().clone()).collect();
                self.mark_degraded(local, &error);
                error
            })
    }

    /// Marks the endpoints of failed writes as degraded.
    fn mark_hit(&mut self) {
        for hit in self.writer.take_hits() {
            self.mark_degraded_at(&hit.ifindexes, &hit.reason);
        }
    }

    /// Marks the endpoints with these interfaces as degraded.
    pub(super) fn mark_degraded_at(&mut self, ifindexes: &BTreeSet<u32>, error: &str) {
        let its = ifindexes.iter();
        let names: Vec<Name> = its
            .filter_map(|ifindex| self.host.endpoints.at(*ifindex).cloned())
            .collect();
        self.mark_degraded(names, error);
    }

    /// Which of these endpoints an error hit is not known: none of them is said to be ready.
    pub(super) fn mark_degraded(&mut self, names: impl IntoIterator<Item = Name>, error: &str) {
        for name in names {
            self.host.endpoints.set_degraded(&name, error);
        }
    }

    /// The large tables are as intended. If the small ones are too, no endpoint is degraded any more.
    pub(super) fn mark_clean(&mut self) {
        if self.writer.small_tables_dirty.is_some() {
            return;
        }
        self.writer.needs_sweep = false;
        if self.attached.endpoints {
            self.host.endpoints.clear_all_degraded();
        }
    }

    /// Removes interfaces with our mark that no endpoint of this node wants, or not there.
    async fn remove_orphans(&mut self, mirror: &Mirror, orphans: Vec<Name>) -> Vec<String> {
        if orphans.is_empty() {
            return Vec::new();
        }
        let mut changes = ChangeSet::default();
        for name in &orphans {
            tracing::info!(endpoint = %name, "removing an interface that no endpoint wants");
            changes
                .endpoints
                .record(&self.desired(mirror), name.clone());
            // One that is elsewhere has rows as long as it counts for standing.
            self.note_endpoint(mirror, name, &mut changes);
            self.host.endpoints.remove_interface(name);
        }
        let mut errors: Vec<String> = self
            .write_changes(mirror, changes)
            .err()
            .into_iter()
            .collect();
        errors.extend(self.remove_ports(&orphans).await);
        errors
    }

    /// Corrects the tables of networks, VTEPs and endpoints.
    pub(super) fn repair_small_tables(&mut self, mirror: &Mirror) -> Result<(), String> {
        let actual =
            on_kernel(|| self.writer.datapath.small_tables()).map_err(|error| error.to_string())?;
        let plan = Plan::between(&self.desired(mirror).small_tables(), &actual);
        self.write(&plan)?;
        self.writer.small_tables_dirty = None;
        Ok(())
    }

    /// Attaches the programs, and sets the interfaces up that have theirs. The underlay's comes
    /// second: what it lets in finds its tables full.
    pub(super) async fn attach(&mut self) -> Result<(), String> {
        let ifindexes = self.host.endpoints.ifindexes();
        let attached = on_kernel(|| self.writer.datapath.attach_endpoints(&ifindexes))
            .map_err(|error| error.to_string());
        self.attached.endpoints = attached.is_ok();
        let up = &mut self.attached.up;
        up.retain(|ifindex| ifindexes.contains(ifindex));
        let set = self.set_up(&ifindexes).await;
        let attached = attached.and(set);
        self.attached.endpoints = attached.is_ok();
        if !self.attached.underlay {
            on_kernel(|| self.writer.datapath.attach_underlay())
                .map_err(|error| error.to_string())?;
            self.attached.underlay = true;
        }
        attached
    }

    /// Sets interfaces up that have their program, and down that have lost it. What is not known
    /// changes nothing.
    pub(super) async fn set_up(&mut self, ifindexes: &BTreeSet<u32>) -> Result<(), String> {
        let up = &mut self.attached.up;
        let mut bare = BTreeSet::new();
        let mut come: BTreeSet<u32> = ifindexes.difference(up).copied().collect();
        if !self.attached.endpoints {
            let is_attached = |ifindex: &u32| self.writer.datapath.is_attached(*ifindex);
            let is_bare = |ifindex: &&u32| is_attached(ifindex) == Some(false);
            bare = ifindexes.iter().filter(is_bare).copied().collect();
            come.retain(|ifindex| is_attached(ifindex) == Some(true));
        }
        up.retain(|ifindex| !bare.contains(ifindex));
        up.extend(&come);
        self.mark_degraded_at(&bare, "it has no program");
        let down = self.platform.set_ports_up(&bare, false).await;
        let set = down.and(self.platform.set_ports_up(&come, true).await);
        set.map_err(|error| {
            self.attached.up.clear();
            error.to_string()
        })
    }
}
