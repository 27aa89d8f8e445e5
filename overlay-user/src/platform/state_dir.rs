//! Small files under `/run/overlay/INSTANCE` for what kernel objects can't carry themselves.
//!
//! A file is written before its object exists, and removed after the object is gone. So a crash leaves at worst a
//! file without an object, perhaps cut off, which is harmless. What has to survive a reboot is also kept under
//! `/var/lib/overlay`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::mpsc::{self, SyncSender},
    thread,
    time::Duration,
};

use crate::model::Name;

/// Records that wait for the disk.
const WAITING: usize = 1024;
/// How long the disk may take to give what is on it.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// All records of one instance.
#[derive(Debug)]
pub(super) struct StateDir {
    /// Namespace -> its identity, for namespaces that we made.
    pub(super) namespaces: Folder,
    /// Endpoint -> the namespace of its port.
    pub(super) ports: Folder,
    /// Endpoint -> the namespace that its port is or was in, if somebody else made that.
    pub(super) guests: Lasting,
    /// Name of a link to a namespace of somebody else's -> that one's identity and the link's target, a line
    /// each.
    pub(super) links: Folder,
    /// Endpoint -> the addresses that it was given, one a line.
    pub(super) addresses: Folder,
    /// Endpoint -> the gateways of its default routes, one a line.
    pub(super) routes: Folder,
    /// Endpoint -> the ports of sockets in its namespace as they were before it was given some.
    pub(super) local_ports: Folder,
    /// Name of a link that is neither -> nothing: we are making it.
    pub(super) devices: Folder,
}

impl StateDir {
    /// The records of `instance`, with those that a reboot has taken and the disk still has.
    pub(super) fn new(instance: &Name) -> Self {
        let root = Path::new("/run/overlay").join(instance.as_str());
        Self {
            namespaces: Folder(root.join("netns")),
            ports: Folder(root.join("ports")),
            guests: Lasting::restored(
                Folder(root.join("guests")),
                Folder(guests_on_disk(instance)),
            ),
            links: Folder(root.join("links")),
            addresses: Folder(root.join("addresses")),
            routes: Folder(root.join("routes")),
            local_ports: Folder(root.join("local-ports")),
            devices: Folder(root.join("devices")),
        }
    }
}

fn guests_on_disk(instance: &Name) -> PathBuf {
    Path::new("/var/lib/overlay/guests").join(instance.as_str())
}

/// Takes away what a reboot would leave of an instance; absent is fine.
pub fn forget_lasting(instance: &Name) -> io::Result<()> {
    present(fs::remove_dir_all(guests_on_disk(instance))).map(drop)
}

/// One kind of records: a folder with a file for each.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The text recorded under `name`.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<String>> {
        present(fs::read_to_string(self.0.join(name)))
    }

    /// Whether anything is recorded under `name`.
    pub(super) fn has(&self, name: &str) -> io::Result<bool> {
        self.0.join(name).try_exists()
    }

    /// Records `text` under `name`.
    pub(super) fn put(&self, name: &str, text: &str) -> io::Result<()> {
        self.in_folder(|| fs::write(self.0.join(name), text))
    }

    /// Does `work` in the folder, which is made before. Whoever forgets the last record takes it away, perhaps
    /// just between the two.
    fn in_folder(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        const ATTEMPTS: usize = 100;
        let attempt = || fs::create_dir_all(&self.0).and_then(|()| work());
        // What was there when it was to be made, and is no more, is said to be there already.
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::AlreadyExists];
        let is_gone = |done: &io::Result<()>| {
            let error = done.as_ref().err();
            error.is_some_and(|error| gone.contains(&error.kind()))
        };
        let mut attempts = (1..ATTEMPTS).map(|_| attempt());
        attempts.find(|done| !is_gone(done)).unwrap_or_else(attempt)
    }

    /// The same, so that it is there as a whole, or not at all, after the power has failed.
    fn put_lastingly(&self, name: &str, text: &str) -> io::Result<()> {
        // No name has a '%'.
        let unfinished = self.0.join(format!("{name}%"));
        self.in_folder(|| {
            let mut file = File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, self.0.join(name))
        })
    }

    /// All records that can be read.
    fn all(&self) -> io::Result<Vec<(String, String)>> {
        let mut records = Vec::new();
        for name in self.names()? {
            match self.get(name.as_str()) {
                Ok(text) => records.extend(text.map(|text| (name.to_string(), text))),
                Err(error) => {
                    tracing::warn!(folder = %self.0.display(), %name, %error, "not read");
                }
            }
        }
        Ok(records)
    }

    /// Forgets `name`; the last one takes the folders with it.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        present(fs::remove_file(self.0.join(name)))?;
        for folder in self.0.ancestors().take(2) {
            // Refused by the kernel while anything is in it.
            let _still_needed = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Forgets all.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.names()?
            .iter()
            .try_for_each(|name| self.remove(name.as_str()))
    }

    /// The names of all records.
    pub(super) fn names(&self) -> io::Result<Vec<Name>> {
        let Some(entries) = present(fs::read_dir(&self.0))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok()),
            );
        }
        Ok(names)
    }
}

/// Records that a reboot leaves. A thread of its own brings them to the disk, in their order, and nobody waits
/// for it: where the disk is full, can't be written or hangs, they last until the reboot.
#[derive(Debug)]
pub(super) struct Lasting {
    until_reboot: Folder,
    changes: SyncSender<Record>,
}

/// What is recorded under a name. `None`: nothing any more.
type Record = (String, Option<String>);

impl Lasting {
    /// Reads from the disk what a reboot has taken, if that does not take too long.
    fn restored(until_reboot: Folder, on_disk: Folder) -> Self {
        let (changes, to_write) = mpsc::sync_channel::<Record>(WAITING);
        let (read, restored) = mpsc::channel();
        let folder = on_disk.0.display().to_string();
        let work = move || {
            // The caller has gone on if it took too long.
            let _ = read.send(on_disk.all());
            for (name, text) in to_write {
                let done = match &text {
                    Some(text) => on_disk.put_lastingly(&name, text),
                    None => on_disk.remove(&name),
                };
                if let Err(error) = done {
                    tracing::warn!(folder = %on_disk.0.display(), name, %error, "not on the disk: a reboot takes it");
                }
            }
        };
        let started = thread::Builder::new()
            .name("records".to_owned())
            .spawn(work);
        let restored = started
            .and_then(|_| {
                restored
                    .recv_timeout(DISK_TIMEOUT)
                    .map_err(io::Error::other)
            })
            .and_then(|records| {
                for (name, text) in records? {
                    if !until_reboot.has(&name)? {
                        until_reboot.put(&name, &text)?;
                    }
                }
                Ok(())
            });
        if let Err(error) = restored {
            tracing::warn!(%folder, %error, "what is recorded there from before a reboot is not known");
        }
        Self {
            until_reboot,
            changes,
        }
    }

    /// The text recorded under `name`.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<String>> {
        self.until_reboot.get(name)
    }

    /// The names of all records.
    pub(super) fn names(&self) -> io::Result<Vec<Name>> {
        self.until_reboot.names()
    }

    /// Records `text` under `name`.
    pub(super) fn put(&self, name: &str, text: &str) -> io::Result<()> {
        self.bring_to_disk(name, Some(text.to_owned()));
        self.until_reboot.put(name, text)
    }

    /// Forgets `name`.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.bring_to_disk(name, None);
        self.until_reboot.remove(name)
    }

    /// Forgets all until the reboot; what is on the disk stays.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.until_reboot.clear()
    }

    fn bring_to_disk(&self, name: &str, text: Option<String>) {
        if self.changes.try_send((name.to_owned(), text)).is_err() {
            tracing::warn!(name, "the disk takes no records: a reboot takes this one");
        }
    }
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_made_while_others_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder(root.path().join("instance/netns"));
        thread::scope(|scope| {
            for name in ["blue", "green", "red"] {
                let folder = &folder;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        folder.put(name, "1").unwrap();
                        folder.remove(name).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn records_are_read_back_listed_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder(root.path().join("instance/netns"));
        assert_eq!(folder.get("blue").unwrap(), None);
        assert_eq!(folder.names().unwrap(), []);
        folder.put("blue", "1").unwrap();
        folder.put("blue", "2").unwrap();
        folder.put("green", "3").unwrap();
        assert_eq!(folder.get("blue").unwrap().as_deref(), Some("2"));
        let mut names = folder.names().unwrap();
        names.sort();
        assert_eq!(names, ["blue".parse().unwrap(), "green".parse().unwrap()]);
        folder.remove("blue").unwrap();
        folder.remove("blue").unwrap();
        assert_eq!(folder.get("blue").unwrap(), None);
    }

    /// Waits until the disk has this record.
    fn await_record(folder: &Folder, text: Option<&str>) {
        let patience = std::time::Instant::now() + DISK_TIMEOUT;
        while folder.get("blue").unwrap().as_deref() != text {
            assert!(std::time::Instant::now() < patience, "{text:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_lasting_record_is_known_after_a_reboot_and_without_a_disk() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| Folder(root.path().join(name).join("guests"));
        let restored = || Lasting::restored(folder("run"), folder("lib"));
        restored().put("blue", "pod").unwrap();
        await_record(&folder("lib"), Some("pod"));
        fs::write(root.path().join("lib/guests/odd"), b"\xff").unwrap();
        fs::remove_dir_all(root.path().join("run")).unwrap();
        let records = restored();
        assert_eq!(records.get("blue").unwrap().as_deref(), Some("pod"));
        records.clear().unwrap();
        let records = restored();
        assert_eq!(records.get("blue").unwrap().as_deref(), Some("pod"));
        records.remove("blue").unwrap();
        await_record(&folder("lib"), None);
        assert_eq!(restored().get("blue").unwrap(), None);

        // No folder can be made there.
        fs::write(root.path().join("none"), "").unwrap();
        let records = Lasting::restored(folder("run"), folder("none"));
        records.put("green", "pod").unwrap();
        assert_eq!(records.get("green").unwrap().as_deref(), Some("pod"));
    }

    #[test]
    fn the_last_record_takes_the_instances_folder_with_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder(root.path().join("instance/netns"));
        folder.put("blue", "").unwrap();
        folder.remove("blue").unwrap();
        assert!(!root.path().join("instance").exists());
        assert!(root.path().exists());
    }
}
