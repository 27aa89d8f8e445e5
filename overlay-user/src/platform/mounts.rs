//! Whether others see what this process mounts: names of network namespaces, and the BPF filesystem with the
//! pins.
//!
//! `ip netns exec` gives its command a mount namespace of its own, in which what the host mounts shows and
//! whose own mounts nobody else sees, with a new /sys besides. A container's processes have one in common,
//! and a service may have one from which mounts get out: what counts is whether the first process sees them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use procfs::{
    ProcResult,
    process::{MountInfo, MountOptFields, Process},
};

use super::{PlatformError, netns::NETNS_DIR};

const BPFFS: &str = "/sys/fs/bpf";
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// What the first process would not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Names,
    Pins,
}

/// Refuses a process whose mounts nobody else sees. What can't be found out is no reason to.
pub fn require_shared() -> Result<(), PlatformError> {
    let Ok(own) = mounts(Process::myself()) else {
        return Ok(());
    };
    let first = mounts(Process::new(1)).ok();
    let Some(hidden) = hidden(&own, first.as_deref()) else {
        return Ok(());
    };
    let what = match hidden {
        Hidden::Names => "the namespaces that it makes would have names that nobody else sees",
        Hidden::Pins => "nobody else would see its datapath, which would end with it",
    };
    let start = match own_name() {
        Some(name) => format!("nsenter --net={NETNS_DIR}/{name} overlay run ..."),
        None => "nsenter --mount=/proc/1/ns/mnt overlay run ...".to_owned(),
    };
    Err(PlatformError::Refused(format!(
        "this process has mounts of its own, as `ip netns exec` makes them: {what}; from outside of it, start \
         the agent with `{start}`"
    )))
}

fn mounts(process: ProcResult<Process>) -> ProcResult<Vec<MountInfo>> {
    Ok(process?.mountinfo()?.into_iter().collect())
}

/// What is mounted in `own` and does not get to the `first` process.
fn hidden(own: &[MountInfo], first: Option<&[MountInfo]>) -> Option<Hidden> {
    // A mount is in one namespace and has a number that no other has.
    let is_same = |first: &[MountInfo]| {
        let number = own.first().map(|mount| mount.mnt_id);
        first.iter().any(|mount| Some(mount.mnt_id) == number)
    };
    if first.is_some_and(is_same) {
        return None;
    }
    let names = at(own, NETNS_DIR)?;
    if !gets_out(names, first) {
        return Some(Hidden::Names);
    }
    let pins = at(own, BPFFS)?;
    let is_seen = match first {
        Some(first) if pins.fs_type == "bpf" => first.iter().any(|it| it.majmin == pins.majmin),
        None if pins.fs_type == "bpf" => true,
        _ => gets_out(pins, first),
    };
    (!is_seen).then_some(Hidden::Pins)
}

/// Whether what is mounted on this mount is seen by the first process. Where that one's are not known, a mount
/// that takes in and hands on nothing is a private one.
fn gets_out(mount: &MountInfo, first: Option<&[MountInfo]>) -> bool {
    let group = mount.opt_fields.iter().find_map(|field| match field {
        MountOptFields::Shared(group) => Some(*group),
        _ => None,
    });
    let Some(first) = first else {
        let takes_in = |field| matches!(field, &MountOptFields::Master(_));
        return group.is_some() || !mount.opt_fields.iter().any(takes_in);
    };
    let takes_in = |field: &MountOptFields| match field {
        MountOptFields::Shared(its) | MountOptFields::Master(its) => Some(*its) == group,
        _ => false,
    };
    group.is_some()
        && first
            .iter()
            .any(|mount| mount.opt_fields.iter().any(takes_in))
}

/// The mount that `path` is on.
fn at<'a>(mounts: &'a [MountInfo], path: &str) -> Option<&'a MountInfo> {
    let above = |mount: &&MountInfo| Path::new(path).starts_with(&mount.mount_point);
    let depth = |mount: &&MountInfo| mount.mount_point.components().count();
    // Of several in one place the last is on top.
    mounts.iter().filter(above).max_by_key(depth)
}

/// The name of this process's network namespace.
fn own_name() -> Option<String> {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = identity(Path::new(THREAD_NETNS))?;
    let mut entries = fs::read_dir(NETNS_DIR).ok()?.filter_map(Result::ok);
    let found = entries.find(|entry| identity(&entry.path()) == Some(own))?;
    found.file_name().into_string().ok()
}

#[cfg(test)]
mod tests {
    use procfs::{FromRead as _, process::MountInfos};

    use super::*;

    /// As `/proc/PID/mountinfo` has them.
    fn table(text: &str) -> Vec<MountInfo> {
        MountInfos::from_read(text.as_bytes())
            .unwrap()
            .into_iter()
            .collect()
    }

    /// A host of systemd's, which shares all.
    const HOST: &str = "\
21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
22 21 0:21 / /sys rw shared:2 - sysfs sysfs rw
23 22 0:22 / /sys/fs/bpf rw shared:3 - bpf bpf rw
24 21 0:23 / /run rw shared:4 - tmpfs tmpfs rw
25 24 0:23 /netns /run/netns rw shared:4 - tmpfs tmpfs rw
";

    #[test]
    fn the_first_processs_own_mounts_are_seen_shared_or_not() {
        let private = table(&HOST.replace("shared:", "master:"));
        assert_eq!(hidden(&private, Some(&private)), None);
    }

    #[test]
    fn ip_netns_exec_hides_names() {
        let own = "\
41 40 8:1 / / rw master:1 - ext4 /dev/sda1 rw
44 41 0:23 / /run rw master:4 - tmpfs tmpfs rw
45 44 0:23 /netns /run/netns rw master:4 - tmpfs tmpfs rw
46 41 0:40 / /sys rw - sysfs h1 rw
";
        let (own, first) = (table(own), table(HOST));
        assert_eq!(hidden(&own, Some(&first)), Some(Hidden::Names));
        assert_eq!(hidden(&own, None), Some(Hidden::Names));
        // Somebody made namespaces there, and with that a group of its own.
        let shared = HOST
            .replace('2', "4")
            .replace("shared:4", "shared:9 master:4");
        assert_eq!(hidden(&table(&shared), Some(&first)), Some(Hidden::Names));
    }

    #[test]
    fn a_namespace_from_which_mounts_get_out_hides_nothing() {
        let own = "\
61 60 8:1 / / rw master:1 - ext4 /dev/sda1 rw
62 61 0:21 / /sys rw shared:2 - sysfs sysfs rw
63 62 0:22 / /sys/fs/bpf rw - bpf bpf rw
65 61 0:23 /netns /run/netns rw shared:4 - tmpfs tmpfs rw
";
        let first = table(HOST);
        assert_eq!(hidden(&table(own), Some(&first)), None);
        // A BPF filesystem of its own.
        let other = own.replace("0:22", "0:77");
        assert_eq!(hidden(&table(&other), Some(&first)), Some(Hidden::Pins));
    }

    #[test]
    fn a_containers_private_mounts_are_not_held_against_it_where_the_first_process_is_not_seen() {
        let own = "\
81 80 0:50 / / rw - overlay overlay rw
82 81 0:51 / /sys rw - sysfs sysfs rw
83 82 0:52 / /sys/fs/bpf rw - bpf bpf rw
";
        assert_eq!(hidden(&table(own), None), None);
    }
}
