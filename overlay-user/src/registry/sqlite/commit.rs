//! The write side: one commit, one transaction, one revision.
//!
//! Uniqueness and references are the schema's constraints. A statement comes first; only when a
//! constraint has refused it is the owner looked up, under the same write lock, for the message.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension, Params, Transaction, TransactionBehavior};

use super::{
    super::{RegistryError, rules},
    clock::BootTime,
    failure::Failure,
    liveness::wall_milliseconds,
    read,
    session::Limits,
};
use crate::model::{
    Change, Endpoint, IfName, Mac, Name, NameError, Network, NetworkSettings, Node, Revision, Vni,
};

/// Carries out all changes or none. Tombstones older than `limits.history` revisions are
/// forgotten.
pub(super) fn commit(
    connection: &mut Connection,
    changes: &[Change],
    limits: Limits,
) -> Result<Revision, Failure> {
    // Immediate: the write lock is waited for at the start, never half-way.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let current = read::horizon(&transaction)?.revision;
    let has_quarantine = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM quarantine)")?
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
    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
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
                netns,
                ifname,
            } => self.move_endpoint(name, node, netns.as_ref(), ifname.as_ref()),
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
        }
    }

    /// Makes the new revision known and forgets old tombstones.
    fn advance(&self, history: u64) -> Result<(), Failure> {
        let horizon = self.revision.saturating_sub(history);
        let forgotten = self.execute("DELETE FROM tombstone WHERE revision <= ?1", [horizon])?;
        self.execute("UPDATE meta SET revision = ?1", [self.revision])?;
        if forgotten > 0 {
            self.execute("UPDATE meta SET pruned = ?1", [horizon])?;
        }
        self.execute("DELETE FROM quarantine WHERE until <= ?1", [self.now.ms])?;
        Ok(())
    }

    fn create_network(&mut self, network: &Network) -> Result<(), Failure> {
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

    fn set_network(&mut self, vni: Vni, settings: NetworkSettings) -> Result<(), Failure> {
        let Some(former) = read::network(&self.transaction, vni)? else {
            return Err(rules::missing_network(vni).into());
        };
        let network = former.clone().with(settings);
        if network == former {
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

    fn remove_network(&mut self, vni: Vni) -> Result<(), Failure> {
        let deleted = self.execute("DELETE FROM network WHERE vni = ?1", [vni.get()]);
        let deleted = explained(deleted, || self.network_in_use(vni))?;
        self.note_removed(deleted, "network", &vni.to_string())
    }

    fn put_node(&mut self, node: &Node) -> Result<(), Failure> {
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

    fn remove_node(&mut self, name: &Name) -> Result<(), Failure> {
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

    fn release_vtep(&mut self, name: &Name) -> Result<(), Failure> {
        self.check_silent(name)?;
        let Some(node) = read::node(&self.transaction, name)? else {
            return Ok(());
        };
        self.put_node(&node.without_address())
    }

    /// Refuses a node whose session lives.
    fn check_silent(&self, name: &Name) -> Result<(), Failure> {
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

    fn remove_empty_node(&mut self, name: &Name) -> Result<(), Failure> {
        let deleted = self.execute(
            "DELETE FROM node WHERE name = ?1
             AND NOT EXISTS (SELECT 1 FROM endpoint WHERE endpoint.node = node.id)",
            [name.as_str()],
        )?;
        self.note_removed(deleted, "node", name.as_str())
    }

    fn create_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        self.check_addresses(endpoint)?;
        let inserted = self.execute(
            "INSERT INTO endpoint (name, vni, mac, node, netns, ifname, revision)
             VALUES (?1, ?2, ?3, (SELECT id FROM node WHERE name = ?4), ?5, ?6, ?7)",
            (
                endpoint.name.as_str(),
                endpoint.vni.get(),
                endpoint.mac.to_string(),
                endpoint.node.as_str(),
                endpoint.netns.as_ref().map(Name::as_str),
                endpoint.ifname.as_ref().map(AsRef::as_ref),
                self.revision,
            ),
        );
        explained(inserted, || self.endpoint_conflict(endpoint))?;
        self.check_quarantine(endpoint)?;
        self.put_addresses(self.transaction.last_insert_rowid(), endpoint)?;
        self.note_made("endpoint", endpoint.name.as_str())
    }

    fn put_addresses(&self, id: i64, endpoint: &Endpoint) -> Result<(), Failure> {
        for (position, address) in endpoint.addresses.iter().enumerate() {
            let ip = address.addr();
            let inserted = self.execute(
                "INSERT INTO address (endpoint, position, vni, ip, prefix) VALUES (?1, ?2, ?3, ?4, ?5)",
                (
                    id,
                    position,
                    endpoint.vni.get(),
                    ip.to_string(),
                    address.prefix_len(),
                ),
            );
            explained(inserted, || self.address_conflict(endpoint.vni, ip))?;
        }
        Ok(())
    }

    fn readdress_endpoint(
        &mut self,
        name: &Name,
        mac: Mac,
        addresses: &[IpNet],
        generation: Revision,
    ) -> Result<(), Failure> {
        let Some(former) = read::find_endpoint(&self.transaction, name)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        if former.generation != generation {
            return Err(rules::changed_meanwhile(name).into());
        }
        let endpoint = Endpoint {
            mac,
            addresses: addresses.to_vec(),
            ..former.clone()
        };
        if endpoint == former {
            return Ok(());
        }
        self.check_addresses(&endpoint)?;
        // Of these it may have back at once what it keeps.
        self.quarantine("e.name = ?1", name)?;
        let id = self.transaction.query_row(
            "SELECT id FROM endpoint WHERE name = ?1",
            [name.as_str()],
            |row| row.get(0),
        )?;
        self.execute("DELETE FROM address WHERE endpoint = ?1", [id])?;
        let mac = endpoint.mac.to_string();
        let updated = self.execute(
            "UPDATE endpoint SET mac = ?2, revision = ?3 WHERE id = ?1",
            (id, &mac, self.revision),
        );
        explained(updated, || {
            let owner = self.owner("e.vni = ?1 AND e.mac = ?2", (endpoint.vni.get(), &mac))?;
            Ok(owner.map(|owner| rules::conflict("MAC", &mac, owner)))
        })?;
        self.put_addresses(id, &endpoint)?;
        self.check_quarantine(&endpoint)?;
        self.note_made("endpoint", name.as_str())
    }

    fn move_endpoint(
        &mut self,
        name: &Name,
        node: &Name,
        netns: Option<&Name>,
        ifname: Option<&IfName>,
    ) -> Result<(), Failure> {
        let moved = self.execute(
            "UPDATE endpoint SET node = (SELECT id FROM node WHERE name = ?2),
                netns = ?3, ifname = ?4, revision = ?5
             WHERE name = ?1 AND (node, netns, ifname)
                IS NOT ((SELECT id FROM node WHERE name = ?2), ?3, ?4)",
            (
                name.as_str(),
                node.as_str(),
                netns.map(Name::as_str),
                ifname.map(AsRef::<str>::as_ref),
                self.revision,
            ),
        );
        let moved = explained(moved, || Ok(Some(rules::missing_node(node))))?;
        if moved > 0 {
            return self.note_made("endpoint", name.as_str());
        }
        match self.one_text("SELECT name FROM endpoint WHERE name = ?1", [name.as_str()])? {
            Some(_) => Ok(()),
            None => Err(rules::missing_endpoint(name).into()),
        }
    }

    fn remove_endpoint(
        &mut self,
        name: &Name,
        generation: Option<Revision>,
    ) -> Result<(), Failure> {
        if let Some(generation) = generation {
            let present = "SELECT name FROM endpoint WHERE name = ?1 AND revision = ?2";
            if self
                .one_text(present, (name.as_str(), generation))?
                .is_none()
            {
                return Ok(());
            }
        }
        self.quarantine("e.name = ?1", name)?;
        let deleted = self.execute("DELETE FROM endpoint WHERE name = ?1", [name.as_str()])?;
        self.note_removed(deleted, "endpoint", name.as_str())
    }

    /// Keeps the addresses of those endpoints that are about to be removed free for a while.
    fn quarantine(&mut self, which: &str, name: &Name) -> Result<(), Failure> {
        if self.quarantine.is_zero() {
            return Ok(());
        }
        self.has_quarantine = true;
        let until = self.now.after(self.quarantine);
        for (kind, value, join) in [
            ("mac", "e.mac", ""),
            ("ip", "a.ip", "JOIN address a ON a.endpoint = e.id"),
        ] {
            self.execute(
                &format!(
                    "INSERT OR REPLACE INTO quarantine (vni, kind, value, owner, revision, boot, until)
                     SELECT e.vni, '{kind}', {value}, e.name, ?2, ?3, ?4
                     FROM endpoint e {join} WHERE {which}"
                ),
                (name.as_str(), self.revision, until.boot, until.ms),
            )?;
        }
        Ok(())
    }

    /// Refuses addresses that another endpoint had until a moment ago, unless it gave them up in this
    /// very commit. What the endpoint may have is no longer in quarantine.
    fn check_quarantine(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        if !self.has_quarantine {
            return Ok(());
        }
        // Addresses first: the MAC may follow from one, and then nobody has asked for it.
        let addresses = endpoint.ips().map(|ip| ("IP", "ip", ip.to_string()));
        for (what, kind, value) in addresses.chain([("MAC", "mac", endpoint.mac.to_string())]) {
            let key = (endpoint.vni.get(), kind, &value);
            let barrier = self
                .transaction
                .prepare_cached(
                    "SELECT owner, until FROM quarantine WHERE (vni, kind, value) = (?1, ?2, ?3)
                     AND owner <> ?4 AND revision <> ?5 AND boot = ?6 AND until > ?7",
                )?
                .query_row(
                    (
                        key.0,
                        key.1,
                        key.2,
                        endpoint.name.as_str(),
                        self.revision,
                        self.now.boot,
                        self.now.ms,
                    ),
                    |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)),
                )
                .optional()?;
            if let Some((owner, until)) = barrier {
                let left = u64::try_from(until - self.now.ms).unwrap_or_default();
                return Err(RegistryError::Quarantined {
                    what,
                    owner: owner
                        .parse()
                        .map_err(|error: NameError| Failure::Row(error.to_string()))?,
                    value,
                    for_at_most: Duration::from_millis(left),
                }
                .into());
            }
            self.execute(
                "DELETE FROM quarantine WHERE (vni, kind, value) = (?1, ?2, ?3)",
                key,
            )?;
        }
        Ok(())
    }

    /// The network's rules, as it is under this transaction.
    fn check_addresses(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        match read::network(&self.transaction, endpoint.vni)? {
            Some(network) => Ok(rules::check_addresses(endpoint, &network)?),
            None => Err(rules::missing_network(endpoint.vni).into()),
        }
    }

    fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize, Failure> {
        Ok(self.transaction.prepare_cached(sql)?.execute(parameters)?)
    }

    /// A row is there (again): it is no longer among the removed ones.
    fn note_made(&mut self, kind: &str, key: &str) -> Result<(), Failure> {
        self.is_noop = false;
        self.execute(
            "DELETE FROM tombstone WHERE kind = ?1 AND key = ?2",
            (kind, key),
        )?;
        Ok(())
    }

    /// A row went away, if `deleted` is not 0.
    fn note_removed(&mut self, deleted: usize, kind: &str, key: &str) -> Result<(), Failure> {
        if deleted > 0 {
            self.is_noop = false;
            self.execute(
                "INSERT OR REPLACE INTO tombstone (kind, key, revision) VALUES (?1, ?2, ?3)",
                (kind, key, self.revision),
            )?;
        }
        Ok(())
    }

    fn network_conflict(&self, network: &Network) -> Result<Option<RegistryError>, Failure> {
        let vni = network.vni.get();
        let owner = self.one_text("SELECT name FROM network WHERE vni = ?1", [vni])?;
        if let Some(owner) = owner {
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

    fn network_in_use(&self, vni: Vni) -> Result<Option<RegistryError>, Failure> {
        let name = self.one_text("SELECT name FROM network WHERE vni = ?1", [vni.get()])?;
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

    fn vtep_conflict(&self, ip: IpAddr) -> Result<Option<RegistryError>, Failure> {
        let owner = self.one_text(
            "SELECT 'node ' || name || iif(agent, '', ' (imported, no agent)') FROM node WHERE vtep_ip = ?1",
            [ip.to_string()],
        )?;
        Ok(owner.map(|owner| rules::conflict("VTEP", &ip, owner)))
    }

    fn endpoint_conflict(&self, endpoint: &Endpoint) -> Result<Option<RegistryError>, Failure> {
        let node = endpoint.node.as_str();
        if self
            .one_text("SELECT name FROM node WHERE name = ?1", [node])?
            .is_none()
        {
            return Ok(Some(rules::missing_node(&endpoint.node)));
        }
        let name = endpoint.name.as_str();
        if let Some(owner) = self.owner("e.name = ?1", [name])? {
            return Ok(Some(rules::conflict("endpoint name", &name, owner)));
        }
        // Before the MAC, which may follow from the address and then nobody has asked for it.
        for ip in endpoint.ips() {
            if let Some(taken) = self.address_conflict(endpoint.vni, ip)? {
                return Ok(Some(taken));
            }
        }
        let mac = endpoint.mac.to_string();
        let owner = self.owner("e.vni = ?1 AND e.mac = ?2", (endpoint.vni.get(), &mac))?;
        Ok(owner.map(|owner| rules::conflict("MAC", &mac, owner)))
    }

    fn address_conflict(&self, vni: Vni, ip: IpAddr) -> Result<Option<RegistryError>, Failure> {
        let owner = self.owner(
            "e.id = (SELECT endpoint FROM address WHERE vni = ?1 AND ip = ?2)",
            (vni.get(), ip.to_string()),
        )?;
        Ok(owner.map(|owner| rules::conflict("IP", &ip, owner)))
    }

    /// "endpoint blue (node h1)" for the one that matches.
    fn owner(&self, condition: &str, parameters: impl Params) -> Result<Option<String>, Failure> {
        self.one_text(
            &format!(
                "SELECT 'endpoint ' || e.name || ' (node ' || n.name || ')'
                 FROM endpoint e JOIN node n ON n.id = e.node WHERE {condition}"
            ),
            parameters,
        )
    }

    fn one_text(&self, sql: &str, parameters: impl Params) -> Result<Option<String>, Failure> {
        Ok(self
            .transaction
            .query_row(sql, parameters, |row| row.get(0))
            .optional()?)
    }
}

/// In place of a constraint's refusal what `explain` finds out about it, if anything.
fn explained<T>(
    result: Result<T, Failure>,
    explain: impl FnOnce() -> Result<Option<RegistryError>, Failure>,
) -> Result<T, Failure> {
    match result {
        Err(failure) if failure.is_constraint() => Err(explain()?.map_or(failure, Failure::Said)),
        result => result,
    }
}
