//! A datapath that records when some rows are written or removed, and delegates the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use overlay_user::datapath::{AttachMode, Before, Datapath, DatapathError};
use overlay_user::model::{
    DroppedFrame, Echo, EchoRequest, FdbKey, FdbRow, Mac, MapUsage, Miss, NeighborKey, NeighborRow,
    PortCounts, ProbeRequest, Punt, Tables, Traffic, Vni, Wanted,
};
use tokio::sync::mpsc;

use super::load;

/// Nanoseconds of `CLOCK_MONOTONIC`: the same for all processes of a machine.
pub(super) fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|now| u64::try_from(Duration::from(now).as_nanos()).ok())
        .unwrap_or_default()
}

/// What happened to one endpoint.
struct Cell {
    times: AtomicU32,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl Cell {
    fn note(&self, now: u64) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.first_ns.fetch_min(now, Ordering::Relaxed);
        self.last_ns.fetch_max(now, Ordering::Relaxed);
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            times: AtomicU32::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
        }
    }
}

/// What happened to all, in all maps of this process.
pub(super) struct Recording(Vec<Cell>);

impl Recording {
    pub(super) fn new(endpoints: u32) -> Self {
        Self((0..endpoints).map(|_| Cell::default()).collect())
    }

    /// What was noted, in lines, and forgets it.
    pub(super) fn take(&self) -> String {
        let mut text = String::new();
        for (number, cell) in self.0.iter().enumerate() {
            let times = cell.times.swap(0, Ordering::Relaxed);
            let first = cell.first_ns.swap(u64::MAX, Ordering::Relaxed);
            let last = cell.last_ns.swap(0, Ordering::Relaxed);
            if times > 0 {
                let _ = writeln!(text, "{number} {times} {first} {last}");
            }
        }
        text
    }

    fn note(&self, key: &FdbKey, now: u64) {
        let number = load::number_of(key.mac).and_then(|number| usize::try_from(number).ok());
        if let Some(cell) = number.and_then(|number| self.0.get(number)) {
            cell.note(now);
        }
    }
}

/// The datapath.
pub(super) struct RecordingDatapath<D> {
    inner: D,
    recording: Arc<Recording>,
}

impl<D> RecordingDatapath<D> {
    pub(super) fn new(inner: D, recording: &Arc<Recording>) -> Self {
        Self {
            inner,
            recording: Arc::clone(recording),
        }
    }
}

impl<D: Datapath> Datapath for RecordingDatapath<D> {
    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        self.inner.write(put, remove)?;
        let now = now_ns();
        for key in put.fdb.keys() {
            self.recording.note(key, now);
        }
        for key in remove.fdb.keys().filter(|key| !put.fdb.contains_key(key)) {
            self.recording.note(key, now);
        }
        Ok(())
    }

    fn add(
        &self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError> {
        self.inner.add(fdb, neighbors)?;
        let now = now_ns();
        for key in fdb.keys() {
            self.recording.note(key, now);
        }
        Ok(())
    }

    fn tables(&self) -> Result<Tables, DatapathError> {
        self.inner.tables()
    }

    fn small_tables(&self) -> Result<Tables, DatapathError> {
        self.inner.small_tables()
    }

    fn for_each_fdb(&self, visit: &mut dyn FnMut(FdbKey, FdbRow)) -> Result<(), DatapathError> {
        self.inner.for_each_fdb(visit)
    }

    fn for_each_neighbor(
        &self,
        visit: &mut dyn FnMut(NeighborKey, NeighborRow),
    ) -> Result<(), DatapathError> {
        self.inner.for_each_neighbor(visit)
    }

    fn used(&self, key: &FdbKey) -> Result<Option<Duration>, DatapathError> {
        self.inner.used(key)
    }

    fn misses(&self) -> Result<mpsc::Receiver<Miss>, DatapathError> {
        self.inner.misses()
    }

    fn set_negative(
        &self,
        vni: Vni,
        wanted: Wanted,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError> {
        self.inner.set_negative(vni, wanted, nobody_for)
    }

    fn answer(&self, miss: &Miss, mac: Mac) -> Result<(), DatapathError> {
        self.inner.answer(miss, mac)
    }

    fn announce(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<(), DatapathError> {
        self.inner.announce(ifindex, ip, mac)
    }

    fn send_echo(&self, request: &EchoRequest) -> Result<(), DatapathError> {
        self.inner.send_echo(request)
    }

    fn send_probe(&self, request: &ProbeRequest) -> Result<(), DatapathError> {
        self.inner.send_probe(request)
    }

    fn echoes(&self) -> Result<mpsc::Receiver<Echo>, DatapathError> {
        self.inner.echoes()
    }

    fn punts(&self) -> Result<mpsc::Receiver<Punt>, DatapathError> {
        self.inner.punts()
    }

    fn send_frame(&self, ifindex: u32, frame: &[u8]) -> Result<(), DatapathError> {
        self.inner.send_frame(ifindex, frame)
    }

    fn usage(&self) -> Result<BTreeMap<&'static str, MapUsage>, DatapathError> {
        self.inner.usage()
    }

    fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        self.inner.counters()
    }

    fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        self.inner.traffic()
    }

    fn attach_endpoints(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        self.inner.attach_endpoints(ifindexes)
    }

    fn is_attached(&self, ifindex: u32) -> Option<bool> {
        self.inner.is_attached(ifindex)
    }

    fn detached(&self) -> Result<BTreeSet<u32>, DatapathError> {
        self.inner.detached()
    }

    fn others_before(&self) -> Result<Vec<Before>, DatapathError> {
        self.inner.others_before()
    }

    fn recheck_attachments(&self) {
        self.inner.recheck_attachments();
    }

    fn attach_external(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        self.inner.attach_external(ifindexes)
    }

    fn set_slow_path(&self, ifindex: Option<u32>) -> Result<(), DatapathError> {
        self.inner.set_slow_path(ifindex)
    }

    fn restore_pins(&self) -> Result<(), DatapathError> {
        self.inner.restore_pins()
    }

    fn attach_underlay(&self) -> Result<(), DatapathError> {
        self.inner.attach_underlay()
    }

    fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError> {
        self.inner.renew_lease(valid)
    }

    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        self.inner.drops()
    }

    fn dropped_frames(&self, reasons: &BTreeSet<&str>) -> Result<Vec<DroppedFrame>, DatapathError> {
        self.inner.dropped_frames(reasons)
    }

    fn port_counts(&self, only: Option<u32>) -> Result<BTreeMap<u32, PortCounts>, DatapathError> {
        self.inner.port_counts(only)
    }

    fn attach_mode(&self) -> AttachMode {
        self.inner.attach_mode()
    }
}
