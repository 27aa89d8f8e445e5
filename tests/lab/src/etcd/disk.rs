//! A member's disk, and what goes wrong with it.
//!
//! It is a tmpfs: small, so that it can be filled, and fast, so that the other tests' writing
//! brings about no elections. A slow one is made by a [`Delay`](crate::delay::Delay), which lets the member's flushes
//! (fdatasync, fsync) wait before they reach the kernel: that is where etcd feels a slow disk, its
//! own files and nobody else's are hit, and unlike dm-delay or a limit on block I/O it needs
//! nothing of the machine's kernel.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};

/// What flushes a file to the disk.
pub(super) const FLUSHES: &str = "fdatasync,fsync";

/// Two segments of etcd's log, 64 MB each and allocated beforehand, and what the lab stores.
const SIZE: &str = "size=256m";

/// Makes the disk of a member.
pub(super) fn make(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let source = dir.file_name().unwrap();
    mount(
        Some(source),
        dir,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(SIZE),
    )
    .unwrap();
}

/// Takes away the disks in a lab's folder.
pub(crate) fn unmount_all(lab: &Path) {
    for entry in fs::read_dir(lab).into_iter().flatten().flatten() {
        // Most are no mount points.
        let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
    }
}

/// A disk without space; it is free again when this goes.
#[derive(Debug)]
pub struct Full(PathBuf);

impl Full {
    pub(super) fn fill(dir: &Path) -> Self {
        let full = Self(dir.join("ballast"));
        let file = File::create(&full.0).unwrap();
        let mut len = 0;
        // What is freed or taken meanwhile makes the first number wrong.
        loop {
            let disk = statvfs(dir).unwrap();
            let free = disk.blocks_available() * disk.fragment_size();
            if free == 0 {
                return full;
            }
            let more = i64::try_from(free).unwrap();
            match fallocate(&file, FallocateFlags::empty(), len, more) {
                Ok(()) => len += more,
                Err(Errno::ENOSPC) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
