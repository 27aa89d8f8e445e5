//! What the kernel's objects can't carry themselves, as small files under `/run/overlay/INSTANCE`.
//!
//! Each is written before the object that it speaks of exists and removed after that is gone. So a
//! crash leaves a record without its object, perhaps cut off, which is harmless, and never the
//! other way round.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::model::Name;

/// All records of one instance.
#[derive(Debug)]
pub(super) struct Records {
    /// Namespace -> its identity, for namespaces that we made.
    pub(super) namespaces: Folder,
    /// Endpoint -> the namespace of its port.
    pub(super) ports: Folder,
    /// Endpoint -> the namespace that its port is or was in, if somebody else made that.
    pub(super) guests: Folder,
    /// Endpoint -> the addresses that it was given, one a line.
    pub(super) addresses: Folder,
    /// Name of a link that is neither -> nothing: we are making it.
    pub(super) devices: Folder,
}

impl Records {
    /// The records of `instance`; nothing is read or written yet.
    pub(super) fn new(instance: &Name) -> Self {
        let root = Path::new("/run/overlay").join(instance.as_str());
        Self {
            namespaces: Folder(root.join("netns")),
            ports: Folder(root.join("ports")),
            guests: Folder(root.join("guests")),
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
