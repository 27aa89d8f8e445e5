//! What the agent's socket takes and gives: the command line's JSON, and the operations behind it.
//!
//! The views are the contract itself: `overlay -o json` prints them as they come. Addresses are
//! strings, counts are numbers, keys are in snake case.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    datapath::DatapathError,
    model::{
        IfName, Mac, Name, NameError, NetnsRef, Network, NetworkRef, NetworkSettings, Node, ipam,
    },
    platform::PlatformError,
    registry::RegistryError,
};

mod adopt;
mod cluster;
mod drops;
mod event;
mod findings;
mod network;
mod view;

pub use crate::model::{PathState, PathView, Pinged};
pub use crate::registry::{Counts, Finding as RegistryFinding, Findings, Imported, Repair};
pub use adopt::{AdoptRequest, AdoptView};
pub use cluster::{ClusterHost, ClusterPath, ClusterView, PingRequest, Way};
pub use drops::{
    DropCountView, DropNames, DropSampleView, DropTotals, DroppedView, DropsFilter, DropsView,
    EndpointDropsView, drop_class, drop_counts, drop_samples, endpoint_drop_counts,
};
pub use event::{Event, EventView, RegistryChange};
pub use findings::{
    Difference, DoctorView, EntryView, Finding, HostView, Severity, Verdict, VerifyRequest,
    VerifyView,
};
pub use network::NetworkRequest;
pub use view::{
    AttachMode, DatapathView, EndpointCounts, EndpointView, ImportView, NetworkView, NodeState,
    RegistryView, RejectedView, RemovedView, StalledView, StatusView, VtepRemovedView, VtepView,
    milliseconds,
};

/// What the agent does for whoever may open its socket.
///
/// An operation that has begun is carried through even if the client goes away.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Makes a network. It has passed [`check_network`].
    async fn network_create(&self, request: NetworkRequest) -> Result<NetworkView, OperationError>;

    /// Changes a network while traffic runs, and returns when this host has followed.
    async fn network_set(
        &self,
        name: &Name,
        settings: NetworkSettings,
    ) -> Result<NetworkView, OperationError>;

    /// Every network, in the order of their VNIs.
    async fn network_ls(&self) -> Result<Vec<NetworkView>, OperationError>;

    /// Removes a network that has no endpoints. Gone already: nothing to do.
    async fn network_rm(&self, name: &Name) -> Result<RemovedView, OperationError>;

    /// Makes an endpoint on this node and returns when it is ready.
    async fn endpoint_add(&self, request: EndpointRequest) -> Result<EndpointView, OperationError>;

    /// The endpoints of every node that pass `filter`, page by page. After an error nothing follows.
    async fn endpoint_ls(&self, filter: EndpointFilter) -> Result<EndpointListing, OperationError>;

    /// One endpoint.
    async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, OperationError>;

    /// Puts an endpoint onto another node, with its MAC and addresses.
    async fn endpoint_move(
        &self,
        name: &Name,
        to: MoveRequest,
    ) -> Result<EndpointView, OperationError>;

    /// Changes an endpoint while traffic runs, and returns when this host has followed.
    async fn endpoint_set(
        &self,
        name: &Name,
        request: SetRequest,
    ) -> Result<EndpointView, OperationError>;

    /// Removes an endpoint. Gone already: nothing to do.
    async fn endpoint_rm(&self, name: &Name) -> Result<RemovedView, OperationError>;

    /// The nodes and their VTEPs, in the order of the nodes' names.
    async fn vtep_ls(&self) -> Result<Vec<VtepView>, OperationError>;

    /// Removes a node whose host is gone for good, and every endpoint on it. Gone already: `None`.
    async fn vtep_rm(&self, vtep: &VtepRef) -> Result<Option<VtepRemovedView>, OperationError>;

    /// The state of this agent.
    async fn status(&self) -> Result<StatusView, OperationError>;

    /// Dropped packets by reason since the maps were made; every reason is there, zeros too.
    async fn drops(&self) -> Result<BTreeMap<String, u64>, OperationError>;

    /// The same with some of the packets, or what was dropped of one endpoint of this host.
    async fn drops_detail(&self, filter: DropsFilter) -> Result<DropsView, OperationError>;

    /// What happens from now on. Ends with the agent.
    async fn monitor(&self) -> Result<mpsc::Receiver<EventView>, OperationError>;

    /// Compares what every host has installed with the registry.
    async fn verify(&self, request: VerifyRequest) -> Result<VerifyView, OperationError>;

    /// Examines this host, and the peers as the registry knows them.
    async fn doctor(&self) -> Result<DoctorView, OperationError>;

    /// Examines every pair of hosts.
    async fn doctor_cluster(&self) -> Result<ClusterView, OperationError>;

    /// Sends an echo from an endpoint or a node to another.
    async fn ping(&self, request: PingRequest) -> Result<Pinged, OperationError>;

    /// Says what following the registry as it is now would remove here; follows it if the request says so.
    async fn registry_adopt(&self, request: AdoptRequest) -> Result<AdoptView, OperationError>;

    /// Takes over a folder of `arp/<ip>` and `fdb/<mac>` files.
    async fn import_arpd(&self, request: ImportArpdRequest) -> Result<ImportView, OperationError>;

    /// Removes all that this instance made, then ends the agent once the answer is out.
    async fn down(&self) -> Result<(), OperationError>;
}

/// Endpoints in pages, so that neither side holds a million of them.
pub type EndpointPages = mpsc::Receiver<Result<Vec<EndpointView>, OperationError>>;

/// Endpoints, and whether they are all that there are.
#[derive(Debug)]
pub struct EndpointListing {
    /// The endpoints.
    pub pages: EndpointPages,
    /// Why they may not be, in a line.
    pub note: Option<String>,
}

/// The header that carries [`EndpointListing::note`].
pub const NOTE: &str = "overlay-note";

/// What kind of failure it is; decides the HTTP status and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is malformed: exit code 2, all others 1.
    Usage,
    /// What it names does not exist.
    NotFound,
    /// A unique value is taken.
    Conflict,
    /// The wish breaks a rule or can't be met on this host.
    Refused,
    /// The agent or the registry is out of reach; trying again later may help.
    Unavailable,
    /// What was looked at is not as it should be.
    Finding,
    /// The agent or the kernel failed.
    Internal,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct OperationError {
    /// One line: what is wrong, why, and what to do.
    pub message: String,
    /// For programs.
    pub kind: ErrorKind,
}

impl OperationError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            kind,
        }
    }

    /// What failed, in the words of the innermost error that knows its kind; otherwise internal.
    #[must_use]
    pub fn from_chain(error: &anyhow::Error) -> Self {
        let kind = error.chain().find_map(|cause| {
            cause
                .downcast_ref::<Self>()
                .map(|error| error.kind)
                .or_else(|| cause.downcast_ref::<RegistryError>().map(ErrorKind::from))
                .or_else(|| cause.downcast_ref::<PlatformError>().map(ErrorKind::from))
                .or_else(|| cause.downcast_ref::<DatapathError>().map(ErrorKind::from))
        });
        Self::new(
            kind.unwrap_or(ErrorKind::Internal),
            format_args!("{error:#}"),
        )
    }
}

impl From<&RegistryError> for ErrorKind {
    fn from(error: &RegistryError) -> Self {
        match error {
            RegistryError::Conflict { .. } | RegistryError::Quarantined { .. } => Self::Conflict,
            RegistryError::Missing { .. } => Self::NotFound,
            RegistryError::Refused(_) => Self::Refused,
            RegistryError::Unavailable(_) | RegistryError::Foreign(_) => Self::Unavailable,
        }
    }
}

impl From<&PlatformError> for ErrorKind {
    fn from(error: &PlatformError) -> Self {
        match error {
            PlatformError::Refused(_) => Self::Refused,
            PlatformError::Kernel { .. } => Self::Internal,
        }
    }
}

impl From<&DatapathError> for ErrorKind {
    fn from(error: &DatapathError) -> Self {
        match error {
            DatapathError::Refused(_) | DatapathError::Full { .. } => Self::Refused,
            DatapathError::Kernel { .. } => Self::Internal,
        }
    }
}

impl From<RegistryError> for OperationError {
    fn from(error: RegistryError) -> Self {
        Self::new((&error).into(), error)
    }
}

impl From<PlatformError> for OperationError {
    fn from(error: PlatformError) -> Self {
        Self::new((&error).into(), error)
    }
}

impl From<DatapathError> for OperationError {
    fn from(error: DatapathError) -> Self {
        Self::new((&error).into(), error)
    }
}

/// A failure as the socket gives it and `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What failed.
    pub error: OperationError,
}

/// An address as it is asked for: with its prefix length, or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRequest {
    ip: IpAddr,
    prefix_len: Option<u8>,
}

impl AddressRequest {
    /// The address that an endpoint gets in `network`: its prefix length is that of the subnet it lies in,
    /// whether that was asked for or not. Refused: there is none, it is another, or a host can't have the
    /// address.
    pub fn in_network(self, network: &Network) -> Result<IpNet, OperationError> {
        let refused = |message| OperationError::new(ErrorKind::Refused, message);
        let Self { ip, prefix_len } = self;
        let subnet = network.subnet_of(ip);
        if let (Some(subnet), Some(length)) = (subnet, prefix_len)
            && length != subnet.prefix_len()
        {
            return Err(refused(format!(
                "IP {ip}/{length} has another prefix length than subnet {subnet} of network {}: write {ip}/{}",
                network.name,
                subnet.prefix_len()
            )));
        }
        match prefix_len.or(subnet.map(|subnet| subnet.prefix_len())) {
            Some(length) => host_address(ip, length).map_err(refused),
            // The registry says which subnets there are.
            None if !network.subnets.is_empty() => Ok(ip.into()),
            None => Err(refused(format!(
                "IP {ip} has no prefix length, and network {name} no subnet to take it from: write \
                 for example {ip}/{usual}",
                name = network.name,
                usual = if ip.is_ipv4() { 24 } else { 64 },
            ))),
        }
    }
}

/// Refuses what no host can have as its address.
fn host_address(ip: IpAddr, prefix_len: u8) -> Result<IpNet, String> {
    if !ipam::is_assignable(ip) {
        return Err(format!(
            "IP {ip} is no unicast address that an endpoint could have"
        ));
    }
    let address = IpNet::new(ip, prefix_len)
        .map_err(|_| format!("IP {ip}/{prefix_len} is malformed: the prefix length is too long"))?;
    let subnet = address.trunc();
    let meaning = match address {
        _ if ipam::is_point_to_point(&address) => return Ok(address),
        IpNet::V4(_) if ip == subnet.network() => "the network address (the first)",
        IpNet::V4(_) if ip == subnet.broadcast() => "the broadcast address (the last address)",
        IpNet::V6(_) if ip == subnet.network() => "the routers' anycast address (the first)",
        _ => return Ok(address),
    };
    Err(format!(
        "IP {address} is {meaning} of {subnet}: choose another in it"
    ))
}

impl FromStr for AddressRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed =
            || format!("IP {text:?} is malformed: write for example 7.7.7.2/24 or fd00::2/64");
        let (ip, prefix_len) = if text.contains('/') {
            let address: IpNet = text.parse().map_err(|_| malformed())?;
            (address.addr(), Some(address.prefix_len()))
        } else {
            (text.parse().map_err(|_| malformed())?, None)
        };
        let longest = IpNet::from(ip).max_prefix_len();
        host_address(ip, prefix_len.unwrap_or(longest))?;
        Ok(Self { ip, prefix_len })
    }
}

impl TryFrom<String> for AddressRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRequest> for String {
    fn from(address: AddressRequest) -> Self {
        address.to_string()
    }
}

impl fmt::Display for AddressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len {
            None => self.ip.fmt(f),
            Some(length) => write!(f, "{}/{length}", self.ip),
        }
    }
}

/// The endpoint that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRequest {
    /// Its name.
    pub name: Name,
    /// Its network.
    pub vni: NetworkRef,
    /// Its addresses. Empty: one of each family that the network has subnets of.
    #[serde(default)]
    pub addresses: Vec<AddressRequest>,
    /// Its MAC; `None`: [`Mac::from_ipv4`], or [`Mac::spare`] if that is taken.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its namespace; `None`: one with the endpoint's name.
    #[serde(default)]
    pub netns: Option<NetnsRef>,
    /// Its interface's name; `None`: eth0.
    #[serde(default)]
    pub ifname: Option<IfName>,
}

/// Which endpoints to list. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointFilter {
    /// Only those of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<NetworkRef>,
    /// Only those that live on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
}

/// Where an endpoint is to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// The node; `None`: the one that is asked.
    #[serde(default)]
    pub node: Option<Name>,
    /// Its namespace there; `None`: as it was.
    #[serde(default)]
    pub netns: Option<NetnsRef>,
    /// Its interface there; `None`: as it was.
    #[serde(default)]
    pub ifname: Option<IfName>,
}

/// What of an endpoint is to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRequest {
    /// All its addresses from now on. Empty: as they were.
    #[serde(default)]
    pub addresses: Vec<AddressRequest>,
    /// Its MAC; `None`: as it was.
    #[serde(default)]
    pub mac: Option<Mac>,
}

/// A node, by its name or by its VTEP's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VtepRef {
    /// By its VTEP's address, or by a name that looks like one.
    Ip(IpAddr),
    /// By its name.
    Node(Name),
}

impl VtepRef {
    /// Whether it refers to this node.
    #[must_use]
    pub fn is(&self, node: &Node) -> bool {
        match self {
            Self::Ip(ip) => node.vtep.ip == *ip || node.name.as_str() == ip.to_string(),
            Self::Node(name) => node.name == *name,
        }
    }
}

impl FromStr for VtepRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let name = text.parse().map_err(|error: NameError| {
            format!("{error}; or write a VTEP's address, for example 10.0.0.1")
        });
        name.map(Self::Node)
    }
}

impl TryFrom<String> for VtepRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VtepRef> for String {
    fn from(vtep: VtepRef) -> Self {
        vtep.to_string()
    }
}

impl fmt::Display for VtepRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Node(name) => name.fmt(f),
        }
    }
}

/// The folder that is to be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportArpdRequest {
    /// The network that its endpoints are on.
    pub vni: NetworkRef,
    /// Absolute; the agent reads it.
    pub dir: PathBuf,
}

/// What no subnet may hold, and what that is.
const SPECIAL: [(&str, &str); 6] = [
    ("0.0.0.0/8", "which means this host"),
    ("127.0.0.0/8", "which is loopback"),
    ("224.0.0.0/4", "which is multicast"),
    ("::/127", "which is unspecified and loopback"),
    ("::ffff:0:0/96", "which are IPv4 addresses"),
    ("ff00::/8", "which is multicast"),
];

/// The least MTU that each family asks for (RFC 791, RFC 8200), and what VXLAN leaves of the longest packet
/// of the underlay.
const MTU: [u32; 3] = [576, 1280, 65_535 - 50];

/// Refuses a network that can't work, whatever the registry holds; the registry has its own rules
/// beside these. The agent calls this before [`Operations::network_create`]. Networks that earlier
/// versions took are not held against it.
pub fn check_network(subnets: &[IpNet], mtu: u32) -> Result<(), OperationError> {
    let refused = |message: String| Err(OperationError::new(ErrorKind::Refused, message));
    for subnet in subnets {
        let overlaps = SPECIAL.iter().find(|(special, _)| {
            let special: Result<IpNet, _> = special.parse();
            special.is_ok_and(|special| special.contains(subnet) || subnet.contains(&special))
        });
        if let Some((special, meaning)) = overlaps {
            return refused(format!(
                "subnet {subnet} has addresses of {special}, {meaning}, that no interface can have: choose \
                 another, for example of 10.0.0.0/8 or fd00::/8"
            ));
        }
    }
    let [v4, v6, most] = MTU;
    let (least, family) = if subnets.iter().any(|net| net.addr().is_ipv6()) {
        (v6, " with IPv6")
    } else {
        (v4, "")
    };
    if mtu == 0 || (least..=most).contains(&mtu) {
        return Ok(());
    }
    refused(format!(
        "MTU {mtu} is out of range: a network{family} has {least} to {most}, or 0 for what the underlay leaves"
    ))
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
