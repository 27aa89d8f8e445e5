//! Rows to the model: whole states, single endpoints, and what changed since a revision.

use std::{
    collections::BTreeSet,
    fmt::Display,
    mem,
    net::IpAddr,
    ops::ControlFlow,
    str::FromStr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{
    super::{PAGE, Scope},
    clock::BootTime,
    connection::Limits,
    store_error::StoreError,
};
use crate::model::{
    Attachment, AttachmentFields, Delta, Endpoint, Mac, Name, Network, Node, Object, Rejected,
    RejectedRows, Resolve, Revision, RowId, Vni, Vtep, Wanted, ipam::Block,
};

mod objects;

pub(super) use objects::{every_object, object, object_id, objects_of};

macro_rules! networks {
    ($which:literal) => {
        concat!(
            "SELECT n.vni, n.name, n.mtu, n.flood, n.learning, n.resolve, s.cidr
            FROM network n LEFT JOIN subnet s ON s.vni = n.vni WHERE ",
            $which
        )
    };
}

const NETWORKS: &str = networks!("n.revision > ?1 ORDER BY n.revision, n.vni, s.position");
const NETWORK: &str = networks!("n.vni = ?1 ORDER BY s.position");

/// ?2 and ?3 are the boot and the earliest time in it at which a living session was seen.
const NODES: &str =
    "SELECT n.name, n.vtep_ip, n.vtep_port, n.agent, n.last_seen, n.version, n.abi, n.mtu,
        n.agent AND s.node IS NOT NULL AS alive
    FROM node n LEFT JOIN session s ON s.node = n.name AND s.boot = ?2 AND s.seen >= ?3
    WHERE n.revision > ?1 ORDER BY n.revision, n.id";

const NODE: &str =
    "SELECT name, vtep_ip, vtep_port, agent, last_seen, version, abi, mtu, 0 AS alive
    FROM node WHERE name = ?1";

/// Names of nodes, see [`NODES`].
const ALIVE: &str = "SELECT n.name FROM session s JOIN node n ON n.name = s.node
    WHERE n.agent AND s.boot = ?1 AND s.seen >= ?2";

/// CROSS JOIN forbids SQLite to start with the nodes.
macro_rules! endpoints {
    ($which:literal) => {
        concat!(
            "SELECT e.id, e.name, e.vni, e.mac, n.name, e.netns, e.ifname, e.attachment, e.revision,
                a.ip, a.prefix
            FROM endpoint e CROSS JOIN node n ON n.id = e.node
            LEFT JOIN address a ON a.endpoint = e.id WHERE ",
            $which
        )
    };
}

/// The orders are those of the indexes and of the primary key of `address`: no sorting.
pub(super) const ENDPOINTS: &str =
    endpoints!("e.revision > ?1 ORDER BY e.revision, e.id, a.position");
pub(super) const ENDPOINTS_OF_NETWORK: &str = endpoints!("e.vni = ?1 ORDER BY e.mac, a.position");
pub(super) const ENDPOINTS_OF_NODE: &str = endpoints!(
    "e.node = (SELECT id FROM node WHERE name = ?1)
    AND e.vni IN (SELECT vni FROM network WHERE resolve <> 'proactive') ORDER BY e.id, a.position"
);
const ENDPOINT_BY_NAME: &str = endpoints!("e.name = ?1 ORDER BY a.position");
const ENDPOINT_BY_MAC: &str = endpoints!("e.vni = ?1 AND e.mac = ?2 ORDER BY a.position");
const ENDPOINT_BY_IP: &str = endpoints!(
    "e.id = (SELECT endpoint FROM address WHERE vni = ?1 AND ip = ?2) ORDER BY a.position"
);

const TOMBSTONES: &str = "SELECT kind, key FROM tombstone WHERE revision > ?1";

/// All but the endpoints.
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) networks: Vec<Network>,
    pub(super) nodes: Vec<Node>,
    pub(super) objects: Vec<Object>,
}

/// Reads the state at one revision, the head first; `begin` and `page` take it and give back whether
/// more is wanted.
pub(super) fn read(
    connection: &mut Connection,
    scope: &Scope,
    limits: Limits,
    rejected: &RejectedRows,
    begin: impl FnOnce(Head) -> ControlFlow<()>,
    page: impl FnMut(Vec<Endpoint>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    // A deferred transaction: all statements see the state of the first.
    let transaction = connection.transaction()?;
    let mut left_out = Vec::new();
    let head = Head {
        revision: horizon(&transaction)?.revision,
        networks: networks(&transaction, 0, &mut left_out)?,
        nodes: nodes(&transaction, 0, limits, &mut left_out)?,
        objects: objects::since(&transaction, 0, &mut left_out)?,
    };
    // Of a network whose row can't be read its endpoints can.
    let unreadable = left_out.iter().filter_map(|rejected| match rejected.row {
        RowId::Network(vni) => Some(vni),
        _ => None,
    });
    let proactive: Vec<Vni> = head
        .networks
        .iter()
        .filter(|network| network.resolve == Resolve::Proactive)
        .map(|network| network.vni)
        .chain(unreadable)
        .collect();
    rejected.extend(left_out);
    let is_on_demand = |network: &Network| network.resolve == Resolve::OnDemand;
    let is_all = match scope {
        Scope::All => true,
        Scope::Resident(_) => !head.networks.iter().any(is_on_demand),
        Scope::Network(_) => false,
    };
    if begin(head).is_break() {
        return Ok(());
    }
    let mut pages = Pages {
        page,
        filled: Vec::new(),
        rejected,
    };
    let done = match scope {
        _ if is_all => pages.take(&transaction, ENDPOINTS, [0])?,
        Scope::All => ControlFlow::Continue(()),
        Scope::Network(vni) => pages.take(&transaction, ENDPOINTS_OF_NETWORK, [vni.get()])?,
        Scope::Resident(node) => {
            let mut done = ControlFlow::Continue(());
            for vni in proactive {
                if done.is_continue() {
                    done = pages.take(&transaction, ENDPOINTS_OF_NETWORK, [vni.get()])?;
                }
            }
            match done {
                ControlFlow::Break(()) => done,
                ControlFlow::Continue(()) => {
                    pages.take(&transaction, ENDPOINTS_OF_NODE, [node.as_str()])?
                }
            }
        }
    };
    if done.is_continue() && !pages.filled.is_empty() {
        // The last one: nothing depends on whether it was wanted.
        let _ = (pages.page)(pages.filled);
    }
    Ok(())
}

struct Pages<'a, F> {
    page: F,
    filled: Vec<Endpoint>,
    rejected: &'a RejectedRows,
}

impl<F: FnMut(Vec<Endpoint>) -> ControlFlow<()>> Pages<'_, F> {
    fn take(
        &mut self,
        connection: &Connection,
        sql: &str,
        parameters: impl Params,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut rejected = Vec::new();
        let taken = for_each_endpoint(connection, sql, parameters, &mut rejected, |endpoint| {
            self.filled.push(endpoint);
            if self.filled.len() < PAGE {
                return ControlFlow::Continue(());
            }
            (self.page)(mem::replace(&mut self.filled, Vec::with_capacity(PAGE)))
        });
        self.rejected.extend(rejected);
        taken
    }
}

/// The endpoint with this MAC or address.
pub(super) fn find(
    connection: &Connection,
    vni: Vni,
    wanted: Wanted,
) -> Result<Option<Endpoint>, StoreError> {
    let sql = match wanted {
        Wanted::Mac(_) => ENDPOINT_BY_MAC,
        Wanted::Ip(_) => ENDPOINT_BY_IP,
    };
    one_endpoint(connection, sql, (vni.get(), wanted.to_string()))
}

/// The endpoint of this name.
pub(super) fn find_endpoint(
    connection: &Connection,
    name: &Name,
) -> Result<Option<Endpoint>, StoreError> {
    one_endpoint(connection, ENDPOINT_BY_NAME, [name.as_str()])
}

/// The block's addresses that are claimed or in quarantine.
pub(super) fn taken(
    connection: &mut Connection,
    vni: Vni,
    block: Block,
) -> Result<BTreeSet<IpAddr>, StoreError> {
    let now = BootTime::now()?;
    let transaction = connection.transaction()?;
    let mut statement = transaction.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM address WHERE vni = ?1 AND ip = ?2)
            OR EXISTS (SELECT 1 FROM object_claim WHERE (vni, space, value) = (?1, 'ip', ?2))
            OR EXISTS (SELECT 1 FROM quarantine
                WHERE vni = ?1 AND kind = 'ip' AND value = ?2 AND boot = ?3 AND until > ?4)",
    )?;
    let mut taken = BTreeSet::new();
    for ip in block.addresses() {
        let parameters = (vni.get(), ip.to_string(), now.boot, now.ms);
        if statement.query_row(parameters, |row| row.get(0))? {
            taken.insert(ip);
        }
    }
    Ok(taken)
}

/// The nodes whose sessions live.
pub(super) fn alive(connection: &Connection, limits: Limits) -> Result<BTreeSet<Name>, StoreError> {
    let since = BootTime::now()?.before(limits.session_ttl);
    let mut statement = connection.prepare_cached(ALIVE)?;
    let mut rows = statement.query((since.boot, since.ms))?;
    let mut names = BTreeSet::new();
    while let Some(row) = rows.next()? {
        names.insert(parse(row, 0)?);
    }
    Ok(names)
}

/// What a reader at revision `since` has to learn.
pub(super) enum Progress {
    /// Nothing.
    None,
    /// This.
    Delta(Box<Delta>),
    /// The store, now at this revision, can't say: tombstones are gone, or it is an older state.
    Resync(Revision),
}

/// What changed after `since`.
pub(super) fn progress(
    connection: &mut Connection,
    since: Revision,
    limits: Limits,
) -> Result<Progress, StoreError> {
    let transaction = connection.transaction()?;
    let Horizon { revision, pruned } = horizon(&transaction)?;
    if revision == since {
        return Ok(Progress::None);
    }
    if since < pruned || revision < since {
        return Ok(Progress::Resync(revision));
    }
    let mut rejected = Vec::new();
    let mut delta = Delta {
        revision,
        networks: networks(&transaction, since, &mut rejected)?,
        nodes: nodes(&transaction, since, limits, &mut rejected)?,
        endpoints: endpoints_since(&transaction, since, &mut rejected)?,
        objects: objects::since(&transaction, since, &mut rejected)?,
        objects_removed: objects::removed_since(&transaction, since)?,
        rejected,
        ..Delta::default()
    };
    let mut statement = transaction.prepare_cached(TOMBSTONES)?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        let key = "key";
        match row.get_ref("kind")?.as_str().unwrap_or_default() {
            "network" => delta.networks_removed.push(parse(row, key)?),
            "node" => delta.nodes_removed.push(parse(row, key)?),
            _ => delta.endpoints_removed.push(parse(row, key)?),
        }
    }
    Ok(Progress::Delta(Box::new(delta)))
}

/// How far the store reaches.
pub(super) struct Horizon {
    /// The last commit.
    pub(super) revision: Revision,
    /// Removals up to this revision may be forgotten.
    pub(super) pruned: Revision,
}

/// Reads the one row of `meta`.
pub(super) fn horizon(connection: &Connection) -> Result<Horizon, StoreError> {
    let horizon = connection
        .prepare_cached("SELECT revision, pruned FROM meta")?
        .query_row((), |row| {
            Ok(Horizon {
                revision: row.get(0)?,
                pruned: row.get(1)?,
            })
        })
        .optional()?;
    horizon.ok_or_else(|| StoreError::Row("table meta is empty".to_owned()))
}

/// One network.
pub(super) fn network(connection: &Connection, vni: Vni) -> Result<Option<Network>, StoreError> {
    let mut rejected = Vec::new();
    let found = query_networks(connection, NETWORK, u64::from(vni.get()), &mut rejected)?.pop();
    refuse_any(rejected).map(|()| found)
}

/// Where one row is asked for, one that can't be read is an error.
fn refuse_any(rejected: Vec<Rejected>) -> Result<(), StoreError> {
    match rejected.into_iter().next() {
        Some(rejected) => Err(StoreError::Row(rejected.to_string())),
        None => Ok(()),
    }
}

fn networks(
    connection: &Connection,
    since: Revision,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Network>, StoreError> {
    query_networks(connection, NETWORKS, since, rejected)
}

fn query_networks(
    connection: &Connection,
    sql: &str,
    parameter: u64,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Network>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([parameter])?;
    let mut networks: Vec<Network> = Vec::new();
    let mut skipped = None;
    while let Some(row) = rows.next()? {
        // The schema lets no other number in.
        let vni = vni(row)?;
        if skipped == Some(vni) {
            continue;
        }
        if let Err(failure) = take_network(row, vni, &mut networks) {
            rejected.push(Rejected::new(RowId::Network(vni), failure.of_row()?));
            networks.retain(|network| network.vni != vni);
            skipped = Some(vni);
        }
    }
    Ok(networks)
}

/// Takes a row of a network and one of its subnets.
fn take_network(row: &Row<'_>, vni: Vni, networks: &mut Vec<Network>) -> Result<(), StoreError> {
    if networks.last().is_none_or(|last| last.vni != vni) {
        networks.push(Network {
            mtu: row.get("mtu")?,
            flood: parse(row, "flood")?,
            learning: row.get("learning")?,
            resolve: parse(row, "resolve")?,
            ..Network::new(parse(row, "name")?, vni)
        });
    }
    if let (Some(network), Some(subnet)) = (networks.last_mut(), parse_optional(row, "cidr")?) {
        network.subnets.push(subnet);
    }
    Ok(())
}

pub(super) fn nodes(
    connection: &Connection,
    since: Revision,
    limits: Limits,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Node>, StoreError> {
    let living = BootTime::now()?.before(limits.session_ttl);
    let mut statement = connection.prepare_cached(NODES)?;
    let mut rows = statement.query((since, living.boot, living.ms))?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        match node_of(row) {
            Ok(node) => nodes.push(node),
            Err(failure) => {
                let why = failure.of_row()?;
                let named = match parse(row, "name") {
                    Ok(name) => RowId::Node(name),
                    Err(_) => RowId::Other("a row of table node".to_owned()),
                };
                rejected.push(Rejected::new(named, why));
            }
        }
    }
    Ok(nodes)
}

/// The node of this name. Whether it lives is not looked up.
pub(super) fn node(connection: &Connection, name: &Name) -> Result<Option<Node>, StoreError> {
    let mut statement = connection.prepare_cached(NODE)?;
    let mut rows = statement.query([name.as_str()])?;
    rows.next()?.map(node_of).transpose()
}

fn node_of(row: &Row<'_>) -> Result<Node, StoreError> {
    let last_seen: Option<u64> = row.get("last_seen")?;
    let last_seen = last_seen.map(Duration::from_millis);
    Ok(Node {
        name: parse(row, "name")?,
        vtep: Vtep {
            ip: parse(row, "vtep_ip")?,
            port: row.get("vtep_port")?,
        },
        agent: row.get("agent")?,
        last_seen: last_seen.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
        alive: row.get("alive")?,
        version: row.get("version")?,
        abi: row.get("abi")?,
        mtu: row.get("mtu")?,
    })
}

fn endpoints_since(
    connection: &Connection,
    since: Revision,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut endpoints = Vec::new();
    // Never broken off.
    let _ = for_each_endpoint(connection, ENDPOINTS, [since], rejected, |endpoint| {
        endpoints.push(endpoint);
        ControlFlow::Continue(())
    })?;
    Ok(endpoints)
}

fn one_endpoint(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<Option<Endpoint>, StoreError> {
    let (mut found, mut rejected) = (None, Vec::new());
    // At most one: the columns are unique.
    let _ = for_each_endpoint(connection, sql, parameters, &mut rejected, |endpoint| {
        found = Some(endpoint);
        ControlFlow::Continue(())
    })?;
    refuse_any(rejected).map(|()| found)
}

/// Gives each endpoint to `visit` until that breaks off, and notes those that can't be read. By position,
/// not by name: this loop reads a million rows.
fn for_each_endpoint(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    rejected: &mut Vec<Rejected>,
    mut visit: impl FnMut(Endpoint) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut current: Option<(i64, Endpoint)> = None;
    let mut skipped = None;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if skipped == Some(id) {
            continue;
        }
        let is_same = current.as_ref().is_some_and(|(current, _)| *current == id);
        if !is_same
            && let Some((_, complete)) = current.take()
            && visit(complete).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let endpoint = match current.take() {
            Some((_, endpoint)) => Ok(endpoint),
            None => endpoint(row),
        };
        match endpoint.and_then(|endpoint| with_address(row, endpoint)) {
            Ok(endpoint) => current = Some((id, endpoint)),
            Err(failure) => {
                let why = failure.of_row()?;
                let named = match parse(row, 1) {
                    Ok(name) => RowId::Endpoint(name),
                    Err(_) => RowId::Other(format!("row {id} of table endpoint")),
                };
                rejected.push(Rejected::new(named, why));
                skipped = Some(id);
            }
        }
    }
    Ok(match current {
        Some((_, last)) => visit(last),
        None => ControlFlow::Continue(()),
    })
}

/// An endpoint, still without addresses.
fn endpoint(row: &Row<'_>) -> Result<Endpoint, StoreError> {
    Ok(Endpoint {
        name: parse(row, 1)?,
        vni: vni(row)?,
        mac: parse::<Mac>(row, 3)?,
        addresses: Vec::new(),
        node: parse(row, 4)?,
        attachment: attachment(row)?,
        generation: row.get(8)?,
    })
}

/// How the row's endpoint is connected to its host.
fn attachment(row: &Row<'_>) -> Result<Option<Attachment>, StoreError> {
    let other = row.get_ref(7)?.as_str_or_null();
    let other = other.map_err(rusqlite::Error::from)?;
    let other = other.map(serde_json::from_str).transpose();
    let fields = AttachmentFields {
        netns: parse_optional(row, 5)?,
        ifname: parse_optional(row, 6)?,
        other: other.map_err(|error| StoreError::Row(format!("attachment: {error}")))?,
    };
    fields
        .try_into()
        .map_err(|error: &str| StoreError::Row(error.to_owned()))
}

/// The endpoint with the row's address, if it has one.
fn with_address(row: &Row<'_>, mut endpoint: Endpoint) -> Result<Endpoint, StoreError> {
    if let Some(ip) = parse_optional(row, 9)? {
        let address = IpNet::new(ip, row.get(10)?)
            .map_err(|error| StoreError::Row(format!("address {ip}: {error}")))?;
        endpoint.addresses.push(address);
    }
    Ok(endpoint)
}

fn vni(row: &Row<'_>) -> Result<Vni, StoreError> {
    Vni::try_from(row.get::<_, u32>("vni")?).map_err(|error| StoreError::Row(error.to_string()))
}

pub(super) fn parse<T: FromStr<Err: Display>>(
    row: &Row<'_>,
    column: impl rusqlite::RowIndex,
) -> Result<T, StoreError> {
    parse_optional(row, column)?.ok_or_else(|| StoreError::Row("a value is missing".to_owned()))
}

fn parse_optional<T: FromStr<Err: Display>>(
    row: &Row<'_>,
    column: impl rusqlite::RowIndex,
) -> Result<Option<T>, StoreError> {
    let Some(text) = row
        .get_ref(column)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?
    else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| StoreError::Row(format!("{text:?}: {error}")))
}
