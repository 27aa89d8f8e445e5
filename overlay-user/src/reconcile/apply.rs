//! Carries desired state over to the kernel: interfaces first, then tables, then programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use super::{
    mirror::{Mirror, Touched},
    plan::{self, Found, Local, Plan},
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{Endpoint, Name, Tables},
    platform::{Platform, PlatformError, PortSpec},
};

/// The kernel's side: what this host has, and the means to change it.
pub struct Applier {
    platform: Arc<dyn Platform>,
    datapath: Arc<dyn Datapath>,
    local: Local,
    /// What stands here, and the ways to the others.
    found: Found,
    /// Why the others of this node don't.
    failures: BTreeMap<Name, String>,
    is_underlay_attached: bool,
}

impl Applier {
    /// Nothing is known of the host yet: begin with [`Self::apply_all`].
    pub fn new(platform: Arc<dyn Platform>, datapath: Arc<dyn Datapath>, local: Local) -> Self {
        Self {
            platform,
            datapath,
            local,
            found: Found::default(),
            failures: BTreeMap::new(),
            is_underlay_attached: false,
        }
    }

    /// What this host adds to the registry's state.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Host-side indexes of the endpoints that stand.
    #[must_use]
    pub fn ports(&self) -> &BTreeMap<Name, u32> {
        &self.found.ports
    }

    /// Why endpoints of this node don't stand.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<Name, String> {
        &self.failures
    }

    /// Makes the whole host what the mirror says, orphans and all. Goes on past errors and gives
    /// each of them in a line.
    pub async fn apply_all(&mut self, mirror: &Mirror) -> Vec<String> {
        let mut errors = Vec::new();
        let orphans = match self.orphans(mirror).await {
            Ok(orphans) => orphans,
            Err(error) => {
                errors.push(error.to_string());
                Vec::new()
            }
        };
        self.found.ports.clear();
        self.failures.clear();
        for endpoint in mirror.endpoints.values() {
            self.ensure_port(mirror, endpoint).await;
        }
        self.datapath.doubt_attachments();
        self.is_underlay_attached = false;
        self.find_next_hops(mirror).await;
        let desired = plan::tables(mirror, &self.local, &self.found);
        let written = self
            .on_kernel(move |datapath| {
                let plan = Plan::between(&desired, &datapath.tables()?);
                tracing::debug!(
                    put = plan.put.fdb.len(),
                    removed = plan.remove.fdb.len(),
                    "FDB resynchronised"
                );
                datapath.write(&plan.put, &plan.remove)
            })
            .await;
        errors.extend(written.err().map(|error| error.to_string()));
        errors.extend(self.attach().await.err().map(|error| error.to_string()));
        for orphan in &orphans {
            tracing::info!(endpoint = %orphan, "removing an interface that no endpoint wants");
            errors.extend(
                self.remove_port(orphan)
                    .await
                    .err()
                    .map(|error| error.to_string()),
            );
        }
        if let Err(error) = self.platform.remove_orphan_namespaces().await {
            errors.push(error.to_string());
        }
        errors
    }

    /// Carries over what a delta touched; its cost does not depend on how much there is besides.
    /// `before` is the mirror without the delta.
    pub async fn apply_touched(&mut self, mirror: &Mirror, touched: &Touched) -> Vec<String> {
        let mut errors = Vec::new();
        let old_rows = plan::rows_of(&touched.before, mirror, &self.local, &self.found);
        let gone: Vec<Name> = self.local_names(&touched.before);
        let here: Vec<Name> = self.local_names(&touched.after);
        for endpoint in &touched.after {
            self.found.ports.remove(&endpoint.name);
            self.ensure_port(mirror, endpoint).await;
        }
        let removed: Vec<Name> = gone
            .into_iter()
            .filter(|name| !here.contains(name))
            .collect();
        for name in &removed {
            self.found.ports.remove(name);
            self.failures.remove(name);
        }
        let new_rows = plan::rows_of(&touched.after, mirror, &self.local, &self.found);
        let plan = Plan::between(&new_rows, &old_rows);
        let written = self
            .on_kernel(move |datapath| datapath.write(&plan.put, &plan.remove))
            .await;
        errors.extend(written.err().map(|error| error.to_string()));
        if !(here.is_empty() && removed.is_empty()) {
            errors.extend(self.attach().await.err().map(|error| error.to_string()));
        }
        if let Some(error) = errors.first() {
            // Which of them it hit is not known: none of them is said to be ready.
            for name in here {
                self.failures.entry(name).or_insert_with(|| error.clone());
            }
        }
        for name in &removed {
            errors.extend(
                self.remove_port(name)
                    .await
                    .err()
                    .map(|error| error.to_string()),
            );
        }
        errors
    }

    /// Follows the kernel's routes: asks for the next hops again and writes those that changed.
    pub async fn follow_routes(&mut self, mirror: &Mirror) -> Result<(), DatapathError> {
        let before = self.vtep_rows(mirror);
        self.find_next_hops(mirror).await;
        let plan = Plan::between(&self.vtep_rows(mirror), &before);
        self.on_kernel(move |datapath| datapath.write(&plan.put, &plan.remove))
            .await
    }

    fn vtep_rows(&self, mirror: &Mirror) -> Tables {
        Tables {
            vteps: plan::vteps(mirror, &self.local, &self.found.next_hops),
            ..Tables::default()
        }
    }

    /// Vouches for the next hops for this long.
    pub async fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError> {
        self.on_kernel(move |datapath| datapath.renew_lease(valid))
            .await
    }

    /// Where the kernel can't be asked, it finds each packet's way itself.
    async fn find_next_hops(&mut self, mirror: &Mirror) {
        let vteps: Vec<Ipv4Addr> = plan::vteps(mirror, &self.local, &BTreeMap::new())
            .into_keys()
            .collect();
        self.found.next_hops = match self.platform.next_hops(&vteps).await {
            Ok(next_hops) => next_hops,
            Err(error) => {
                tracing::warn!(%error, "no next hops: the kernel looks for each packet's");
                BTreeMap::new()
            }
        };
    }

    /// Names of those endpoints that are on this node.
    fn local_names(&self, endpoints: &[Endpoint]) -> Vec<Name> {
        endpoints
            .iter()
            .filter(|endpoint| endpoint.node == self.local.node)
            .map(|endpoint| endpoint.name.clone())
            .collect()
    }

    /// Interfaces with our mark that no endpoint of this node wants.
    async fn orphans(&self, mirror: &Mirror) -> Result<Vec<Name>, PlatformError> {
        let is_wanted = |name: &Name| {
            mirror
                .endpoints
                .get(name)
                .is_some_and(|endpoint| self.local.port_spec(mirror, endpoint).is_some())
        };
        let ports = self.platform.ports().await?;
        Ok(ports
            .into_iter()
            .map(|port| port.endpoint)
            .filter(|name| !is_wanted(name))
            .collect())
    }

    /// Makes an endpoint's interface, if it has one here, and notes what became of it.
    async fn ensure_port(&mut self, mirror: &Mirror, endpoint: &Endpoint) {
        let Some(spec) = self.local.port_spec(mirror, endpoint) else {
            return;
        };
        match self.make_port(spec).await {
            Ok(ifindex) => {
                self.failures.remove(&endpoint.name);
                self.found.ports.insert(endpoint.name.clone(), ifindex);
            }
            Err(reason) => {
                tracing::warn!(endpoint = %endpoint.name, %reason, "endpoint can't be made");
                self.failures.insert(endpoint.name.clone(), reason);
            }
        }
    }

    async fn make_port(&self, spec: Result<PortSpec, String>) -> Result<u32, String> {
        let port = self
            .platform
            .ensure_port(&spec?)
            .await
            .map_err(|error| error.to_string())?;
        Ok(port.host_ifindex)
    }

    async fn remove_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        self.platform.remove_port(endpoint).await
    }

    /// Attaches the programs. The underlay's comes second: what it lets in finds its tables full.
    async fn attach(&mut self) -> Result<(), DatapathError> {
        let ifindexes: BTreeSet<u32> = self.found.ports.values().copied().collect();
        let attached = self
            .on_kernel(move |datapath| datapath.attach_endpoints(&ifindexes))
            .await;
        if !self.is_underlay_attached {
            self.on_kernel(Datapath::attach_underlay).await?;
            self.is_underlay_attached = true;
        }
        attached
    }

    /// Runs system calls off the threads that serve everybody else.
    async fn on_kernel<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, DatapathError> {
        let datapath = Arc::clone(&self.datapath);
        tokio::task::spawn_blocking(move || work(&*datapath))
            .await
            .unwrap_or_else(|error| {
                Err(DatapathError::Kernel {
                    what: "the datapath's thread died".to_owned(),
                    cause: error.to_string(),
                })
            })
    }
}
