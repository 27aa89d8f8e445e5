//! Debian's kernels, unpacked beside the build and never installed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

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
    /// loaded. A name without a file is one that is built in.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let base = self
            .modules
            .ancestors()
            .nth(3)
            .context("modules are under lib/modules")?;
        if !self.modules.join("modules.dep").is_file() {
            // A package leaves this to its installation.
            duct::cmd!("busybox", "depmod", "-b", base, &self.release)
                .stdout_null()
                .run()?;
        }
        let dependencies = fs::read_to_string(self.modules.join("modules.dep"))?;
        let dependencies = Dependencies::parse(&dependencies);
        Ok(dependencies
            .load_order(names)
            .into_iter()
            .map(|file| self.modules.join(file))
            .collect())
    }
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

/// modules.dep: each module's file and the files that have to be loaded before it, last one first.
struct Dependencies<'a> {
    /// By the module's name.
    files: HashMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Self {
        let files = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, before)| {
                (
                    module_name(file),
                    (file, before.split_whitespace().collect()),
                )
            })
            .collect();
        Self { files }
    }

    fn load_order(&self, names: &[&str]) -> Vec<&'a str> {
        let mut order: Vec<&str> = Vec::new();
        for (file, before) in names.iter().filter_map(|name| self.files.get(*name)) {
            for file in before.iter().rev().chain([file]) {
                if !order.contains(file) {
                    order.push(file);
                }
            }
        }
        order
    }
}

/// `kernel/drivers/net/veth.ko.xz` is `veth`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_depends_on_and_only_once() {
        let dependencies = Dependencies::parse(
            "kernel/net/llc/llc.ko.xz:\n\
             kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
             kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
             kernel/net/ipv4/udp-tunnel.ko.xz:\n",
        );
        assert_eq!(
            dependencies.load_order(&["stp", "built_in", "bridge", "udp_tunnel"]),
            [
                "kernel/net/llc/llc.ko.xz",
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/net/ipv4/udp-tunnel.ko.xz",
            ]
        );
    }
}
