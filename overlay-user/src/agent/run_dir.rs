//! The folder of sockets, locks and records, `/run/overlay`.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nix::sys::stat::{Mode, umask};

/// Mode of the folder: users of a socket have to reach it; only the owner makes or removes anything.
const MODE: u32 = 0o755;

/// Keeps what the agent makes from now on for its own user, whatever umask it was started with. What
/// others are to reach gets its mode by name.
pub(super) fn keep_files_private() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Makes the folder if it is missing. One that is there keeps its mode.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(MODE))
}
