//! Where maps, programs and links are pinned, so that they outlive the agent.
//!
//! ```text
//! /sys/fs/bpf/overlay/INSTANCE/v3/maps/fdb ...        v3: the ABI's version
//!                                 calls/NUMBER
//!                                 programs/endpoint_ingress ...
//!                                 links/underlay-IFINDEX, links/endpoint-IFINDEX,
//!                                 links/external-IFINDEX, links/uplink-IFINDEX
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use overlay_ebpf::abi::ABI_VERSION;

use super::DatapathError;

const BPFFS: &str = "/sys/fs/bpf";

/// Removes all pins of an instance: links first, so that traffic stops before its maps go. Absent
/// ones are fine. Its endpoints' interfaces have to be gone or down.
pub fn remove(root: &Path) -> Result<(), DatapathError> {
    for version in entries(root)? {
        remove_version(&version)?;
    }
    remove_tree(root)
}

fn remove_version(version: &Path) -> Result<(), DatapathError> {
    for kind in ["links", "programs", "calls", "maps"] {
        remove_tree(&version.join(kind))?;
    }
    remove_tree(version)
}

/// The folders of one instance and ABI version; they exist once this does.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Makes the folders, and mounts the BPF filesystem if that is missing.
    pub(super) fn create(root: &Path) -> Result<Self, DatapathError> {
        ensure_bpffs()?;
        let pins = Self::at(root, ABI_VERSION);
        for kind in ["maps", "calls", "programs", "links"] {
            let folder = pins.version.join(kind);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| failed("create", &folder, &error))?;
        }
        Ok(pins)
    }

    /// The folders, whether they exist or not.
    pub(super) fn existing(root: &Path) -> Self {
        Self::at(root, ABI_VERSION)
    }

    fn at(root: &Path, version: u32) -> Self {
        Self {
            root: root.to_owned(),
            version: root.join(format!("v{version}")),
        }
    }

    /// The same instance's pins of another version, whether there are any or not.
    pub(super) fn of(&self, version: u32) -> Self {
        Self::at(&self.root, version)
    }

    /// The versions that have pinned anything for this instance.
    pub(super) fn versions(&self) -> Result<Vec<u32>, DatapathError> {
        let number = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix('v')?.parse().ok()
        };
        Ok(entries(&self.root)?.iter().filter_map(number).collect())
    }

    /// Removes what other versions of the ABI pinned for this instance, programs and all.
    pub(super) fn retire_others(&self) -> Result<(), DatapathError> {
        for version in entries(&self.root)? {
            if version != self.version {
                remove_version(&version)?;
            }
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.version.join("maps").join(name)
    }

    /// The program array of the start with this number.
    pub(super) fn call(&self, number: u32) -> PathBuf {
        self.version.join("calls").join(number.to_string())
    }

    /// The numbers of the starts whose program arrays are pinned.
    pub(super) fn calls(&self) -> Result<Vec<u32>, DatapathError> {
        let arrays = entries(&self.version.join("calls"))?;
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(arrays.iter().filter_map(number).collect())
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.version.join("programs").join(name)
    }

    pub(super) fn underlay_link(&self, ifindex: u32) -> PathBuf {
        self.version
            .join("links")
            .join(format!("underlay-{ifindex}"))
    }

    pub(super) fn uplink_link(&self, ifindex: u32) -> PathBuf {
        self.version.join("links").join(format!("uplink-{ifindex}"))
    }

    /// Indexes of the interfaces that are or were the uplink and have its link.
    pub(super) fn uplink_links(&self) -> Result<Vec<u32>, DatapathError> {
        self.links("uplink-")
    }

    pub(super) fn pace_link(&self, ifindex: u32) -> PathBuf {
        self.version.join("links").join(format!("pace-{ifindex}"))
    }

    /// Indexes of the interfaces that are or were paced and have the link for it.
    pub(super) fn pace_links(&self) -> Result<Vec<u32>, DatapathError> {
        self.links("pace-")
    }

    pub(super) fn endpoint_link(&self, ifindex: u32) -> PathBuf {
        self.version
            .join("links")
            .join(format!("endpoint-{ifindex}"))
    }

    /// Indexes of the interfaces for which an endpoint's link is pinned.
    pub(super) fn endpoint_links(&self) -> Result<Vec<u32>, DatapathError> {
        self.links("endpoint-")
    }

    /// Indexes of the interfaces that are or were the underlay and have its link.
    pub(super) fn underlay_links(&self) -> Result<Vec<u32>, DatapathError> {
        self.links("underlay-")
    }

    pub(super) fn external_link(&self, ifindex: u32) -> PathBuf {
        self.version
            .join("links")
            .join(format!("external-{ifindex}"))
    }

    /// Indexes of the interfaces that are or were the VXLAN device and have its link.
    pub(super) fn external_links(&self) -> Result<Vec<u32>, DatapathError> {
        self.links("external-")
    }

    fn links(&self, prefix: &str) -> Result<Vec<u32>, DatapathError> {
        let links = entries(&self.version.join("links"))?;
        let index = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(prefix)?.parse().ok()
        };
        Ok(links.iter().filter_map(index).collect())
    }
}

/// Moves a pin in one step; not where there is one already.
pub(super) fn move_pin(from: &Path, to: &Path) -> Result<(), DatapathError> {
    if to.exists() {
        return Ok(());
    }
    fs::rename(from, to).map_err(|error| failed("move", from, &error))
}

/// Removes one pin; absent is fine.
pub(super) fn unpin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn ensure_bpffs() -> Result<(), DatapathError> {
    let is_mounted = statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if is_mounted {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|errno| {
        DatapathError::Refused(format!(
            "there is no BPF filesystem at {BPFFS} and mounting one failed ({errno}): run as root \
             or with CAP_SYS_ADMIN, or run `mount -t bpf bpf {BPFFS}`"
        ))
    })
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(|error| failed("read", folder, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", folder, &error)),
    }
}

fn remove_tree(folder: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> DatapathError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return DatapathError::Refused(format!(
            "can't {verb} {}: permission denied: run overlay as root, or with CAP_DAC_OVERRIDE",
            path.display()
        ));
    }
    DatapathError::Kernel {
        what: format!("can't {verb} {}", path.display()),
        cause: error.to_string(),
    }
}
