//! The host's links and namespaces: what the agent makes and removes outside of BPF.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use async_trait::async_trait;
use ipnet::IpNet;
use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::model::{Attachment, Mac, Name, VtepAddr, VtepPath};

mod addresses;
mod attach;
mod default_route;
mod devices;
mod events;
mod inspect;
mod link;
mod link_change;
mod linux;
mod local_ports;
mod mounts;
mod netlink;
mod netlink_socket;
pub mod netns;
mod netns_port;
mod offloads;
mod opening;
mod ownership;
mod path_mtu;
mod port;
mod queues;
mod route;
mod state_dir;
mod underlay;
mod uplink;
mod uplink_way;
mod vxlan;
mod watch;

pub use inspect::{Condition, Offloads, VxlanDevice};
pub use linux::{Inventory, Linux, Look};
pub use mounts::require_shared;
pub use state_dir::forget_lasting;
pub use uplink::{release_ports, reserve_ports};

/// The desired state of an endpoint's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The endpoint's name; with the instance's it makes the mark on what we create.
    pub endpoint: Name,
    /// How it is connected. A namespace that is missing is made, unless somebody else made it before.
    pub attachment: Attachment,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its default gateways, one of each family at most: for namespaces that the agent makes.
    pub gateways: Vec<IpAddr>,
    /// The ports that its sockets get which ask for none, first and last: likewise.
    pub local_ports: Option<(u16, u16)>,
}

/// An endpoint's interface as the kernel has it: a veth pair with our mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The endpoint that it was made for.
    pub endpoint: Name,
    /// Index of the host side: programs attach there, maps name it.
    pub host_ifindex: u32,
    /// Name of the host side.
    pub host_ifname: String,
    /// Whether the host side was set up.
    pub is_up: bool,
    /// Whether its endpoint can send: its own end was set up too. Not known from a listing.
    pub is_open: bool,
    /// Whether a native XDP program is attached inside, past which `bpf_redirect_peer` goes. Not known from
    /// a listing.
    pub has_xdp: bool,
    /// What somebody had changed and was put right, each in a few words.
    pub mended: Vec<String>,
}

/// What somebody changed, that ports are to be looked at for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortChange {
    /// The endpoint's port is not what its spec says any more, or not there.
    Endpoint(Name),
    /// A namespace of this name came or went.
    Netns(Name),
    /// More happened than could be told.
    All,
}

/// The interface that carries the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// This host's VTEP address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// The VXLAN device that opens the port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct External {
    /// Its index.
    pub ifindex: u32,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// The devices beside the endpoints' own that serve the tunnels.
#[derive(Debug, Default)]
pub struct TunnelDevices {
    /// Indexes of the VXLAN devices, the one that opens the port among them.
    pub ifindexes: BTreeSet<u32>,
    /// Why veths reserve no head-room for the tunnels' headers, if they could.
    pub no_headroom: Option<PlatformError>,
    /// Repairs: what was missing or had been changed, each in a few words.
    pub mended: Vec<String>,
}

/// Why the platform refused or failed. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The wish can't be met: a name is taken, an interface is missing or down.
    #[error("{0}")]
    Refused(String),
    /// The kernel failed an operation.
    #[error("{what}: {cause}")]
    Kernel {
        /// What was tried, in the user's words.
        what: String,
        /// What the kernel said.
        cause: String,
    },
}

/// Turns what the kernel said into a line for the user.
trait Context<T> {
    /// `what` was tried, in the user's words: "making the veth of endpoint blue".
    fn context(self, what: impl FnOnce() -> String) -> Result<T, PlatformError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, PlatformError> {
        self.map_err(|cause| PlatformError::failed(what(), &cause))
    }
}

impl PlatformError {
    fn failed(what: String, cause: &io::Error) -> Self {
        let rights = match errno(cause) {
            Errno::EPERM => "CAP_NET_ADMIN and CAP_SYS_ADMIN",
            // A file's mode.
            Errno::EACCES => "CAP_DAC_OVERRIDE",
            _ => {
                return Self::Kernel {
                    what,
                    cause: cause.to_string(),
                };
            }
        };
        Self::Refused(format!(
            "{what}: permission denied: run overlay as root, or with {rights}"
        ))
    }
}

/// The error number behind `cause`; `UnknownErrno` if it came from elsewhere.
fn errno(cause: &io::Error) -> Errno {
    cause
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Links and namespaces of one instance. Every operation is idempotent, finishes what a crash left
/// half made, and touches only what carries this instance's mark.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// Every port that carries this instance's mark, half-made ones included.
    async fn ports(&self) -> Result<Vec<Port>, PlatformError>;

    /// Where ports lead, as far as that is recorded: endpoint -> namespace.
    async fn port_namespaces(&self) -> Result<BTreeMap<Name, Name>, PlatformError>;

    /// Makes the namespace, the veth and its MTU what `spec` says. A new one is down at both ends; once its host
    /// side was set up with [`Self::set_ports_up`], [`Self::refresh_port`] sets the other end up and gives it its
    /// addresses.
    async fn ensure_port(&self, spec: &PortSpec) -> Result<Port, PlatformError>;

    /// Puts right what somebody changed on a port that is there, and makes nothing. `None`: there is
    /// none, or only a part of one.
    async fn refresh_port(&self, spec: &PortSpec) -> Result<Option<Port>, PlatformError>;

    /// Tells what happens to the ports that were ensured or refreshed. Ends if the kernel stops telling.
    async fn port_changes(&self) -> Result<mpsc::Receiver<PortChange>, PlatformError>;

    /// Sets the host sides of ports (indexes) up, or down. One that is up without its program hands
    /// its endpoint's frames to the host's own stack. One that is gone is neither: that is no error.
    async fn set_ports_up(
        &self,
        ifindexes: &BTreeSet<u32>,
        is_up: bool,
    ) -> Result<(), PlatformError>;

    /// Removes the endpoint's veth and its namespace if we made that and nothing else is in it.
    async fn remove_port(&self, endpoint: &Name) -> Result<(), PlatformError>;

    /// Removes namespaces that we made and that hold no port any more (a crash between the two).
    /// To be called once the desired ports stand.
    async fn remove_orphan_namespaces(&self) -> Result<(), PlatformError>;

    /// Forgets whose namespaces the ports of all other endpoints were in. To be called once it is known
    /// which endpoints are on this host: some may have been removed while nobody watched.
    async fn forget_guests_but(&self, endpoints: &BTreeSet<Name>) -> Result<(), PlatformError>;

    /// Makes or repairs the VXLAN device in external mode on UDP `port` (host byte order). A new one is down.
    async fn ensure_vxlan(&self, port: u16) -> Result<External, PlatformError>;

    /// Sets the VXLAN device up that [`Self::ensure_vxlan`] gave for this `port`, and makes the bridge that
    /// spreads head-room. The device has its program by then: without it the host's own stack would take in
    /// what comes there.
    async fn open_vxlan(
        &self,
        port: u16,
        external: External,
    ) -> Result<TunnelDevices, PlatformError>;

    /// Something arrives whenever one of these devices may have changed, also by
    /// [`Self::ensure_vxlan`]. Many changes may make one arrival. Ends if the kernel stops telling.
    async fn device_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError>;

    /// The ways on the underlay to these addresses, from the kernel's routing table. No next hop have those with
    /// no route, with several, or with one that needs more than a next hop to say.
    async fn paths(
        &self,
        vteps: &[VtepAddr],
    ) -> Result<BTreeMap<VtepAddr, VtepPath>, PlatformError>;

    /// Something arrives whenever such a way may have changed since it was last asked for, also when a router
    /// says that a packet of this host was too long. Many changes may make one arrival. Ends if the kernel stops
    /// telling.
    async fn route_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError>;

    /// Removes these devices.
    async fn remove_vxlan(&self) -> Result<(), PlatformError>;
}
