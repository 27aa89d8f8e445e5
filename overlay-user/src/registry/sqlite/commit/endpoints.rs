//! Endpoints of a commit: made, moved, readdressed, removed; and the quarantine of their addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::Params;

use super::{
    super::{
        super::{RegistryError, rules},
        read,
        store_error::StoreError,
    },
    Commit, explained,
};
use crate::model::{
    Attachment, AttachmentFields, Claim, Endpoint, Mac, Name, ObjectId, Revision, Vni,
};

/// An attachment's fields, of which the last is a column of JSON.
fn columns(
    attachment: Option<Attachment>,
) -> Result<(AttachmentFields, Option<String>), StoreError> {
    let fields = AttachmentFields::from(attachment);
    let other = fields.other.as_ref().map(serde_json::to_string);
    let other = other
        .transpose()
        .map_err(|error| StoreError::Row(error.to_string()))?;
    Ok((fields, other))
}

impl Commit<'_> {
    pub(super) fn create_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), StoreError> {
        self.check_addresses(endpoint)?;
        let (fields, other) = columns(endpoint.attachment.clone())?;
        let inserted = self.execute(
            "INSERT INTO endpoint (name, vni, mac, node, netns, ifname, attachment, revision)
             VALUES (?1, ?2, ?3, (SELECT id FROM node WHERE name = ?4), ?5, ?6, ?7, ?8)",
            (
                endpoint.name.as_str(),
                endpoint.vni.get(),
                endpoint.mac.to_string(),
                endpoint.node.as_str(),
                fields.netns.as_ref().map(Name::as_str),
                fields.ifname.as_ref().map(AsRef::<str>::as_ref),
                other,
                self.revision,
            ),
        );
        explained(inserted, || self.endpoint_conflict(endpoint))?;
        self.check_quarantine(endpoint)?;
        self.put_addresses(self.transaction.last_insert_rowid(), endpoint)?;
        self.note_made("endpoint", endpoint.name.as_str())
    }

    pub(super) fn put_addresses(&self, id: i64, endpoint: &Endpoint) -> Result<(), StoreError> {
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

    pub(super) fn readdress_endpoint(
        &mut self,
        name: &Name,
        mac: Mac,
        addresses: &[IpNet],
        generation: Revision,
    ) -> Result<(), StoreError> {
        let Some(previous) = read::find_endpoint(&self.transaction, name)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        if previous.generation != generation {
            return Err(rules::changed_meanwhile(name).into());
        }
        let endpoint = Endpoint {
            mac,
            addresses: addresses.to_vec(),
            ..previous.clone()
        };
        if endpoint == previous {
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
        explained(updated, || self.mac_conflict(endpoint.vni, endpoint.mac))?;
        self.put_addresses(id, &endpoint)?;
        self.check_quarantine(&endpoint)?;
        self.note_made("endpoint", name.as_str())
    }

    pub(super) fn move_endpoint(
        &mut self,
        name: &Name,
        node: &Name,
        attachment: Option<Attachment>,
    ) -> Result<(), StoreError> {
        let (fields, other) = columns(attachment)?;
        let moved = self.execute(
            "UPDATE endpoint SET node = (SELECT id FROM node WHERE name = ?2),
                netns = ?3, ifname = ?4, attachment = ?5, revision = ?6
             WHERE name = ?1 AND (node, netns, ifname, attachment)
                IS NOT ((SELECT id FROM node WHERE name = ?2), ?3, ?4, ?5)",
            (
                name.as_str(),
                node.as_str(),
                fields.netns.as_ref().map(Name::as_str),
                fields.ifname.as_ref().map(AsRef::<str>::as_ref),
                other,
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

    pub(super) fn remove_endpoint(
        &mut self,
        name: &Name,
        generation: Option<Revision>,
    ) -> Result<(), StoreError> {
        if let Some(generation) = generation {
            let present = "SELECT name FROM endpoint WHERE name = ?1 AND revision = ?2";
            if self
                .one_text(present, (name.as_str(), generation))?
                .is_none()
            {
                return Ok(());
            }
        }
        self.release(
            &format!("endpoint {name}"),
            vec![ObjectId::of_endpoint(name)],
        )?;
        self.quarantine("e.name = ?1", name)?;
        let deleted = self.execute("DELETE FROM endpoint WHERE name = ?1", [name.as_str()])?;
        self.note_removed(deleted, "endpoint", name.as_str())
    }

    /// Keeps the addresses of those endpoints that are about to be removed free for a while.
    pub(super) fn quarantine(&mut self, which: &str, name: &Name) -> Result<(), StoreError> {
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

    /// Refuses addresses that somebody else had until a moment ago, unless they were given up in this
    /// very commit. What the endpoint may have is no longer in quarantine.
    pub(super) fn check_quarantine(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        if !self.has_quarantine {
            return Ok(());
        }
        let Endpoint { name, vni, mac, .. } = endpoint;
        // Addresses first: the MAC may follow from one, and then nobody has asked for it.
        for ip in endpoint.ips() {
            self.leave_quarantine(&Claim::Ip { vni: *vni, ip }, name.as_str())?;
        }
        let mac = Claim::Mac {
            vni: *vni,
            mac: *mac,
        };
        self.leave_quarantine(&mac, name.as_str())
    }

    /// The network's rules, as it is under this transaction.
    pub(super) fn check_addresses(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        match read::network(&self.transaction, endpoint.vni)? {
            Some(network) => Ok(rules::check_addresses(endpoint, &network)?),
            None => Err(rules::missing_network(endpoint.vni).into()),
        }
    }

    pub(super) fn endpoint_conflict(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Option<RegistryError>, StoreError> {
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
        self.mac_conflict(endpoint.vni, endpoint.mac)
    }

    pub(super) fn mac_conflict(
        &self,
        vni: Vni,
        mac: Mac,
    ) -> Result<Option<RegistryError>, StoreError> {
        let condition = "e.vni = ?1 AND e.mac = ?2";
        let owner = match self.owner(condition, (vni.get(), mac.to_string()))? {
            Some(owner) => Some(owner),
            None => self.claimant(&Claim::Mac { vni, mac })?,
        };
        Ok(owner.map(|owner| rules::conflict("MAC", &mac, owner)))
    }

    pub(super) fn address_conflict(
        &self,
        vni: Vni,
        ip: IpAddr,
    ) -> Result<Option<RegistryError>, StoreError> {
        let condition = "e.id = (SELECT endpoint FROM address WHERE vni = ?1 AND ip = ?2)";
        let owner = match self.owner(condition, (vni.get(), ip.to_string()))? {
            Some(owner) => Some(owner),
            None => self.claimant(&Claim::Ip { vni, ip })?,
        };
        Ok(owner.map(|owner| rules::conflict("IP", &ip, owner)))
    }

    /// "endpoint blue (node h1)" for the one that matches.
    pub(super) fn owner(
        &self,
        condition: &str,
        parameters: impl Params,
    ) -> Result<Option<String>, StoreError> {
        self.one_text(
            &format!(
                "SELECT 'endpoint ' || e.name || ' (node ' || n.name || ')'
                 FROM endpoint e JOIN node n ON n.id = e.node WHERE {condition}"
            ),
            parameters,
        )
    }
}
