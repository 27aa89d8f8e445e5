//! The write side: one commit, one transaction, one revision.
//!
//! Uniqueness and references are the schema's constraints. A statement comes first; only when a
//! constraint has refused it is the owner looked up, under the same write lock, for the message.

use std::{net::IpAddr, time::Duration};

use rusqlite::{Connection, OptionalExtension, Params, Transaction, TransactionBehavior};

use super::{
    super::{RegistryError, rules},
    clock::BootTime,
    connection::Limits,
    liveness::wall_milliseconds,
    read,
    store_error::StoreError,
};
use crate::model::{Change, Name, Network, NetworkSettings, Node, ObjectId, Revision, Vni};

mod endpoints;
mod objects;

/// Carries out all changes or none. Tombstones older than `limits.history` revisions are
/// forgotten.
pub(super) fn commit(
    connection: &mut Connection,
    changes: &[Change],
    limits: Limits,
) -> Result<Revision, StoreError> {
    // Immediate: the write lock is waited for at the start, never half-way.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let current = read::horizon(&transaction)?.revision;
    let has_quarantine = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM quarantine) OR EXISTS (SELECT 1 FROM claim_quarantine)",
        )?
        .query_row((), |row| row.get(0))?;
    let mut commit = Commit {
        transaction,
        revision: current + 1,
        now: BootTime::now()?,
        quarantine: limits.quarantine,
        session_ttl: limits.session_ttl,
        has_quarantine,
        is_noop: true,
    };
    for change in changes {
        commit.apply(change)?;
    }
    if !commit.is_noop {
        commit.advance(limits.history)?;
    }
    let revision = if commit.is_noop {
        current
    } else {
        commit.revision
    };
    commit.transaction.commit()?;
    Ok(revision)
}

/// A commit under way.
struct Commit<'a> {
    transaction: Transaction<'a>,
    /// What this commit becomes, unless all of it is done already.
    revision: Revision,
    now: BootTime,
    quarantine: Duration,
    session_ttl: Duration,
    /// There may be addresses in quarantine: else none is looked for.
    has_quarantine: bool,
    /// Nothing has changed so far.
    is_noop: bool,
}

impl Commit<'_> {
    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::CreateNetwork(network) => self.create_network(network),
            Change::SetNetwork(vni, settings) => self.set_network(*vni, *settings),
            Change::RemoveNetwork(vni) => self.remove_network(*vni),
            Change::PutNode(node) => self.put_node(node),
            Change::RemoveNode(node) => self.remove_node(node),
            Change::RemoveSilentNode(node) => {
                self.check_silent(node)?;
                self.remove_node(node)
            }
            Change::ReleaseVtep(node) => self.release_vtep(node),
            Change::RemoveEmptyNode(node) => self.remove_empty_node(node),
            Change::CreateEndpoint(endpoint) => self.create_endpoint(endpoint),
            Change::MoveEndpoint {
                name,
                node,
                attachment,
            } => self.move_endpoint(name, node, attachment.clone()),
            Change::ReaddressEndpoint {
                name,
                mac,
                addresses,
                generation,
            } => self.readdress_endpoint(name, *mac, addresses, *generation),
            Change::RemoveEndpoint(name) => self.remove_endpoint(name, None),
            Change::RemoveGeneration(name, generation) => {
                self.remove_endpoint(name, Some(*generation))
            }
            Change::PutObject(object) => self.put_object(object),
            Change::RemoveObject(id) => self.remove_object(id),
        }
    }

    /// Makes the new revision known and forgets old tombstones.
    fn advance(&self, history: u64) -> Result<(), StoreError> {
        let horizon = self.revision.saturating_sub(history);
        let mut forgotten = 0;
        for table in ["tombstone", "object_tombstone"] {
            let sql = format!("DELETE FROM {table} WHERE revision <= ?1");
            forgotten += self.execute(&sql, [horizon])?;
        }
        self.execute("UPDATE meta SET revision = ?1", [self.revision])?;
        if forgotten > 0 {
            self.execute("UPDATE meta SET pruned = ?1", [horizon])?;
        }
        for table in ["quarantine", "claim_quarantine"] {
            let sql = format!("DELETE FROM {table} WHERE until <= ?1");
            self.execute(&sql, [self.now.ms])?;
        }
        Ok(())
    }

    fn create_network(&mut self, network: &Network) -> Result<(), StoreError> {
        rules::check_network(network)?;
        let vni = network.vni.get();
        let inserted = self.execute(
            "INSERT INTO network (vni, name, mtu, flood, learning, resolve, revision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                vni,
                network.name.as_str(),
                network.mtu,
                network.flood.to_string(),
                network.learning,
                network.resolve.to_string(),
                self.revision,
            ),
        );
        explained(inserted, || self.network_conflict(network))?;
        for (position, subnet) in network.subnets.iter().enumerate() {
            self.execute(
                "INSERT INTO subnet (vni, position, cidr) VALUES (?1, ?2, ?3)",
                (vni, position, subnet.to_string()),
            )?;
        }
        self.note_made("network", &vni.to_string())
    }

    fn set_network(&mut self, vni: Vni, settings: NetworkSettings) -> Result<(), StoreError> {
        let Some(previous) = read::network(&self.transaction, vni)? else {
            return Err(rules::missing_network(vni).into());
        };
        let network = previous.clone().with(settings);
        if network == previous {
            return Ok(());
        }
        self.execute(
            "UPDATE network SET mtu = ?2, flood = ?3, learning = ?4, revision = ?5 WHERE vni = ?1",
            (
                vni.get(),
                network.mtu,
                network.flood.to_string(),
                network.learning,
                self.revision,
            ),
        )?;
        self.note_made("network", &vni.to_string())
    }

    fn remove_network(&mut self, vni: Vni) -> Result<(), StoreError> {
        let Some(network) = self.network_name(vni)? else {
            return Ok(());
        };
        let called = format!("network {network} (VNI {vni})");
        self.release(&called, vec![ObjectId::of_network(vni)])?;
        let deleted = self.execute("DELETE FROM network WHERE vni = ?1", [vni.get()]);
        let deleted = explained(deleted, || self.network_in_use(vni))?;
        self.note_removed(deleted, "network", &vni.to_string())
    }

    fn put_node(&mut self, node: &Node) -> Result<(), StoreError> {
        rules::check_node(node)?;
        let Node { name, vtep, .. } = node;
        let put = self.execute(
            "INSERT INTO node (name, vtep_ip, vtep_port, agent, version, abi, mtu, revision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (name) DO UPDATE SET
                 vtep_ip = excluded.vtep_ip, vtep_port = excluded.vtep_port,
                 agent = excluded.agent, version = excluded.version, abi = excluded.abi,
                 mtu = excluded.mtu, revision = excluded.revision
             WHERE (vtep_ip, vtep_port, agent, version, abi, mtu) IS NOT
                 (excluded.vtep_ip, excluded.vtep_port, excluded.agent, excluded.version, excluded.abi,
                  excluded.mtu)",
            (
                name.as_str(),
                vtep.ip.to_string(),
                vtep.port,
                node.agent,
                node.version.as_deref(),
                node.abi,
                node.mtu,
                self.revision,
            ),
        );
        let put = explained(put, || self.vtep_conflict(vtep.ip.ip()))?;
        if let Some(time) = node.last_seen {
            self.execute(
                "UPDATE node SET last_seen = max(ifnull(last_seen, 0), ?2) WHERE name = ?1",
                (name.as_str(), wall_milliseconds(time)),
            )?;
        }
        if put == 0 {
            return Ok(());
        }
        self.note_made("node", name.as_str())
    }

    fn remove_node(&mut self, name: &Name) -> Result<(), StoreError> {
        let mut going = self.referred_on_node(name)?;
        going.push(ObjectId::of_node(name));
        self.release(&format!("node {name}"), going)?;
        self.execute(
            "INSERT OR REPLACE INTO tombstone (kind, key, revision)
             SELECT 'endpoint', e.name, ?2 FROM endpoint e JOIN node n ON n.id = e.node WHERE n.name = ?1",
            (name.as_str(), self.revision),
        )?;
        self.quarantine("e.node = (SELECT id FROM node WHERE name = ?1)", name)?;
        self.execute(
            "DELETE FROM endpoint WHERE node = (SELECT id FROM node WHERE name = ?1)",
            [name.as_str()],
        )?;
        let deleted = self.execute("DELETE FROM node WHERE name = ?1", [name.as_str()])?;
        self.execute("DELETE FROM session WHERE node = ?1", [name.as_str()])?;
        self.execute("DELETE FROM report WHERE node = ?1", [name.as_str()])?;
        self.note_removed(deleted, "node", name.as_str())
    }

    fn release_vtep(&mut self, name: &Name) -> Result<(), StoreError> {
        self.check_silent(name)?;
        let Some(node) = read::node(&self.transaction, name)? else {
            return Ok(());
        };
        self.put_node(&node.without_address())
    }

    /// Refuses a node whose session lives.
    fn check_silent(&self, name: &Name) -> Result<(), StoreError> {
        let living = self.now.before(self.session_ttl);
        let session = self.one_text(
            "SELECT session FROM session WHERE node = ?1 AND boot = ?2 AND seen >= ?3",
            (name.as_str(), living.boot, living.ms),
        )?;
        if session.is_none() {
            return Ok(());
        }
        let node = read::node(&self.transaction, name)?;
        Err(rules::node_alive(name, node.map(|node| node.vtep)).into())
    }

    fn remove_empty_node(&mut self, name: &Name) -> Result<(), StoreError> {
        let occupied = self.one_text(
            "SELECT name FROM node WHERE name = ?1
             AND EXISTS (SELECT 1 FROM endpoint WHERE endpoint.node = node.id)",
            [name.as_str()],
        )?;
        if occupied.is_some() {
            return Ok(());
        }
        let called = format!("node {name}");
        match self.release(&called, vec![ObjectId::of_node(name)]) {
            // An object keeps it, as an endpoint does.
            Err(StoreError::Said(RegistryError::Refused(_))) => return Ok(()),
            released => released?,
        }
        let deleted = self.execute("DELETE FROM node WHERE name = ?1", [name.as_str()])?;
        self.note_removed(deleted, "node", name.as_str())
    }

    fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize, StoreError> {
        Ok(self.transaction.prepare_cached(sql)?.execute(parameters)?)
    }

    /// A row is there (again): it is no longer among the removed ones.
    fn note_made(&mut self, kind: &str, key: &str) -> Result<(), StoreError> {
        self.is_noop = false;
        self.execute(
            "DELETE FROM tombstone WHERE kind = ?1 AND key = ?2",
            (kind, key),
        )?;
        Ok(())
    }

    /// A row went away, if `deleted` is not 0.
    fn note_removed(&mut self, deleted: usize, kind: &str, key: &str) -> Result<(), StoreError> {
        if deleted > 0 {
            self.is_noop = false;
            self.execute(
                "INSERT OR REPLACE INTO tombstone (kind, key, revision) VALUES (?1, ?2, ?3)",
                (kind, key, self.revision),
            )?;
        }
        Ok(())
    }

    fn network_conflict(&self, network: &Network) -> Result<Option<RegistryError>, StoreError> {
        let vni = network.vni.get();
        if let Some(owner) = self.network_name(network.vni)? {
            return Ok(Some(rules::conflict(
                "VNI",
                &vni,
                format!("network {owner}"),
            )));
        }
        let name = network.name.as_str();
        let owner = self.one_text(
            "SELECT 'network ' || name || ' (VNI ' || vni || ')' FROM network WHERE name = ?1",
            [name],
        )?;
        Ok(owner.map(|owner| rules::conflict("network name", &name, owner)))
    }

    fn network_name(&self, vni: Vni) -> Result<Option<String>, StoreError> {
        self.one_text("SELECT name FROM network WHERE vni = ?1", [vni.get()])
    }

    fn network_in_use(&self, vni: Vni) -> Result<Option<RegistryError>, StoreError> {
        let name = self.network_name(vni)?;
        let count: u64 = self
            .transaction
            .prepare_cached("SELECT count(*) FROM endpoint WHERE vni = ?1")?
            .query_row([vni.get()], |row| row.get(0))?;
        let examples: Vec<String> = self
            .transaction
            .prepare_cached("SELECT name FROM endpoint WHERE vni = ?1 ORDER BY id LIMIT 2")?
            .query_map([vni.get()], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok(Some(rules::network_in_use(
            &name.unwrap_or_default(),
            vni,
            count,
            &examples,
        )))
    }

    fn vtep_conflict(&self, ip: IpAddr) -> Result<Option<RegistryError>, StoreError> {
        let owner = self.one_text(
            "SELECT 'node ' || name || iif(agent, '', ' (imported, no agent)') FROM node WHERE vtep_ip = ?1",
            [ip.to_string()],
        )?;
        Ok(owner.map(|owner| rules::conflict("VTEP", &ip, owner)))
    }

    fn one_text(&self, sql: &str, parameters: impl Params) -> Result<Option<String>, StoreError> {
        Ok(self
            .transaction
            .query_row(sql, parameters, |row| row.get(0))
            .optional()?)
    }
}

/// In place of a constraint's refusal what `explain` finds out about it, if anything.
fn explained<T>(
    result: Result<T, StoreError>,
    explain: impl FnOnce() -> Result<Option<RegistryError>, StoreError>,
) -> Result<T, StoreError> {
    match result {
        Err(failure) if failure.is_constraint() => {
            Err(explain()?.map_or(failure, StoreError::Said))
        }
        result => result,
    }
}
