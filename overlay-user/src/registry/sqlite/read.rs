//! Rows to the model: whole states and what changed since a revision.

use std::{
    fmt::Display,
    str::FromStr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension, Row};

use super::failure::Failure;
use crate::model::{Delta, Endpoint, Mac, Network, Node, Revision, Snapshot, Vni, Vtep};

const NETWORKS: &str = "SELECT n.vni, n.name, n.mtu, n.flood, n.learning, s.cidr
    FROM network n LEFT JOIN subnet s ON s.vni = n.vni
    WHERE n.revision > ?1 ORDER BY n.revision, n.vni, s.position";

const NETWORK: &str = "SELECT n.vni, n.name, n.mtu, n.flood, n.learning, s.cidr
    FROM network n LEFT JOIN subnet s ON s.vni = n.vni
    WHERE n.vni = ?1 ORDER BY s.position";

const NODES: &str = "SELECT name, vtep_ip, vtep_port, agent, last_seen
    FROM node WHERE revision > ?1 ORDER BY revision, id";

/// The order is that of `endpoint_by_revision` and of the primary key of `address`: no sorting.
/// CROSS JOIN forbids SQLite to start with the nodes.
pub(super) const ENDPOINTS: &str =
    "SELECT e.id, e.name, e.vni, e.mac, n.name, e.netns, e.ifname, e.revision, a.ip, a.prefix
    FROM endpoint e CROSS JOIN node n ON n.id = e.node LEFT JOIN address a ON a.endpoint = e.id
    WHERE e.revision > ?1 ORDER BY e.revision, e.id, a.position";

const TOMBSTONES: &str = "SELECT kind, key FROM tombstone WHERE revision > ?1";

/// The state at one revision. Order: longest unchanged first.
pub(super) fn snapshot(connection: &mut Connection) -> Result<Snapshot, Failure> {
    // A deferred transaction: all statements see the state of the first.
    let transaction = connection.transaction()?;
    Ok(Snapshot {
        revision: horizon(&transaction)?.revision,
        networks: networks(&transaction, 0)?,
        nodes: nodes(&transaction, 0)?,
        endpoints: endpoints(&transaction, 0)?,
    })
}

/// What a reader at revision `since` has to learn.
pub(super) enum Progress {
    /// Nothing.
    None,
    /// This.
    Delta(Delta),
    /// The store, now at this revision, can't say: tombstones are gone, or it is an older state.
    Resync(Revision),
}

/// What changed after `since`.
pub(super) fn progress(connection: &mut Connection, since: Revision) -> Result<Progress, Failure> {
    let transaction = connection.transaction()?;
    let Horizon { revision, pruned } = horizon(&transaction)?;
    if revision == since {
        return Ok(Progress::None);
    }
    if since < pruned || revision < since {
        return Ok(Progress::Resync(revision));
    }
    let mut delta = Delta {
        revision,
        networks: networks(&transaction, since)?,
        nodes: nodes(&transaction, since)?,
        endpoints: endpoints(&transaction, since)?,
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
    Ok(Progress::Delta(delta))
}

/// How far the store reaches.
pub(super) struct Horizon {
    /// The last commit.
    pub(super) revision: Revision,
    /// Removals up to this revision may be forgotten.
    pub(super) pruned: Revision,
}

/// Reads the one row of `meta`.
pub(super) fn horizon(connection: &Connection) -> Result<Horizon, Failure> {
    let horizon = connection
        .prepare_cached("SELECT revision, pruned FROM meta")?
        .query_row((), |row| {
            Ok(Horizon {
                revision: row.get(0)?,
                pruned: row.get(1)?,
            })
        })
        .optional()?;
    horizon.ok_or_else(|| Failure::Row("table meta is empty".to_owned()))
}

/// One network.
pub(super) fn network(connection: &Connection, vni: Vni) -> Result<Option<Network>, Failure> {
    Ok(query_networks(connection, NETWORK, u64::from(vni.get()))?.pop())
}

fn networks(connection: &Connection, since: Revision) -> Result<Vec<Network>, Failure> {
    query_networks(connection, NETWORKS, since)
}

fn query_networks(
    connection: &Connection,
    sql: &str,
    parameter: u64,
) -> Result<Vec<Network>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([parameter])?;
    let mut networks: Vec<Network> = Vec::new();
    while let Some(row) = rows.next()? {
        let vni = vni(row)?;
        if networks.last().is_none_or(|last| last.vni != vni) {
            networks.push(Network {
                mtu: row.get("mtu")?,
                flood: parse(row, "flood")?,
                learning: row.get("learning")?,
                ..Network::new(parse(row, "name")?, vni)
            });
        }
        if let (Some(network), Some(subnet)) = (networks.last_mut(), parse_optional(row, "cidr")?) {
            network.subnets.push(subnet);
        }
    }
    Ok(networks)
}

pub(super) fn nodes(connection: &Connection, since: Revision) -> Result<Vec<Node>, Failure> {
    let mut statement = connection.prepare_cached(NODES)?;
    let mut rows = statement.query([since])?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        let last_seen: Option<u64> = row.get("last_seen")?;
        nodes.push(Node {
            name: parse(row, "name")?,
            vtep: Vtep {
                ip: parse(row, "vtep_ip")?,
                port: row.get("vtep_port")?,
            },
            agent: row.get("agent")?,
            last_seen: last_seen.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
        });
    }
    Ok(nodes)
}

/// By position, not by name: this loop reads a million rows.
fn endpoints(connection: &Connection, since: Revision) -> Result<Vec<Endpoint>, Failure> {
    let mut statement = connection.prepare_cached(ENDPOINTS)?;
    let mut rows = statement.query([since])?;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if last != Some(id) {
            last = Some(id);
            endpoints.push(Endpoint {
                name: parse(row, 1)?,
                vni: vni(row)?,
                mac: parse::<Mac>(row, 3)?,
                addresses: Vec::new(),
                node: parse(row, 4)?,
                netns: parse_optional(row, 5)?,
                ifname: parse_optional(row, 6)?,
                generation: row.get(7)?,
            });
        }
        if let (Some(endpoint), Some(ip)) = (endpoints.last_mut(), parse_optional(row, 8)?) {
            let address = IpNet::new(ip, row.get(9)?)
                .map_err(|error| Failure::Row(format!("address {ip}: {error}")))?;
            endpoint.addresses.push(address);
        }
    }
    Ok(endpoints)
}

fn vni(row: &Row<'_>) -> Result<Vni, Failure> {
    Vni::try_from(row.get::<_, u32>("vni")?).map_err(|error| Failure::Row(error.to_string()))
}

fn parse<T: FromStr<Err: Display>>(
    row: &Row<'_>,
    column: impl rusqlite::RowIndex,
) -> Result<T, Failure> {
    parse_optional(row, column)?.ok_or_else(|| Failure::Row("a value is missing".to_owned()))
}

fn parse_optional<T: FromStr<Err: Display>>(
    row: &Row<'_>,
    column: impl rusqlite::RowIndex,
) -> Result<Option<T>, Failure> {
    let Some(text) = row
        .get_ref(column)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?
    else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| Failure::Row(format!("{text:?}: {error}")))
}
