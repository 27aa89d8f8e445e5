//! A small disk, a file with ext4 on it, and what goes wrong with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MntFlags, umount2};

use crate::{Lab, netns};

/// Mounted in the lab's folder until it goes.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// An empty one, mounted under `name` in the lab's folder.
    pub fn new(lab: &Lab, name: &str) -> Self {
        let folder = lab.dir().join(name);
        let image = folder.with_extension("img");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        run("mkfs.ext4", &["-q"], &image);
        fs::create_dir(&folder).unwrap();
        let disk = Self { image, folder };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Lets all that writes to it wait, until the guard goes.
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze"], &self.folder);
        Frozen(self)
    }

    /// Lets its file system fail, after which it can only be read. What was written before is on it.
    pub fn fail(&self) {
        run("sync", &["--file-system"], &self.folder);
        run("mount", &["-o", "remount,abort"], &self.folder);
    }

    /// Puts a repaired copy of one that failed in its place.
    pub fn replace(&self) {
        umount2(&self.folder, MntFlags::MNT_DETACH).unwrap();
        let copy = self.image.with_extension("copy");
        fs::copy(&self.image, &copy).unwrap();
        fs::rename(&copy, &self.image).unwrap();
        // It ends with 1 where it had something to repair.
        let repair = Command::new("e2fsck").arg("-fy").arg(&self.image).output();
        let repair = repair.unwrap();
        assert!(repair.status.code().unwrap() <= 1, "{repair:?}");
        self.mount();
    }

    fn mount(&self) {
        let image = self.image.to_str().unwrap();
        run(
            "mount",
            &["-o", "loop,errors=remount-ro", image],
            &self.folder,
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
    }
}

/// A disk that hangs. It is let go before the agent that waits for it, which can't end otherwise.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .arg("--unfreeze")
            .arg(self.0.path())
            .status();
    }
}

fn run(program: &str, options: &[&str], last: &Path) {
    let last = last.to_str().unwrap();
    netns::run(program, &[options, &[last]].concat());
}
