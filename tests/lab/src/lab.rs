//! Names, hosts and the underlay between them, and taking all of it away.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use overlay_user::{
    model::{Change, Snapshot},
    registry::{self, Registry},
};

use crate::{agent, etcd, netns::Netns};

/// What the names of every lab begin with; the pid of its process and a number follow.
const PREFIX: &str = "lt";
const SOCKETS: &str = "/run/overlay";
const PINS: &str = "/sys/fs/bpf/overlay";
/// What agents remember beyond a reboot.
const GUESTS: &str = "/var/lib/overlay/guests";

/// One test's world.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: PathBuf,
}

impl Lab {
    /// An empty lab.
    ///
    /// # Panics
    ///
    /// This is not root.
    #[expect(clippy::new_without_default, reason = "it acts on the machine")]
    pub fn new() -> Self {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "these tests make network namespaces, which only root may: run them with cargo xtask test"
        );
        SWEPT.call_once(collect_dead);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}x{count}-", process::id());
        let dir = std::env::temp_dir().join(format!("{prefix}lab"));
        fs::create_dir_all(&dir).unwrap();
        Self { prefix, dir }
    }

    /// `short` as a name that is this lab's own.
    pub fn name(&self, short: &str) -> String {
        format!("{}{short}", self.prefix)
    }

    /// A folder for its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The URL of the registry that its agents share.
    pub fn registry(&self) -> String {
        format!("sqlite://{}/registry.db", self.dir.display())
    }

    /// What its registry holds.
    pub fn snapshot(&self) -> Snapshot {
        self.with_registry(async |registry| registry.snapshot().await.unwrap())
    }

    /// Commits changes to its registry, past all agents.
    pub fn commit(&self, changes: &[Change]) {
        self.with_registry(async |registry| {
            registry.commit(changes).await.unwrap();
        });
    }

    fn with_registry<T>(&self, act: impl AsyncFnOnce(&dyn Registry) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let registry = registry::open(&registry::RegistrySettings::new(self.registry()))
                .await
                .unwrap();
            act(&*registry).await
        })
    }

    /// Its namespaces, endpoints' too.
    pub fn namespaces(&self) -> BTreeSet<String> {
        names(Path::new("/run/netns"))
            .filter(|name| name.starts_with(&self.prefix))
            .collect()
    }

    /// A new namespace.
    pub fn netns(&self, short: &str) -> Netns {
        Netns::create(self.name(short))
    }

    /// A new namespace with a bridge.
    pub fn switch(&self, short: &str) -> Switch {
        let netns = self.netns(short);
        netns.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        netns.ip("link set br0 up");
        Switch { netns }
    }

    /// Hosts `h1`, `h2`, ... on one switch, with the addresses 10.0.0.1/24, 10.0.0.2/24, ...
    pub fn hosts<const N: usize>(&self) -> [Host; N] {
        let switch = self.switch("sw");
        std::array::from_fn(|index| self.host(&switch, u8::try_from(index + 1).unwrap()))
    }

    /// Host `h` and a number on a switch, with the address 10.0.0.NUMBER/24.
    pub fn host(&self, switch: &Switch, number: u8) -> Host {
        let netns = self.netns(&format!("h{number}"));
        switch.connect(&netns, "u0");
        let ip = Ipv4Addr::new(10, 0, 0, number);
        netns.ip(&format!("address add {ip}/24 dev u0"));
        Host {
            netns,
            ip,
            switch: switch.clone(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        collect(&self.prefix);
    }
}

/// A host: a namespace with `u0` on the underlay.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    /// Its address on the underlay.
    pub ip: Ipv4Addr,
    /// What it is plugged into.
    pub switch: Switch,
}

impl Host {
    /// Pulls the cable (`false`) or plugs it in again. The host's own interface stays up.
    pub fn plug(&self, is_in: bool) {
        self.switch.plug(&self.netns, "u0", is_in);
    }
}

/// A bridge in a namespace of its own.
#[derive(Debug, Clone)]
pub struct Switch {
    netns: Netns,
}

impl Switch {
    /// Gives `netns` the interface `ifname`, plugged into this switch.
    pub fn connect(&self, netns: &Netns, ifname: &str) {
        let port = Self::port(netns, ifname);
        self.netns.ip(&format!(
            "link add {port} type veth peer name {ifname} netns {}",
            netns.name()
        ));
        self.netns.ip(&format!("link set {port} master br0 up"));
        netns.ip(&format!("link set {ifname} up"));
    }

    /// Pulls the cable out (`false`) or plugs it in again.
    pub(crate) fn plug(&self, netns: &Netns, ifname: &str, is_in: bool) {
        let state = if is_in { "master br0" } else { "nomaster" };
        self.netns
            .ip(&format!("link set {} {state}", Self::port(netns, ifname)));
    }

    /// Puts `netns` on a bridge of those that were split off.
    pub(crate) fn split_off(&self, netns: &Netns, ifname: &str) {
        if !self.netns.links().iter().any(|link| link == "br1") {
            self.netns
                .ip("link add br1 up type bridge forward_delay 0 mcast_snooping 0");
        }
        self.netns.ip(&format!(
            "link set {} master br1",
            Self::port(netns, ifname)
        ));
    }

    /// The name of a port: the host's last part and the interface.
    fn port(netns: &Netns, ifname: &str) -> String {
        let short = netns.name().rsplit('-').next().unwrap_or_default();
        format!("{short}-{ifname}")
    }
}

/// Every file, pin and folder of an instance.
pub fn traces(instance: &str) -> Vec<PathBuf> {
    let mut traces = Vec::new();
    let mut folders = vec![PathBuf::from(SOCKETS), PathBuf::from(PINS)];
    while let Some(folder) = folders.pop() {
        for path in names(&folder).map(|name| folder.join(name)) {
            let is_ours = path.components().any(|part| {
                let name = part.as_os_str().to_str().unwrap_or_default();
                name.strip_prefix(instance)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if is_ours {
                if path.is_dir() {
                    folders.push(path.clone());
                }
                traces.push(path);
            }
        }
    }
    traces.sort();
    traces
}

/// Collects what labs of processes that are no more left behind.
fn collect_dead() {
    let mut dead = BTreeSet::new();
    for folder in [
        Path::new(SOCKETS),
        Path::new(PINS),
        Path::new("/run/netns"),
        &std::env::temp_dir(),
    ] {
        for name in names(folder) {
            if let Some(prefix) = prefix_of_dead(&name) {
                dead.insert(prefix);
            }
        }
    }
    for prefix in dead {
        collect(&prefix);
    }
}

/// The lab's prefix in `name`, if its process has ended.
fn prefix_of_dead(name: &str) -> Option<String> {
    let (lab, _) = name.split_once('-')?;
    let (pid, count) = lab.strip_prefix(PREFIX)?.split_once('x')?;
    let (pid, _): (u32, u32) = (pid.parse().ok()?, count.parse().ok()?);
    let is_dead = !Path::new("/proc").join(pid.to_string()).exists();
    is_dead.then(|| format!("{lab}-"))
}

/// Takes away all that has a name with `prefix`: instances first, with their own means.
fn collect(prefix: &str) {
    for instance in instances(prefix) {
        let run = agent::overlay(&instance, &["down"]);
        if run.code != 0 {
            eprintln!("{instance}: {}", run.stderr.trim());
            end_by_force(&instance);
        }
    }
    for name in names(Path::new("/run/netns")).filter(|name| name.starts_with(prefix)) {
        if !Command::new("ip")
            .args(["netns", "del", &name])
            .status()
            .is_ok_and(|status| status.success())
        {
            // A test put something else in the name's place.
            let _ = fs::remove_file(Path::new("/run/netns").join(&name));
        }
    }
    let temporary = std::env::temp_dir();
    for name in names(&temporary).filter(|name| name.starts_with(prefix)) {
        let folder = temporary.join(name);
        etcd::unmount_all(&folder);
        let _ = fs::remove_dir_all(folder);
    }
}

/// Every instance with `prefix` of which anything is left.
fn instances(prefix: &str) -> BTreeSet<String> {
    let files = names(Path::new(SOCKETS)).map(|name| match name.rsplit_once('.') {
        Some((instance, "sock" | "lock" | "json" | "known")) => instance.to_owned(),
        _ => name,
    });
    files
        .chain(names(Path::new(PINS)))
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// For an instance that can't be taken down properly: its agent, its pins and its files. Its links
/// go with its namespaces.
fn end_by_force(instance: &str) {
    let lock = Path::new(SOCKETS).join(format!("{instance}.lock"));
    let holder = fs::read_to_string(&lock)
        .ok()
        .and_then(|pid| pid.trim().parse().ok());
    if let Some(pid) = holder.filter(|pid| is_agent_of(*pid, instance)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = fs::remove_dir_all(Path::new(PINS).join(instance));
    let _ = fs::remove_dir_all(Path::new(SOCKETS).join(instance));
    let _ = fs::remove_dir_all(Path::new(GUESTS).join(instance));
    for kind in ["sock", "lock", "json", "known"] {
        let _ = fs::remove_file(Path::new(SOCKETS).join(format!("{instance}.{kind}")));
    }
}

/// A pid may be another process's by now.
fn is_agent_of(pid: i32, instance: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == instance.as_bytes())
    })
}

/// What is in `folder`; nothing, if there is none.
pub(crate) fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok())
}
