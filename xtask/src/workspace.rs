//! Where things are in the source tree and in the target folder.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use duct::Expression;

use crate::host;

/// How the agent is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    /// The folder under target/ that cargo gives it.
    fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// The checkout that this program was started from.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo's environment rather than the compiled-in path, which a moved checkout breaks.
    pub(crate) fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("xtask has no folder above it")?
            .to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Ok(root.join("target")),
            |folder| std::path::absolute(PathBuf::from(folder)),
        )?;
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The target folder of everything for bpfel-unknown-none, apart from the host's: the two are
    /// made by different compilers and must not wait for each other's lock.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// The agent's binary.
    pub(crate) fn agent(&self, profile: Profile) -> PathBuf {
        self.target.join(profile.folder()).join("overlay")
    }

    /// A cargo of the toolchain that runs this program, started in the root.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Expression> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let command = duct::cmd(cargo, args)
            .dir(&self.root)
            .env("PATH", host::search_path()?);
        Ok(without_package_variables(command))
    }
}

/// Takes away what `cargo run` set to describe xtask itself. Build scripts watch some of these, and
/// would run again on every change between a cargo started here and one started by hand.
pub(crate) fn without_package_variables(command: Expression) -> Expression {
    env::vars_os()
        .map(|(name, _)| name)
        .filter(describes_package)
        .fold(command, |command, name| command.env_remove(name))
}

fn describes_package(name: &OsString) -> bool {
    const PREFIXES: [&str; 4] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ];
    let name = name.to_string_lossy();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name == "CARGO_PRIMARY_PACKAGE"
        || name == "LD_LIBRARY_PATH"
}

/// Writes a file only where its content changes, and then at once: who watches its time of change
/// builds no more than needed, and who reads it never sees half of it.
pub(crate) fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let folder = path.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, content)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("writing {}", path.display()))
}

/// Removes a folder and all that is in it; absent is fine.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
