//! Plans a commit as etcd transactions.
//!
//! Pure: takes what has been read, and returns either further keys to read or the transactions. Each transaction
//! compares everything that its decision rests on with what was read, so it does nothing if any of it has
//! changed since.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use super::{super::RegistryError, read::OPERATIONS, store_error::StoreError};
use crate::model::Revision;

/// A name, MAC or address in quarantine.
#[derive(Debug)]
pub(super) struct QuarantineHit {
    pub(super) what: &'static str,
    pub(super) value: String,
    /// As a claim names it.
    pub(super) owner: String,
    pub(super) lease: i64,
}

/// A row as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) value: Vec<u8>,
    pub(super) revision: Revision,
    pub(super) lease: i64,
}

/// The keys under a prefix as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The store's revision at that.
    pub(super) revision: Revision,
    pub(super) keys: BTreeSet<String>,
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct ReadCache {
    pub(super) rows: HashMap<String, Option<Row>>,
    pub(super) listings: HashMap<String, Listing>,
}

/// What has to be read next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadSet {
    pub(super) keys: BTreeSet<String>,
    pub(super) prefixes: BTreeSet<String>,
}

impl ReadSet {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }
}

/// Why a change can't be planned.
#[derive(Debug)]
pub(super) enum PlanError {
    /// Something has to be read first; it is among the [`ReadSet`].
    NeedsRead,
    /// It never can.
    StoreError(StoreError),
    /// An address is in quarantine.
    Quarantined(QuarantineHit),
}

impl From<RegistryError> for PlanError {
    fn from(error: RegistryError) -> Self {
        Self::StoreError(error.into())
    }
}

impl From<StoreError> for PlanError {
    fn from(error: StoreError) -> Self {
        Self::StoreError(error)
    }
}

/// What has to be so for a transaction to do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// The key is as it was at this revision of its own; 0: it is not there.
    Unchanged(Revision),
    /// The key is as this transaction of the commit, by number, has left it.
    Written { group: usize, is_there: bool },
    /// No key with this prefix was written after this revision of the store.
    NoneSince(Revision),
}

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    Put(Vec<u8>),
    /// On a lease of what is in quarantine.
    Quarantine {
        owner: Vec<u8>,
        /// For how long. `None`: as configured for addresses.
        time: Option<Duration>,
    },
    Delete,
}

/// One transaction.
#[derive(Debug, Default)]
pub(super) struct TxnGroup {
    /// The change that it begins with, or goes on with.
    pub(super) first_change: usize,
    pub(super) guards: BTreeMap<String, Guard>,
    pub(super) writes: BTreeMap<String, Write>,
}

/// The commit so far.
#[derive(Debug)]
pub(super) struct TxnPlanner<'a> {
    known: &'a ReadCache,
    /// Keys as the groups leave them, and which group wrote them last.
    staged: BTreeMap<String, (usize, Option<Vec<u8>>)>,
    groups: Vec<TxnGroup>,
    /// Quarantines that this commit brings about: its own endpoints may have those addresses.
    given_up: HashSet<String>,
    read_set: ReadSet,
    step: Step,
}

/// What one change, or one of its parts, reads and writes. It is never divided.
#[derive(Debug, Default)]
struct Step {
    change: usize,
    guards: BTreeMap<String, Guard>,
    writes: BTreeMap<String, Write>,
}

impl<'a> TxnPlanner<'a> {
    /// A commit of nothing. What `given_up` names was given up by an earlier part of it.
    pub(super) fn new(known: &'a ReadCache, given_up: HashSet<String>) -> Self {
        Self {
            known,
            staged: BTreeMap::new(),
            groups: Vec::new(),
            given_up,
            read_set: ReadSet::default(),
            step: Step::default(),
        }
    }

    /// From here on it is about this change.
    pub(super) fn begin(&mut self, change: usize) {
        self.step = Step {
            change,
            ..Step::default()
        };
    }

    /// What has to be read before this can go on.
    pub(super) const fn read_set(&self) -> &ReadSet {
        &self.read_set
    }

    /// The same, to be taken.
    pub(super) fn into_read_set(self) -> ReadSet {
        self.read_set
    }

    /// The transactions, in order.
    pub(super) fn finish(self) -> Vec<TxnGroup> {
        self.groups
    }

    /// Sees to it that these rows are known: asked for at once, not one after the other.
    pub(super) fn need(&mut self, keys: &[String]) -> Result<(), PlanError> {
        let missing: Vec<&String> = keys
            .iter()
            .filter(|key| !self.staged.contains_key(*key) && !self.known.rows.contains_key(*key))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.read_set.keys.extend(missing.into_iter().cloned());
        Err(PlanError::NeedsRead)
    }

    /// A key's value as this commit has left it so far, or as it was read; then the transaction
    /// depends on it.
    pub(super) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, PlanError> {
        if let Some((group, value)) = self.staged.get(key) {
            let guard = Guard::Written {
                group: *group,
                is_there: value.is_some(),
            };
            self.step.guards.insert(key.to_owned(), guard);
            return Ok(value.clone());
        }
        let Some(row) = self.peek(key)? else {
            self.step.guards.insert(key.to_owned(), Guard::Unchanged(0));
            return Ok(None);
        };
        let (guard, value) = (Guard::Unchanged(row.revision), row.value.clone());
        self.step.guards.insert(key.to_owned(), guard);
        Ok(Some(value))
    }

    /// A row as it was read, without depending on it.
    pub(super) fn peek(&mut self, key: &str) -> Result<Option<&'a Row>, PlanError> {
        if let Some(row) = self.known.rows.get(key) {
            return Ok(row.as_ref());
        }
        self.read_set.keys.insert(key.to_owned());
        Err(PlanError::NeedsRead)
    }

    /// The generation of a row that this commit has not written.
    pub(super) fn generation(&self, key: &str) -> Option<Revision> {
        if self.staged.contains_key(key) {
            return None;
        }
        Some(self.known.rows.get(key)?.as_ref()?.revision)
    }

    /// Sees to it that these listings are known, at once.
    pub(super) fn need_lists(&mut self, prefixes: &[String]) -> Result<(), PlanError> {
        let mut missing = prefixes
            .iter()
            .filter(|prefix| !self.known.listings.contains_key(*prefix))
            .peekable();
        if missing.peek().is_none() {
            return Ok(());
        }
        self.read_set.prefixes.extend(missing.cloned());
        Err(PlanError::NeedsRead)
    }

    /// The keys with this prefix, as this commit has left them so far; the transaction depends on
    /// there being no other.
    pub(super) fn list(&mut self, prefix: &str) -> Result<BTreeSet<String>, PlanError> {
        let keys = self.peek_list(prefix)?;
        if let Some(listing) = self.known.listings.get(prefix) {
            let guard = Guard::NoneSince(listing.revision);
            self.step.guards.insert(prefix.to_owned(), guard);
        }
        Ok(keys)
    }

    /// The same without depending on it.
    pub(super) fn peek_list(&mut self, prefix: &str) -> Result<BTreeSet<String>, PlanError> {
        let Some(listing) = self.known.listings.get(prefix) else {
            self.read_set.prefixes.insert(prefix.to_owned());
            return Err(PlanError::NeedsRead);
        };
        let mut keys = listing.keys.clone();
        let staged = self.staged.range(prefix.to_owned()..);
        for (key, (_, value)) in staged.take_while(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        Ok(keys)
    }

    pub(super) fn put(&mut self, key: String, value: impl Into<Vec<u8>>) {
        self.step.writes.insert(key, Write::Put(value.into()));
    }

    pub(super) fn delete(&mut self, key: String) {
        self.step.writes.insert(key, Write::Delete);
    }

    /// Keeps an address, or what else was claimed, free of others than `owner` for a while.
    pub(super) fn quarantine(&mut self, key: String, owner: &str, time: Option<Duration>) {
        self.given_up.insert(key.clone());
        let owner = owner.as_bytes().to_vec();
        let write = Write::Quarantine { owner, time };
        self.step.writes.insert(key, write);
    }

    /// Whether this commit has given the address up itself.
    pub(super) fn has_given_up(&self, key: &str) -> bool {
        self.given_up.contains(key)
    }

    /// The step is planned: it joins the transaction under way if there is room, or begins one.
    pub(super) fn end_step(&mut self) -> Result<(), PlanError> {
        let step = std::mem::take(&mut self.step);
        self.step.change = step.change;
        if step.writes.is_empty() {
            return Ok(());
        }
        if step.guards.len().max(step.writes.len()) > OPERATIONS {
            return Err(RegistryError::Refused(format!(
                "one change takes {} operations and etcd's transactions have {OPERATIONS}: an endpoint can have some {} addresses there",
                step.guards.len().max(step.writes.len()),
                OPERATIONS / 2 - 4,
            ))
            .into());
        }
        let joins = self
            .groups
            .last()
            .is_some_and(|group| has_room(group, &step));
        if !joins {
            self.groups.push(TxnGroup {
                first_change: step.change,
                ..TxnGroup::default()
            });
        }
        let last = self.groups.len() - 1;
        // There is one: pushed just now, if not before.
        if let Some(group) = self.groups.last_mut() {
            for (key, guard) in step.guards {
                // A transaction compares before it writes: its own writes are no part of that.
                if !matches!(guard, Guard::Written { group, .. } if group == last) {
                    group.guards.entry(key).or_insert(guard);
                }
            }
            for (key, write) in step.writes {
                let value = match &write {
                    Write::Put(value) | Write::Quarantine { owner: value, .. } => {
                        Some(value.clone())
                    }
                    Write::Delete => None,
                };
                self.staged.insert(key.clone(), (last, value));
                group.writes.insert(key, write);
            }
        }
        Ok(())
    }
}

/// Whether both fit into one transaction.
fn has_room(group: &TxnGroup, step: &Step) -> bool {
    let guards = step
        .guards
        .keys()
        .filter(|key| !group.guards.contains_key(*key));
    let writes = step
        .writes
        .keys()
        .filter(|key| !group.writes.contains_key(*key));
    group.guards.len() + guards.count() <= OPERATIONS
        && group.writes.len() + writes.count() <= OPERATIONS
}

#[cfg(test)]
mod tests;
