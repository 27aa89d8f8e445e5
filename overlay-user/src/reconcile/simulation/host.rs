//! A host whose kernel fails, fills up, loses rows and invents some.
//!
//! It also holds what belongs to others and must stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    faulty_writes::FaultyWrites,
    kernel::{Faults, Kernel, place_of},
    rng::Rng,
    store::Store,
};
use crate::{
    datapath::{Before, Datapath, DatapathError},
    model::{
        AttachMode, DroppedFrame, Echo, EchoRequest, FdbKey, FdbRow, Mac, MapUsage, Miss, Name,
        NeighborKey, NeighborRow, PortCounts, ProbeRequest, Punt, Rows, Tables, Traffic, Vni,
        VtepAddr, VtepPath, Wanted,
    },
    platform::{External, Platform, PlatformError, Port, PortChange, PortSpec, TunnelDevices},
};

struct Inner {
    kernel: Kernel,
    faults: Faults,
    /// Rows that each of the large tables takes.
    capacity: usize,
    misses: Option<mpsc::Sender<Miss>>,
}

/// The host.
#[derive(Clone)]
pub(super) struct Host {
    inner: Arc<Mutex<Inner>>,
    rng: Rng,
    /// What is true: to judge what the agent does.
    truth: Store,
}

impl Host {
    pub(super) fn new(rng: Rng, truth: Store, capacity: usize) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                kernel: Kernel::default(),
                faults: Faults::default(),
                capacity,
                misses: None,
            })),
            rng,
            truth,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Looks at the kernel, or changes it behind the agent's back.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        act(&mut self.lock().kernel)
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many rows each of the large tables takes.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.lock().capacity = capacity;
    }

    /// The channel of a new agent's misses.
    pub(super) fn listen(&self) -> mpsc::Receiver<Miss> {
        let (sender, receiver) = mpsc::channel(16);
        self.lock().misses = Some(sender);
        receiver
    }

    /// An endpoint sends a frame, or asks for an address. `true`: the row is there.
    pub(super) fn send(&self, miss: Miss) -> bool {
        let mut inner = self.lock();
        let Inner { kernel, misses, .. } = &mut *inner;
        let (found, raises) = kernel.look_for(&miss);
        if raises && let Some(misses) = misses {
            // A full ring loses misses.
            let _ = misses.try_send(miss);
        }
        found
    }

    fn fails(&self, often: impl FnOnce(&Faults) -> u8) -> bool {
        let often = often(&self.lock().faults);
        self.rng.of_256(often)
    }

    fn carry_out(
        &self,
        put: &Tables,
        remove: &Tables,
        is_addition: bool,
    ) -> Result<(), DatapathError> {
        let is_cut = self.fails(|faults| faults.writes);
        let left = if is_cut {
            self.rng.within(..4)
        } else {
            usize::MAX
        };
        let truth = self.truth.lock();
        let mut inner = self.lock();
        let capacity = inner.capacity;
        inner.kernel.activity += 1;
        inner.kernel.has_failed_writing |= is_cut;
        let mut faulty_writes = FaultyWrites {
            kernel: &mut inner.kernel,
            truth: &truth,
            capacity,
            left,
            refused: 0,
            is_addition,
            previous_fdb: BTreeMap::new(),
            previous_neighbors: BTreeMap::new(),
        };
        faulty_writes.run(put, remove);
        let refused = faulty_writes.refused;
        inner.kernel.note_rows();
        if is_cut {
            return Err(failed());
        }
        if refused > 0 {
            return Err(DatapathError::Full {
                map: "fdb",
                capacity: capacity as u64,
                refused,
                option: "--fdb-entries",
            });
        }
        Ok(())
    }

    async fn change_interfaces(&self) -> Result<(), PlatformError> {
        let lateness = {
            let mut inner = self.lock();
            inner.kernel.activity += 1;
            inner.faults.lateness
        };
        sleep(self.rng.up_to(lateness)).await;
        if self.fails(|faults| faults.ports) {
            return Err(PlatformError::Refused("the kernel feels unwell".to_owned()));
        }
        Ok(())
    }
}

fn failed() -> DatapathError {
    DatapathError::Kernel {
        what: "a look".to_owned(),
        cause: "the kernel feels unwell".to_owned(),
    }
}

impl Datapath for Host {
    fn tables(&self) -> Result<Tables, DatapathError> {
        if self.fails(|faults| faults.looks) {
            return Err(failed());
        }
        Ok(self.lock().kernel.tables.clone())
    }

    fn small_tables(&self) -> Result<Tables, DatapathError> {
        Ok(Tables {
            fdb: Rows::<FdbRow>::new(),
            neighbors: Rows::<NeighborRow>::new(),
            ..self.tables()?
        })
    }

    fn for_each_fdb(&self, visit: &mut dyn FnMut(FdbKey, FdbRow)) -> Result<(), DatapathError> {
        if self.fails(|faults| faults.looks) {
            return Err(failed());
        }
        let rows = self.lock().kernel.tables.fdb.clone();
        for (key, row) in rows {
            visit(key, row);
        }
        Ok(())
    }

    fn for_each_neighbor(
        &self,
        visit: &mut dyn FnMut(NeighborKey, NeighborRow),
    ) -> Result<(), DatapathError> {
        if self.fails(|faults| faults.looks) {
            return Err(failed());
        }
        let rows = self.lock().kernel.tables.neighbors.clone();
        for (key, row) in rows {
            visit(key, row);
        }
        Ok(())
    }

    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        self.carry_out(put, remove, false)
    }

    fn add(
        &self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError> {
        let put = Tables {
            fdb: fdb.clone(),
            neighbors: neighbors.clone(),
            ..Tables::default()
        };
        self.carry_out(&put, &Tables::default(), true)
    }

    fn used(&self, key: &FdbKey) -> Result<Option<Duration>, DatapathError> {
        if self.fails(|faults| faults.looks) {
            return Err(failed());
        }
        let inner = self.lock();
        let row = inner.kernel.tables.fdb.get(key).filter(|row| row.ages);
        Ok(row.map(|_| {
            let used = inner
                .kernel
                .used
                .get(key)
                .copied()
                .unwrap_or_else(Instant::now);
            Duration::from_secs(used.elapsed().as_secs())
        }))
    }

    fn misses(&self) -> Result<mpsc::Receiver<Miss>, DatapathError> {
        Ok(self.listen())
    }

    fn set_negative(
        &self,
        vni: Vni,
        wanted: Wanted,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError> {
        let negative = &mut self.lock().kernel.negative;
        match nobody_for {
            Some(time) => drop(negative.insert((vni, wanted), Instant::now() + time)),
            None => drop(negative.remove(&(vni, wanted))),
        }
        Ok(())
    }

    fn answer(&self, miss: &Miss, mac: Mac) -> Result<(), DatapathError> {
        self.lock().kernel.answers.push((*miss, mac));
        Ok(())
    }

    fn announce(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<(), DatapathError> {
        let kernel = &mut self.lock().kernel;
        if let Some(row) = kernel.tables.endpoints.get(&ifindex) {
            kernel
                .announced
                .insert(NeighborKey { vni: row.vni, ip }, mac);
        }
        Ok(())
    }

    fn send_echo(&self, _: &EchoRequest) -> Result<(), DatapathError> {
        Ok(())
    }

    fn send_probe(&self, _: &ProbeRequest) -> Result<(), DatapathError> {
        Ok(())
    }

    fn echoes(&self) -> Result<mpsc::Receiver<Echo>, DatapathError> {
        Ok(mpsc::channel(1).1)
    }

    fn punts(&self) -> Result<mpsc::Receiver<Punt>, DatapathError> {
        Ok(mpsc::channel(1).1)
    }

    fn send_frame(&self, _: u32, _: &[u8]) -> Result<(), DatapathError> {
        Ok(())
    }

    fn usage(&self) -> Result<BTreeMap<&'static str, MapUsage>, DatapathError> {
        let inner = self.lock();
        let usage = |entries: usize| MapUsage {
            entries: entries as u64,
            capacity: inner.capacity as u64,
            ..MapUsage::default()
        };
        let (fdb, neighbors) = (
            inner.kernel.tables.fdb.len(),
            inner.kernel.tables.neighbors.len(),
        );
        Ok(BTreeMap::from([
            ("fdb", usage(fdb)),
            ("neighbors", usage(neighbors)),
        ]))
    }

    fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn attach_endpoints(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let is_failing = self.fails(|faults| faults.attachments);
        let kernel = &mut self.lock().kernel;
        kernel.activity += 1;
        let there: BTreeSet<u32> = kernel
            .ports
            .values()
            .map(|(ifindex, ..)| *ifindex)
            .collect();
        let is_complete = ifindexes.is_subset(&there);
        let wanted: BTreeSet<u32> = ifindexes.intersection(&there).copied().collect();
        if is_failing {
            // What was attached stays; of what was not, one is not now either.
            let mut new = wanted.difference(&kernel.attached);
            let left_out = new.next().copied();
            kernel.attached.extend(&wanted);
            left_out.map(|ifindex| kernel.attached.remove(&ifindex));
            return Err(failed());
        }
        kernel.attached.extend(&wanted);
        if is_complete { Ok(()) } else { Err(failed()) }
    }

    fn is_attached(&self, ifindex: u32) -> Option<bool> {
        Some(self.lock().kernel.attached.contains(&ifindex))
    }

    fn detached(&self) -> Result<BTreeSet<u32>, DatapathError> {
        Ok(BTreeSet::new())
    }

    fn others_before(&self) -> Result<Vec<Before>, DatapathError> {
        Ok(Vec::new())
    }

    fn recheck_attachments(&self) {}

    fn attach_external(&self, _: &BTreeSet<u32>) -> Result<(), DatapathError> {
        Ok(())
    }

    fn set_slow_path(&self, _: Option<u32>) -> Result<(), DatapathError> {
        Ok(())
    }

    fn restore_pins(&self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn attach_underlay(&self) -> Result<(), DatapathError> {
        if self.fails(|faults| faults.attachments) {
            return Err(failed());
        }
        self.lock().kernel.is_underlay_attached = true;
        Ok(())
    }

    fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError> {
        self.lock().kernel.lease = Some(Instant::now() + valid);
        Ok(())
    }

    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn dropped_frames(&self, _: &BTreeSet<&str>) -> Result<Vec<DroppedFrame>, DatapathError> {
        Ok(Vec::new())
    }

    fn port_counts(&self, _: Option<u32>) -> Result<BTreeMap<u32, PortCounts>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn attach_mode(&self) -> AttachMode {
        AttachMode::Tcx
    }
}

#[async_trait]
impl Platform for Host {
    async fn ports(&self) -> Result<Vec<Port>, PlatformError> {
        while self.lock().faults.hangs {
            sleep(Duration::from_millis(100)).await;
        }
        if self.fails(|faults| faults.ports) {
            return Err(PlatformError::Refused("the kernel feels unwell".to_owned()));
        }
        let inner = self.lock();
        let ports = inner.kernel.ports.iter();
        Ok(ports
            .map(|(endpoint, (ifindex, ..))| Port {
                endpoint: endpoint.clone(),
                host_ifindex: *ifindex,
                host_ifname: format!("ov{ifindex}"),
                is_up: inner.kernel.up.contains(ifindex),
                is_open: false,
                has_xdp: false,
                mended: Vec::new(),
            })
            .collect())
    }

    async fn port_namespaces(&self) -> Result<BTreeMap<Name, Name>, PlatformError> {
        Ok(BTreeMap::new())
    }

    async fn ensure_port(&self, spec: &PortSpec) -> Result<Port, PlatformError> {
        // What fails may leave parts and records behind.
        self.lock().kernel.ever_ours.insert(spec.endpoint.clone());
        self.change_interfaces().await?;
        while self.lock().faults.held == Some(spec.endpoint.as_str()) {
            sleep(Duration::from_millis(100)).await;
        }
        let kernel = &mut self.lock().kernel;
        let place = place_of(&spec.attachment).unwrap();
        // As the real one does: first the previous interface goes, if it is elsewhere.
        if let Some((ifindex, netns, ifname)) = kernel.ports.get(&spec.endpoint)
            && (netns, ifname) != (&place.0, &place.1)
        {
            kernel.attached.remove(ifindex);
            kernel.up.remove(ifindex);
            kernel.open.remove(ifindex);
            kernel.had_row.remove(ifindex);
            kernel.ports.remove(&spec.endpoint);
        }
        let is_taken = kernel.foreign.contains(&place)
            || kernel.ports.iter().any(|(endpoint, (_, netns, ifname))| {
                *endpoint != spec.endpoint && (netns, ifname) == (&place.0, &place.1)
            });
        if is_taken {
            return Err(PlatformError::Refused(format!(
                "{}/{} is taken",
                place.0, place.1
            )));
        }
        let ifindex = match kernel.ports.get(&spec.endpoint) {
            Some((ifindex, ..)) => *ifindex,
            // The lowest that is free: indexes of links that are gone come again.
            None => (10..1000)
                .find(|index| kernel.ports.values().all(|(taken, ..)| taken != index))
                .unwrap(),
        };
        kernel.activity += 1;
        kernel
            .ports
            .insert(spec.endpoint.clone(), (ifindex, place.0, place.1));
        Ok(Port {
            endpoint: spec.endpoint.clone(),
            host_ifindex: ifindex,
            host_ifname: format!("ov{ifindex}"),
            is_up: kernel.up.contains(&ifindex),
            is_open: kernel.open.contains(&ifindex),
            has_xdp: false,
            mended: Vec::new(),
        })
    }

    async fn refresh_port(&self, spec: &PortSpec) -> Result<Option<Port>, PlatformError> {
        self.change_interfaces().await?;
        let kernel = &mut self.lock().kernel;
        let standing = kernel.ports.get(&spec.endpoint);
        let place = place_of(&spec.attachment);
        let standing =
            standing.filter(|(_, netns, ifname)| Some((netns.clone(), ifname.clone())) == place);
        let standing = standing.map(|(ifindex, ..)| *ifindex);
        if let Some(ifindex) = standing {
            kernel.open_if_up(ifindex);
        }
        Ok(standing.map(|ifindex| Port {
            endpoint: spec.endpoint.clone(),
            host_ifindex: ifindex,
            host_ifname: format!("ov{ifindex}"),
            is_up: kernel.up.contains(&ifindex),
            is_open: kernel.open.contains(&ifindex),
            has_xdp: false,
            mended: Vec::new(),
        }))
    }

    async fn port_changes(&self) -> Result<mpsc::Receiver<PortChange>, PlatformError> {
        Ok(mpsc::channel(1).1)
    }

    async fn set_ports_up(
        &self,
        ifindexes: &BTreeSet<u32>,
        is_up: bool,
    ) -> Result<(), PlatformError> {
        if ifindexes.is_empty() {
            return Ok(());
        }
        self.change_interfaces().await?;
        let kernel = &mut self.lock().kernel;
        for ifindex in ifindexes {
            if !is_up {
                kernel.up.remove(ifindex);
            } else if kernel.attached.contains(ifindex) {
                kernel.up.insert(*ifindex);
            } else if kernel.ports.values().any(|(port, ..)| port == ifindex) {
                let violation = format!("interface {ifindex} is set up without its program");
                kernel.violations.push(violation);
            }
        }
        Ok(())
    }

    async fn remove_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        self.change_interfaces().await?;
        let kernel = &mut self.lock().kernel;
        kernel.activity += 1;
        if !kernel.ever_ours.contains(endpoint) {
            kernel
                .violations
                .push(format!("the interface of {endpoint} was never ours"));
        }
        if let Some((ifindex, ..)) = kernel.ports.remove(endpoint) {
            kernel.attached.remove(&ifindex);
            kernel.up.remove(&ifindex);
            kernel.open.remove(&ifindex);
            kernel.had_row.remove(&ifindex);
        }
        Ok(())
    }

    async fn remove_orphan_namespaces(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn forget_guests_but(&self, _: &BTreeSet<Name>) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn ensure_vxlan(&self, _: u16) -> Result<External, PlatformError> {
        Ok(External::default())
    }

    async fn open_vxlan(&self, _: u16, _: External) -> Result<TunnelDevices, PlatformError> {
        Ok(TunnelDevices::default())
    }

    async fn device_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError> {
        Ok(mpsc::channel(1).1)
    }

    async fn paths(
        &self,
        vteps: &[VtepAddr],
    ) -> Result<BTreeMap<VtepAddr, VtepPath>, PlatformError> {
        if self.fails(|faults| faults.ports) {
            return Err(PlatformError::Refused("the kernel feels unwell".to_owned()));
        }
        let path = |vtep: &VtepAddr| VtepPath {
            next_hop: Some(vtep.ip()),
            mtu: None,
        };
        Ok(vteps.iter().map(|vtep| (*vtep, path(vtep))).collect())
    }

    async fn route_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError> {
        Ok(mpsc::channel(1).1)
    }

    async fn remove_vxlan(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}
