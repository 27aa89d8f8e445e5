//! One map of the datapath, typed. Only this process writes it, so it knows how many rows are
//! in it; the kernel does not tell.

use aya::{
    Ebpf,
    maps::{Map, MapError},
};

use super::{
    DatapathError, DatapathSettings,
    batch::Batches,
    encode::{Encode, Numbering},
    map_handle::{failed, info, open_pin, take},
    pins::{Pins, unpin},
    storage::{ANY, EXIST, NO_EXIST, Storage as _},
};
use crate::model::{MapUsage, Rows};

/// A map and what became of the rows that it was given.
pub(super) struct Table<R: Encode> {
    map: R::Map,
    /// The same map. `None`: it takes entries one by one.
    batches: Option<Batches<R::AbiKey, R::AbiValue>>,
    usage: MapUsage,
}

/// What a map did with one row.
enum Written {
    Anew,
    Over,
    /// The map holds a newer generation.
    Stale,
    Full,
}

impl<R: Encode> Table<R> {
    /// Takes the table out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Self::open(take(ebpf, R::MAP)?)?.counted()
    }

    /// The pinned one.
    pub(super) fn pinned(pins: &Pins) -> Result<Self, DatapathError> {
        Self::open(open_pin(&pins.map(R::MAP), R::MAP)?)
    }

    /// Takes the pin of an earlier agent's table away that has another capacity than this one wants. `None`: there
    /// is no such table.
    pub(super) fn take_resized(
        pins: &Pins,
        settings: &DatapathSettings,
    ) -> Result<Option<Self>, DatapathError> {
        let Some(wanted) = R::capacity(settings) else {
            return Ok(None);
        };
        let pin = pins.map(R::MAP);
        match info(&pin, R::MAP)? {
            Some(info) if info.max_entries() != wanted => {
                let table = Self::pinned(pins)?;
                unpin(&pin)?;
                Ok(Some(table))
            }
            _ => Ok(None),
        }
    }

    fn open(map: Map) -> Result<Self, DatapathError> {
        let (mut capacity, mut batches) = (0, None);
        let opening = |error| failed("open", R::MAP, &error);
        if let Map::HashMap(data) | Map::LpmTrie(data) | Map::Array(data) = &map {
            capacity = data.info().map_err(opening)?.max_entries();
        }
        if let Map::HashMap(data) = &map {
            batches = Batches::of(data).map_err(opening)?;
        }
        let map = R::Map::try_from(map).map_err(opening)?;
        Ok(Self {
            map,
            batches,
            usage: MapUsage {
                capacity: capacity.into(),
                ..MapUsage::default()
            },
        })
    }

    /// Counts the rows, for a table that is to be written.
    fn counted(mut self) -> Result<Self, DatapathError> {
        self.count()?;
        Ok(self)
    }

    fn count(&mut self) -> Result<(), DatapathError> {
        let mut entries = 0;
        for key in self.map.keys() {
            key.map_err(|error| failed("read", R::MAP, &error))?;
            entries += 1;
        }
        self.usage.entries = entries;
        Ok(())
    }

    /// Counts the rows of a map that does not tell which of them are new.
    fn recount(&mut self) -> Result<(), DatapathError> {
        if R::Map::TELLS_NEW {
            return Ok(());
        }
        self.count()
    }

    pub(super) fn usage(&self) -> (&'static str, MapUsage) {
        (R::MAP, self.usage)
    }

    /// Shows every row that is understood.
    pub(super) fn for_each(
        &self,
        numbering: &Numbering,
        mut visit: impl FnMut(R::Key, R),
    ) -> Result<(), DatapathError> {
        for entry in self.entries() {
            let (key, value) = entry?;
            if let Some((key, row)) = R::decode(&key, &value, numbering) {
                visit(key, row);
            }
        }
        Ok(())
    }

    pub(super) fn rows(&self, numbering: &Numbering) -> Result<Rows<R>, DatapathError> {
        let mut rows = Rows::<R>::new();
        self.for_each(numbering, |key, row| {
            rows.insert(key, row);
        })?;
        Ok(rows)
    }

    /// Writes rows, past those that find no place; gives the first error.
    pub(super) fn put(
        &mut self,
        rows: &Rows<R>,
        numbering: &Numbering,
    ) -> Result<(), DatapathError> {
        self.put_entries(encoded(rows, numbering))
    }

    /// The same for keys that the map doesn't hold, which the caller knows for sure. Where there is
    /// nothing to compare generations with, many entries go in one system call.
    pub(super) fn add(
        &mut self,
        rows: &Rows<R>,
        numbering: &Numbering,
    ) -> Result<(), DatapathError> {
        let (keys, values): (Vec<_>, Vec<_>) = encoded(rows, numbering).unzip();
        let batches = self.batches.as_ref();
        let added = batches.map_or(0, |batches| batches.update(&keys, &values));
        self.usage.entries += added as u64;
        // If there are any left, the map is full, or fails: row by row it says so.
        self.put_entries(keys.into_iter().zip(values).skip(added))
    }

    fn put_entries(
        &mut self,
        entries: impl Iterator<Item = (R::AbiKey, R::AbiValue)>,
    ) -> Result<(), DatapathError> {
        let (mut failure, mut refused) = (None, 0);
        for (key, value) in entries {
            match self.put_row(&key, &value) {
                Ok(Written::Anew) => self.usage.entries += 1,
                Ok(Written::Over) => {}
                Ok(Written::Stale) => self.usage.stale += 1,
                Ok(Written::Full) => refused += 1,
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        self.usage.refused += refused;
        match failure {
            Some(failure) => Err(failure),
            None if refused == 0 => self.recount(),
            None => Err(self.full(refused)),
        }
    }

    fn full(&self, refused: u64) -> DatapathError {
        DatapathError::Full {
            map: R::MAP,
            capacity: self.usage.capacity,
            refused,
            option: R::CAPACITY_OPTION,
        }
    }

    /// Most rows are new ones, for which this is a single system call.
    fn put_row(&mut self, key: &R::AbiKey, value: &R::AbiValue) -> Result<Written, DatapathError> {
        match self.map.insert(key, value, NO_EXIST) {
            Ok(()) => return Ok(Written::Anew),
            Err(error) if is_errno(&error, libc::EEXIST) => {}
            Err(error) if is_errno(&error, libc::E2BIG) => return Ok(Written::Full),
            Err(error) => return Err(failed("write to", R::MAP, &error)),
        }
        if let Some(generation) = R::abi_generation(value) {
            let held = self.entry(key)?.and_then(|held| R::abi_generation(&held));
            if held > Some(generation) {
                return Ok(Written::Stale);
            }
        }
        self.map
            .insert(key, value, ANY)
            .map(|()| Written::Over)
            .map_err(|error| failed("write to", R::MAP, &error))
    }

    /// Removes rows by their keys; absent ones are fine.
    pub(super) fn remove(
        &mut self,
        rows: &Rows<R>,
        numbering: &Numbering,
    ) -> Result<(), DatapathError> {
        for key in rows.keys() {
            match self.map.remove(&R::encode_key(key, numbering)) {
                Ok(()) => self.usage.entries = self.usage.entries.saturating_sub(1),
                Err(MapError::KeyNotFound) => {}
                Err(error) if is_errno(&error, libc::ENOENT) => {}
                Err(error) => return Err(failed("remove from", R::MAP, &error)),
            }
        }
        Ok(())
    }

    /// One entry as the map has it.
    pub(super) fn entry(&self, key: &R::AbiKey) -> Result<Option<R::AbiValue>, DatapathError> {
        match self.map.get(key) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", R::MAP, &error)),
        }
    }

    /// Every entry as the map has it.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = Result<(R::AbiKey, R::AbiValue), DatapathError>> + '_ {
        let entries = self.map.entries();
        entries.map(|entry| entry.map_err(|error| failed("read", R::MAP, &error)))
    }

    /// Writes an entry that is there already.
    pub(super) fn rewrite(
        &mut self,
        key: &R::AbiKey,
        value: &R::AbiValue,
    ) -> Result<(), DatapathError> {
        match self.map.insert(key, value, EXIST) {
            Err(error) if !is_errno(&error, libc::ENOENT) => {
                Err(failed("write to", R::MAP, &error))
            }
            _ => Ok(()),
        }
    }

    /// Adds the entries of another one.
    pub(super) fn copy_from(&mut self, other: &Self) -> Result<(), DatapathError> {
        other.entries().try_for_each(|entry| {
            let (key, value) = entry?;
            self.adopt(&key, &value)
        })
    }

    /// Adds an entry, unless there is one with its key.
    pub(super) fn adopt(
        &mut self,
        key: &R::AbiKey,
        value: &R::AbiValue,
    ) -> Result<(), DatapathError> {
        match self.map.insert(key, value, NO_EXIST) {
            Ok(()) => self.usage.entries += 1,
            Err(error) if is_errno(&error, libc::EEXIST) => {}
            Err(error) if is_errno(&error, libc::E2BIG) => return Err(self.full(1)),
            Err(error) => return Err(failed("write to", R::MAP, &error)),
        }
        Ok(())
    }
}

/// Rows as their map holds them.
fn encoded<R: Encode>(
    rows: &Rows<R>,
    numbering: &Numbering,
) -> impl Iterator<Item = (R::AbiKey, R::AbiValue)> {
    let rows = rows.iter();
    rows.map(|(key, row)| {
        (
            R::encode_key(key, numbering),
            R::encode(key, row, numbering),
        )
    })
}

/// Whether the system call behind an error failed in this way.
fn is_errno(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(cause) if cause.io_error.raw_os_error() == Some(errno))
}
