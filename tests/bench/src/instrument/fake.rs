//! A host without links, and maps in this process's memory: what an agent's loop needs where
//! namespaces would not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use overlay_user::datapath::{AttachMode, Before, Datapath, DatapathError};
use overlay_user::model::{
    DroppedFrame, Echo, EchoRequest, FdbKey, FdbRow, Mac, MapUsage, Miss, Name, NeighborKey,
    NeighborRow, PortCounts, ProbeRequest, Punt, Tables, Traffic, Vni, VtepAddr, VtepPath, Wanted,
};
use overlay_user::platform::{
    External, Platform, PlatformError, Port, PortChange, PortSpec, TunnelDevices,
};
use tokio::sync::mpsc;

/// A host on which nothing stands: the driver's endpoints are all elsewhere.
pub(super) struct NoPlatform;

#[async_trait]
impl Platform for NoPlatform {
    async fn ports(&self) -> Result<Vec<Port>, PlatformError> {
        Ok(Vec::new())
    }

    async fn port_namespaces(&self) -> Result<BTreeMap<Name, Name>, PlatformError> {
        Ok(BTreeMap::new())
    }

    async fn ensure_port(&self, spec: &PortSpec) -> Result<Port, PlatformError> {
        let endpoint = &spec.endpoint;
        Err(PlatformError::Refused(format!(
            "{endpoint} is not to be here"
        )))
    }

    async fn refresh_port(&self, _: &PortSpec) -> Result<Option<Port>, PlatformError> {
        Ok(None)
    }

    async fn port_changes(&self) -> Result<mpsc::Receiver<PortChange>, PlatformError> {
        Ok(mpsc::channel(1).1)
    }

    async fn set_ports_up(&self, _: &BTreeSet<u32>, _: bool) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn remove_port(&self, _: &Name) -> Result<(), PlatformError> {
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

    async fn paths(&self, _: &[VtepAddr]) -> Result<BTreeMap<VtepAddr, VtepPath>, PlatformError> {
        Ok(BTreeMap::new())
    }

    async fn route_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError> {
        Ok(mpsc::channel(1).1)
    }

    async fn remove_vxlan(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}

/// Maps that are trees.
#[derive(Default)]
pub(super) struct Tabled(Mutex<Tables>);

impl Tabled {
    fn with<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Datapath for Tabled {
    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        self.with(|tables| {
            macro_rules! carry_out {
                ($($table:ident),+) => {
                    $(
                        for key in remove.$table.keys() {
                            tables.$table.remove(key);
                        }
                        tables.$table.extend(&put.$table);
                    )+
                };
            }
            carry_out!(networks, vteps, fdb, neighbors, endpoints);
        });
        Ok(())
    }

    fn add(
        &self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError> {
        self.with(|tables| {
            tables.fdb.extend(fdb);
            tables.neighbors.extend(neighbors);
        });
        Ok(())
    }

    fn tables(&self) -> Result<Tables, DatapathError> {
        Ok(self.with(|tables| tables.clone()))
    }

    fn small_tables(&self) -> Result<Tables, DatapathError> {
        Ok(self.with(|tables| Tables {
            networks: tables.networks.clone(),
            vteps: tables.vteps.clone(),
            endpoints: tables.endpoints.clone(),
            ..Tables::default()
        }))
    }

    fn for_each_fdb(&self, visit: &mut dyn FnMut(FdbKey, FdbRow)) -> Result<(), DatapathError> {
        self.with(|tables| {
            for (key, row) in &tables.fdb {
                visit(*key, *row);
            }
        });
        Ok(())
    }

    fn for_each_neighbor(
        &self,
        visit: &mut dyn FnMut(NeighborKey, NeighborRow),
    ) -> Result<(), DatapathError> {
        self.with(|tables| {
            for (key, row) in &tables.neighbors {
                visit(*key, *row);
            }
        });
        Ok(())
    }

    fn used(&self, _: &FdbKey) -> Result<Option<Duration>, DatapathError> {
        Ok(None)
    }

    fn misses(&self) -> Result<mpsc::Receiver<Miss>, DatapathError> {
        Ok(mpsc::channel(1).1)
    }

    fn set_negative(&self, _: Vni, _: Wanted, _: Option<Duration>) -> Result<(), DatapathError> {
        Ok(())
    }

    fn answer(&self, _: &Miss, _: Mac) -> Result<(), DatapathError> {
        Ok(())
    }

    fn announce(&self, _: u32, _: IpAddr, _: Mac) -> Result<(), DatapathError> {
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
        Ok(BTreeMap::new())
    }

    fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        Ok(BTreeMap::new())
    }

    fn is_attached(&self, _: u32) -> Option<bool> {
        None
    }

    fn detached(&self) -> Result<BTreeSet<u32>, DatapathError> {
        Ok(BTreeSet::new())
    }

    fn others_before(&self) -> Result<Vec<Before>, DatapathError> {
        Ok(Vec::new())
    }

    fn attach_endpoints(&self, _: &BTreeSet<u32>) -> Result<(), DatapathError> {
        Ok(())
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
        Ok(())
    }

    fn renew_lease(&self, _: Duration) -> Result<(), DatapathError> {
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
