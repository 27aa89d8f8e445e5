//! The guest's root: a folder that is filled and then packed as a cpio archive.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lddtree::DependencyAnalyzer;
use walkdir::WalkDir;

use crate::workspace::remove_folder;

/// A root that is being filled.
pub(super) struct Initramfs {
    root: PathBuf,
    /// Names of modules in the order in which init loads them, a line each.
    modules: String,
}

impl Initramfs {
    /// Starts with an empty `root`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        remove_folder(root)?;
        fs::create_dir_all(root)?;
        Ok(Self {
            root: root.to_owned(),
            modules: String::new(),
        })
    }

    /// Adds an executable text.
    pub(super) fn script(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.place(Path::new(name))?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Adds a program as /usr/bin/`name`, and the shared libraries where its loader looks for them.
    pub(super) fn program(&mut self, binary: &Path, name: &str) -> Result<()> {
        let found = DependencyAnalyzer::new(PathBuf::from("/"))
            .analyze(binary)
            .with_context(|| format!("reading {}", binary.display()))?;
        for (library, entry) in &found.libraries {
            let path = entry.realpath.as_ref().with_context(|| {
                format!("{} needs {library}, which is missing", binary.display())
            })?;
            copy(path, &self.place(&entry.path)?)?;
        }
        if let Some(loader) = found.interpreter.as_deref().map(Path::new) {
            copy(loader, &self.place(loader)?)?;
        }
        let program = self.place(&Path::new("usr/bin").join(name))?;
        // Debug information would be most of the archive, and the kernel has to unpack it.
        duct::cmd!("strip", "--strip-debug", "-o", &program, binary).run()?;
        Ok(())
    }

    /// Adds a kernel module, uncompressed, to be loaded after those before it.
    pub(super) fn module(&mut self, file: &Path) -> Result<()> {
        let name = file
            .file_name()
            .context("a module has a name")?
            .to_string_lossy();
        let name = name.trim_end_matches(".xz");
        let place = self.place(&Path::new("modules").join(name))?;
        if file.extension().is_some_and(|extension| extension == "xz") {
            duct::cmd!("busybox", "xzcat", file)
                .stdout_path(place)
                .run()?;
        } else {
            copy(file, &place)?;
        }
        self.modules.push_str(name);
        self.modules.push('\n');
        Ok(())
    }

    /// Writes the archive.
    pub(super) fn pack(mut self, archive: &Path) -> Result<()> {
        let order = std::mem::take(&mut self.modules);
        fs::write(self.place(Path::new("modules/order"))?, order)?;
        let mut names = String::new();
        for entry in WalkDir::new(&self.root).min_depth(1) {
            let entry = entry?;
            names.push_str(&entry.path().strip_prefix(&self.root)?.to_string_lossy());
            names.push('\n');
        }
        duct::cmd!(
            "cpio",
            "--create",
            "--format=newc",
            "--owner=0:0",
            "--quiet"
        )
        .dir(&self.root)
        .stdin_bytes(names)
        .stdout_path(archive)
        .run()
        .with_context(|| format!("packing {}", archive.display()))?;
        Ok(())
    }

    /// Where a path of the guest is while the root is filled; makes the folders up to it.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.root.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(place)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}
