//! What the agent's socket takes and gives: the command line's JSON, and the operations behind it.
//!
//! The views are the contract itself: `overlay -o json` prints them as they come. Addresses are
//! strings, counts are numbers, keys are in snake case.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::SystemTime};

use async_trait::async_trait;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::datapath::AttachMode;
use crate::{
    datapath::DatapathError,
    model::{
        Endpoint, EndpointState, FloodMode, IfName, Mac, Name, Network, Node, Revision, Vni, ipam,
    },
    platform::PlatformError,
    registry::RegistryError,
};

/// What the agent does for whoever may open its socket.
///
/// An operation that has begun is carried through even if the client goes away.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Makes a network. It has passed [`check_network`].
    async fn network_create(&self, network: Network) -> Result<NetworkView, OperationError>;

    /// Every network, in the order of their VNIs.
    async fn network_ls(&self) -> Result<Vec<NetworkView>, OperationError>;

    /// Removes a network that has no endpoints.
    async fn network_rm(&self, name: &Name) -> Result<(), OperationError>;

    /// Makes an endpoint on this node and returns when it is ready.
    async fn endpoint_add(&self, request: EndpointRequest) -> Result<EndpointView, OperationError>;

    /// The endpoints of every node, in the order of their names.
    async fn endpoint_ls(&self) -> Result<Vec<EndpointView>, OperationError>;

    /// One endpoint.
    async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, OperationError>;

    /// Removes an endpoint. Gone already: nothing to do.
    async fn endpoint_rm(&self, name: &Name) -> Result<(), OperationError>;

    /// The nodes and their VTEPs, in the order of the nodes' names.
    async fn vtep_ls(&self) -> Result<Vec<VtepView>, OperationError>;

    /// The state of this agent.
    async fn status(&self) -> Result<StatusView, OperationError>;

    /// Dropped packets by reason since the maps were made; every reason is there, zeros too.
    async fn drops(&self) -> Result<BTreeMap<String, u64>, OperationError>;

    /// Takes over a folder of `arp/<ip>` and `fdb/<mac>` files.
    async fn import_arpd(&self, request: ImportArpdRequest) -> Result<ImportView, OperationError>;

    /// Removes all that this instance made, then ends the agent once the answer is out.
    async fn down(&self) -> Result<(), OperationError>;
}

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
            RegistryError::Unavailable(_) => Self::Unavailable,
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
    /// The address that an endpoint gets in `network`: a missing prefix length is that of the
    /// subnet it lies in. Refused: there is neither.
    pub fn in_network(self, network: &Network) -> Result<IpNet, OperationError> {
        let refused = |message| OperationError::new(ErrorKind::Refused, message);
        let subnet_len = || network.subnet_of(self.ip).map(|subnet| subnet.prefix_len());
        match self.prefix_len.or_else(subnet_len) {
            Some(length) => host_address(self.ip, length).map_err(refused),
            // The registry says which subnets there are.
            None if !network.subnets.is_empty() => Ok(self.ip.into()),
            None => Err(refused(format!(
                "IP {ip} has no prefix length, and network {name} no subnet to take it from: write \
                 for example {ip}/{usual}",
                ip = self.ip,
                name = network.name,
                usual = if self.ip.is_ipv4() { 24 } else { 64 },
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
    // RFC 3021: with 31 bits both addresses are hosts.
    if let IpNet::V4(v4) = address
        && v4.prefix_len() < 31
        && (v4.addr() == v4.network() || v4.addr() == v4.broadcast())
    {
        return Err(format!(
            "IP {address} is the first or last address of {}: choose one between them",
            v4.trunc()
        ));
    }
    Ok(address)
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
    pub vni: Vni,
    /// Its addresses. Empty: one is taken from the network's first subnet.
    #[serde(default)]
    pub addresses: Vec<AddressRequest>,
    /// Its MAC; `None`: [`Mac::from_ipv4`].
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its namespace; `None`: one with the endpoint's name.
    #[serde(default)]
    pub netns: Option<Name>,
    /// Its interface's name; `None`: eth0.
    #[serde(default)]
    pub ifname: Option<IfName>,
}

/// The folder that is to be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportArpdRequest {
    /// The network that its endpoints are on.
    pub vni: Vni,
    /// Absolute; the agent reads it.
    pub dir: PathBuf,
}

/// What an import took over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportView {
    /// The network.
    pub vni: Vni,
    /// How many endpoints the folder holds.
    pub endpoints: usize,
    /// Behind how many VTEPs they are.
    pub vteps: usize,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// Its VNI.
    pub vni: Vni,
    /// Where its addresses come from.
    pub subnets: Vec<IpNet>,
    /// Bytes of an IP packet; 0: from the underlay.
    pub mtu: u32,
    /// `none`, `head-end` or `multicast GROUP`.
    pub flood: FloodMode,
    /// Whether source MACs are learned from packets.
    pub learning: bool,
}

impl From<Network> for NetworkView {
    fn from(network: Network) -> Self {
        Self {
            name: network.name,
            vni: network.vni,
            subnets: network.subnets,
            mtu: network.mtu,
            flood: network.flood,
            learning: network.learning,
        }
    }
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its name.
    pub name: Name,
    /// Its network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The same with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The node that it lives on.
    pub node: Name,
    /// That node's address on the underlay.
    pub vtep: IpAddr,
    /// Its namespace; null behind a VTEP without an agent.
    pub netns: Option<Name>,
    /// Its interface; null behind a VTEP without an agent.
    pub ifname: Option<IfName>,
    /// The registry's revision at its commit.
    pub generation: Revision,
    /// What became of it on the host that was asked.
    pub state: EndpointState,
    /// Why it failed; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl EndpointView {
    /// The view of `endpoint`, whose node has its VTEP at `vtep`.
    #[must_use]
    pub fn new(endpoint: Endpoint, vtep: IpAddr, state: EndpointState) -> Self {
        Self {
            ips: endpoint.ips().collect(),
            name: endpoint.name,
            vni: endpoint.vni,
            mac: endpoint.mac,
            addresses: endpoint.addresses,
            node: endpoint.node,
            vtep,
            netns: endpoint.netns,
            ifname: endpoint.ifname,
            generation: endpoint.generation,
            state,
            error: None,
        }
    }

    /// The same, and why it failed.
    #[must_use]
    pub fn with_error(mut self, error: Option<String>) -> Self {
        self.error = error;
        self
    }
}

/// A node's VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepView {
    /// The node.
    pub node: Name,
    /// Its address on the underlay.
    pub ip: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// When its agent last said that it lives, RFC 3339; null if it never did.
    pub last_seen: Option<Timestamp>,
    /// Whether that is recent.
    pub alive: bool,
    /// Whether an agent of ours runs there at all.
    pub agent: bool,
}

impl VtepView {
    /// The view of `node`, in whole milliseconds.
    #[must_use]
    pub fn new(node: Node, alive: bool) -> Self {
        Self {
            node: node.name,
            ip: node.vtep.ip,
            port: node.vtep.port,
            last_seen: node.last_seen.and_then(milliseconds),
            alive,
            agent: node.agent,
        }
    }
}

fn milliseconds(time: SystemTime) -> Option<Timestamp> {
    let exact = Timestamp::try_from(time).ok()?;
    Timestamp::from_millisecond(exact.as_millisecond()).ok()
}

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The instance.
    pub instance: Name,
    /// This host's name in the registry.
    pub node: Name,
    /// Whether the datapath is what the registry wants it to be.
    pub ready: bool,
    /// The underlay interface.
    pub iface: IfName,
    /// This host's address on the underlay.
    pub vtep: IpAddr,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// The registry, as this agent sees it.
    pub registry: RegistryView,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are.
    pub endpoints: EndpointCounts,
    /// The datapath.
    pub datapath: DatapathView,
}

/// The registry, as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// Where it is; never with a secret.
    pub url: String,
    /// Whether it is in reach.
    pub connected: bool,
    /// The last revision seen.
    pub revision: Revision,
}

/// Endpoints here and elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounts {
    /// On this node.
    pub local: usize,
    /// On other nodes.
    pub remote: usize,
}

/// The datapath of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathView {
    /// How programs are attached.
    pub attach: AttachMode,
    /// The version of what kernel and user space share.
    pub abi: u32,
    /// Whether our programs carry the packets, rather than the kernel's VXLAN device.
    pub fast_path: bool,
}

/// Refuses a network that can't work, whatever the registry holds; the registry has its own rules
/// beside these. The agent calls this before [`Operations::network_create`].
pub fn check_network(network: &Network) -> Result<(), OperationError> {
    let refused = |message: String| Err(OperationError::new(ErrorKind::Refused, message));
    for subnet in &network.subnets {
        if subnet.addr().is_multicast() || subnet.addr().is_loopback() {
            return refused(format!(
                "subnet {subnet} holds no addresses that an interface can have: choose another"
            ));
        }
    }
    let has_ipv6 = network
        .subnets
        .iter()
        .any(|net| matches!(net, IpNet::V6(_)));
    match (network.mtu, has_ipv6) {
        (0 | 1280..=65535, _) | (68..=1279, false) => Ok(()),
        (68..=1279, true) => refused(format!(
            "MTU {} is too small for IPv6: it needs 1280 (RFC 8200 section 5)",
            network.mtu
        )),
        (mtu, _) => refused(format!(
            "MTU {mtu} is out of range: use 68 to 65535, or 0 for what the underlay leaves"
        )),
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
