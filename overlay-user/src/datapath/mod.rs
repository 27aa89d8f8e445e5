//! The BPF programs and maps: load, attach, pin, read and write. The only place that names aya.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use overlay_ebpf::abi::map;
use tokio::sync::mpsc;

use crate::model::{
    DroppedFrame, Echo, EchoRequest, FdbKey, FdbRow, Mac, MapUsage, Miss, NeighborKey, NeighborRow,
    PortCounts, ProbeRequest, Punt, Tables, Traffic, Vni, Wanted,
};

mod attach;
mod batch;
mod calls;
mod counts;
mod drops;
mod echo;
mod encode;
mod features;
mod inject;
mod kernel;
mod log;
mod map_handle;
mod maps;
mod migrate;
mod misses;
mod nat;
mod numbers;
mod object;
mod pacer;
mod pins;
mod punts;
mod query;
mod reply;
mod restore;
mod storage;
mod table;
mod tables;
mod tracer;
mod traffic_slots;
mod translator;

pub use crate::model::AttachMode;
pub use drops::{PinnedDrops, pinned_drops};
pub use features::require;
pub use kernel::{Kernel, detach_filters};
pub use object::{OBJECT, TRACE_OBJECT};
pub use pacer::Pacer;
pub use pins::remove;
pub use tracer::{Tracer, Tracing};
pub use translator::Translator;

/// What the datapath of one instance is loaded with.
#[derive(Debug, Clone)]
pub struct DatapathSettings {
    /// The instance's folder on the BPF filesystem.
    pub pins: PathBuf,
    /// Name of the underlay device.
    pub underlay: String,
    /// Index of the underlay device.
    pub underlay_ifindex: u32,
    /// This host's VTEP address.
    pub vtep_ip: Ipv4Addr,
    /// This host's VTEP port, host byte order.
    pub vtep_port: u16,
    /// Drop VXLAN headers with reserved bits set.
    pub strict_reserved: bool,
    /// Entries that the FDB can hold.
    pub fdb_entries: u32,
    /// Entries that the neighbour table can hold.
    pub neighbor_entries: u32,
    /// Whether the programs tell of each drop through the log.
    pub log_drops: bool,
}

/// Why the datapath refused or failed. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// No right to use BPF, a kernel feature that is missing, a pin of a foreign shape.
    #[error("{0}")]
    Refused(String),
    /// A map is full. All other rows of the same write are in.
    #[error(
        "map {map} is full ({capacity} entries), {refused} rows found no place: raise {option} and \
         restart the agent"
    )]
    Full {
        /// The map's name.
        map: &'static str,
        /// How many entries it takes.
        capacity: u64,
        /// How many rows of this write it did not take.
        refused: u64,
        /// The option that raises it.
        option: &'static str,
    },
    /// The kernel failed an operation.
    #[error("{what}: {cause}")]
    Kernel {
        /// What was tried.
        what: String,
        /// What the kernel said.
        cause: String,
    },
}

impl DatapathError {
    /// How many rows a full map of endpoints did not take: others may go to make room for them.
    #[must_use]
    pub fn refused_endpoints(&self) -> Option<u64> {
        match self {
            Self::Full {
                map: map::FDB | map::NEIGHBORS,
                refused,
                ..
            } => Some(*refused),
            _ => None,
        }
    }

    /// The higher, the more has to be done about it.
    fn severity(&self) -> u8 {
        match self {
            Self::Full { .. } => u8::from(self.refused_endpoints().is_some()),
            Self::Refused(_) | Self::Kernel { .. } => 2,
        }
    }
}

/// What stands before this instance's program at an interface's ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// The interface's name.
    pub interface: String,
    /// Others' programs with their ids, in the order in which they run. Each may end the chain.
    pub programs: Vec<String>,
    /// Whether this instance's own is there at all.
    pub is_attached: bool,
}

/// The kernel's side of one instance: maps that are tables, programs on interfaces.
pub trait Datapath: Send + Sync + 'static {
    /// Everything in the maps.
    fn tables(&self) -> Result<Tables, DatapathError>;

    /// Networks, VTEPs and local endpoints. The FDB and the neighbour table, which grow with the
    /// registry, are left empty.
    fn small_tables(&self) -> Result<Tables, DatapathError>;

    /// Shows every row of the FDB, in no order, without a copy of the table. Rows that are written
    /// or removed meanwhile may be shown, twice even, or not.
    fn for_each_fdb(&self, visit: &mut dyn FnMut(FdbKey, FdbRow)) -> Result<(), DatapathError>;

    /// The same for the neighbour table.
    fn for_each_neighbor(
        &self,
        visit: &mut dyn FnMut(NeighborKey, NeighborRow),
    ) -> Result<(), DatapathError>;

    /// Makes the maps differ by this: rows of `remove` go first, then rows of `put` are written.
    /// Of `remove` only the keys count.
    ///
    /// A row never takes the place of one with a higher generation: it is left out and counted as
    /// stale in [`Self::usage`]. To go back to an older generation, name the key in `remove` too.
    ///
    /// Goes on past what fails and gives the gravest error; rows that a full map does not take are
    /// counted there as well.
    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError>;

    /// The same, in fewer system calls, for rows whose keys the maps do not hold. The caller knows that
    /// for sure: a row that is there all the same may be overwritten, whatever its generation, and
    /// counts twice in [`Self::usage`].
    fn add(
        &self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError>;

    /// How long ago a frame last used an FDB row that ages, in whole seconds. `None`: there is no
    /// such row, or it does not age.
    fn used(&self, key: &FdbKey) -> Result<Option<Duration>, DatapathError>;

    /// What frames of on-demand networks ask for and the maps do not hold. A key is told of once,
    /// and again after a second, or what [`Self::set_negative`] said. To be called once.
    fn misses(&self) -> Result<mpsc::Receiver<Miss>, DatapathError>;

    /// Says what became of a miss. `Some`: nobody has the address; for so long it raises no miss and
    /// frames for it are dropped as for an unknown one. `None`: it was found and the maps have it;
    /// should they lose it, the next frame raises a miss at once.
    fn set_negative(
        &self,
        vni: Vni,
        wanted: Wanted,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError>;

    /// Sends the asker of a [`Wanted::Ip`] the ARP reply or neighbour advertisement that it waits
    /// for: the address is at `mac`. Of other misses there is nothing to send.
    fn answer(&self, miss: &Miss, mac: Mac) -> Result<(), DatapathError>;

    /// Tells the endpoint behind an interface of this host that an address is at `mac` from now on:
    /// gratuitous ARP, or an unsolicited neighbour advertisement.
    fn announce(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<(), DatapathError>;

    /// Sends an echo to another host, on the way that encapsulated frames take.
    fn send_echo(&self, request: &EchoRequest) -> Result<(), DatapathError>;

    /// Sends an echo from an endpoint of this host, by its program.
    fn send_probe(&self, request: &ProbeRequest) -> Result<(), DatapathError>;

    /// What comes of echoes, this host's and others'. To be called once.
    fn echoes(&self) -> Result<mpsc::Receiver<Echo>, DatapathError>;

    /// Frames of endpoints that the agent is to answer. To be called once.
    fn punts(&self) -> Result<mpsc::Receiver<Punt>, DatapathError>;

    /// Sends an endpoint a frame by the host side of its interface. Waits for nothing that others do.
    fn send_frame(&self, ifindex: u32, frame: &[u8]) -> Result<(), DatapathError>;

    /// How full each map is, by name.
    fn usage(&self) -> Result<BTreeMap<&'static str, MapUsage>, DatapathError>;

    /// What the programs count beside drops, by name, all CPUs added up.
    fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError>;

    /// Traffic of the networks that have endpoints on this host.
    fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError>;

    /// Makes this version's `endpoint_ingress` attached to these interfaces (indexes): an older
    /// version's is replaced without a gap. It is taken off no other interface: a program goes with
    /// its interface, or frames would pass to the host's own stack. Goes on past errors and reports
    /// the first.
    fn attach_endpoints(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError>;

    /// Whether a program of this instance is attached to the interface since the last
    /// [`Self::attach_endpoints`]. `Some(false)` is the kernel's word; `None`: it is not known.
    fn is_attached(&self, ifindex: u32) -> Option<bool>;

    /// Interfaces (indexes) that have had a program of this instance since the last
    /// [`Self::attach_endpoints`], and have it no more. Looks at so many of the endpoints' that it takes no
    /// more than some milliseconds, and at others the next time. Empty where the hook does not tell.
    fn detached(&self) -> Result<BTreeSet<u32>, DatapathError>;

    /// The interfaces of endpoints and of the underlay where others' programs run before this
    /// instance's, or this one is missing.
    fn others_before(&self) -> Result<Vec<Before>, DatapathError>;

    /// The next [`Self::attach_endpoints`] attaches to all of them anew, in case somebody took a
    /// program off.
    fn recheck_attachments(&self);

    /// Makes this version's `underlay_ingress` attached to the underlay device, in the same way.
    fn attach_underlay(&self) -> Result<(), DatapathError>;

    /// Makes this version's `external_ingress`, which lets nothing in but what `underlay_ingress` left to it,
    /// attached to the VXLAN devices with these indexes, besides those that have it and are still there.
    fn attach_external(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError>;

    /// Names the VXLAN device, by its index, that encapsulates and unpacks what the programs can't. It is up and
    /// has its program. `None`: there is none, and such packets are dropped.
    fn set_slow_path(&self, ifindex: Option<u32>) -> Result<(), DatapathError>;

    /// Pins maps and programs again whose pins somebody removed: they are what a later agent finds. Attaches
    /// `external_ingress` again, likewise.
    fn restore_pins(&self) -> Result<(), DatapathError>;

    /// Vouches for the VTEPs' next hops from now on for this long; after that the programs ask the
    /// kernel's routing table for each packet.
    fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError>;

    /// Drops by reason since the maps were made, all CPUs added up; every reason is there.
    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError>;

    /// Frames that were dropped for these reasons, by name: the last few of each, the oldest first.
    fn dropped_frames(&self, reasons: &BTreeSet<&str>) -> Result<Vec<DroppedFrame>, DatapathError>;

    /// What was counted of each endpoint of this host, by its host-side interface; of this interface's alone.
    fn port_counts(&self, only: Option<u32>) -> Result<BTreeMap<u32, PortCounts>, DatapathError>;

    /// How programs are attached here.
    fn attach_mode(&self) -> AttachMode;
}
