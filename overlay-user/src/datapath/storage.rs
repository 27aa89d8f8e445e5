//! The kinds of maps that a table can be in: what a table does with one.

use std::{collections::BTreeSet, io};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie},
    sys::SyscallError,
};
use bytemuck::Zeroable;

/// `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST` of `linux/bpf.h`.
pub(super) const ANY: u64 = 0;
pub(super) const NO_EXIST: u64 = 1;
pub(super) const EXIST: u64 = 2;

/// A map of the kernel, typed.
pub(super) trait Storage<K, V>: TryFrom<Map, Error = MapError> {
    /// Whether it tells a write over an element from a new one. Tries don't before Linux 6.13.
    const TELLS_NEW: bool;

    fn get(&self, key: &K) -> Result<V, MapError>;

    /// Writes an element, with flags of `bpf_map_update_elem`.
    fn insert(&mut self, key: &K, value: &V, flags: u64) -> Result<(), MapError>;

    fn remove(&mut self, key: &K) -> Result<(), MapError>;

    fn keys(&self) -> impl Iterator<Item = Result<K, MapError>>;

    fn entries(&self) -> impl Iterator<Item = Result<(K, V), MapError>>;
}

impl<K: Pod, V: Pod> Storage<K, V> for HashMap<MapData, K, V> {
    const TELLS_NEW: bool = true;

    fn get(&self, key: &K) -> Result<V, MapError> {
        self.get(key, 0)
    }

    fn insert(&mut self, key: &K, value: &V, flags: u64) -> Result<(), MapError> {
        self.insert(key, value, flags)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }

    fn keys(&self) -> impl Iterator<Item = Result<K, MapError>> {
        self.keys()
    }

    fn entries(&self) -> impl Iterator<Item = Result<(K, V), MapError>> {
        self.iter()
    }
}

/// `get` gives the longest prefix that fits.
impl<K: Pod, V: Pod> Storage<lpm_trie::Key<K>, V> for LpmTrie<MapData, K, V> {
    const TELLS_NEW: bool = false;

    fn get(&self, key: &lpm_trie::Key<K>) -> Result<V, MapError> {
        self.get(key, 0)
    }

    fn insert(&mut self, key: &lpm_trie::Key<K>, value: &V, flags: u64) -> Result<(), MapError> {
        self.insert(key, value, flags)
    }

    fn remove(&mut self, key: &lpm_trie::Key<K>) -> Result<(), MapError> {
        self.remove(key)
    }

    fn keys(&self) -> impl Iterator<Item = Result<lpm_trie::Key<K>, MapError>> {
        self.keys()
    }

    fn entries(&self) -> impl Iterator<Item = Result<(lpm_trie::Key<K>, V), MapError>> {
        self.iter()
    }
}

/// An array, all of whose elements are always there: those that hold zeros count as missing.
pub(super) struct Slots<T, V: Pod> {
    array: Array<T, V>,
    /// Those that hold something else.
    used: BTreeSet<u32>,
}

impl<V: Pod + Zeroable + PartialEq> TryFrom<Map> for Slots<MapData, V> {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        let array = Array::try_from(map)?;
        let mut used = BTreeSet::new();
        for slot in 0..array.len() {
            if array.get(&slot, 0)? != V::zeroed() {
                used.insert(slot);
            }
        }
        Ok(Self { array, used })
    }
}

impl<V: Pod + Zeroable + PartialEq> Storage<u32, V> for Slots<MapData, V> {
    const TELLS_NEW: bool = true;

    fn get(&self, slot: &u32) -> Result<V, MapError> {
        if !self.used.contains(slot) {
            return Err(MapError::KeyNotFound);
        }
        self.array.get(slot, 0)
    }

    fn insert(&mut self, slot: &u32, value: &V, flags: u64) -> Result<(), MapError> {
        match (flags, self.used.contains(slot)) {
            (NO_EXIST, true) => return Err(refused(libc::EEXIST)),
            (EXIST, false) => return Err(refused(libc::ENOENT)),
            _ => {}
        }
        if *slot >= self.array.len() {
            return Err(refused(libc::E2BIG));
        }
        self.array.set(*slot, *value, 0)?;
        self.used.insert(*slot);
        Ok(())
    }

    fn remove(&mut self, slot: &u32) -> Result<(), MapError> {
        if !self.used.contains(slot) {
            return Err(MapError::KeyNotFound);
        }
        self.array.set(*slot, V::zeroed(), 0)?;
        self.used.remove(slot);
        Ok(())
    }

    fn keys(&self) -> impl Iterator<Item = Result<u32, MapError>> {
        self.used.iter().map(|slot| Ok(*slot))
    }

    fn entries(&self) -> impl Iterator<Item = Result<(u32, V), MapError>> {
        let used = self.used.iter();
        used.map(|slot| Ok((*slot, self.array.get(slot, 0)?)))
    }
}

/// As the kernel refuses a write to a hash map.
fn refused(errno: i32) -> MapError {
    MapError::SyscallError(SyscallError {
        call: "bpf_map_update_elem",
        io_error: io::Error::from_raw_os_error(errno),
    })
}
