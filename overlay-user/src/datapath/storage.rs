//! The kinds of maps that a table can be in: what a table does with one.

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie},
};

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
