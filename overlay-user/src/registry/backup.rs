//! The whole state as a file, and back: for backups, and from one backend to another.
//!
//! The file is JSON, a line each: what it is, the networks, the nodes, the endpoints, the objects, and a last
//! line that counts them, so that a file which was cut off is noticed. An object comes after those that it refers
//! to; its kind need not be known, neither here nor there.
//!
//! ```text
//! {"registry":{"format":1,"revision":1234}}
//! {"network":{"vni":42,"name":"blue","subnets":["7.7.0.0/16"],...}}
//! {"node":{"name":"h1","vtep":{"ip":"10.0.0.1","port":4789},...}}
//! {"endpoint":{"name":"web","vni":42,"mac":"02:42:07:07:00:02",...}}
//! {"object":{"kind":"router","key":"r1","body":{...},"claims":[...],"references":[...]}}
//! {"end":{"networks":1,"nodes":1,"endpoints":1,"objects":1}}
//! ```

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io, mem,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Reading, Registry, RegistryError, Scope};
use crate::model::{Change, Endpoint, Name, Network, Node, Object, ObjectId, Revision, Vni};

/// The format's version that this binary writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// Endpoints in one commit of an import.
const BATCH: usize = 500;

/// Commits of an import that are under way at the same time.
const PARALLEL: usize = 8;

/// Refusals of an import that are told one by one.
const EXAMPLES: usize = 100;

/// Why an export or an import ended early.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The registry's word.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The file can't be read or written.
    #[error("the file can't be read or written ({0})")]
    File(#[from] io::Error),
    /// A line makes no sense.
    #[error(
        "line {line} of the file makes no sense ({why}): take one that `overlay registry export` wrote"
    )]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The last line is missing, or counts other than there are.
    #[error(
        "the file is not whole, it ends at line {line}: what it holds was imported; take another copy and import that too"
    )]
    CutOff {
        /// The last line that there is.
        line: u64,
    },
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Networks.
    pub networks: u64,
    /// Nodes.
    pub nodes: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Objects.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub objects: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What an import has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// What was new.
    pub made: Counts,
    /// What was there already, just so.
    pub unchanged: Counts,
    /// How many could not be made, for something of that name or address was there that differs.
    pub refused: u64,
    /// Why, one line each: the first 100 of them.
    pub refusals: Vec<String>,
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Registry { format: u32, revision: Revision },
    Network(Network),
    Node(Node),
    Endpoint(Endpoint),
    Object(Object),
    End(Counts),
}

/// Writes the whole state, as of one revision.
pub async fn export<W: AsyncWrite + Unpin + Send>(
    registry: &dyn Registry,
    out: W,
) -> Result<Counts, BackupError> {
    let Reading {
        revision,
        networks,
        nodes,
        objects,
        rejected,
        endpoints: mut pages,
    } = registry.read(Scope::All).await?;
    let mut file = Writer {
        out,
        buffer: Vec::new(),
    };
    let mut counts = Counts::default();
    file.line(&Line::Registry {
        format: FORMAT,
        revision,
    })
    .await?;
    for network in networks {
        counts.networks += 1;
        file.line(&Line::Network(network)).await?;
    }
    for node in nodes {
        counts.nodes += 1;
        // Liveness is no part of the state.
        let node = Node {
            last_seen: None,
            alive: false,
            ..node
        };
        file.line(&Line::Node(node)).await?;
    }
    while let Some(page) = pages.recv().await {
        for endpoint in page? {
            counts.endpoints += 1;
            file.line(&Line::Endpoint(endpoint)).await?;
        }
    }
    for object in targets_first(objects) {
        counts.objects += 1;
        file.line(&Line::Object(object)).await?;
    }
    // A copy that leaves rows out is not the whole.
    if let Some(rejected) = rejected.take().first() {
        let why = format!(
            "{rejected}; `overlay registry check` lists all such rows: correct or remove them"
        );
        return Err(RegistryError::Unavailable(why).into());
    }
    file.line(&Line::End(counts)).await?;
    file.finish().await?;
    Ok(counts)
}

/// Objects in an order in which they can be made. Those that refer to each other in a circle come last.
fn targets_first(objects: Vec<Object>) -> Vec<Object> {
    let mut waiting: BTreeMap<ObjectId, (Object, usize)> = BTreeMap::new();
    let mut referrers: HashMap<ObjectId, Vec<ObjectId>> = HashMap::new();
    let present: HashSet<ObjectId> = objects.iter().map(|object| object.id.clone()).collect();
    let mut ready = Vec::new();
    for object in objects {
        let targets = object.references.iter().map(|reference| &reference.target);
        let targets: Vec<&ObjectId> = targets.filter(|it| present.contains(it)).collect();
        for target in &targets {
            let its = referrers.entry((*target).clone()).or_default();
            its.push(object.id.clone());
        }
        match targets.len() {
            0 => ready.push(object),
            count => drop(waiting.insert(object.id.clone(), (object, count))),
        }
    }
    let mut next = 0;
    while let Some(made) = ready.get(next) {
        next += 1;
        for referrer in referrers.remove(&made.id).unwrap_or_default() {
            if let Entry::Occupied(mut entry) = waiting.entry(referrer) {
                entry.get_mut().1 -= 1;
                if entry.get().1 == 0 {
                    ready.push(entry.remove().0);
                }
            }
        }
    }
    ready.extend(waiting.into_values().map(|(object, _)| object));
    ready
}

struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        if self.buffer.len() >= 1 << 16 {
            self.out.write_all(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer).await?;
        self.out.flush().await
    }
}

/// Makes what the file holds. What is there already just so is left alone, and what is there in
/// another way too: that is told. So an import may be repeated, and goes into a registry that is in
/// use. Generations are new ones.
pub async fn import<R: AsyncBufRead + Unpin + Send>(
    registry: &dyn Registry,
    file: R,
) -> Result<Imported, BackupError> {
    let mut import = Import {
        registry,
        known: ExistingRows::read(registry).await?,
        outcome: Imported::default(),
        seen: Counts::default(),
        batch: Vec::new(),
        objects: Vec::new(),
    };
    let mut commits = FuturesUnordered::new();
    let mut lines = file.lines();
    let mut number = 0;
    let mut end = None;
    while let Some(text) = lines.next_line().await? {
        number += 1;
        let malformed = |why: String| BackupError::Malformed { line: number, why };
        let line: Line =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        match line {
            Line::Registry { format: FORMAT, .. } if number == 1 => {}
            Line::Registry { format, .. } if number == 1 => {
                return Err(malformed(format!(
                    "format {format}, this binary knows {FORMAT}"
                )));
            }
            _ if number == 1 => return Err(malformed("not an export of a registry".to_owned())),
            Line::Registry { .. } => return Err(malformed("a second beginning".to_owned())),
            Line::Network(network) => import.network(network).await?,
            Line::Node(node) => import.node(node).await?,
            Line::Endpoint(endpoint) => {
                import.endpoint(endpoint);
                if import.batch.len() >= BATCH {
                    commits.push(make(registry, mem::take(&mut import.batch)));
                }
                while commits.len() >= PARALLEL {
                    if let Some(made) = commits.next().await {
                        import.take(made?);
                    }
                }
            }
            Line::Object(object) => {
                // It may refer to any of the endpoints.
                commits.push(make(registry, mem::take(&mut import.batch)));
                while let Some(made) = commits.next().await {
                    import.take(made?);
                }
                import.object(object);
                if import.objects.len() >= BATCH {
                    import.make_objects().await?;
                }
            }
            Line::End(counts) => end = Some(counts),
        }
    }
    commits.push(make(registry, mem::take(&mut import.batch)));
    while let Some(made) = commits.next().await {
        import.take(made?);
    }
    import.make_objects().await?;
    if end == Some(import.seen) {
        Ok(import.outcome)
    } else {
        Err(BackupError::CutOff { line: number })
    }
}

/// What is there already.
struct ExistingRows {
    networks: HashMap<Vni, Network>,
    nodes: HashMap<Name, Node>,
    /// A hash of each endpoint: a million of them have to fit.
    endpoints: HashMap<Name, u64>,
    objects: HashMap<ObjectId, Object>,
}

impl ExistingRows {
    async fn read(registry: &dyn Registry) -> Result<Self, RegistryError> {
        let mut reading = registry.read(Scope::All).await?;
        let networks = reading.networks.into_iter();
        let nodes = reading.nodes.into_iter();
        let objects = reading.objects.into_iter();
        let mut known = Self {
            objects: objects.map(|object| (object.id.clone(), object)).collect(),
            networks: networks.map(|network| (network.vni, network)).collect(),
            nodes: nodes.map(|node| (node.name.clone(), node)).collect(),
            endpoints: HashMap::new(),
        };
        while let Some(page) = reading.endpoints.recv().await {
            let page = page?.into_iter();
            known
                .endpoints
                .extend(page.map(|endpoint| (endpoint.name.clone(), digest(&endpoint))));
        }
        Ok(known)
    }
}

/// Equal endpoints of whatever generation have the same one.
fn digest(endpoint: &Endpoint) -> u64 {
    let Endpoint {
        name,
        vni,
        mac,
        addresses,
        node,
        attachment,
        generation: _,
    } = endpoint;
    let mut hasher = DefaultHasher::new();
    (name, vni, mac, addresses, node, attachment).hash(&mut hasher);
    hasher.finish()
}

struct Import<'a> {
    registry: &'a dyn Registry,
    known: ExistingRows,
    outcome: Imported,
    /// How many lines of each kind.
    seen: Counts,
    /// Endpoints that are to be made.
    batch: Vec<Change>,
    /// Objects that are to be made, in this order.
    objects: Vec<Change>,
}

impl Import<'_> {
    async fn network(&mut self, network: Network) -> Result<(), BackupError> {
        self.seen.networks += 1;
        match self.known.networks.get(&network.vni) {
            Some(known) if *known == network => self.outcome.unchanged.networks += 1,
            Some(known) => self.refuse(format!(
                "network {} (VNI {}) differs from the one that is there, {}",
                network.name, network.vni, known.name
            )),
            None => {
                let made = make(self.registry, vec![Change::CreateNetwork(network)]).await?;
                self.outcome.made.networks += made.count;
                self.refuse_all(made.refusals);
            }
        }
        Ok(())
    }

    async fn node(&mut self, node: Node) -> Result<(), BackupError> {
        self.seen.nodes += 1;
        match self.known.nodes.get(&node.name) {
            // Its version is its agent's business.
            Some(known) if known.vtep == node.vtep && known.agent == node.agent => {
                self.outcome.unchanged.nodes += 1;
            }
            Some(known) => self.refuse(format!(
                "node {} (VTEP {}) differs from the one that is there (VTEP {})",
                node.name, node.vtep, known.vtep
            )),
            None => {
                let made = make(self.registry, vec![Change::PutNode(node)]).await?;
                self.outcome.made.nodes += made.count;
                self.refuse_all(made.refusals);
            }
        }
        Ok(())
    }

    fn endpoint(&mut self, endpoint: Endpoint) {
        self.seen.endpoints += 1;
        match self.known.endpoints.get(&endpoint.name) {
            Some(known) if *known == digest(&endpoint) => self.outcome.unchanged.endpoints += 1,
            Some(_) => self.refuse(format!(
                "endpoint {} differs from the one that is there",
                endpoint.name
            )),
            None => self.batch.push(Change::CreateEndpoint(endpoint)),
        }
    }

    fn object(&mut self, object: Object) {
        self.seen.objects += 1;
        match self.known.objects.get(&object.id) {
            Some(known) if known.is_same(&object) => self.outcome.unchanged.objects += 1,
            Some(_) => self.refuse(format!("{} differs from the one that is there", object.id)),
            None => self.objects.push(Change::PutObject(Object {
                revision: 0,
                ..object
            })),
        }
    }

    async fn make_objects(&mut self) -> Result<(), RegistryError> {
        let made = make(self.registry, mem::take(&mut self.objects)).await?;
        self.outcome.made.objects += made.count;
        self.refuse_all(made.refusals);
        Ok(())
    }

    fn take(&mut self, made: Made) {
        self.outcome.made.endpoints += made.count;
        self.refuse_all(made.refusals);
    }

    fn refuse_all(&mut self, refusals: Vec<String>) {
        for refusal in refusals {
            self.refuse(refusal);
        }
    }

    fn refuse(&mut self, refusal: String) {
        self.outcome.refused += 1;
        if self.outcome.refusals.len() < EXAMPLES {
            self.outcome.refusals.push(refusal);
        }
    }
}

#[derive(Default)]
struct Made {
    count: u64,
    refusals: Vec<String>,
}

/// Commits all changes; one by one if they are refused together.
async fn make(registry: &dyn Registry, changes: Vec<Change>) -> Result<Made, RegistryError> {
    let mut made = Made::default();
    if changes.is_empty() {
        return Ok(made);
    }
    match registry.commit(&changes).await {
        Ok(_) => {
            made.count = changes.len() as u64;
            return Ok(made);
        }
        Err(error @ (RegistryError::Unavailable(_) | RegistryError::Foreign(_))) => {
            return Err(error);
        }
        Err(_) => {}
    }
    for change in changes {
        match registry.commit(std::slice::from_ref(&change)).await {
            Ok(_) => made.count += 1,
            Err(error @ (RegistryError::Unavailable(_) | RegistryError::Foreign(_))) => {
                return Err(error);
            }
            Err(refusal) => made.refusals.push(refusal.to_string()),
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reference;

    fn object(word: &str, targets: &[&str]) -> Object {
        let id = |word| ObjectId::from_word(word).unwrap();
        let references = targets.iter().map(|target| Reference::restrict(id(target)));
        Object {
            id: id(word),
            body: serde_json::Map::new(),
            claims: Vec::new(),
            references: references.collect(),
            revision: 1,
        }
    }

    #[test]
    fn an_object_comes_after_those_that_it_refers_to() {
        let objects = vec![
            object("a/1", &["b/1", "network/42"]),
            object("b/1", &["c/1"]),
            object("c/1", &["node/h1", "gone/1"]),
            object("x/1", &["x/2"]),
            object("x/2", &["x/1"]),
        ];
        let ordered = targets_first(objects);
        let words: Vec<String> = ordered.iter().map(|object| object.id.to_word()).collect();
        assert_eq!(words, ["c/1", "b/1", "a/1", "x/1", "x/2"]);
    }
}
