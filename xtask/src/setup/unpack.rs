//! Debian packages that are unpacked beside the build and never installed: kernels, and programs
//! whose installation would start a service.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::install;
use crate::host;
use crate::progress;
use crate::workspace::remove_folder;

/// Downloads a package and unpacks it as `folder`, in place of what is there. A folder that exists
/// holds a whole package. Packages that it depends on are not fetched.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result<()> {
    if host::program("apt-get").is_none() {
        bail!(
            "this is not a Debian (no apt-get): install what Debian calls `{package}` with the \
             system's own package manager"
        );
    }
    let partial = folder.with_extension("partial");
    remove_folder(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
    let download = duct::cmd!("apt-get", "download", package).dir(&partial);
    let what = format!("downloading {package}");
    if progress::quietly(&what, &download).is_err() {
        // A fresh machine has no lists, an old one has lists of packages that are gone by now.
        install::refresh_package_lists()?;
        progress::quietly(&what, &download)
            .with_context(|| format!("run `apt-get download {package}` to see why"))?;
    }
    for file in fs::read_dir(&partial)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            duct::cmd!("dpkg", "-x", &file, &partial).run()?;
            fs::remove_file(file)?;
        }
    }
    remove_folder(folder)?;
    fs::rename(&partial, folder).with_context(|| format!("making {}", folder.display()))
}
