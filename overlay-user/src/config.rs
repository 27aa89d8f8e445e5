//! Flags, environment and file become one validated [`Config`].
//!
//! A flag beats the environment (clap sees to these two), both beat the file, all beat the
//! defaults. Every value is checked while it is parsed, by the same code from each source.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::model::{IfName, Name, Vni};

const DEFAULT_INSTANCE: &str = "default";
const DEFAULT_REGISTRY: &str = "sqlite:///var/lib/overlay/registry.db";
const DEFAULT_LOG: &str = "info";
/// IANA's port for VXLAN (RFC 7348 section 8).
const DEFAULT_PORT: u16 = 4789;
const DEFAULT_ENTRIES: u32 = 262_144;

/// Why a configuration was refused. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither `sqlite:///PATH` nor `etcd://HOST:PORT`.
    #[error(
        "registry URL {0:?} is not understood: use sqlite:///PATH or etcd://HOST:PORT[,HOST:PORT]"
    )]
    Registry(String),
    /// No UDP port.
    #[error("UDP port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// A map's capacity out of range.
    #[error("{0:?} is not a number of entries from {min} to {max}", min = Entries::MIN, max = Entries::MAX)]
    Entries(String),
    /// No filter of tracing.
    #[error("log filter {0:?} is not understood: use for example info or overlay_user=debug,warn")]
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

/// Where the registry is: `sqlite:///PATH` or `etcd://HOST:PORT[,HOST:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryUrl(String);

impl FromStr for RegistryUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let understood = if let Some(path) = text.strip_prefix("sqlite://") {
            path.starts_with('/') && !path.ends_with('/') && !path.contains('\0')
        } else if let Some(members) = text.strip_prefix("etcd://") {
            members.split(',').all(is_host_and_port)
        } else {
            false
        };
        if understood {
            Ok(Self(text.to_owned()))
        } else {
            Err(ConfigError::Registry(text.to_owned()))
        }
    }
}

fn is_host_and_port(member: &str) -> bool {
    member.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && Port::from_str(port).is_ok()
    })
}

/// A UDP port, 1..=65535, host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Port(u16);

impl FromStr for Port {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) if number != 0 => Ok(Self(number)),
            _ => Err(ConfigError::Port(text.to_owned())),
        }
    }
}

/// How many entries a BPF map takes: 1024..=16777216.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Entries(u32);

impl Entries {
    const MIN: u32 = 1024;
    const MAX: u32 = 1 << 24;
}

impl FromStr for Entries {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) if (Self::MIN..=Self::MAX).contains(&number) => Ok(Self(number)),
            _ => Err(ConfigError::Entries(text.to_owned())),
        }
    }
}

/// What is logged, in the syntax of tracing's `EnvFilter`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match EnvFilter::builder().parse(text) {
            Ok(_) if !text.trim().is_empty() => Ok(Self(text.to_owned())),
            _ => Err(ConfigError::Log(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RegistryUrl {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for LogFilter {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<i64> for Port {
    type Error = ConfigError;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        number.to_string().parse()
    }
}

impl TryFrom<i64> for Entries {
    type Error = ConfigError;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        number.to_string().parse()
    }
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
    pub log: Option<LogFilter>,
    /// This host's interface on the underlay.
    #[arg(long, value_name = "IF", env = "OVERLAY_IFACE")]
    pub iface: Option<IfName>,
    /// A network to make if the registry has none with this VNI; may be repeated.
    #[arg(
        long = "vni",
        value_name = "N",
        env = "OVERLAY_VNI",
        value_delimiter = ','
    )]
    #[serde(rename = "vni")]
    pub vnis: Vec<Vni>,
    /// Where the registry is.
    #[arg(
        long,
        value_name = "URL",
        env = "OVERLAY_REGISTRY",
        hide_env_values = true,
        help = "Where the registry is: sqlite:///PATH or etcd://HOST:PORT[,HOST:PORT] \
                [default: sqlite:///var/lib/overlay/registry.db]"
    )]
    pub registry: Option<RegistryUrl>,
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
            iface: self.iface.or(weaker.iface),
            vnis: if self.vnis.is_empty() {
                weaker.vnis
            } else {
                self.vnis
            },
            registry: self.registry.or(weaker.registry),
            node: self.node.or(weaker.node),
            local_ip: self.local_ip.or(weaker.local_ip),
            port: self.port.or(weaker.port),
            socket_group: self.socket_group.or(weaker.socket_group),
            fdb_entries: self.fdb_entries.or(weaker.fdb_entries),
            neighbor_entries: self.neighbor_entries.or(weaker.neighbor_entries),
            strict_reserved: self.strict_reserved.or(weaker.strict_reserved),
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
    pub vnis: Vec<Vni>,
    /// `sqlite:///PATH` or `etcd://HOST:PORT[,HOST:PORT]`; checked for its form alone.
    pub registry: String,
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
    /// What is logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
}

impl Config {
    /// Joins what flags and environment say with the file, if there is one, and the defaults.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, ConfigError> {
        let settings = match file {
            Some(path) => flags.or(Settings::from_file(path)?),
            None => flags,
        };
        let mut vnis = Vec::new();
        for vni in settings.vnis {
            if !vnis.contains(&vni) {
                vnis.push(vni);
            }
        }
        Ok(Self {
            instance: settings.instance.unwrap_or_else(default_instance),
            iface: settings.iface.ok_or(ConfigError::NoInterface)?,
            vnis,
            registry: settings
                .registry
                .map_or_else(|| DEFAULT_REGISTRY.to_owned(), |url| url.0),
            node: settings.node.unwrap_or_else(default_node),
            local_ip: settings.local_ip,
            port: settings.port.map_or(DEFAULT_PORT, |port| port.0),
            socket_group: settings.socket_group,
            fdb_capacity: settings.fdb_entries.map_or(DEFAULT_ENTRIES, |n| n.0),
            neighbor_capacity: settings.neighbor_entries.map_or(DEFAULT_ENTRIES, |n| n.0),
            strict_reserved: settings.strict_reserved.unwrap_or(false),
            log: settings.log.map_or(DEFAULT_LOG.to_owned(), |log| log.0),
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
            // bpffs refuses dots in names (bpf_lookup in kernel/bpf/inode.c); no name has a '%'.
            pins: Path::new("/sys/fs/bpf/overlay").join(instance.as_str().replace('.', "%2e")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;
    use tempfile::NamedTempFile;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn flags(args: &[&str]) -> Settings {
        Flags::try_parse_from(std::iter::once("run").chain(args.iter().copied()))
            .unwrap()
            .settings
    }

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn refused(text: &str) -> String {
        let file = file(text);
        let error = Config::load(Settings::default(), Some(file.path())).unwrap_err();
        error
            .to_string()
            .replace(&*file.path().to_string_lossy(), "FILE")
    }

    #[test]
    fn defaults_fill_what_nobody_says() {
        let config = Config::load(flags(&["--iface", "eth0", "--node", "h1"]), None).unwrap();
        let expected = Config {
            instance: "default".parse().unwrap(),
            iface: "eth0".parse().unwrap(),
            vnis: vec![],
            registry: "sqlite:///var/lib/overlay/registry.db".into(),
            node: "h1".parse().unwrap(),
            local_ip: None,
            port: 4789,
            socket_group: None,
            fdb_capacity: 262_144,
            neighbor_capacity: 262_144,
            strict_reserved: false,
            log: "info".into(),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn every_key_of_the_file_counts() {
        let file = file(
            "instance = \"h1\"\nlog = \"debug\"\niface = \"u1\"\nvni = [42, 43, 42]\n\
             registry = \"etcd://a:2379,[::1]:2379\"\nnode = \"n1\"\nlocal_ip = \"10.0.0.1\"\n\
             port = 4790\nsocket_group = \"overlay\"\nfdb_entries = 1024\n\
             neighbor_entries = 16777216\nstrict_reserved = true\n",
        );
        let config = Config::load(Settings::default(), Some(file.path())).unwrap();
        let expected = Config {
            instance: "h1".parse().unwrap(),
            iface: "u1".parse().unwrap(),
            vnis: vec!["42".parse().unwrap(), "43".parse().unwrap()],
            registry: "etcd://a:2379,[::1]:2379".into(),
            node: "n1".parse().unwrap(),
            local_ip: Some(Ipv4Addr::new(10, 0, 0, 1)),
            port: 4790,
            socket_group: Some("overlay".into()),
            fdb_capacity: 1024,
            neighbor_capacity: 16_777_216,
            strict_reserved: true,
            log: "debug".into(),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_flag_beats_the_file() {
        let file = file("iface = \"u1\"\nvni = [42]\nport = 4790\nstrict_reserved = true\n");
        let flags = flags(&[
            "--iface=u2",
            "--vni=7",
            "--vni=8",
            "--strict-reserved=false",
        ]);
        let config = Config::load(flags, Some(file.path())).unwrap();
        assert_eq!(config.iface.as_str(), "u2");
        assert_eq!(config.vnis, ["7".parse().unwrap(), "8".parse().unwrap()]);
        assert_eq!(config.port, 4790);
        assert!(!config.strict_reserved);
    }

    #[test]
    fn a_switch_without_a_value_is_on() {
        assert_eq!(flags(&["--strict-reserved"]).strict_reserved, Some(true));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_the_file_and_the_line() {
        let line = refused("iface = \"u1\"\nifcae = \"u2\"\n");
        assert!(
            line.starts_with("configuration file FILE, line 2: unknown field `ifcae`"),
            "{line}"
        );
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn a_wrong_value_in_the_file_is_refused_in_the_words_of_the_flag() {
        for (text, expected) in [
            (
                "\nvni = [0]",
                "configuration file FILE, line 2: VNI \"0\" is not a number from 1 to 16777215",
            ),
            (
                "port = 0",
                "configuration file FILE, line 1: UDP port \"0\" is not a number from 1 to 65535",
            ),
            (
                "port = -4789",
                "configuration file FILE, line 1: UDP port \"-4789\" is not a number from 1 to 65535",
            ),
            (
                "fdb_entries = 16777217",
                "configuration file FILE, line 1: \"16777217\" is not a number of entries from 1024 to 16777216",
            ),
        ] {
            assert_eq!(refused(text), expected);
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Config::load(Settings::default(), Some(Path::new("/nowhere/x.toml")));
        assert_eq!(
            error.unwrap_err().to_string(),
            "can't read the configuration file /nowhere/x.toml: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn the_underlay_interface_must_be_named() {
        assert!(matches!(
            Config::load(Settings::default(), None),
            Err(ConfigError::NoInterface)
        ));
    }

    #[test]
    fn registry_urls_are_checked_for_their_form() {
        for good in [
            "sqlite:///a",
            "sqlite:///var/lib/x.db",
            "etcd://h:2379",
            "etcd://a:1,b:2",
        ] {
            assert!(good.parse::<RegistryUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "x.db",
            "sqlite://x.db",
            "sqlite:///",
            "sqlite:///a/",
            "etcd://",
            "etcd://h",
            "etcd://h:0",
            "etcd://a:1,",
            "etcd://h:2379/x",
            "http://h",
        ] {
            assert!(bad.parse::<RegistryUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_hostname_makes_a_name() {
        for (host, name) in [
            ("h1.example.org", "h1.example.org"),
            ("-_x y", "x-y"),
            ("ümlaut", "mlaut"),
            ("", "node"),
            ("---", "node"),
        ] {
            assert_eq!(name_from_host(host).as_str(), name);
        }
        assert_eq!(name_from_host(&"a".repeat(64)).as_str().len(), 63);
    }

    #[test]
    fn an_instance_has_its_socket_lock_and_pins() {
        let paths = InstancePaths::new(&"h1".parse().unwrap());
        assert_eq!(paths.socket, Path::new("/run/overlay/h1.sock"));
        assert_eq!(paths.lock, Path::new("/run/overlay/h1.lock"));
        assert_eq!(paths.pins, Path::new("/sys/fs/bpf/overlay/h1"));
        let dotted = InstancePaths::new(&"a.b".parse().unwrap());
        assert_eq!(dotted.pins, Path::new("/sys/fs/bpf/overlay/a%2eb"));
    }
}
