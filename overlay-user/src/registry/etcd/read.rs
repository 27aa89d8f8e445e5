//! Keys to the model: the head of a reading in one transaction, its endpoints in ranges at the same
//! revision, and single endpoints.
//!
//! A range is never left open at its far end. Up to etcd 3.4 a member walks through all keys of a
//! range whatever limit is given, so pages of one long range cost the square of its length. Ranges
//! here are of whole networks, several small ones or one, and only where one network is larger than
//! a page is it read in several.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use etcd_client::{GetOptions, GetResponse, KeyValue, ResponseHeader, TxnOp};
use tokio::sync::mpsc;

use super::{
    super::{PAGE, Reading, RegistryError, Scope, object::ObjectValue},
    identity,
    keys::{self, State},
    members::{Channel, Members, PAGE_REQUEST},
    rejected::unless_bad,
    store_error::StoreError,
    values::{self, EndpointValue, NodeValue},
};
use crate::model::{
    Endpoint, Kind, Name, Network, Node, Object, RegistryId, RejectedRows, Resolve, Revision, Vni,
    Wanted, ipam::Block,
};

/// Ranges that are under way at the same time.
const PARALLEL: usize = 4;

/// Endpoints that a range is meant to bring.
const RANGE: i64 = 8192;

/// Parts in which a network is read that is larger.
const PARTS: i64 = 16;

/// Operations in one transaction, less than etcd's limit (`--max-txn-ops`, 128).
pub(super) const OPERATIONS: usize = 120;

/// Pages that are read ahead of a slow reader.
const PAGES_AHEAD: usize = 4;

/// All but the endpoints, at one revision.
struct Head {
    revision: Revision,
    networks: Vec<Network>,
    nodes: Vec<Node>,
    objects: Vec<Object>,
    rejected: RejectedRows,
}

/// Reads the head.
async fn head(members: &Members) -> Result<Head, StoreError> {
    let prefixes = [
        keys::NODES,
        keys::ALIVE,
        keys::SEEN,
        keys::NETWORKS,
        keys::OBJECTS,
    ];
    let (present, mut answers) = prefixed(members, &prefixes).await?;
    let rejected = RejectedRows::default();
    let nodes = to_nodes(&mut answers, &rejected)?;
    let rows = answers.next().unwrap_or_default();
    let mut networks = Vec::with_capacity(rows.len());
    for kv in rows {
        let network = values::read::<Network>(kv.key(), kv.value());
        networks.extend(unless_bad(network, &kv, &rejected)?);
    }
    networks.sort_unstable_by_key(|network| network.vni);
    let mut objects = Vec::new();
    for kv in answers.next().unwrap_or_default() {
        objects.extend(unless_bad(object(&kv), &kv, &rejected)?);
    }
    Ok(Head {
        revision: present.revision,
        networks,
        nodes,
        objects,
        rejected,
    })
}

/// Reads every node.
pub(super) async fn nodes(members: &Members) -> Result<Vec<Node>, StoreError> {
    let prefixes = [keys::NODES, keys::ALIVE, keys::SEEN];
    let (_, mut answers) = prefixed(members, &prefixes).await?;
    to_nodes(&mut answers, &RejectedRows::default())
}

/// Reads every object of a kind.
pub(super) async fn objects(members: &Members, kind: &Kind) -> Result<Vec<Object>, StoreError> {
    let (_, answers) = prefixed(members, &[&keys::objects(kind)]).await?;
    let rejected = RejectedRows::default();
    let mut objects = Vec::new();
    for kv in answers.flatten() {
        objects.extend(unless_bad(object(&kv), &kv, &rejected)?);
    }
    Ok(objects)
}

/// The store as it is now.
pub(super) struct Present {
    /// Which cluster it is.
    pub(super) cluster: u64,
    pub(super) revision: Revision,
}

/// The store as it is now, and whose sessions live.
pub(super) async fn present(members: &Members) -> Result<(Present, BTreeSet<Name>), StoreError> {
    let (present, mut answers) = prefixed(members, &[keys::ALIVE]).await?;
    let alive = answers.next().unwrap_or_default();
    let alive = alive.iter().filter_map(|kv| match keys::parse(kv.key()) {
        Some(State::Alive(name)) => Some(name),
        _ => None,
    });
    Ok((present, alive.collect()))
}

/// The rows under each prefix, at one revision.
async fn prefixed(
    members: &Members,
    prefixes: &[&str],
) -> Result<(Present, std::vec::IntoIter<Vec<KeyValue>>), StoreError> {
    let get = |prefix: &&str| TxnOp::get(*prefix, Some(GetOptions::new().with_prefix()));
    let response = identity::transact(members, prefixes.iter().map(get).collect()).await?;
    let header = response.header().ok_or_else(headless)?;
    let present = Present {
        cluster: header.cluster_id(),
        revision: to_revision(header.revision()),
    };
    Ok((present, identity::answers(&response)))
}

/// From rows of nodes, of sessions, and of when nodes were seen, in this order.
fn to_nodes(
    answers: &mut std::vec::IntoIter<Vec<KeyValue>>,
    rejected: &RejectedRows,
) -> Result<Vec<Node>, StoreError> {
    let mut next = || answers.next().unwrap_or_default();
    let mut nodes = BTreeMap::new();
    for kv in next() {
        let node = match keys::parse(kv.key()) {
            Some(State::Node(name)) => {
                values::read::<NodeValue>(kv.key(), kv.value()).map(|value| value.into_node(name))
            }
            _ => Err(strange(&kv)),
        };
        if let Some(node) = unless_bad(node, &kv, rejected)? {
            nodes.insert(node.name.clone(), node);
        }
    }
    let now = SystemTime::now();
    for kv in next() {
        if let Some(State::Alive(name)) = keys::parse(kv.key())
            && let Some(node) = nodes.get_mut(&name)
            && node.agent
        {
            node.alive = true;
            node.last_seen = Some(now);
        }
    }
    for kv in next() {
        let name = kv
            .key_str()
            .ok()
            .and_then(|key| key.strip_prefix(keys::SEEN));
        if let Some(node) = name
            .and_then(|name| name.parse::<Name>().ok())
            .and_then(|name| nodes.get_mut(&name))
        {
            let seen = unless_bad(seen(&kv), &kv, rejected)?;
            node.last_seen = node.last_seen.or(seen.flatten());
        }
    }
    Ok(nodes.into_values().collect())
}

/// When a node was seen, from milliseconds since 1970.
fn seen(kv: &KeyValue) -> Result<Option<SystemTime>, StoreError> {
    let ms = values::word::<u64>(kv.key(), kv.value())?;
    Ok(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)))
}

/// Reads the state at one revision.
pub(super) async fn read(members: &Arc<Members>, scope: Scope) -> Result<Reading, StoreError> {
    let head = head(members).await?;
    let (pages, endpoints) = mpsc::channel(PAGES_AHEAD);
    let reader = Reader {
        members: Arc::clone(members),
        revision: head.revision,
        rejected: head.rejected.clone(),
        pages,
    };
    // Of a network whose value can't be read its endpoints can.
    let unreadable = head.rejected.networks();
    let plan = match &scope {
        Scope::Network(vni) => Plan::new(vec![vec![*vni]]),
        Scope::All => Plan::new(vec![
            head.networks.iter().map(|net| net.vni).collect(),
            unreadable,
        ]),
        Scope::Resident(_) => {
            let mut runs = proactive_runs(&head.networks);
            runs.extend(unreadable.into_iter().map(|vni| vec![vni]));
            Plan::new(runs)
        }
    };
    let own = match scope {
        Scope::Resident(node) => Some((node, on_demand(&head.networks))),
        _ => None,
    };
    tokio::spawn(reader.run(plan, own));
    Ok(Reading {
        revision: head.revision,
        networks: head.networks,
        nodes: head.nodes,
        objects: head.objects,
        rejected: head.rejected,
        endpoints,
    })
}

fn on_demand(networks: &[Network]) -> BTreeSet<Vni> {
    networks
        .iter()
        .filter(|network| network.resolve == Resolve::OnDemand)
        .map(|network| network.vni)
        .collect()
}

/// Runs of networks with no other network between.
fn proactive_runs(networks: &[Network]) -> Vec<Vec<Vni>> {
    networks
        .chunk_by(|a, b| a.resolve == b.resolve)
        .filter(|run| run.iter().all(|net| net.resolve == Resolve::Proactive))
        .map(|run| run.iter().map(|network| network.vni).collect())
        .collect()
}

/// What is still to be read: runs of networks, the last one first.
struct Plan {
    runs: Vec<std::vec::IntoIter<Vni>>,
    /// Networks in the next range.
    width: usize,
}

impl Plan {
    fn new(runs: Vec<Vec<Vni>>) -> Self {
        Self {
            runs: runs.into_iter().rev().map(Vec::into_iter).collect(),
            width: 1,
        }
    }

    /// First and last network of the next range.
    fn next(&mut self) -> Option<(Vni, Vni)> {
        while let Some(run) = self.runs.last_mut() {
            let mut range = run.by_ref().take(self.width);
            if let Some(first) = range.next() {
                return Some((first, range.last().unwrap_or(first)));
            }
            self.runs.pop();
        }
        None
    }

    /// Makes the next ranges fit, by what the last one has brought.
    fn learn(&mut self, count: i64) {
        if count < RANGE / 2 {
            self.width = (self.width * 2).min(4096);
        } else if count > RANGE {
            self.width = (self.width / 2).max(1);
        }
    }
}

struct Reader {
    members: Arc<Members>,
    revision: Revision,
    rejected: RejectedRows,
    pages: mpsc::Sender<Result<Vec<Endpoint>, RegistryError>>,
}

/// The reader of the pages is gone.
struct Unwanted;

impl Reader {
    /// Reads the ranges of `plan`, then what a node has in other networks.
    async fn run(self, plan: Plan, own: Option<(Name, BTreeSet<Vni>)>) {
        let reader = Arc::new(self);
        let plan = Arc::new(Mutex::new(plan));
        let is_over = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..PARALLEL)
            .map(|_| {
                let (reader, plan, is_over) =
                    (Arc::clone(&reader), Arc::clone(&plan), Arc::clone(&is_over));
                tokio::spawn(async move {
                    let worked = reader.work(&plan, &is_over).await;
                    if worked.is_err() {
                        is_over.store(true, Ordering::Relaxed);
                    }
                    reader.tell(worked).await;
                })
            })
            .collect();
        for worker in workers {
            // A worker that panicked has said so in the log; the pages are then not the whole.
            if worker.await.is_err() {
                let cut_off = StoreError::Refused("the reading was cut off".to_owned());
                reader.tell(Err(Some(cut_off))).await;
                return;
            }
        }
        if let Some((node, networks)) = own
            && !is_over.load(Ordering::Relaxed)
        {
            let read = reader.own(&node, &networks).await;
            reader.tell(read).await;
        }
    }

    /// Hands an error on, if it is one that somebody wants.
    async fn tell(&self, worked: Result<(), Option<StoreError>>) {
        if let Err(Some(failure)) = worked {
            let error = failure.explain(self.members.url());
            // Nobody there: nobody wants it.
            let _ = self.pages.send(Err(error)).await;
        }
    }

    async fn work(
        &self,
        plan: &Mutex<Plan>,
        is_over: &AtomicBool,
    ) -> Result<(), Option<StoreError>> {
        let lock = || plan.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_over.load(Ordering::Relaxed) {
            let Some((first, last)) = lock().next() else {
                break;
            };
            let count = self.range(first, last).await?;
            lock().learn(count);
        }
        Ok(())
    }

    /// Reads the endpoints of the networks from `first` to `last`; gives how many there are.
    async fn range(&self, first: Vni, last: Vni) -> Result<i64, Option<StoreError>> {
        let end = keys::end_of(&keys::endpoints(last));
        let mut from = keys::endpoints(first).into_bytes();
        let mut total = 0;
        let mut limit = RANGE;
        loop {
            let mut response = self.get(from, &end, limit).await?;
            total = total.max(response.count());
            let more = response.more();
            let kvs = response.take_kvs();
            let next = kvs.last().map(|kv| keys::after(kv.key()));
            drop(response);
            self.deliver(kvs).await?;
            match next {
                Some(next) if more => from = next,
                _ => return Ok(total),
            }
            limit = limit.max(total / PARTS);
        }
    }

    async fn get(&self, from: Vec<u8>, end: &[u8], limit: i64) -> Result<GetResponse, StoreError> {
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(limit)
            .with_revision(from_revision(self.revision));
        self.members
            .call(PAGE_REQUEST, |mut channel: Channel| {
                let (from, options) = (from.clone(), options.clone());
                async move { channel.kv.get(from, Some(options)).await }
            })
            .await
    }

    async fn deliver(&self, kvs: Vec<KeyValue>) -> Result<(), Option<StoreError>> {
        let mut kvs = kvs.into_iter();
        while kvs.len() > 0 {
            let mut page = Vec::with_capacity(PAGE.min(kvs.len()));
            for kv in kvs.by_ref().take(PAGE) {
                page.extend(unless_bad(endpoint(&kv), &kv, &self.rejected)?);
            }
            if !page.is_empty() {
                self.send(page).await.map_err(|Unwanted| None)?;
            }
        }
        Ok(())
    }

    async fn send(&self, page: Vec<Endpoint>) -> Result<(), Unwanted> {
        self.pages.send(Ok(page)).await.map_err(|_| Unwanted)
    }

    /// What `node` has in these networks.
    async fn own(&self, node: &Name, networks: &BTreeSet<Vni>) -> Result<(), Option<StoreError>> {
        let prefix = keys::all_on_node(node);
        let options = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_revision(from_revision(self.revision));
        let index = self
            .members
            .call(PAGE_REQUEST, |mut channel: Channel| {
                let (prefix, options) = (prefix.clone(), options.clone());
                async move { channel.kv.get(prefix, Some(options)).await }
            })
            .await
            .map_err(Some)?;
        let wanted: Vec<String> = index
            .kvs()
            .iter()
            .filter_map(|kv| keys::vni_and_name(kv.key_str().ok()?))
            .filter(|(vni, _)| networks.contains(vni))
            .map(|(vni, name)| keys::endpoint(vni, &name))
            .collect();
        for keys in wanted.chunks(OPERATIONS) {
            let (_, rows) = get_all(&self.members, keys, self.revision).await?;
            self.deliver(rows.into_iter().flatten().collect()).await?;
        }
        Ok(())
    }
}

/// Reads at most [`OPERATIONS`] keys in one transaction, at a revision or now (0); gives them in the
/// order asked for, and the revision now.
pub(super) async fn get_all(
    members: &Members,
    keys: &[String],
    revision: Revision,
) -> Result<(Revision, Vec<Option<KeyValue>>), StoreError> {
    let options = GetOptions::new().with_revision(from_revision(revision));
    let get = |key: &String| TxnOp::get(key.as_str(), Some(options.clone()));
    let response = identity::transact(members, keys.iter().map(get).collect()).await?;
    let now = response.header().map_or(0, ResponseHeader::revision);
    let rows = identity::answers(&response)
        .map(|kvs| kvs.into_iter().next())
        .collect();
    Ok((to_revision(now), rows))
}

/// The identity of the store that is there; `None`: it has none.
pub(super) async fn store_identity(members: &Members) -> Result<Option<RegistryId>, StoreError> {
    let (_, rows) = get_all(members, &[keys::IDENTITY.to_owned()], 0).await?;
    identity::of(rows.into_iter().next().flatten().as_ref())
}

/// The endpoint of a network that has this MAC or address.
pub(super) async fn find(
    members: &Members,
    vni: Vni,
    wanted: Wanted,
) -> Result<Option<Endpoint>, StoreError> {
    let claim = match wanted {
        Wanted::Mac(mac) => keys::mac(vni, mac),
        Wanted::Ip(ip) => keys::ip(vni, ip),
    };
    follow(members, claim, |value, key| match values::owner(value) {
        // An object has it.
        Some(_) => Ok(None),
        None => Ok(Some(keys::endpoint(vni, &values::word(key, value)?))),
    })
    .await
}

/// The endpoint of this name.
pub(super) async fn find_endpoint(
    members: &Members,
    name: &Name,
) -> Result<Option<Endpoint>, StoreError> {
    follow(members, keys::endpoint_name(name), |value, key| {
        Ok(Some(keys::endpoint(values::word(key, value)?, name)))
    })
    .await
}

/// From a claim to its endpoint, both at one revision.
async fn follow(
    members: &Members,
    claim: String,
    target: impl Fn(&[u8], &[u8]) -> Result<Option<String>, StoreError>,
) -> Result<Option<Endpoint>, StoreError> {
    loop {
        let (revision, claims) = get_all(members, std::slice::from_ref(&claim), 0).await?;
        let Some(Some(found)) = claims.into_iter().next() else {
            return Ok(None);
        };
        let Some(key) = target(found.value(), found.key())? else {
            return Ok(None);
        };
        return match get_all(members, &[key], revision).await {
            // Compacted in between, to the moment: once more.
            Err(StoreError::Compacted) => continue,
            Err(failure) => Err(failure),
            Ok((_, rows)) => rows
                .into_iter()
                .next()
                .flatten()
                .map(|kv| endpoint(&kv))
                .transpose(),
        };
    }
}

/// The block's addresses that are claimed or in quarantine.
pub(super) async fn taken(
    members: &Members,
    vni: Vni,
    block: Block,
) -> Result<BTreeSet<IpAddr>, StoreError> {
    let ranges = [keys::ip, keys::quarantined_ip].map(|key: fn(Vni, IpAddr) -> String| {
        let (first, last) = (key(vni, block.first), key(vni, block.last));
        (first, keys::after(last.as_bytes()))
    });
    let gets = ranges.map(|(first, end)| {
        let options = GetOptions::new().with_range(end).with_keys_only();
        TxnOp::get(first, Some(options))
    });
    let response = identity::transact(members, gets.to_vec()).await?;
    Ok(identity::answers(&response)
        .flatten()
        .filter_map(|kv| keys::ip_at_end(kv.key_str().ok()?))
        .collect())
}

/// The endpoint that a key and its value are.
pub(super) fn endpoint(kv: &KeyValue) -> Result<Endpoint, StoreError> {
    let Some(State::Endpoint(vni, name)) = keys::parse(kv.key()) else {
        return Err(strange(kv));
    };
    let value: EndpointValue = values::read(kv.key(), kv.value())?;
    Ok(value.into_endpoint(vni, name, to_revision(kv.mod_revision())))
}

/// The object that a key and its value are.
pub(super) fn object(kv: &KeyValue) -> Result<Object, StoreError> {
    let Some(State::Object(id)) = keys::parse(kv.key()) else {
        return Err(strange(kv));
    };
    let value: ObjectValue = values::read(kv.key(), kv.value())?;
    Ok(value.into_object(id, to_revision(kv.mod_revision())))
}

fn strange(kv: &KeyValue) -> StoreError {
    let key = String::from_utf8_lossy(kv.key());
    StoreError::Row(format!("the key {key}"))
}

pub(super) fn headless() -> StoreError {
    StoreError::Refused("an answer without a header".to_owned())
}

/// etcd's revisions are signed and never negative.
pub(super) fn to_revision(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or_default()
}

pub(super) fn from_revision(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(modes: &[(u32, Resolve)]) -> Vec<Network> {
        modes
            .iter()
            .map(|(vni, resolve)| Network {
                resolve: *resolve,
                ..Network::new(
                    format!("net{vni}").parse().unwrap(),
                    Vni::try_from(*vni).unwrap(),
                )
            })
            .collect()
    }

    fn drain(plan: &mut Plan) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| plan.next())
            .map(|(first, last)| (first.get(), last.get()))
            .collect()
    }

    #[test]
    fn ranges_grow_while_networks_are_small_and_never_reach_over_one_on_demand() {
        use Resolve::{OnDemand, Proactive};
        let networks = networks(&[
            (1, Proactive),
            (2, Proactive),
            (3, Proactive),
            (4, OnDemand),
            (5, Proactive),
            (9, OnDemand),
            (11, Proactive),
        ]);
        let mut plan = Plan::new(proactive_runs(&networks));
        assert_eq!(plan.next().map(|(a, b)| (a.get(), b.get())), Some((1, 1)));
        plan.learn(10);
        assert_eq!(drain(&mut plan), [(2, 3), (5, 5), (11, 11)]);
        plan.learn(RANGE + 1);
        assert_eq!(plan.width, 1);
    }
}
