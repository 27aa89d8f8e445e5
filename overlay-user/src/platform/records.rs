//! What the kernel's objects can't carry themselves, as small files under `/run/overlay/INSTANCE`.
//!
//! Each is written before the object that it speaks of exists and removed after that is gone. So a
//! crash leaves a record without its object, perhaps cut off, which is harmless, and never the
//! other way round. What has to be known after a reboot too is also under `/var/lib/overlay`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::netns;
use crate::model::Name;

/// All records of one instance.
#[derive(Debug)]
pub(super) struct Records {
    /// Namespace -> its identity, for namespaces that we made.
    pub(super) namespaces: Folder,
    /// Endpoint -> the namespace of its port.
    pub(super) ports: Folder,
    /// Endpoint -> the namespace that its port is or was in, if somebody else made that.
    pub(super) guests: Lasting,
    /// Endpoint -> the addresses that it was given, one a line.
    pub(super) addresses: Folder,
    /// Name of a link that is neither -> nothing: we are making it.
    pub(super) devices: Folder,
}

impl Records {
    /// The records of `instance`, with those that a reboot has taken and the disk still has.
    pub(super) fn new(instance: &Name) -> Self {
        let root = Path::new("/run/overlay").join(instance.as_str());
        Self {
            namespaces: Folder(root.join("netns")),
            ports: Folder(root.join("ports")),
            guests: Lasting::restored(
                Folder(root.join("guests")),
                Folder(Path::new("/var/lib/overlay/guests").join(instance.as_str())),
            ),
            addresses: Folder(root.join("addresses")),
            devices: Folder(root.join("devices")),
        }
    }
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
        fs::create_dir_all(&self.0)?;
        fs::write(self.0.join(name), text)
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

/// Records that a reboot leaves, unless the disk refused them: one that is full or can't be written keeps
/// no endpoint from standing, and one that hangs holds up those alone that are recorded.
#[derive(Debug)]
pub(super) struct Lasting {
    until_reboot: Folder,
    on_disk: Folder,
}

impl Lasting {
    /// Reads from the disk what a reboot has taken.
    fn restored(until_reboot: Folder, on_disk: Folder) -> Self {
        let restore = || {
            for name in on_disk.names()? {
                let name = name.as_str();
                if let Some(text) = on_disk.get(name)?
                    && !until_reboot.has(name)?
                {
                    until_reboot.put(name, &text)?;
                }
            }
            io::Result::Ok(())
        };
        if let Err(error) = restore() {
            let folder = on_disk.0.display();
            tracing::warn!(%folder, %error, "which namespaces are others' is not known from before the reboot");
        }
        Self {
            until_reboot,
            on_disk,
        }
    }

    /// The text recorded under `name`.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<String>> {
        self.until_reboot.get(name)
    }

    /// Records `text` under `name`.
    pub(super) async fn put(&self, name: &str, text: &str) -> io::Result<()> {
        self.until_reboot.put(name, text)?;
        let (name, text) = (name.to_owned(), text.to_owned());
        self.change_disk(move |disk| disk.put(&name, &text)).await;
        Ok(())
    }

    /// Forgets `name`.
    pub(super) async fn remove(&self, name: &str) -> io::Result<()> {
        if self.until_reboot.has(name)? {
            let gone = name.to_owned();
            self.change_disk(move |disk| disk.remove(&gone)).await;
        }
        self.until_reboot.remove(name)
    }

    /// Forgets all.
    pub(super) async fn clear(&self) -> io::Result<()> {
        self.change_disk(Folder::clear).await;
        self.until_reboot.clear()
    }

    async fn change_disk(&self, change: impl FnOnce(&Folder) -> io::Result<()> + Send + 'static) {
        let disk = self.on_disk.clone();
        if let Err(error) = netns::on_thread(move || change(&disk)).await {
            let folder = self.on_disk.0.display();
            tracing::warn!(%folder, %error, "after a reboot it is not known rightly which namespaces are others'");
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

    #[tokio::test]
    async fn a_lasting_record_is_known_after_a_reboot_and_without_a_disk() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| Folder(root.path().join(name).join("guests"));
        let restored = || Lasting::restored(folder("run"), folder("lib"));
        restored().put("blue", "pod").await.unwrap();
        fs::remove_dir_all(root.path().join("run")).unwrap();
        let records = restored();
        assert_eq!(records.get("blue").unwrap().as_deref(), Some("pod"));
        records.remove("blue").await.unwrap();
        assert_eq!(restored().get("blue").unwrap(), None);

        // No folder can be made there.
        fs::write(root.path().join("lib"), "").unwrap();
        let records = restored();
        records.put("green", "pod").await.unwrap();
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
