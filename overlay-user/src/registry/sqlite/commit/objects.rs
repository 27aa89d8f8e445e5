//! Objects of a commit: what they claim, what they refer to, and what goes along with what is removed.

use std::time::Duration;

use ipnet::IpNet;
use rusqlite::OptionalExtension;

use super::{
    super::{
        super::{
            RegistryError,
            object::{ObjectValue, going_along, is_news},
            rules,
        },
        read,
        store_error::StoreError,
    },
    Commit, explained,
};
use crate::model::{Claim, Name, Object, ObjectId, OnRemoval, Reference, Target};

impl Commit<'_> {
    pub(super) fn put_object(&mut self, object: &Object) -> Result<(), StoreError> {
        rules::check_object(object)?;
        let id = &object.id;
        let previous = read::object(&self.transaction, id)?;
        if !is_news(object, previous.as_ref())? {
            return Ok(());
        }
        for reference in &object.references {
            if !self.exists(&reference.target)? {
                return Err(rules::missing_target(&reference.target).into());
            }
        }
        let value = serde_json::to_string(&ObjectValue::from(object))
            .map_err(|error| StoreError::Row(error.to_string()))?;
        let (kind, key) = (id.kind.as_str(), id.key.as_str());
        self.execute(
            "INSERT INTO object (kind, key, value, revision) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            (kind, key, value, self.revision),
        )?;
        let row = self.transaction.query_row(
            "SELECT id FROM object WHERE kind = ?1 AND key = ?2",
            (kind, key),
            |row| row.get(0),
        )?;
        let previous = previous.map(|previous| previous.claims).unwrap_or_default();
        self.put_claims(row, object, &previous)?;
        self.put_references(row, &object.references)?;
        self.is_noop = false;
        self.execute(
            "DELETE FROM object_tombstone WHERE kind = ?1 AND key = ?2",
            (kind, key),
        )?;
        Ok(())
    }

    fn put_claims(
        &mut self,
        row: i64,
        object: &Object,
        previous: &[Claim],
    ) -> Result<(), StoreError> {
        let owner = object.id.to_word();
        let new = |claim: &&Claim| !previous.iter().any(|other| other.slot() == claim.slot());
        let given_up = previous.iter().filter(|claim| {
            let mut kept = object.claims.iter();
            !kept.any(|other| other.slot() == claim.slot())
        });
        for claim in given_up {
            let slot = claim.slot();
            self.execute(
                "DELETE FROM object_claim WHERE (object, vni, space, value) = (?1, ?2, ?3, ?4)",
                (row, slot.network(), slot.space, slot.value),
            )?;
            self.quarantine_claim(claim, &owner)?;
        }
        for claim in object.claims.iter().filter(new) {
            self.check_claim(&object.id, claim)?;
            let slot = claim.slot();
            let inserted = self.execute(
                "INSERT INTO object_claim (object, vni, space, value) VALUES (?1, ?2, ?3, ?4)",
                (row, slot.network(), slot.space, slot.value),
            );
            explained(inserted, || self.claim_conflict(claim))?;
            self.leave_quarantine(claim, &owner)?;
        }
        Ok(())
    }

    fn put_references(&self, row: i64, references: &[Reference]) -> Result<(), StoreError> {
        self.execute("DELETE FROM object_reference WHERE object = ?1", [row])?;
        for Reference { target, on_removal } in references {
            let on_removal = on_removal.to_word();
            self.execute(
                "INSERT INTO object_reference (object, kind, key, on_removal) VALUES (?1, ?2, ?3, ?4)",
                (row, target.kind.as_str(), target.key.as_str(), on_removal),
            )?;
        }
        Ok(())
    }

    /// What no constraint of the schema says: the network's rules, and that prefixes don't overlap.
    fn check_claim(&self, id: &ObjectId, claim: &Claim) -> Result<(), StoreError> {
        if let Claim::Disjoint { space, prefix } = claim {
            let mut statement = self.transaction.prepare_cached(
                "SELECT c.value, o.kind || ' ' || o.key FROM object_claim c
                 JOIN object o ON o.id = c.object WHERE c.vni = 0 AND c.space = ?1",
            )?;
            let mut rows = statement.query([format!("disjoint/{space}")])?;
            while let Some(row) = rows.next()? {
                let other: IpNet = read::parse(row, 0)?;
                if rules::overlap(prefix, &other) {
                    let owner = format!("{} ({other})", row.get::<_, String>(1)?);
                    return Err(rules::conflict("prefix", prefix, owner).into());
                }
            }
        }
        let network = match claim.slot().vni {
            Some(vni) => read::network(&self.transaction, vni)?,
            None => None,
        };
        network.map_or(Ok(()), |network| {
            Ok(rules::check_claimed(id, claim, &network)?)
        })
    }

    fn claim_conflict(&self, claim: &Claim) -> Result<Option<RegistryError>, StoreError> {
        match claim {
            Claim::Ip { vni, ip } => self.address_conflict(*vni, *ip),
            Claim::Mac { vni, mac } => self.mac_conflict(*vni, *mac),
            Claim::Unique { .. } | Claim::Disjoint { .. } => {
                let (what, value) = claim.called();
                let owner = self.claimant(claim)?;
                Ok(owner.map(|owner| rules::conflict(what, &value, owner)))
            }
        }
    }

    /// "router-port 42" for the object that has it.
    pub(super) fn claimant(&self, claim: &Claim) -> Result<Option<String>, StoreError> {
        let slot = claim.slot();
        self.one_text(
            "SELECT o.kind || ' ' || o.key FROM object_claim c JOIN object o ON o.id = c.object
             WHERE (c.vni, c.space, c.value) = (?1, ?2, ?3)",
            (slot.network(), slot.space, slot.value),
        )
    }

    fn exists(&self, target: &ObjectId) -> Result<bool, StoreError> {
        let key = target.key.as_str();
        let found = match target.target() {
            Target::Network(vni) => self.network_name(vni)?,
            Target::Node(_) => self.one_text("SELECT name FROM node WHERE name = ?1", [key])?,
            Target::Endpoint(_) => {
                self.one_text("SELECT name FROM endpoint WHERE name = ?1", [key])?
            }
            Target::Object(ObjectId { kind, .. }) => self.one_text(
                "SELECT key FROM object WHERE kind = ?1 AND key = ?2",
                (kind.as_str(), key),
            )?,
            Target::Nothing => None,
        };
        Ok(found.is_some())
    }

    pub(super) fn remove_object(&mut self, id: &ObjectId) -> Result<(), StoreError> {
        if !self.exists(id)? {
            return Ok(());
        }
        self.release(&id.to_string(), vec![id.clone()])?;
        self.delete_object(id)
    }

    /// Removes the objects that go along with these; refuses if another one refers to any of them.
    pub(super) fn release(&mut self, called: &str, going: Vec<ObjectId>) -> Result<(), StoreError> {
        let along = going_along(called, going, |target| self.referrers(target))?;
        for id in &along {
            self.delete_object(id)?;
        }
        Ok(())
    }

    fn referrers(&self, target: &ObjectId) -> Result<Vec<(ObjectId, OnRemoval)>, StoreError> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT o.kind, o.key, r.on_removal FROM object_reference r JOIN object o ON o.id = r.object
             WHERE r.kind = ?1 AND r.key = ?2 ORDER BY o.kind, o.key",
        )?;
        let mut rows = statement.query((target.kind.as_str(), target.key.as_str()))?;
        let mut referrers = Vec::new();
        while let Some(row) = rows.next()? {
            let id = read::object_id(row)?;
            let on_removal = OnRemoval::from_word(&row.get::<_, String>(2)?);
            referrers.push((id, on_removal.unwrap_or(OnRemoval::Restrict)));
        }
        Ok(referrers)
    }

    /// The endpoints of a node that objects refer to.
    pub(super) fn referred_on_node(&self, node: &Name) -> Result<Vec<ObjectId>, StoreError> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT DISTINCT e.name FROM object_reference r JOIN endpoint e ON e.name = r.key
             WHERE r.kind = 'endpoint' AND e.node = (SELECT id FROM node WHERE name = ?1)",
        )?;
        let mut rows = statement.query([node.as_str()])?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            endpoints.push(ObjectId::of_endpoint(&read::parse(row, 0)?));
        }
        Ok(endpoints)
    }

    /// Also one that can't be read: then what it claimed is in nobody's quarantine.
    fn delete_object(&mut self, id: &ObjectId) -> Result<(), StoreError> {
        match read::object(&self.transaction, id) {
            Ok(object) => {
                for claim in object.map(|object| object.claims).unwrap_or_default() {
                    self.quarantine_claim(&claim, &id.to_word())?;
                }
            }
            Err(failure) => drop(failure.of_row()?),
        }
        let key = (id.kind.as_str(), id.key.as_str());
        self.execute("DELETE FROM object WHERE kind = ?1 AND key = ?2", key)?;
        self.is_noop = false;
        self.execute(
            "INSERT OR REPLACE INTO object_tombstone (kind, key, revision) VALUES (?1, ?2, ?3)",
            (key.0, key.1, self.revision),
        )?;
        Ok(())
    }

    /// Keeps what an object gives up from others, for as long as the claim says.
    fn quarantine_claim(&mut self, claim: &Claim, owner: &str) -> Result<(), StoreError> {
        let time = match claim {
            Claim::Ip { .. } | Claim::Mac { .. } => self.quarantine,
            Claim::Unique { quarantine_s, .. } => Duration::from_secs((*quarantine_s).into()),
            Claim::Disjoint { .. } => Duration::ZERO,
        };
        if time.is_zero() {
            return Ok(());
        }
        self.has_quarantine = true;
        let (until, slot) = (self.now.after(time), claim.slot());
        self.execute(
            &format!(
                "INSERT OR REPLACE INTO {} (vni, kind, value, owner, revision, boot, until)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                quarantine_of(claim)
            ),
            (
                slot.network(),
                slot.space,
                slot.value,
                owner,
                self.revision,
                until.boot,
                until.ms,
            ),
        )?;
        Ok(())
    }

    /// Refuses what somebody else had until a moment ago, unless it was given up in this very commit. What
    /// `owner` may have is no longer in quarantine.
    pub(super) fn leave_quarantine(&self, claim: &Claim, owner: &str) -> Result<(), StoreError> {
        if !self.has_quarantine {
            return Ok(());
        }
        let (table, slot) = (quarantine_of(claim), claim.slot());
        let key = (slot.network(), &slot.space, &slot.value);
        let barrier = self
            .transaction
            .prepare_cached(&format!(
                "SELECT owner, until FROM {table} WHERE (vni, kind, value) = (?1, ?2, ?3)
                 AND owner <> ?4 AND revision <> ?5 AND boot = ?6 AND until > ?7"
            ))?
            .query_row(
                (
                    key.0,
                    key.1,
                    key.2,
                    owner,
                    self.revision,
                    self.now.boot,
                    self.now.ms,
                ),
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)),
            )
            .optional()?;
        if let Some((owner, until)) = barrier {
            let left = u64::try_from(until - self.now.ms).unwrap_or_default();
            let (what, value) = claim.called();
            return Err(RegistryError::Quarantined {
                what,
                value,
                owner: rules::called(&owner),
                for_at_most: Duration::from_millis(left),
            }
            .into());
        }
        self.execute(
            &format!("DELETE FROM {table} WHERE (vni, kind, value) = (?1, ?2, ?3)"),
            key,
        )?;
        Ok(())
    }
}

/// The table that a claim is in while it is in quarantine.
const fn quarantine_of(claim: &Claim) -> &'static str {
    match claim {
        Claim::Ip { .. } | Claim::Mac { .. } => "quarantine",
        Claim::Unique { .. } | Claim::Disjoint { .. } => "claim_quarantine",
    }
}
