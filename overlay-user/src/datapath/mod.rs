//! The BPF programs and maps: load, attach, pin, read and write. The only place that names aya.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};

use crate::model::Tables;

mod attach;
mod convert;
mod features;
mod kernel;
mod maps;
mod pins;

pub use features::require;
pub use kernel::{Kernel, OBJECT, detach_filters};
pub use pins::remove;

/// What the datapath of one instance is loaded with.
#[derive(Debug, Clone)]
pub struct Settings {
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
    /// A map is full.
    #[error("map {map} is full ({capacity} entries): raise {option} and restart the agent")]
    Full {
        /// The map's name.
        map: &'static str,
        /// How many entries it takes.
        capacity: u32,
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

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// BPF links on the tcx hook (Linux 6.6 and newer).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// The kernel's side of one instance: maps that are tables, programs on interfaces.
pub trait Datapath: Send + Sync + 'static {
    /// Everything in the maps.
    fn tables(&self) -> Result<Tables, DatapathError>;

    /// Makes the maps differ by this: rows of `remove` go first, then rows of `put` are written.
    /// Of `remove` only the keys count.
    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError>;

    /// Makes this version's `endpoint_ingress` attached to exactly these interfaces (indexes):
    /// an older version's is replaced without a gap, and taken off where it is no longer wanted.
    /// Goes on past errors and reports the first.
    fn attach_endpoints(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError>;

    /// The next [`Self::attach_endpoints`] attaches to all of them anew, in case somebody took a
    /// program off.
    fn doubt_attachments(&self);

    /// Makes this version's `underlay_ingress` attached to the underlay device, in the same way.
    fn attach_underlay(&self) -> Result<(), DatapathError>;

    /// Vouches for the VTEPs' next hops from now on for this long; after that the programs ask the
    /// kernel's routing table for each packet.
    fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError>;

    /// Drops by reason since the maps were made, all CPUs added up; every reason is there.
    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError>;

    /// How programs are attached here.
    fn attach_mode(&self) -> AttachMode;
}
