//! What lives on leases: nodes' sessions, addresses in quarantine, questions and their answers.
//! etcd counts their time, by a clock of its own that nobody sets, and takes them away.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use tokio::{sync::Mutex, time::Instant};

use super::{
    super::{QUESTION_TTL, rules},
    identity, keys,
    members::{Channel, Members, REQUEST},
    read,
    store_error::StoreError,
    values::{self, NodeValue},
};
use crate::model::{Name, Question, QuestionId, Report, Session};

/// How often it is written down when a node was last seen. While it lives it is seen now.
const SEEN_EVERY: Duration = Duration::from_mins(1);

/// Grants a lease of at least `ttl`.
async fn grant(members: &Members, ttl: Duration) -> Result<i64, StoreError> {
    let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let granted = members
        .call(REQUEST, |mut channel: Channel| async move {
            channel.lease.grant(seconds, None).await
        })
        .await?;
    Ok(granted.id())
}

/// Seconds that a lease has left; `None`: it is gone.
pub(super) async fn left(members: &Members, lease: i64) -> Result<Option<Duration>, StoreError> {
    let left = members
        .call(REQUEST, |mut channel: Channel| async move {
            channel.lease.time_to_live(lease, None).await
        })
        .await?;
    Ok(u64::try_from(left.ttl()).ok().map(Duration::from_secs))
}

/// The leases that addresses and other claims in quarantine are on. Those of some time share one.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// That of addresses.
    time: Duration,
    /// By how long it is.
    leases: Mutex<HashMap<Duration, (i64, Instant)>>,
}

impl Quarantine {
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time,
            leases: Mutex::default(),
        }
    }

    /// Whether there is any for addresses.
    pub(super) const fn is_on(&self) -> bool {
        !self.time.is_zero()
    }

    /// A lease that has this time left, or that of addresses, and a quarter of it more at most.
    pub(super) async fn lease(
        &self,
        members: &Members,
        time: Option<Duration>,
    ) -> Result<i64, StoreError> {
        let time = time.unwrap_or(self.time);
        let window = time / 4;
        let mut leases = self.leases.lock().await;
        if let Some((lease, begun)) = leases.get(&time)
            && begun.elapsed() < window
        {
            return Ok(*lease);
        }
        // The moment before it was granted: it ends no earlier than counted from then.
        let begun = Instant::now();
        let lease = grant(members, time + window).await?;
        leases.insert(time, (lease, begun));
        Ok(lease)
    }

    /// A lease has turned out to be gone.
    pub(super) async fn forget(&self) {
        self.leases.lock().await.clear();
    }
}

/// The sessions that this process has claimed.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Name, Claimed>>);

#[derive(Debug, Clone)]
struct Claimed {
    session: Session,
    lease: i64,
    /// When it was last written down that the node was seen.
    noted: Option<Instant>,
}

impl Sessions {
    /// Says that `node`'s agent lives: keeps its lease, or claims the node on a new one.
    pub(super) async fn heartbeat(
        &self,
        members: &Members,
        node: &Name,
        session: &Session,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        // Taken out while it is used: what is not put back is claimed anew.
        let known = self.0.lock().await.remove(node);
        let kept = match known {
            Some(known) if known.session == *session => {
                keep(members, node, &known).await?.then_some(known)
            }
            _ => None,
        };
        let mut claimed = match kept {
            Some(kept) => kept,
            None => Claimed {
                session: session.clone(),
                lease: claim(members, node, session, ttl).await?,
                noted: None,
            },
        };
        if claimed
            .noted
            .is_none_or(|noted| noted.elapsed() >= SEEN_EVERY)
        {
            note(members, node).await;
            claimed.noted = Some(Instant::now());
        }
        self.0.lock().await.insert(node.clone(), claimed);
        Ok(())
    }
}

/// Renews the lease. `false`: it is gone, or the node is no longer on it.
async fn keep(members: &Members, node: &Name, claimed: &Claimed) -> Result<bool, StoreError> {
    let lease = claimed.lease;
    let renewed = members
        .call(REQUEST, |mut channel: Channel| async move {
            // The stream ends with this one renewal.
            channel.lease.keep_alive(lease).await.map(drop)
        })
        .await;
    match renewed {
        Err(StoreError::LeaseGone) => return Ok(false),
        renewed => renewed?,
    }
    let key = keys::alive(node);
    let still = members
        .call(REQUEST, |mut channel: Channel| {
            let compares = [
                Compare::lease(key.as_str(), CompareOp::Equal, lease),
                Compare::value(key.as_str(), CompareOp::Equal, claimed.session.as_str()),
            ];
            async move { channel.kv.txn(Txn::new().when(compares)).await }
        })
        .await?;
    Ok(still.succeeded())
}

/// Takes the node for this session, on a new lease.
async fn claim(
    members: &Members,
    node: &Name,
    session: &Session,
    ttl: Duration,
) -> Result<i64, StoreError> {
    let lease = grant(members, ttl).await?;
    let key = keys::alive(node);
    for expected in [None, Some(session.as_str())] {
        let response = members
            .call(REQUEST, |mut channel: Channel| {
                let compare = match expected {
                    None => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                    Some(session) => Compare::value(key.as_str(), CompareOp::Equal, session),
                };
                let put = TxnOp::put(
                    key.as_str(),
                    session.as_str(),
                    Some(PutOptions::new().with_lease(lease)),
                );
                let compares: Vec<Compare> = identity::guard(members)
                    .into_iter()
                    .chain([compare])
                    .collect();
                async move {
                    let txn = Txn::new().when(compares).and_then([put]);
                    channel.kv.txn(txn).await
                }
            })
            .await?;
        if response.succeeded() {
            return Ok(lease);
        }
    }
    // It would end by itself, only later.
    let _ = members
        .call(REQUEST, |mut channel: Channel| async move {
            channel.lease.revoke(lease).await
        })
        .await;
    let (_, rows) = read::get_all(members, &[keys::node(node)], 0).await?;
    let vtep = match rows.into_iter().next().flatten() {
        Some(kv) => {
            let value: NodeValue = values::read(kv.key(), kv.value())?;
            format!(" (VTEP {})", value.vtep.ip)
        }
        None => String::new(),
    };
    Err(rules::node_taken(node, &vtep).into())
}

/// Writes down that the node was seen now. It is for people alone: a store that is full, say, is no
/// reason to let a node die.
async fn note(members: &Members, node: &Name) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let key = keys::seen(node);
    let noted = members
        .call(REQUEST, |mut channel: Channel| {
            let (key, ms) = (key.clone(), now.as_millis().to_string());
            async move { channel.kv.put(key, ms, None).await }
        })
        .await;
    if let Err(failure) = noted {
        tracing::debug!(error = %failure.explain(members.url()), "last_seen not written");
    }
}

/// Puts a question.
pub(super) async fn ask(members: &Members, question: &Question) -> Result<(), StoreError> {
    let lease = grant(members, QUESTION_TTL).await?;
    put(
        members,
        keys::question(question.id),
        values::write(question)?,
        Some(lease),
    )
    .await
}

/// Writes a report in place of the host's earlier one to the same question. An answer is on the
/// question's lease; to a question that is gone there is none.
pub(super) async fn publish(members: &Members, report: &Report) -> Result<(), StoreError> {
    let lease = match report.question {
        None => None,
        Some(id) => {
            let (_, rows) = read::get_all(members, &[keys::question(id)], 0).await?;
            match rows.into_iter().next().flatten() {
                Some(kv) => Some(kv.lease()),
                None => return Ok(()),
            }
        }
    };
    let key = keys::report(report.question, &report.node);
    match put(members, key, values::write(report)?, lease).await {
        // Gone in between.
        Err(StoreError::LeaseGone) => Ok(()),
        put => put,
    }
}

/// The answers to a question, by node.
pub(super) async fn reports(
    members: &Members,
    question: Option<QuestionId>,
) -> Result<Vec<Report>, StoreError> {
    let prefix = keys::reports(question);
    let response = members
        .call(REQUEST, |mut channel: Channel| {
            let prefix = prefix.clone();
            async move {
                let options = GetOptions::new().with_prefix();
                channel.kv.get(prefix, Some(options)).await
            }
        })
        .await?;
    let parse = |kv: &KeyValue| values::read(kv.key(), kv.value());
    response.kvs().iter().map(parse).collect()
}

async fn put(
    members: &Members,
    key: String,
    value: Vec<u8>,
    lease: Option<i64>,
) -> Result<(), StoreError> {
    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
    let put = TxnOp::put(key, value, options);
    identity::transact(members, vec![put]).await.map(drop)
}
