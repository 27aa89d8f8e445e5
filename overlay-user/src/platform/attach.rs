//! Finds namespaces again that a process or a path named, and never keeps them alive.
//!
//! Such a one gets a link under `/run/netns`, `INSTANCE-NUMBER` with the number that the kernel never uses
//! again before the next boot, so that it has a name like all others, for the agent that starts next and
//! for `ip netns exec`. A mount there would keep the namespace after its last process, and an endpoint in
//! it would look well with nobody inside; a link leads nowhere then.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use nix::errno::Errno;

use super::{
    Context, PlatformError, errno,
    linux::Linux,
    netns::{self, Named, Netns},
};
use crate::model::{Name, NetnsRef};

/// Of the instance's name in a link's, at most: a name has 63 characters, and the number up to 20.
const PREFIX: usize = 40;

/// A link that an agent of ours made.
struct Attached {
    /// The namespace that it led to.
    identity: String,
    target: String,
}

impl Attached {
    fn parse(record: &str) -> Option<Self> {
        let (identity, target) = record.split_once('\n')?;
        Some(Self {
            identity: identity.to_owned(),
            target: target.to_owned(),
        })
    }
}

impl Linux {
    /// The name under which the namespace is found from now on. One that is named by a process or a path is
    /// there, and is somebody else's; its name stays at least until [`Self::end_attach`].
    pub async fn attach(&self, wanted: &NetnsRef) -> Result<Name, PlatformError> {
        let target = match wanted {
            NetnsRef::Name(name) => {
                self.begin_attach(name);
                return Ok(name.clone());
            }
            NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            NetnsRef::Path(path) => path.clone(),
        };
        let namespace = self.open(wanted, &target).await?;
        if let Some(name) = own_name(&target) {
            self.begin_attach(&name);
            return Ok(name);
        }
        let opening = || format!("opening the namespace of {wanted}");
        let identity = namespace.identity().await.context(opening)?;
        let number = identity.rsplit(' ').next().unwrap_or_default();
        let prefix: String = self.instance.as_str().chars().take(PREFIX).collect();
        let name: Name = format!("{prefix}-{number}")
            .parse()
            .map_err(io::Error::other)
            .context(opening)?;
        self.begin_attach(&name);
        let _turn = self.netns_changes.lock(&name).await;
        let linked = self.link(&name, &identity, &target).await;
        if linked.is_err() {
            self.forget_attach(&name);
        }
        linked.map(|()| name)
    }

    /// What was attached is in use by now, or is not to be: then its name goes.
    pub async fn end_attach(&self, name: &Name) {
        self.forget_attach(name);
        self.leave(name).await;
    }

    /// An endpoint may have left what `name` stands for: the last one takes a link of ours with it.
    pub async fn leave(&self, name: &Name) {
        if let Err(error) = self.detach_unused(name).await {
            tracing::warn!(%name, %error, "the name of a namespace stays");
        }
    }

    fn begin_attach(&self, name: &Name) {
        let mut attaching = self
            .attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        attaching.push(name.clone());
    }

    fn forget_attach(&self, name: &Name) {
        let mut attaching = self
            .attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = attaching.iter().position(|other| other == name) {
            attaching.swap_remove(position);
        }
    }

    fn is_attaching(&self, name: &Name) -> bool {
        let attaching = self
            .attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        attaching.contains(name)
    }

    async fn open(&self, wanted: &NetnsRef, path: &Path) -> Result<Netns, PlatformError> {
        let refused = |line: String| Err(PlatformError::Refused(line));
        match netns::open(path).await {
            Ok(Named::Netns(namespace)) => {
                let is_own = namespace.is(&self.host);
                if is_own.context(|| format!("opening the namespace of {wanted}"))? {
                    return refused(format!(
                        "{wanted} is in the agent's own namespace, an endpoint needs another: choose one with \
                         --netns"
                    ));
                }
                Ok(namespace)
            }
            Ok(_) => refused(format!(
                "{wanted} is no network namespace: write a namespace's name, the ID of a process in it, or \
                 a path as /proc/PID/ns/net"
            )),
            Err(error) if is_missing(&error) => refused(match wanted {
                NetnsRef::Pid(pid) => format!(
                    "no process has the ID {pid}: see `ps`; for a namespace of that name write \
                     /run/netns/{pid}"
                ),
                _ => {
                    format!("{wanted} does not exist: see `lsns -t net` for the namespaces that do")
                }
            }),
            Err(error) if errno(&error) == Errno::EACCES => refused(format!(
                "opening the namespace of {wanted}: permission denied: run overlay as root, or with \
                 CAP_SYS_PTRACE and CAP_DAC_OVERRIDE"
            )),
            Err(error) => Err(PlatformError::failed(
                format!("opening the namespace of {wanted}"),
                &error,
            )),
        }
    }

    async fn link(&self, name: &Name, identity: &str, target: &Path) -> Result<(), PlatformError> {
        let linking = || format!("linking namespace {name} to {}", target.display());
        let found = netns::find(name).await.context(linking)?;
        if let Named::Netns(found) = &found
            && found.identity().await.context(linking)? == identity
        {
            return Ok(());
        }
        if !matches!(found, Named::Missing) {
            // One of ours that leads elsewhere by now.
            self.unlink(name).context(linking)?;
        }
        netns::make_dir().context(linking)?;
        let record = format!("{identity}\n{}", target.display());
        let links = &self.records.links;
        links.put(name.as_str(), &record).context(linking)?;
        symlink(target, netns::path_of(name)).context(linking)
    }

    /// Takes a link of ours away.
    fn unlink(&self, name: &Name) -> io::Result<()> {
        let Some(attached) = self.attached(name)? else {
            return Ok(());
        };
        let path = netns::path_of(name);
        // Somebody may have put something else there.
        if fs::read_link(&path).is_ok_and(|target| target == Path::new(&attached.target)) {
            fs::remove_file(&path)?;
        }
        self.records.links.remove(name.as_str())
    }

    fn attached(&self, name: &Name) -> io::Result<Option<Attached>> {
        let record = self.records.links.get(name.as_str())?;
        Ok(record.as_deref().and_then(Attached::parse))
    }

    /// Whether the namespace that was found under `name` is the one that an endpoint was attached to. Refused:
    /// that one is gone.
    pub(super) async fn check_attached(
        &self,
        endpoint: &Name,
        name: &Name,
        found: &Named,
    ) -> Result<(), PlatformError> {
        let looking = || format!("looking into namespace {name}");
        let Some(attached) = self.attached(name).context(looking)? else {
            return Ok(());
        };
        let why = match found {
            Named::Netns(found)
                if found.identity().await.context(looking)? == attached.identity =>
            {
                return Ok(());
            }
            Named::Netns(_) => "is gone, and another one is there",
            _ => "is gone",
        };
        Err(PlatformError::Refused(format!(
            "the namespace that {} led to {why}: attach the endpoint to the intended one with \
             `overlay endpoint move {endpoint} --netns PID|PATH`, or remove it",
            attached.target
        )))
    }

    /// Takes a link of ours away that no endpoint needs.
    pub(super) async fn detach_unused(&self, name: &Name) -> Result<(), PlatformError> {
        let removing = || format!("removing the link to namespace {name}");
        if !self.records.links.has(name.as_str()).context(removing)? {
            return Ok(());
        }
        let _turn = self.netns_changes.lock(name).await;
        let guests = &self.records.guests;
        for endpoint in guests.names().context(removing)? {
            let place = guests.get(endpoint.as_str()).context(removing)?;
            if place.as_deref() == Some(name.as_str()) {
                return Ok(());
            }
        }
        if self.is_attaching(name) {
            return Ok(());
        }
        self.unlink(name).context(removing)
    }

    /// The same for all of them.
    pub(super) async fn detach_all_unused(&self) -> Result<(), PlatformError> {
        let reading = || "reading which namespaces endpoints are attached to".to_owned();
        let mut result = Ok(());
        for name in self.records.links.names().context(reading)? {
            result = result.and(self.detach_unused(&name).await);
        }
        result
    }

    /// Whether `name` stands for a namespace that was named by a process or a path.
    pub fn is_attached(&self, name: &Name) -> bool {
        self.records.links.has(name.as_str()).unwrap_or_default()
    }
}

/// The name, if `path` is one of those where iproute2 keeps them.
fn own_name(path: &Path) -> Option<Name> {
    let folder = fs::canonicalize(path.parent()?).ok()?;
    if folder != fs::canonicalize(netns::NETNS_DIR).ok()? {
        return None;
    }
    path.file_name()?.to_str()?.parse().ok()
}

fn is_missing(error: &io::Error) -> bool {
    matches!(errno(error), Errno::ENOENT | Errno::ESRCH | Errno::ENOTDIR)
}
