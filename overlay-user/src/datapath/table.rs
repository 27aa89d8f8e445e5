//! One hash map of the datapath, typed. Only this process writes it, so it knows how many rows are
//! in it; the kernel does not tell.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use overlay_ebpf::abi::map;

use super::{
    DatapathError,
    batch::Batches,
    convert::{Row, Stamp},
    features::chain,
};
use crate::model::MapUsage;

/// `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST` of `linux/bpf.h`.
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;
const EXIST: u64 = 2;

/// A hash map and what became of the rows that it was given.
pub(super) struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    /// The same map. `None`: it takes entries one by one.
    batches: Option<Batches<K, V>>,
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

impl<K: Pod, V: Pod> Table<K, V> {
    pub(super) fn open(name: &'static str, map: Map) -> Result<Self, DatapathError> {
        let (mut capacity, mut batches) = (0, None);
        if let Map::HashMap(data) = &map {
            let opening = |error| failed("open", name, &error);
            capacity = data.info().map_err(opening)?.max_entries();
            batches = Batches::of(data).map_err(opening)?;
        }
        let map: HashMap<_, K, V> = map
            .try_into()
            .map_err(|error| failed("open", name, &error))?;
        Ok(Self {
            name,
            map,
            batches,
            usage: MapUsage {
                capacity: capacity.into(),
                ..MapUsage::default()
            },
        })
    }

    /// Counts the rows, for a table that is to be written.
    pub(super) fn counted(mut self) -> Result<Self, DatapathError> {
        for key in self.map.keys() {
            key.map_err(|error| failed("read", self.name, &error))?;
            self.usage.entries += 1;
        }
        Ok(self)
    }

    pub(super) fn usage(&self) -> (&'static str, MapUsage) {
        (self.name, self.usage)
    }

    /// Shows every row that is understood.
    pub(super) fn for_each<R>(&self, mut visit: impl FnMut(R::Key, R)) -> Result<(), DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        for entry in self.entries() {
            let (key, value) = entry?;
            if let Some((key, row)) = R::from_abi(&key, &value) {
                visit(key, row);
            }
        }
        Ok(())
    }

    pub(super) fn rows<R>(&self) -> Result<BTreeMap<R::Key, R>, DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
        R::Key: Ord,
    {
        let mut rows = BTreeMap::new();
        self.for_each(|key, row| drop(rows.insert(key, row)))?;
        Ok(rows)
    }

    /// Writes rows, past those that find no place; gives the first error.
    pub(super) fn put<R>(
        &mut self,
        rows: &BTreeMap<R::Key, R>,
        stamp: &Stamp<'_>,
    ) -> Result<(), DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        let entries = rows.iter().map(|(key, row)| R::to_abi(key, row, stamp));
        self.put_entries::<R>(entries)
    }

    /// The same for keys that the map doesn't hold, which the caller knows for sure. Where there is
    /// nothing to compare generations with, many entries go in one system call.
    pub(super) fn add<R>(
        &mut self,
        rows: &BTreeMap<R::Key, R>,
        stamp: &Stamp<'_>,
    ) -> Result<(), DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        let entries = rows.iter().map(|(key, row)| R::to_abi(key, row, stamp));
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        let batches = self.batches.as_ref();
        let added = batches.map_or(0, |batches| batches.update(&keys, &values));
        self.usage.entries += added as u64;
        // If there are any left, the map is full, or fails: row by row it says so.
        self.put_entries::<R>(keys.into_iter().zip(values).skip(added))
    }

    fn put_entries<R>(&mut self, entries: impl Iterator<Item = (K, V)>) -> Result<(), DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        let (mut failure, mut refused) = (None, 0);
        for (key, value) in entries {
            match self.put_row::<R>(&key, &value) {
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
            None if refused == 0 => Ok(()),
            None => Err(self.full(refused)),
        }
    }

    fn full(&self, refused: u64) -> DatapathError {
        DatapathError::Full {
            map: self.name,
            capacity: self.usage.capacity,
            refused,
            option: match self.name {
                map::FDB => "--fdb-entries",
                map::NEIGHBORS => "--neighbor-entries",
                _ => "the build's limit",
            },
        }
    }

    /// Most rows are new ones, for which this is a single system call.
    fn put_row<R>(&mut self, key: &K, value: &V) -> Result<Written, DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        match self.map.insert(key, value, NO_EXIST) {
            Ok(()) => return Ok(Written::Anew),
            Err(error) if is_errno(&error, libc::EEXIST) => {}
            Err(error) if is_errno(&error, libc::E2BIG) => return Ok(Written::Full),
            Err(error) => return Err(failed("write to", self.name, &error)),
        }
        if let Some(generation) = R::generation(value) {
            let held = self.entry(key)?.and_then(|held| R::generation(&held));
            if held > Some(generation) {
                return Ok(Written::Stale);
            }
        }
        self.map
            .insert(key, value, ANY)
            .map(|()| Written::Over)
            .map_err(|error| failed("write to", self.name, &error))
    }

    /// Removes rows by their keys; absent ones are fine.
    pub(super) fn remove<R>(
        &mut self,
        rows: &BTreeMap<R::Key, R>,
        stamp: &Stamp<'_>,
    ) -> Result<(), DatapathError>
    where
        R: Row<AbiKey = K, AbiValue = V>,
    {
        for (key, row) in rows {
            let (key, _) = R::to_abi(key, row, stamp);
            match self.map.remove(&key) {
                Ok(()) => self.usage.entries = self.usage.entries.saturating_sub(1),
                Err(MapError::KeyNotFound) => {}
                Err(error) if is_errno(&error, libc::ENOENT) => {}
                Err(error) => return Err(failed("remove from", self.name, &error)),
            }
        }
        Ok(())
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// One entry as the map has it.
    pub(super) fn entry(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", self.name, &error)),
        }
    }

    /// Every entry as the map has it.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(K, V), DatapathError>> + '_ {
        let entries = self.map.iter();
        entries.map(|entry| entry.map_err(|error| failed("read", self.name, &error)))
    }

    /// Writes an entry that is there already.
    pub(super) fn rewrite(&mut self, key: &K, value: &V) -> Result<(), DatapathError> {
        match self.map.insert(key, value, EXIST) {
            Err(error) if !is_errno(&error, libc::ENOENT) => {
                Err(failed("write to", self.name, &error))
            }
            _ => Ok(()),
        }
    }

    /// Adds an entry, unless there is one with its key.
    pub(super) fn adopt(&mut self, key: &K, value: &V) -> Result<(), DatapathError> {
        match self.map.insert(key, value, NO_EXIST) {
            Ok(()) => self.usage.entries += 1,
            Err(error) if is_errno(&error, libc::EEXIST) => {}
            Err(error) if is_errno(&error, libc::E2BIG) => return Err(self.full(1)),
            Err(error) => return Err(failed("write to", self.name, &error)),
        }
        Ok(())
    }
}

/// Whether the system call behind an error failed in this way.
fn is_errno(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(cause) if cause.io_error.raw_os_error() == Some(errno))
}

/// What went wrong with a map.
pub(super) fn failed(verb: &str, name: &str, error: &MapError) -> DatapathError {
    DatapathError::Kernel {
        what: format!("can't {verb} BPF map {name}"),
        cause: chain(error),
    }
}
