//! Whether claims, indexes and leases agree with the rows, at one revision.
//!
//! A claim or an index entry that no row stands behind is removed, and one that is missing is made,
//! if a repair is wanted; each by a transaction that does nothing if the key has changed since. Where
//! two rows want the same, or a claim names another row than the one that wants it, somebody has to
//! decide.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};

use super::{
    super::integrity::{Findings, Repair},
    keys::{self, State},
    members::{Channel, Members, PAGE_REQUEST, REQUEST},
    read::{self, from_revision, to_revision},
    store_error::StoreError,
    values::{self, EndpointValue, NodeValue},
};
use crate::model::{Network, Object, ObjectId, Reference, Revision, Vni};

/// Keys of one page.
const LISTED: i64 = 10_000;

/// Looks at every key.
pub(super) async fn audit(members: &Members, repair: bool) -> Result<Findings, StoreError> {
    let (present, _) = read::present(members).await?;
    let mut audit = Audit {
        members,
        revision: present.revision,
        repair,
        expected: BTreeMap::new(),
        addresses: BTreeMap::new(),
        unreadable: BTreeSet::new(),
        findings: Findings::default(),
    };
    audit.names().await?;
    audit.networks().await?;
    audit.leases().await?;
    Ok(audit.findings)
}

struct Audit<'a> {
    members: &'a Members,
    revision: Revision,
    repair: bool,
    /// Claims and index entries that rows want, with their values, until they are found.
    expected: BTreeMap<String, String>,
    /// The same of objects' addresses, by network.
    addresses: BTreeMap<Vni, Vec<(String, String)>>,
    /// Objects that can't be read: what they claim a newer binary may know.
    unreadable: BTreeSet<ObjectId>,
    findings: Findings,
}

impl Audit<'_> {
    /// Claims that are unique in the whole registry: names, VTEPs, and the index by node.
    async fn names(&mut self) -> Result<(), StoreError> {
        let mut networks = BTreeSet::new();
        self.rows(keys::NETWORKS, |audit, kv| {
            let network: Network = values::read(kv.key(), kv.value())?;
            networks.insert(network.vni);
            audit.expect(keys::network_name(&network.name), &network.vni);
            Ok(())
        })
        .await?;
        self.rows(keys::NODES, |audit, kv| {
            let Some(State::Node(name)) = keys::parse(kv.key()) else {
                return Ok(());
            };
            let node: NodeValue = values::read(kv.key(), kv.value())?;
            audit.expect(keys::vtep(node.vtep.ip.ip()), &name);
            Ok(())
        })
        .await?;
        self.rows(keys::ENDPOINTS, |audit, kv| {
            let Some(State::Endpoint(vni, name)) = keys::parse(kv.key()) else {
                return Ok(());
            };
            let endpoint: EndpointValue = values::read(kv.key(), kv.value())?;
            // A reading goes by networks and does not bring it.
            if !networks.contains(&vni) {
                let what = format!("endpoint {name} is in network {vni}, which does not exist");
                audit.findings.add(Repair::ByHand, what);
            }
            audit.expect(keys::endpoint_name(&name), &vni);
            audit.expect(keys::on_node(&endpoint.node, vni, &name), &"");
            Ok(())
        })
        .await?;
        self.rows(keys::OBJECTS, |audit, kv| {
            let object = read::object(kv);
            match &object {
                Ok(object) => audit.expect_of_object(object),
                Err(_) => {
                    if let Some(State::Object(id)) = keys::parse(kv.key()) {
                        audit.unreadable.insert(id);
                    }
                }
            }
            object.map(drop)
        })
        .await?;
        for kind in [
            "network-name",
            "vtep",
            "endpoint-name",
            "on-node",
            "unique",
            "disjoint",
            "reference",
        ] {
            self.claims(&format!("{}{kind}/", keys::CLAIMS)).await?;
        }
        self.missing().await
    }

    fn expect_of_object(&mut self, object: &Object) {
        let owner = object.id.to_word();
        for claim in &object.claims {
            let key = keys::claim(claim);
            match claim.slot().vni {
                Some(vni) => {
                    let addresses = self.addresses.entry(vni).or_default();
                    addresses.push((key, owner.clone()));
                }
                None => self.expect(key, &owner),
            }
        }
        for Reference { target, on_removal } in &object.references {
            self.expect(keys::reference(target, *on_removal, &object.id), &"");
        }
    }

    /// Claims within each network.
    async fn networks(&mut self) -> Result<(), StoreError> {
        let mut networks: BTreeSet<Vni> = self.addresses.keys().copied().collect();
        let prefixes = ["mac", "ip"].map(|kind| format!("{}{kind}/", keys::CLAIMS));
        for prefix in [keys::ENDPOINTS, &prefixes[0], &prefixes[1]] {
            networks.extend(self.networks_under(prefix).await?);
        }
        for vni in networks {
            self.rows(&keys::endpoints(vni), |audit, kv| {
                let Some(State::Endpoint(vni, name)) = keys::parse(kv.key()) else {
                    return Ok(());
                };
                let endpoint: EndpointValue = values::read(kv.key(), kv.value())?;
                audit.expect(keys::mac(vni, endpoint.mac), &name);
                for address in &endpoint.addresses {
                    audit.expect(keys::ip(vni, address.addr()), &name);
                }
                Ok(())
            })
            .await?;
            for (key, owner) in self.addresses.remove(&vni).unwrap_or_default() {
                self.expect(key, &owner);
            }
            for prefix in &prefixes {
                self.claims(&format!("{prefix}{:08}/", vni.get())).await?;
            }
            self.missing().await?;
        }
        Ok(())
    }

    /// The networks that have keys under a prefix, by one small question each.
    async fn networks_under(&self, prefix: &str) -> Result<BTreeSet<Vni>, StoreError> {
        let mut networks = BTreeSet::new();
        let mut from = prefix.as_bytes().to_vec();
        let end = keys::end_of(prefix);
        loop {
            let (kvs, _) = self.page(&from, &end, 1).await?;
            let Some(kv) = kvs.first() else {
                return Ok(networks);
            };
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            let number = key
                .strip_prefix(prefix)
                .and_then(|rest| rest.split('/').next());
            let Some(number) = number else {
                return Ok(networks);
            };
            from = keys::end_of(&format!("{prefix}{number}/"));
            // Anything else is not ours.
            networks.extend(number.parse::<Vni>().ok());
        }
    }

    /// What lives on a lease and has none would stay for ever.
    async fn leases(&mut self) -> Result<(), StoreError> {
        for prefix in [keys::ALIVE, keys::QUARANTINE, keys::QUESTIONS] {
            let mut endless = Vec::new();
            self.rows(prefix, |_, kv| {
                if kv.lease() == 0 {
                    endless.push((text(kv.key()), to_revision(kv.mod_revision())));
                }
                Ok(())
            })
            .await?;
            for (key, revision) in endless {
                let what = format!("{key} is on no lease: it would never expire");
                self.remove(&key, revision, what).await?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, key: String, value: &dyn std::fmt::Display) {
        let value = value.to_string();
        if let Some(other) = self.expected.get(&key) {
            let what = format!("two rows claim {key}: {other} and {value}");
            self.findings.add(Repair::ByHand, what);
        } else {
            self.expected.insert(key, value);
        }
    }

    /// Compares the claims with those that are expected, which are forgotten.
    async fn claims(&mut self, prefix: &str) -> Result<(), StoreError> {
        let mut orphans = HashMap::new();
        self.rows(prefix, |audit, kv| {
            let (key, value) = (text(kv.key()), text(kv.value()));
            match audit.expected.remove(&key) {
                Some(expected) if expected == value => {}
                Some(expected) => audit.findings.add(
                    Repair::ByHand,
                    format!("{key} says {value:?}, the rows say {expected:?}"),
                ),
                None if audit.is_unreadable(&key, kv) => {}
                None => {
                    orphans.insert(key, to_revision(kv.mod_revision()));
                }
            }
            Ok(())
        })
        .await?;
        for (key, revision) in orphans {
            let what = format!("{key} is claimed by nobody");
            self.remove(&key, revision, what).await?;
        }
        Ok(())
    }

    /// Whether a claim or an index entry is of an object that can't be read.
    fn is_unreadable(&self, key: &str, kv: &KeyValue) -> bool {
        let referrer = keys::referrer(key).map(|(id, _)| id);
        let owner = referrer.or_else(|| values::owner(kv.value()));
        owner.is_some_and(|id| self.unreadable.contains(&id))
    }

    /// Claims that are expected and were not found.
    async fn missing(&mut self) -> Result<(), StoreError> {
        for (key, value) in std::mem::take(&mut self.expected) {
            let mut done = Repair::Possible;
            if self.repair {
                let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
                let put = TxnOp::put(key.as_str(), value.as_str(), None);
                done = self.mend(absent, put).await?;
            }
            self.findings.add(
                done,
                format!("{key} is missing, the rows want it to say {value:?}"),
            );
        }
        Ok(())
    }

    async fn remove(
        &mut self,
        key: &str,
        revision: Revision,
        what: String,
    ) -> Result<(), StoreError> {
        let mut done = Repair::Possible;
        if self.repair {
            let same = Compare::mod_revision(key, CompareOp::Equal, from_revision(revision));
            done = self.mend(same, TxnOp::delete(key, None)).await?;
        }
        self.findings.add(done, what);
        Ok(())
    }

    async fn mend(&self, guard: Compare, op: TxnOp) -> Result<Repair, StoreError> {
        let mended = self
            .members
            .call(REQUEST, |mut channel: Channel| {
                let txn = Txn::new().when([guard.clone()]).and_then([op.clone()]);
                async move { channel.kv.txn(txn).await }
            })
            .await?;
        Ok(if mended.succeeded() {
            Repair::Done
        } else {
            // It has changed since: the next check looks again.
            Repair::Possible
        })
    }

    /// Shows every row under a prefix to `look`; one that makes no sense is a finding.
    async fn rows(
        &mut self,
        prefix: &str,
        mut look: impl FnMut(&mut Self, &KeyValue) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let end = keys::end_of(prefix);
        let mut from = prefix.as_bytes().to_vec();
        loop {
            let (kvs, more) = self.page(&from, &end, LISTED).await?;
            for kv in &kvs {
                match look(self, kv) {
                    Err(StoreError::Row(what)) => self.findings.add(Repair::ByHand, what),
                    looked => looked?,
                }
            }
            match kvs.last() {
                Some(last) if more => from = keys::after(last.key()),
                _ => return Ok(()),
            }
        }
    }

    async fn page(
        &self,
        from: &[u8],
        end: &[u8],
        limit: i64,
    ) -> Result<(Vec<KeyValue>, bool), StoreError> {
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(limit)
            .with_revision(from_revision(self.revision));
        let mut response = self
            .members
            .call(PAGE_REQUEST, |mut channel: Channel| {
                let (from, options) = (from.to_vec(), options.clone());
                async move { channel.kv.get(from, Some(options)).await }
            })
            .await?;
        Ok((response.take_kvs(), response.more()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
