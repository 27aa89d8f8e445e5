//! A hash table in pieces, so that none of them takes long to grow: with a million entries one table
//! would hold everything else up for 80 ms.

use hashbrown::HashTable;

/// Into how many tables the entries go.
const PIECES: usize = 256;

/// Entries that are found by a hash of what they stand for, which whoever asks has to work out.
#[derive(Debug)]
pub(super) struct Index<T>(Box<[HashTable<T>]>);

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self((0..PIECES).map(|_| HashTable::new()).collect())
    }
}

impl<T> Index<T> {
    /// Every entry with this hash, and perhaps some with another one.
    pub(super) fn with_hash(&self, hash: u64) -> impl Iterator<Item = &T> {
        let piece = self.0.get(piece(hash));
        piece
            .into_iter()
            .flat_map(move |table| table.iter_hash(hash))
    }

    /// Adds an entry; `hash_of` any of them.
    pub(super) fn insert(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        if let Some(table) = self.0.get_mut(piece(hash)) {
            table.insert_unique(hash, entry, hash_of);
        }
    }

    /// Removes the first entry with this hash that `is_it`.
    pub(super) fn remove(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) {
        let piece = self.0.get_mut(piece(hash));
        if let Some(Ok(entry)) = piece.map(|table| table.find_entry(hash, is_it)) {
            entry.remove();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(HashTable::len).sum()
    }
}

/// The table that a hash leads to. Within it the lowest and the highest bits decide.
fn piece(hash: u64) -> usize {
    (hash >> 32) as usize % PIECES
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use hashbrown::DefaultHashBuilder;

    use super::*;

    #[test]
    fn no_piece_gets_much_more_than_its_share() {
        const ENTRIES: usize = 100_000;
        let hasher = DefaultHashBuilder::default();
        let mut index = Index::default();
        for entry in 0..ENTRIES {
            index.insert(hasher.hash_one(entry), entry, |entry| {
                hasher.hash_one(entry)
            });
        }
        assert_eq!(index.len(), ENTRIES);
        let largest = index.0.iter().map(HashTable::len).max().unwrap();
        assert!(largest < 2 * ENTRIES / PIECES, "{largest}");
    }

    #[test]
    fn entries_of_one_hash_are_told_apart_by_who_asks() {
        let mut index = Index::default();
        for entry in ["a", "b"] {
            index.insert(7, entry, |_| 7);
        }
        index.remove(7, |entry| *entry == "a");
        index.remove(7, |entry| *entry == "c");
        assert_eq!(index.with_hash(7).collect::<Vec<_>>(), [&"b"]);
    }
}
