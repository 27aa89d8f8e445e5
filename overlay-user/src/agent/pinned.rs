//! What an instance's pinned maps hold, for when no agent runs that has them open: the kernel prints a
//! pinned map whose types it knows as text (`bpffs_map_fops` in kernel/bpf/inode.c), one entry a line, the
//! counters of each CPU on lines of their own. A byte of an array that Latin-1 has a letter for it prints as
//! that letter (`btf_int_show` in kernel/bpf/btf.c), so not all of it is UTF-8.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::api::AttachMode;

/// One instance's pins of the newest version that has any.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    folder: PathBuf,
    version: u32,
}

impl Pinned {
    /// The pins below `root`, the instance's folder. `None`: there are no maps.
    pub(super) fn find(root: &Path) -> io::Result<Option<Self>> {
        let mut newest: Option<Self> = None;
        for name in names(root)? {
            let Some(version) = name.strip_prefix('v').and_then(|text| text.parse().ok()) else {
                continue;
            };
            let folder = root.join(&name);
            let is_newer = newest.as_ref().is_none_or(|known| version > known.version);
            if is_newer && folder.join("maps").is_dir() {
                newest = Some(Self { folder, version });
            }
        }
        Ok(newest)
    }

    /// The version of the ABI.
    pub(super) fn abi(&self) -> u32 {
        self.version
    }

    /// How programs are attached: links are pinned, filters are not.
    pub(super) fn attach_mode(&self) -> io::Result<AttachMode> {
        let links = names(&self.folder.join("links"))?;
        Ok(if links.iter().any(|link| link.starts_with("underlay-")) {
            AttachMode::Tcx
        } else {
            AttachMode::Clsact
        })
    }

    /// How many entries a hash map holds.
    pub(super) fn entries(&self, map: &str) -> io::Result<u64> {
        count_entries(self.open(map)?)
    }

    /// What all CPUs counted, by the number of the counter.
    pub(super) fn counters(&self, map: &str) -> io::Result<BTreeMap<u32, u64>> {
        add_up(self.open(map)?)
    }

    fn open(&self, map: &str) -> io::Result<BufReader<File>> {
        let path = self.folder.join("maps").join(map);
        let file = File::open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("reading {}: {error}", path.display()))
        })?;
        Ok(BufReader::new(file))
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn count_entries(text: impl BufRead) -> io::Result<u64> {
    let mut count = 0;
    for line in text.split(b'\n') {
        // The kernel warns in comments that this is for people.
        let line = line?;
        count += u64::from(!line.starts_with(b"#") && !line.is_empty());
    }
    Ok(count)
}

fn add_up(text: impl BufRead) -> io::Result<BTreeMap<u32, u64>> {
    let mut sums = BTreeMap::new();
    let mut slot = None;
    for line in text.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.trim_start().starts_with("cpu") {
            let value: Option<u64> = value.trim().parse().ok();
            match (slot, value) {
                (Some(slot), Some(value)) => *sums.entry(slot).or_default() += value,
                _ => return Err(io::Error::other(format!("{line:?} is no counter"))),
            }
        } else if let Ok(number) = name.parse() {
            slot = Some(number);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARNING: &str = "# WARNING!! The output is for debug purpose only\n\
                           # WARNING!! The output format will change\n";

    #[test]
    fn the_counters_of_all_cpus_are_added_up() {
        let text =
            format!("{WARNING}0: {{\n\tcpu0: 3\n\tcpu1: 4\n}}\n7: {{\n\tcpu0: 0\n\tcpu1: 1\n}}\n");
        let sums = add_up(text.as_bytes()).unwrap();
        assert_eq!(sums, BTreeMap::from([(0, 7), (7, 1)]));
    }

    #[test]
    fn counters_in_another_form_are_an_error_and_no_zeros() {
        let text = format!("{WARNING}0: {{\n\tcpu0: 0x3\n}}\n");
        assert!(add_up(text.as_bytes()).is_err());
    }

    #[test]
    fn each_line_but_the_warnings_is_an_entry() {
        let text = format!("{WARNING}42: {{1450,0,1,}}\n43: {{1450,0,2,}}\n");
        assert_eq!(count_entries(text.as_bytes()).unwrap(), 2);
    }

    #[test]
    fn entries_with_letters_that_are_no_utf_8_are_counted_too() {
        let text = [
            WARNING.as_bytes(),
            b"{42,[2,'B',7,'\xe9','\xff',2,],}: {9,}\n",
        ]
        .concat();
        assert_eq!(count_entries(text.as_slice()).unwrap(), 1);
    }

    #[test]
    fn the_newest_version_that_has_maps_is_found() {
        let root = tempfile::tempdir().unwrap();
        assert!(Pinned::find(&root.path().join("gone")).unwrap().is_none());
        for folder in ["v1/maps", "v2/maps", "v3", "v2/links/underlay-3"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let found = Pinned::find(root.path()).unwrap().unwrap();
        assert_eq!(found.abi(), 2);
        assert_eq!(found.attach_mode().unwrap(), AttachMode::Tcx);
    }
}
