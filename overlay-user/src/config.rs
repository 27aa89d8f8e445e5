//! Flags, environment and file become one validated [`Config`].
//!
//! A flag beats the environment (clap sees to these two), both beat the file, all beat the
//! defaults. Every value is checked while it is parsed, by the same code from each source.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::Ipv4Net;
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{
    model::{IfName, Name, NetworkRef},
    registry::RegistrySettings,
};

mod access;
mod value;

use access::URL_FORMS;
pub use access::{RegistryFlags, RegistryUrl};
pub use value::{
    CacheEntries, CacheIdle, Entries, Gateway, LeaseTime, LogFormat, LogSetting, MetricsAddress,
    NegativeTtl, NodeGrace, Patience, Port, PortRange, Quarantine, WatchPeriod,
};

const DEFAULT_INSTANCE: &str = "default";
const DEFAULT_REGISTRY: &str = "sqlite:///var/lib/overlay/registry.db";
const DEFAULT_LOG: &str = "info";
/// IANA's port for VXLAN (RFC 7348 section 8).
pub(crate) const DEFAULT_PORT: u16 = 4789;
const DEFAULT_ENTRIES: u32 = 262_144;
const DEFAULT_CACHE_ENTRIES: u32 = 65_536;
pub(crate) const DEFAULT_NODE_GRACE: Duration = Duration::from_mins(1);
const DEFAULT_CACHE_IDLE: Duration = Duration::from_mins(5);
const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// The dynamic ports of RFC 6335 section 6.
const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// Why a configuration was refused. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither `sqlite:///PATH` nor `etcd://HOST:PORT`.
    #[error("registry URL {0:?} is not understood: use {URL_FORMS}")]
    Registry(String),
    /// A URL with a user and maybe a password in it, which everybody could read in the process list.
    #[error(
        "a registry URL must not hold a user or a password: write {URL_FORMS}, and name them with \
         --etcd-user and --etcd-password-file"
    )]
    RegistrySecret,
    /// A file that opens the registry can't be used.
    #[error("{flag}: can't read {}: {cause}", path.display())]
    Credential {
        /// Which one.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A secret that every user of this host can read.
    #[error("{flag}: every user can read {path}: run `chmod o= {path}`", path = path.display())]
    Exposed {
        /// Which one.
        flag: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// One of two flags that belong together.
    #[error("{flag} needs {other} too")]
    Incomplete {
        /// The one that is there.
        flag: &'static str,
        /// The one that is missing.
        other: &'static str,
    },
    /// A flag of etcd with another registry.
    #[error("{0} is for an etcd registry: give --registry etcd://HOST:PORT too, or leave it out")]
    NotEtcd(&'static str),
    /// No UDP port.
    #[error("UDP port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// A gateway is one network's.
    #[error("--gateway is for one network, and there are {0}: name it with --vni")]
    GatewayOf(usize),
    /// No address that a gateway could have.
    #[error("{0:?} is no address of a gateway with its subnet: write for example 10.1.0.1/24")]
    Gateway(String),
    /// No range of ports, or too small a one.
    #[error("{0:?} is no range of 256 or more ports from 1024 on: write for example 49152-65535")]
    PortRange(String),
    /// A map's capacity out of range.
    #[error("{text:?} is not a number of entries from {min} to {max}")]
    Entries {
        /// What was given.
        text: String,
        /// The least that is possible.
        min: u32,
        /// The most that is possible.
        max: u32,
    },
    /// No span of time, or one out of range.
    #[error(
        "{text:?} is not a time from {} to {}: write for example 30s, 5m or 1h",
        friendly(*min),
        friendly(*max)
    )]
    Period {
        /// What was given.
        text: String,
        /// The least that is possible.
        min: Duration,
        /// The most that is possible.
        max: Duration,
    },
    /// No address that metrics can be served on.
    #[error(
        "metrics address {0:?} is not understood: use PORT, :PORT or IP:PORT, for example :9090"
    )]
    Metrics(String),
    /// Neither a format of the log nor a filter of tracing.
    #[error(
        "log filter {0:?} is not understood: use for example info, json or \
         json,overlay_user=debug,warn"
    )]
    Log(String),
    /// Nothing names the underlay interface.
    #[error(
        "no underlay interface is named: give --iface IF, OVERLAY_IFACE or iface in the --config file"
    )]
    NoInterface,
    /// The file can't be read.
    #[error("can't read the configuration file {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file can be read, but has an unknown key or a value that is wrong.
    #[error("configuration file {}, line {line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

/// What one source says: the flags with their environment variables, or the file. The file's keys
/// are the flags' names with `_` for `-`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Which instance this is; on the command line a flag of every verb.
    #[arg(skip)]
    pub instance: Option<Name>,
    /// What to log; on the command line a flag of every verb.
    #[arg(skip)]
    pub log: LogSetting,
    /// Where the registry is; on the command line with [`RegistryFlags`], as the six below.
    #[arg(skip)]
    pub registry: Option<RegistryUrl>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_ca: Option<PathBuf>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_cert: Option<PathBuf>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_key: Option<PathBuf>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_user: Option<String>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_password_file: Option<PathBuf>,
    /// See [`RegistryFlags`].
    #[arg(skip)]
    pub etcd_insecure: Option<bool>,
    /// This host's interface on the underlay.
    #[arg(long, value_name = "IF", env = "OVERLAY_IFACE")]
    pub iface: Option<IfName>,
    /// A network to make if the registry has none with this VNI, or of this name, which then gets a free
    /// VNI from 4096; may be repeated
    #[arg(
        long = "vni",
        value_name = "N|NAME",
        env = "OVERLAY_VNI",
        value_delimiter = ','
    )]
    #[serde(rename = "vni")]
    pub vnis: Vec<NetworkRef>,
    /// A gateway for the network of --vni, unless it has one, by which its endpoints get out behind their
    /// hosts' own addresses
    #[arg(long, value_name = "A/LEN", env = "OVERLAY_GATEWAY")]
    pub gateway: Option<Gateway>,
    /// The interface to the outside, for routers that lead there [default: the underlay's]
    #[arg(long, value_name = "IF", env = "OVERLAY_UPLINK")]
    pub uplink: Option<IfName>,
    /// Ports of this host's own address that endpoints of networks with SNAT by it share, and the host's sockets
    /// don't get [default: 49152-65535]
    #[arg(long, value_name = "FIRST-LAST", env = "OVERLAY_SNAT_PORTS")]
    pub snat_ports: Option<PortRange>,
    /// This host's name in the registry [default: the hostname]
    #[arg(long, value_name = "NAME", env = "OVERLAY_NODE")]
    pub node: Option<Name>,
    /// The VTEP's address [default: the interface's first IPv4 address]
    #[arg(long, value_name = "IP", env = "OVERLAY_LOCAL_IP", value_parser = ipv4)]
    pub local_ip: Option<Ipv4Addr>,
    /// The VTEP's UDP port [default: 4789]
    #[arg(long, value_name = "PORT", env = "OVERLAY_PORT")]
    pub port: Option<Port>,
    /// A group whose members may use the agent's socket [default: root alone]
    #[arg(long, value_name = "GROUP", env = "OVERLAY_SOCKET_GROUP")]
    pub socket_group: Option<String>,
    /// How many entries the FDB takes, 1024 to 16777216 [default: 262144]
    #[arg(long, value_name = "COUNT", env = "OVERLAY_FDB_ENTRIES")]
    pub fdb_entries: Option<Entries>,
    /// How many entries the neighbour table takes, 1024 to 16777216 [default: 262144]
    #[arg(long, value_name = "COUNT", env = "OVERLAY_NEIGHBOR_ENTRIES")]
    pub neighbor_entries: Option<Entries>,
    /// Drop VXLAN headers with reserved bits set instead of ignoring the bits [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "OVERLAY_STRICT_RESERVED",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub strict_reserved: Option<bool>,
    /// How long a removed endpoint's MAC and addresses are kept from endpoints of other names; 0: not
    /// at all [default: 30s]
    #[arg(long, value_name = "TIME", env = "OVERLAY_QUARANTINE")]
    pub quarantine: Option<Quarantine>,
    /// How long the endpoints of a node that is not heard of any more count as up [default: 1m]
    #[arg(long, value_name = "TIME", env = "OVERLAY_NODE_GRACE")]
    pub node_grace: Option<NodeGrace>,
    /// How many endpoints of on-demand networks this host holds at most, 16 to 16777216
    /// [default: 65536]
    #[arg(long, value_name = "COUNT", env = "OVERLAY_CACHE_ENTRIES")]
    pub cache_entries: Option<CacheEntries>,
    /// After how long without a packet such an endpoint goes [default: 5m]
    #[arg(long, value_name = "TIME", env = "OVERLAY_CACHE_IDLE")]
    pub cache_idle: Option<CacheIdle>,
    /// How long this host believes that nobody has an address, on on-demand networks [default: 5s]
    #[arg(long, value_name = "TIME", env = "OVERLAY_NEGATIVE_TTL")]
    pub negative_ttl: Option<NegativeTtl>,
    /// Serve Prometheus metrics on PORT (loopback) or IP:PORT [default: not at all]
    #[arg(long, value_name = "ADDR", env = "OVERLAY_METRICS")]
    pub metrics: Option<MetricsAddress>,
    /// Tell with the metrics what each endpoint of this host sent and received: four series an
    /// endpoint [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "OVERLAY_METRICS_ENDPOINTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub metrics_endpoints: Option<bool>,
}

fn friendly(time: Duration) -> String {
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}

fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse()
        .map_err(|_| format!("IP {text:?} is malformed: write for example 10.0.0.1"))
}

impl Settings {
    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            ConfigError::File {
                path: path.to_owned(),
                line: before.map_or(1, |before| before.matches('\n').count() + 1),
                message: error.message().replace('\n', " "),
            }
        })
    }

    /// `self`, and `weaker` where `self` says nothing.
    fn or(self, weaker: Self) -> Self {
        Self {
            instance: self.instance.or(weaker.instance),
            log: self.log.or(weaker.log),
            registry: self.registry.or(weaker.registry),
            etcd_ca: self.etcd_ca.or(weaker.etcd_ca),
            etcd_cert: self.etcd_cert.or(weaker.etcd_cert),
            etcd_key: self.etcd_key.or(weaker.etcd_key),
            etcd_user: self.etcd_user.or(weaker.etcd_user),
            etcd_password_file: self.etcd_password_file.or(weaker.etcd_password_file),
            etcd_insecure: self.etcd_insecure.or(weaker.etcd_insecure),
            iface: self.iface.or(weaker.iface),
            vnis: if self.vnis.is_empty() {
                weaker.vnis
            } else {
                self.vnis
            },
            gateway: self.gateway.or(weaker.gateway),
            uplink: self.uplink.or(weaker.uplink),
            snat_ports: self.snat_ports.or(weaker.snat_ports),
            node: self.node.or(weaker.node),
            local_ip: self.local_ip.or(weaker.local_ip),
            port: self.port.or(weaker.port),
            socket_group: self.socket_group.or(weaker.socket_group),
            fdb_entries: self.fdb_entries.or(weaker.fdb_entries),
            neighbor_entries: self.neighbor_entries.or(weaker.neighbor_entries),
            strict_reserved: self.strict_reserved.or(weaker.strict_reserved),
            quarantine: self.quarantine.or(weaker.quarantine),
            node_grace: self.node_grace.or(weaker.node_grace),
            cache_entries: self.cache_entries.or(weaker.cache_entries),
            cache_idle: self.cache_idle.or(weaker.cache_idle),
            negative_ttl: self.negative_ttl.or(weaker.negative_ttl),
            metrics: self.metrics.or(weaker.metrics),
            metrics_endpoints: self.metrics_endpoints.or(weaker.metrics_endpoints),
        }
    }
}

/// All that the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Names the socket, the lock and the pins: see [`InstancePaths`].
    pub instance: Name,
    /// This host's interface on the underlay.
    pub iface: IfName,
    /// Networks to make if the registry lacks them; each VNI once, in the order given.
    pub vnis: Vec<NetworkRef>,
    /// The gateway that the only one of them gets, and a way out with it, unless it has one.
    pub gateway: Option<Ipv4Net>,
    /// The way to the registry; its files were there when this was made.
    pub registry: RegistrySettings,
    /// The interface to the outside.
    pub uplink: IfName,
    /// Ports of this host's own address that endpoints share.
    pub snat_ports: RangeInclusive<u16>,
    /// This host's name in the registry.
    pub node: Name,
    /// The VTEP's address; `None`: the interface's first.
    pub local_ip: Option<Ipv4Addr>,
    /// The VTEP's UDP port, host byte order, not 0.
    pub port: u16,
    /// The group that may use the agent's socket (mode 0660); `None`: root alone (0600).
    pub socket_group: Option<String>,
    /// Entries of the FDB, 1024..=16777216.
    pub fdb_capacity: u32,
    /// Entries of the neighbour table, 1024..=16777216.
    pub neighbor_capacity: u32,
    /// Whether VXLAN headers with reserved bits set are dropped. RFC 7348 section 5 ignores them.
    pub strict_reserved: bool,
    /// How long the endpoints of a node that is not heard of any more count as up.
    pub node_grace: Duration,
    /// What this host resolves on demand, and for how long it remembers.
    pub cache: CacheLimits,
    /// Where Prometheus metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether they tell each endpoint's traffic.
    pub metrics_endpoints: bool,
    /// What a line of the log looks like.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
}

/// Bounds of what a host remembers of on-demand networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// How many endpoints at most.
    pub entries: u32,
    /// After how long without a packet one goes.
    pub idle: Duration,
    /// How long the answer "nobody has it" is believed.
    pub negative_ttl: Duration,
}

impl Config {
    /// Joins what flags and environment say with the file, if there is one, and the defaults.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, ConfigError> {
        let settings = match file {
            Some(path) => flags.or(Settings::from_file(path)?),
            None => flags,
        };
        let registry = access::registry(&settings)?;
        let mut vnis = Vec::new();
        for vni in settings.vnis {
            if !vnis.contains(&vni) {
                vnis.push(vni);
            }
        }
        if settings.gateway.is_some() && vnis.len() != 1 {
            return Err(ConfigError::GatewayOf(vnis.len()));
        }
        let iface = settings.iface.ok_or(ConfigError::NoInterface)?;
        Ok(Self {
            instance: settings.instance.unwrap_or_else(default_instance),
            uplink: settings.uplink.unwrap_or_else(|| iface.clone()),
            snat_ports: settings
                .snat_ports
                .map_or(DEFAULT_SNAT_PORTS, |ports| ports.0),
            iface,
            vnis,
            gateway: settings.gateway.map(|gateway| gateway.0),
            registry,
            node: settings.node.unwrap_or_else(default_node),
            local_ip: settings.local_ip,
            port: settings.port.map_or(DEFAULT_PORT, |port| port.0),
            socket_group: settings.socket_group,
            fdb_capacity: settings.fdb_entries.map_or(DEFAULT_ENTRIES, |n| n.0),
            neighbor_capacity: settings.neighbor_entries.map_or(DEFAULT_ENTRIES, |n| n.0),
            strict_reserved: settings.strict_reserved.unwrap_or(false),
            node_grace: settings.node_grace.map_or(DEFAULT_NODE_GRACE, |p| p.0),
            cache: CacheLimits {
                entries: settings
                    .cache_entries
                    .map_or(DEFAULT_CACHE_ENTRIES, |n| n.0),
                idle: settings.cache_idle.map_or(DEFAULT_CACHE_IDLE, |p| p.0),
                negative_ttl: settings.negative_ttl.map_or(DEFAULT_NEGATIVE_TTL, |p| p.0),
            },
            metrics: settings.metrics.map(|address| address.0),
            metrics_endpoints: settings.metrics_endpoints.unwrap_or(false),
            log_format: settings.log.format.unwrap_or_default(),
            log: settings
                .log
                .filter
                .unwrap_or_else(|| DEFAULT_LOG.to_owned()),
        })
    }
}

/// The instance if nobody names one.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    reason = "the name is a constant of the alphabet"
)]
pub fn default_instance() -> Name {
    #[expect(clippy::expect_used, reason = "\"default\" is in a name's alphabet")]
    DEFAULT_INSTANCE.parse().expect("a valid name")
}

/// An endpoint's interface in its namespace if nobody names it.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    reason = "the name is a constant of the alphabet"
)]
pub fn default_ifname() -> IfName {
    #[expect(
        clippy::expect_used,
        reason = "\"eth0\" is in an interface name's alphabet"
    )]
    "eth0".parse().expect("a valid name")
}

fn default_node() -> Name {
    let host = nix::unistd::gethostname().unwrap_or_default();
    name_from_host(&host.to_string_lossy())
}

/// A hostname may hold up to 64 bytes of anything: what a [`Name`] can't have becomes `-`.
fn name_from_host(host: &str) -> Name {
    let plain: String = host
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
            _ => '-',
        })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(63)
        .collect();
    #[expect(clippy::expect_used, reason = "\"node\" is in a name's alphabet")]
    plain
        .parse()
        .unwrap_or_else(|_| "node".parse().expect("a valid name"))
}

/// Where an instance has its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePaths {
    /// The agent's unix socket.
    pub socket: PathBuf,
    /// Locked by the agent while it runs.
    pub lock: PathBuf,
    /// What the agent was started with; `overlay down` reads it when no agent runs.
    pub record: PathBuf,
    /// What the agent knew of the registry, for the next one.
    pub last_known: PathBuf,
    /// The folder on bpffs that holds maps, programs and links.
    pub pins: PathBuf,
}

impl InstancePaths {
    /// The paths of `instance`.
    #[must_use]
    pub fn new(instance: &Name) -> Self {
        let run = Path::new("/run/overlay");
        Self {
            socket: run.join(format!("{instance}.sock")),
            lock: run.join(format!("{instance}.lock")),
            record: run.join(format!("{instance}.json")),
            last_known: run.join(format!("{instance}.known")),
            // bpffs refuses dots in names (bpf_lookup in kernel/bpf/inode.c); no name has a '%'.
            pins: Path::new("/sys/fs/bpf/overlay").join(instance.as_str().replace('.', "%2e")),
        }
    }
}

#[cfg(test)]
mod tests;
