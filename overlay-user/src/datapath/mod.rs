//! The BPF programs and maps: load, attach, pin, read and write. The only place that names aya.

use std::collections::BTreeMap;

use crate::model::Tables;

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

    /// Attaches `endpoint_ingress` to the interface with this index; again is fine.
    fn attach_endpoint(&self, ifindex: u32) -> Result<(), DatapathError>;

    /// Takes it off again, and forgets interfaces that are gone.
    fn detach_endpoint(&self, ifindex: u32) -> Result<(), DatapathError>;

    /// The interfaces that `endpoint_ingress` is attached to.
    fn attached_endpoints(&self) -> Result<Vec<u32>, DatapathError>;

    /// Drops by reason since the maps were made, all CPUs added up; every reason is there.
    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError>;

    /// How programs are attached here.
    fn attach_mode(&self) -> AttachMode;
}
