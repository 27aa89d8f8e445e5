//! The lock that keeps an instance to one agent, and the record for `overlay down`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::run_dir;
use crate::{
    config::{Config, InstancePaths},
    model::{IfName, Name, Session},
    platform::netns::Netns,
    registry,
};

/// What an agent was started with, for `overlay down` after it has died. Lives as long as the
/// links and namespaces that it speaks of: until the next boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub node: Name,
    pub iface: IfName,
    #[serde(deserialize_with = "registry_of_any_version")]
    pub registry: registry::RegistrySettings,
    /// The host's namespace, see [`Netns::identity`].
    pub netns: String,
    /// The VTEP's address, which the next agent keeps if the interface still has it. Agents of version
    /// 0.1 left none.
    #[serde(default)]
    pub vtep: Option<Ipv4Addr>,
    /// The VTEP's UDP port; agents of version 0.2 left none.
    #[serde(default)]
    pub port: Option<u16>,
}

impl InstanceRecord {
    /// What an agent with this configuration, in this network namespace, leaves.
    pub(super) async fn of(config: &Config, vtep: Ipv4Addr) -> anyhow::Result<Self> {
        Ok(Self {
            node: config.node.clone(),
            iface: config.iface.clone(),
            registry: config.registry.clone(),
            netns: Netns::current()?.identity().await?,
            vtep: Some(vtep),
            port: Some(config.port),
        })
    }

    /// The node's session: the same for every agent of this instance in this namespace.
    pub(super) fn session(&self, instance: &Name) -> Session {
        Session::new(format!("{instance} {}", self.netns))
    }

    /// Leaves it, in place of an earlier one.
    pub(super) fn write(&self, paths: &InstancePaths) -> anyhow::Result<()> {
        leave(&paths.record, self)
    }

    /// What the instance's last agent left. `None`: there was none since the boot.
    pub(super) fn read(paths: &InstancePaths) -> anyhow::Result<Option<Self>> {
        find(&paths.record)
    }
}

/// Leaves something for later agents of the instance in a file that its owner alone may read, in place of
/// what was there.
pub(super) fn leave(path: &Path, what: &impl Serialize) -> anyhow::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    let text = serde_json::to_vec(what)?;
    let write = || -> io::Result<()> {
        // The mode is for a new file: one that a kill left behind may have another.
        match fs::remove_file(unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished)?;
        file.write_all(&text)?;
        fs::rename(unfinished, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Finds what an earlier agent left there. `None`: none did since the boot.
pub(super) fn find<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged: remove it", path.display())
        })?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Agents of version 0.1 left the URL alone.
fn registry_of_any_version<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<registry::RegistrySettings, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Url(String),
        Access(registry::RegistrySettings),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Url(url) => registry::RegistrySettings::new(url),
        Written::Access(access) => access,
    })
}

/// The right to be the instance's agent, for as long as this lives.
pub(super) struct InstanceLock {
    lock: Flock<File>,
}

impl InstanceLock {
    /// Takes the instance's lock: nobody else is its agent, or takes it down.
    pub(super) fn lock(paths: &InstancePaths, instance: &Name) -> anyhow::Result<Self> {
        loop {
            let mut file = open(&paths.lock).with_context(|| {
                format!(
                    "can't open {}: run overlay as root, or with CAP_DAC_OVERRIDE",
                    paths.lock.display()
                )
            })?;
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => bail!(
                    "an agent for instance {instance} is running already (pid {}): stop it first, \
                     or choose another --instance; if none runs, `fuser {}` names who holds its lock",
                    holder.trim(),
                    paths.lock.display()
                ),
                Err((_, errno)) => bail!("can't lock {}: {errno}", paths.lock.display()),
            };
            // `down` removed the file after it was opened here: the lock is another file's now.
            if !is_at(&lock, &paths.lock) {
                continue;
            }
            if is_open_to_others(&lock)? {
                // Whoever can open it can hold the lock. What has it open by now has another file's.
                fs::remove_file(&paths.lock)?;
                continue;
            }
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())?;
            return Ok(Self { lock });
        }
    }

    /// Gives the socket's name back, then the lock. After `down` both may be a later agent's.
    pub(super) fn release(self, paths: &InstancePaths) {
        if is_at(&self.lock, &paths.lock) {
            // A socket that stays behind is replaced by the next agent.
            let _ = fs::remove_file(&paths.socket);
        }
        drop(self.lock);
    }
}

/// Whether `path` still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

/// Whether anybody but its owner may open the file.
fn is_open_to_others(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.mode() & 0o077 != 0)
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        run_dir::make(folder)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn paths(folder: &Path) -> InstancePaths {
        InstancePaths {
            socket: folder.join("a.sock"),
            lock: folder.join("a.lock"),
            record: folder.join("a.json"),
            last_known: folder.join("a.known"),
            pins: folder.join("pins"),
        }
    }

    #[test]
    fn a_record_is_for_its_owner_alone_and_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let record = InstanceRecord {
            node: "h1".parse().unwrap(),
            iface: "u0".parse().unwrap(),
            registry: registry::RegistrySettings::new("etcd://10.0.0.1:2379".to_owned()),
            netns: "boot:1".to_owned(),
            vtep: Some(Ipv4Addr::new(10, 0, 0, 1)),
            port: Some(4789),
        };
        // What a killed agent of an earlier version may leave.
        fs::write(paths.record.with_extension("json.new"), "").unwrap();
        record.write(&paths).unwrap();
        let mode = fs::metadata(&paths.record).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = InstanceRecord::read(&paths).unwrap().unwrap();
        assert_eq!(read.registry, record.registry);
        assert_eq!(read.vtep, record.vtep);
    }

    #[test]
    fn a_record_of_the_first_version_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let old = r#"{"node":"h1","iface":"u0","registry":"sqlite:///a.db","netns":"x"}"#;
        fs::write(&paths.record, old).unwrap();
        let read = InstanceRecord::read(&paths).unwrap().unwrap();
        assert_eq!(read.registry.url, "sqlite:///a.db");
        assert_eq!(read.vtep, None);
    }

    #[test]
    fn a_lock_is_for_its_owner_alone_and_one_that_others_could_hold_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (paths, name) = (paths(folder.path()), "a".parse().unwrap());
        let mode = || fs::metadata(&paths.lock).unwrap().mode() & 0o777;
        let first = InstanceLock::lock(&paths, &name).unwrap();
        assert_eq!(mode(), 0o600);
        first.release(&paths);
        fs::set_permissions(&paths.lock, fs::Permissions::from_mode(0o644)).unwrap();
        let stranger = File::open(&paths.lock).unwrap();
        let claim = InstanceLock::lock(&paths, &name).unwrap();
        assert_eq!(mode(), 0o600);
        // What was open already locks nothing that an agent looks at.
        let stranger = Flock::lock(stranger, FlockArg::LockExclusiveNonblock).unwrap();
        claim.release(&paths);
        drop(InstanceLock::lock(&paths, &name).unwrap());
        drop(stranger);
    }

    #[test]
    fn an_agent_that_was_taken_down_leaves_the_next_ones_socket_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (paths, name) = (paths(folder.path()), "a".parse().unwrap());
        let old = InstanceLock::lock(&paths, &name).unwrap();
        assert!(InstanceLock::lock(&paths, &name).is_err());
        // What `down` does while the agent still runs.
        fs::remove_file(&paths.lock).unwrap();
        let new = InstanceLock::lock(&paths, &name).unwrap();
        fs::write(&paths.socket, "").unwrap();
        old.release(&paths);
        assert!(paths.socket.exists());
        new.release(&paths);
        assert!(!paths.socket.exists());
    }
}
