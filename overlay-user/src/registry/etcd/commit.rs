//! Carries a commit out: reads what it depends on, plans it, and writes it in one transaction, or in several
//! where etcd's limit on operations wants it so.
//!
//! Nothing is written before all of it is planned: what can be refused is refused as a whole. If somebody else has
//! changed in between what a transaction compares, that transaction does nothing, and the commit is planned again
//! from there on.
//!
//! A transaction whose answer did not come may have been carried out, or may be still. Repeating it
//! is safe, since its comparisons then fail; and that it was ours is seen from its keys, which have
//! our values and all one revision.

use std::{collections::HashSet, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::sleep;

use super::{
    super::{RegistryError, rules},
    changes, identity, keys,
    lease::{self, Quarantine},
    members::{Channel, Members, PAGE_REQUEST, REQUEST, delays},
    read::{self, OPERATIONS, from_revision, headless, to_revision},
    store_error::StoreError,
    txn_plan::{
        Guard, Listing, PlanError, QuarantineHit, ReadCache, ReadSet, Row, TxnGroup, TxnPlanner,
        Write,
    },
};
use crate::model::{Change, Revision};

/// How often a commit is planned again because others were faster.
const ATTEMPTS: usize = 20;

/// Keys of one page of a listing.
const LISTED: i64 = 10_000;

/// Carries out all changes.
pub(super) async fn commit(
    members: &Members,
    quarantine: &Quarantine,
    changes: &[Change],
) -> Result<Revision, StoreError> {
    let mut commit = Commit {
        members,
        quarantine,
        given_up: HashSet::new(),
        revision: None,
    };
    let mut rest = changes;
    let mut delays = delays();
    for _ in 0..ATTEMPTS {
        match commit.attempt(rest).await? {
            Attempt::Done => {
                return match commit.revision {
                    Some(revision) => Ok(revision),
                    None => tick(members).await,
                };
            }
            Attempt::Overtaken { from } => rest = rest.get(from..).unwrap_or_default(),
        }
        sleep(delays.next().unwrap_or_default()).await;
    }
    Err(RegistryError::Unavailable(format!(
        "registry {} is changed by others faster than this could be committed: try again",
        members.url()
    ))
    .into())
}

enum Attempt {
    Done,
    /// Somebody else was faster; what comes before this change is done.
    Overtaken {
        from: usize,
    },
}

struct Commit<'a> {
    members: &'a Members,
    quarantine: &'a Quarantine,
    given_up: HashSet<String>,
    /// That of the last transaction so far.
    revision: Option<Revision>,
}

impl Commit<'_> {
    async fn attempt(&mut self, changes: &[Change]) -> Result<Attempt, StoreError> {
        let groups = self.plan(changes).await?;
        let mut revisions = Vec::with_capacity(groups.len());
        for group in &groups {
            let Some(revision) = self.execute(group, &revisions).await? else {
                return Ok(Attempt::Overtaken {
                    from: group.first_change,
                });
            };
            // From now on these addresses may go to the rest of the commit.
            let quarantined = group
                .writes
                .iter()
                .filter(|(_, write)| matches!(write, Write::Quarantine { .. }));
            self.given_up
                .extend(quarantined.map(|(key, _)| key.clone()));
            revisions.push(revision);
            self.revision = Some(revision);
        }
        Ok(Attempt::Done)
    }

    /// Reads until all that the changes rest upon is known.
    async fn plan(&self, changes: &[Change]) -> Result<Vec<TxnGroup>, StoreError> {
        let mut known = ReadCache::default();
        loop {
            let mut planner = TxnPlanner::new(&known, self.given_up.clone());
            let outcome = self.plan_all(&mut planner, changes);
            if planner.read_set().is_empty() {
                match outcome {
                    Ok(()) => return Ok(planner.finish()),
                    Err(PlanError::StoreError(failure)) => return Err(failure),
                    Err(PlanError::Quarantined(hit)) => {
                        return Err(self.explain(hit).await?.into());
                    }
                    // Then something is wanted.
                    Err(PlanError::NeedsRead) => {}
                }
            }
            let read_set = planner.into_read_set();
            self.learn(&mut known, read_set).await?;
        }
    }

    /// The refusal, which also tells for how long. If the time is over by now, the next try finds that out.
    async fn explain(&self, hit: QuarantineHit) -> Result<RegistryError, StoreError> {
        let left = lease::left(self.members, hit.lease).await?;
        Ok(RegistryError::Quarantined {
            what: hit.what,
            value: hit.value,
            owner: rules::called(&hit.owner),
            for_at_most: left.unwrap_or_default().max(Duration::from_secs(1)),
        })
    }

    /// Plans all changes, as far as what was read allows. A refusal counts only if all before it is known.
    fn plan_all(&self, planner: &mut TxnPlanner<'_>, changes: &[Change]) -> Result<(), PlanError> {
        for (index, change) in changes.iter().enumerate() {
            planner.begin(index);
            match changes::apply(planner, change, self.quarantine.is_on()) {
                Ok(()) | Err(PlanError::NeedsRead) => {}
                Err(refusal) if planner.read_set().is_empty() => return Err(refusal),
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn learn(&self, known: &mut ReadCache, read_set: ReadSet) -> Result<(), StoreError> {
        let keys: Vec<String> = read_set.keys.into_iter().collect();
        for keys in keys.chunks(OPERATIONS) {
            let (_, rows) = read::get_all(self.members, keys, 0).await?;
            for (key, row) in keys.iter().zip(rows) {
                let row = row.map(|kv| Row {
                    revision: to_revision(kv.mod_revision()),
                    lease: kv.lease(),
                    value: kv.value().to_vec(),
                });
                known.rows.insert(key.clone(), row);
            }
        }
        let prefixes: Vec<String> = read_set.prefixes.into_iter().collect();
        for prefixes in prefixes.chunks(OPERATIONS) {
            for (prefix, listing) in prefixes.iter().zip(self.list_all(prefixes).await?) {
                // A long one is read page by page.
                let listing = match listing {
                    Some(listing) => listing,
                    None => self.list(prefix).await?,
                };
                known.listings.insert(prefix.clone(), listing);
            }
        }
        Ok(())
    }

    /// The keys with each prefix, in one transaction. `None`: there are too many for that.
    async fn list_all(&self, prefixes: &[String]) -> Result<Vec<Option<Listing>>, StoreError> {
        let limit = LISTED / i64::try_from(prefixes.len()).unwrap_or(LISTED);
        let get = |prefix: &String| {
            let options = GetOptions::new().with_prefix().with_keys_only();
            TxnOp::get(prefix.as_str(), Some(options.with_limit(limit)))
        };
        let response = identity::transact(self.members, prefixes.iter().map(get).collect()).await?;
        let header = response.header().ok_or_else(headless)?;
        let revision = to_revision(header.revision());
        let listing = |response| match response {
            TxnOpResponse::Get(got) if !got.more() => {
                let keys = got.kvs().iter();
                let keys = keys.map(|kv| String::from_utf8_lossy(kv.key()).into_owned());
                Some(Listing {
                    revision,
                    keys: keys.collect(),
                })
            }
            _ => None,
        };
        Ok(response.op_responses().into_iter().map(listing).collect())
    }

    /// All keys with a prefix. The revision is that of the first page: what comes later is caught by
    /// the comparison with it.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let end = keys::end_of(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let mut listing = Listing::default();
        loop {
            let response = self
                .members
                .call(PAGE_REQUEST, |mut channel: Channel| {
                    let options = GetOptions::new()
                        .with_range(end.as_slice())
                        .with_keys_only()
                        .with_limit(LISTED);
                    let from = from.clone();
                    async move { channel.kv.get(from, Some(options)).await }
                })
                .await?;
            if listing.revision == 0 {
                let header = response.header().ok_or_else(headless)?;
                listing.revision = to_revision(header.revision());
            }
            let keys = response.kvs().iter();
            listing
                .keys
                .extend(keys.map(|kv| String::from_utf8_lossy(kv.key()).into_owned()));
            match response.kvs().last() {
                Some(last) if response.more() => from = keys::after(last.key()),
                _ => return Ok(listing),
            }
        }
    }

    /// Carries out one transaction; gives its revision. `None`: it did nothing, others were faster.
    async fn execute(
        &self,
        group: &TxnGroup,
        revisions: &[Revision],
    ) -> Result<Option<Revision>, StoreError> {
        let mut tries = self.members.tries();
        let mut may_be_done = false;
        loop {
            let (compares, ops) = self.operations(group, revisions).await?;
            let work = |mut channel: Channel| async move {
                let txn = Txn::new().when(compares).and_then(ops);
                channel.kv.txn(txn).await
            };
            match tries.once(REQUEST, work).await {
                Ok(Some(response)) if response.succeeded() => {
                    let header = response.header().ok_or_else(headless)?;
                    return Ok(Some(to_revision(header.revision())));
                }
                Ok(Some(_)) if may_be_done => return self.find_ours(group).await,
                Ok(Some(_)) => return Ok(None),
                // No answer, or none that says what has become of it.
                Ok(None) => may_be_done = true,
                Err(StoreError::LeaseGone) => {
                    self.quarantine.forget().await;
                    tries.rest_after(StoreError::LeaseGone).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn operations(
        &self,
        group: &TxnGroup,
        revisions: &[Revision],
    ) -> Result<(Vec<Compare>, Vec<TxnOp>), StoreError> {
        let guards = group.guards.iter();
        let compares = guards
            .map(|(key, guard)| compare(key, *guard, revisions))
            .chain(identity::guard(self.members))
            .collect();
        let mut ops = Vec::with_capacity(group.writes.len());
        for (key, write) in &group.writes {
            ops.push(match write {
                Write::Put(value) => TxnOp::put(key.as_str(), value.as_slice(), None),
                Write::Quarantine { owner, time } => {
                    let lease = self.quarantine.lease(self.members, *time).await?;
                    let options = PutOptions::new().with_lease(lease);
                    TxnOp::put(key.as_str(), owner.as_slice(), Some(options))
                }
                Write::Delete => TxnOp::delete(key.as_str(), None),
            });
        }
        Ok((compares, ops))
    }

    /// The revision at which a transaction without an answer was carried out; `None`: it was not.
    async fn find_ours(&self, group: &TxnGroup) -> Result<Option<Revision>, StoreError> {
        let puts: Vec<(&String, &Vec<u8>)> = group
            .writes
            .iter()
            .filter_map(|(key, write)| match write {
                Write::Put(value) => Some((key, value)),
                // These expire, and removals leave nothing to be seen.
                Write::Quarantine { .. } | Write::Delete => None,
            })
            .collect();
        let keys: Vec<String> = puts.iter().map(|(key, _)| (*key).clone()).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let (_, rows) = read::get_all(self.members, &keys, 0).await?;
        let mut revision = None;
        for (row, (_, value)) in rows.iter().zip(&puts) {
            match row {
                Some(kv) if kv.value() == value.as_slice() => {
                    if *revision.get_or_insert(kv.mod_revision()) != kv.mod_revision() {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(revision.map(to_revision))
    }
}

fn compare(key: &str, guard: Guard, revisions: &[Revision]) -> Compare {
    let unchanged =
        |revision| Compare::mod_revision(key, CompareOp::Equal, from_revision(revision));
    match guard {
        Guard::Unchanged(revision) => unchanged(revision),
        Guard::Written {
            is_there: false, ..
        } => unchanged(0),
        // A group that was not carried out has none after it.
        Guard::Written { group, .. } => unchanged(revisions.get(group).copied().unwrap_or(0)),
        Guard::NoneSince(revision) => {
            Compare::mod_revision(key, CompareOp::Less, from_revision(revision) + 1).with_prefix()
        }
    }
}

/// A revision for a commit that had nothing to do: one that every watch reaches, which the store's own
/// is not, for most of what is written there is watched by nobody.
async fn tick(members: &Members) -> Result<Revision, StoreError> {
    let put = identity::transact(members, vec![TxnOp::put(keys::TICK, "", None)]).await?;
    let header = put.header().ok_or_else(headless)?;
    Ok(to_revision(header.revision()))
}
