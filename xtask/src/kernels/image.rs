//! Debian's kernels, unpacked beside the build and never installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::host;
use crate::setup;

/// An unpacked kernel package.
pub(super) struct Kernel {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// What the boot loader loads.
    pub(super) image: PathBuf,
    /// The package's lib/modules/RELEASE.
    modules: PathBuf,
}

impl Kernel {
    /// Gives the kernel that `package`, one of Debian's names for "the newest", stands for. It is
    /// downloaded once and kept under `folder`.
    pub(super) fn fetch(folder: &Path, package: &str) -> Result<Self> {
        let folder = folder.join(package);
        if let Ok(kernel) = Self::open(&folder) {
            return Ok(kernel);
        }
        let versioned = match newest(package) {
            Ok(name) => name,
            Err(_) => setup::refresh_package_lists().and_then(|()| newest(package))?,
        };
        setup::unpack(&versioned, &folder)?;
        Self::open(&folder)
    }

    fn open(folder: &Path) -> Result<Self> {
        let modules = fs::read_dir(folder.join("lib/modules"))?
            .next()
            .context("the package holds no modules")??;
        let release = modules.file_name().to_string_lossy().into_owned();
        let image = folder.join("boot").join(format!("vmlinuz-{release}"));
        fs::metadata(&image)?;
        Ok(Self {
            release,
            image,
            modules: modules.path(),
        })
    }

    /// The files of these modules and of those that they depend on, in an order in which they can be
    /// loaded; none of a module that is built in.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let base = self.modules.ancestors().nth(3);
        let base = base.context("modules are under lib/modules")?;
        if !self.modules.join("modules.dep").is_file() {
            // A package leaves this to its installation.
            kmod(
                "depmod",
                &["-b".as_ref(), base.as_ref(), self.release.as_ref()],
            )?;
        }
        let mut line: Vec<&OsStr> = vec!["-d".as_ref(), base.as_ref(), "-S".as_ref()];
        line.extend([&self.release, "--show-depends", "--all"].map(OsStr::new));
        line.extend(names.iter().map(OsStr::new));
        let shown = kmod("modprobe", &line)?;
        let mut files = Vec::new();
        let loaded = shown
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "));
        for file in loaded.map(|file| PathBuf::from(file.trim())) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        Ok(files)
    }
}

/// Runs a program of kmod on the unpacked package; gives what it prints.
fn kmod(program: &str, words: &[&OsStr]) -> Result<String> {
    let command = duct::cmd(program, words).env("PATH", host::search_path()?);
    command
        .read()
        .with_context(|| format!("asking {program} for a kernel's modules"))
}

/// The package that Debian's `package` depends on.
fn newest(package: &str) -> Result<String> {
    let listing = duct::cmd!("apt-cache", "depends", package)
        .stderr_null()
        .read()?;
    listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|version| format!("linux-image-{version}"))
        .with_context(|| format!("apt knows no {package}"))
}
