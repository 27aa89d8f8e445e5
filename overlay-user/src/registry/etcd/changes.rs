//! What each change reads and writes: the rules of the model in terms of keys.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    super::{RegistryError, rules},
    keys,
    store_error::StoreError,
    txn_plan::{PlanError, QuarantineHit, TxnPlanner},
    values::{self, EndpointValue, NodeValue},
};
use crate::model::{
    self, Attachment, Change, Endpoint, Mac, Name, Network, NetworkSettings, Node, ObjectId,
    Revision, Vni,
};

mod claim;
mod objects;

use claim::Claim;

/// Plans a change.
pub(super) fn apply(
    planner: &mut TxnPlanner<'_>,
    change: &Change,
    is_kept: bool,
) -> Result<(), PlanError> {
    let mut work = Work {
        planner,
        is_quarantined: is_kept,
        silent: None,
    };
    match change {
        Change::CreateNetwork(network) => work.create_network(network),
        Change::SetNetwork(vni, settings) => work.set_network(*vni, *settings),
        Change::RemoveNetwork(vni) => work.remove_network(*vni),
        Change::PutNode(node) => work.put_node(node),
        Change::RemoveNode(name) => work.remove_node(name, false),
        Change::RemoveSilentNode(name) => work.remove_node(name, true),
        Change::ReleaseVtep(name) => work.release_vtep(name),
        Change::RemoveEmptyNode(name) => work.remove_empty_node(name),
        Change::CreateEndpoint(endpoint) => work.create_endpoint(endpoint),
        Change::MoveEndpoint {
            name,
            node,
            attachment,
        } => work.move_endpoint(name, node, attachment.as_ref()),
        Change::ReaddressEndpoint {
            name,
            mac,
            addresses,
            generation,
        } => work.readdress_endpoint(name, *mac, addresses, *generation),
        Change::RemoveEndpoint(name) => work.remove_endpoint(name, None),
        Change::RemoveGeneration(name, generation) => work.remove_endpoint(name, Some(*generation)),
        Change::PutObject(object) => work.put_object(object),
        Change::RemoveObject(id) => work.remove_object(id),
    }?;
    work.planner.end_step()
}

struct Work<'a, 'b> {
    planner: &'a mut TxnPlanner<'b>,
    /// Whether addresses that are given up stay in quarantine.
    is_quarantined: bool,
    /// A node whose session must not live while this is carried out.
    silent: Option<Name>,
}

impl Work<'_, '_> {
    fn create_network(&mut self, network: &Network) -> Result<(), PlanError> {
        rules::check_network(network)?;
        let (vni, name) = (network.vni, &network.name);
        let (key, claim) = (keys::network(vni), keys::network_name(name));
        self.planner.need(&[key.clone(), claim.clone()])?;
        if let Some(value) = self.planner.get(&key)? {
            let owner: Network = values::read(key.as_bytes(), &value)?;
            return Err(rules::conflict("VNI", &vni, format!("network {}", owner.name)).into());
        }
        if let Some(value) = self.planner.get(&claim)? {
            let owner: Vni = values::word(claim.as_bytes(), &value)?;
            let owner = format!("network {name} (VNI {owner})");
            return Err(rules::conflict("network name", name, owner).into());
        }
        self.planner.put(key, values::write(network)?);
        self.planner.put(claim, vni.to_string());
        Ok(())
    }

    fn set_network(&mut self, vni: Vni, settings: NetworkSettings) -> Result<(), PlanError> {
        let key = keys::network(vni);
        let Some(value) = self.planner.get(&key)? else {
            return Err(rules::missing_network(vni).into());
        };
        let previous: Network = values::read(key.as_bytes(), &value)?;
        let network = previous.clone().with(settings);
        if network != previous {
            let value = values::rewrite(&value, &previous, &network)?;
            self.planner.put(key, value);
        }
        Ok(())
    }

    fn remove_network(&mut self, vni: Vni) -> Result<(), PlanError> {
        let key = keys::network(vni);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(());
        };
        let network: Network = values::read(key.as_bytes(), &value)?;
        let called = format!("network {} (VNI {vni})", network.name);
        self.release(&called, &[ObjectId::of_network(vni)])?;
        self.watch_referrers(&ObjectId::of_network(vni))?;
        self.planner.get(&key)?;
        let endpoints = self.planner.list(&keys::endpoints(vni))?;
        if !endpoints.is_empty() {
            let examples: Vec<String> = endpoints
                .iter()
                .filter_map(|key| Some(key.rsplit('/').next()?.to_owned()))
                .take(2)
                .collect();
            let count = endpoints.len() as u64;
            let name = network.name.as_str();
            return Err(rules::network_in_use(name, vni, count, &examples).into());
        }
        self.planner.delete(key);
        self.planner.delete(keys::network_name(&network.name));
        Ok(())
    }

    fn put_node(&mut self, node: &Node) -> Result<(), PlanError> {
        rules::check_node(node)?;
        let ip = node.vtep.ip.ip();
        let (key, claim) = (keys::node(&node.name), keys::vtep(ip));
        self.planner.need(&[key.clone(), claim.clone()])?;
        // One that can't be read is replaced: its agent would never start again.
        let previous = self.planner.get(&key)?;
        let previous =
            previous.and_then(|value| values::read::<NodeValue>(key.as_bytes(), &value).ok());
        if let Some(value) = self.planner.get(&claim)? {
            let owner: Name = values::word(claim.as_bytes(), &value)?;
            if owner != node.name {
                return Err(self.vtep_conflict(ip, &owner)?.into());
            }
        }
        self.note_seen(node)?;
        let value = NodeValue::from(node);
        if previous.as_ref() == Some(&value) {
            return Ok(());
        }
        if let Some(previous) = previous
            && previous.vtep.ip.ip() != ip
        {
            self.planner.delete(keys::vtep(previous.vtep.ip.ip()));
        }
        self.planner.put(key, values::write(&value)?);
        self.planner.put(claim, node.name.as_str());
        Ok(())
    }

    /// When the node was last seen, if the change brings that and it is news.
    fn note_seen(&mut self, node: &Node) -> Result<(), PlanError> {
        let since = node
            .last_seen
            .and_then(|seen| seen.duration_since(std::time::UNIX_EPOCH).ok());
        let Some(since) = since else {
            return Ok(());
        };
        let key = keys::seen(&node.name);
        let known: u128 = match self.planner.peek(&key)? {
            Some(row) => values::word(key.as_bytes(), &row.value)?,
            None => 0,
        };
        if since.as_millis() > known {
            self.planner.put(key, since.as_millis().to_string());
        }
        Ok(())
    }

    fn vtep_conflict(&mut self, ip: IpAddr, owner: &Name) -> Result<RegistryError, PlanError> {
        let key = keys::node(owner);
        let is_agent = match self.planner.get(&key)? {
            Some(value) => values::read::<NodeValue>(key.as_bytes(), &value)?.agent,
            None => true,
        };
        let kind = if is_agent {
            ""
        } else {
            " (imported, no agent)"
        };
        Ok(rules::conflict("VTEP", &ip, format!("node {owner}{kind}")))
    }

    fn release_vtep(&mut self, name: &Name) -> Result<(), PlanError> {
        self.check_silent(name)?;
        let key = keys::node(name);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(());
        };
        let node: NodeValue = values::read(key.as_bytes(), &value)?;
        self.put_node(&node.into_node(name.clone()).without_address())
    }

    /// Refuses a node whose session lives; the transaction depends on there being none.
    fn check_silent(&mut self, name: &Name) -> Result<(), PlanError> {
        if self.planner.get(&keys::alive(name))?.is_none() {
            return Ok(());
        }
        let key = keys::node(name);
        let vtep = match self.planner.get(&key)? {
            Some(value) => Some(values::read::<NodeValue>(key.as_bytes(), &value)?.vtep),
            None => None,
        };
        Err(rules::node_alive(name, vtep).into())
    }

    /// Makes the step depend on the node's silence, where that is wanted.
    fn stay_silent(&mut self) -> Result<(), PlanError> {
        match self.silent.clone() {
            Some(name) => self.check_silent(&name),
            None => Ok(()),
        }
    }

    /// The endpoints one by one, then the node itself: it may take several transactions, and if it must
    /// be `silent`, each of them depends on that.
    fn remove_node(&mut self, name: &Name, silent: bool) -> Result<(), PlanError> {
        self.silent = silent.then(|| name.clone());
        self.stay_silent()?;
        let prefix = keys::all_on_node(name);
        let endpoints: Vec<(Vni, Name)> = self
            .planner
            .list(&prefix)?
            .iter()
            .filter_map(|key| keys::vni_and_name(key))
            .collect();
        let rows: Vec<String> = endpoints
            .iter()
            .map(|(vni, name)| keys::endpoint(*vni, name))
            .collect();
        self.planner.need(&rows)?;
        let of = |(_, endpoint): &(Vni, Name)| ObjectId::of_endpoint(endpoint);
        let mut going: Vec<ObjectId> = endpoints.iter().map(of).collect();
        going.push(ObjectId::of_node(name));
        self.release(&format!("node {name}"), &going)?;
        for (vni, endpoint) in endpoints {
            self.take_endpoint(vni, &endpoint)?;
            self.planner.end_step()?;
            self.stay_silent()?;
        }
        self.planner.list(&prefix)?;
        self.delete_node(name)
    }

    fn remove_empty_node(&mut self, name: &Name) -> Result<(), PlanError> {
        if !self.planner.list(&keys::all_on_node(name))?.is_empty() {
            return Ok(());
        }
        match self.release(&format!("node {name}"), &[ObjectId::of_node(name)]) {
            // An object keeps it, as an endpoint does.
            Err(PlanError::StoreError(StoreError::Said(RegistryError::Refused(_)))) => {
                return Ok(());
            }
            released => released?,
        }
        self.planner.list(&keys::all_on_node(name))?;
        self.delete_node(name)
    }

    fn delete_node(&mut self, name: &Name) -> Result<(), PlanError> {
        let key = keys::node(name);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(());
        };
        let node: NodeValue = values::read(key.as_bytes(), &value)?;
        self.watch_referrers(&ObjectId::of_node(name))?;
        self.planner.delete(key);
        self.planner.delete(keys::vtep(node.vtep.ip.ip()));
        self.planner.delete(keys::alive(name));
        self.planner.delete(keys::seen(name));
        self.planner.delete(keys::report(None, name));
        Ok(())
    }

    fn create_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), PlanError> {
        let Endpoint { name, vni, mac, .. } = endpoint;
        let network_key = keys::network(*vni);
        let node_key = keys::node(&endpoint.node);
        let name_key = keys::endpoint_name(name);
        let mut needed = vec![network_key.clone(), node_key.clone(), name_key.clone()];
        let claims: Vec<Claim> = claims(*vni, *mac, endpoint.ips()).collect();
        for claim in &claims {
            needed.extend(claim.keys());
        }
        self.planner.need(&needed)?;

        let Some(value) = self.planner.get(&network_key)? else {
            return Err(rules::missing_network(*vni).into());
        };
        let network: Network = values::read(network_key.as_bytes(), &value)?;
        rules::check_addresses(endpoint, &network)?;
        if self.planner.get(&node_key)?.is_none() {
            return Err(rules::missing_node(&endpoint.node).into());
        }
        if let Some(value) = self.planner.get(&name_key)? {
            let vni: Vni = values::word(name_key.as_bytes(), &value)?;
            let owner = self.owner(vni, name)?;
            return Err(rules::conflict("endpoint name", name, owner).into());
        }
        self.take_claims(*vni, name, claims)?;
        self.planner.put(name_key, vni.to_string());
        self.planner
            .put(keys::on_node(&endpoint.node, *vni, name), "");
        self.planner.put(
            keys::endpoint(*vni, name),
            values::write(&EndpointValue::from(endpoint))?,
        );
        Ok(())
    }

    /// Takes addresses that nobody has.
    fn take_claims(&mut self, vni: Vni, name: &Name, claims: Vec<Claim>) -> Result<(), PlanError> {
        for claim in &claims {
            if let Some(value) = self.planner.get(&claim.key)? {
                let owner = self.claimant(Some(vni), &claim.key, &value)?;
                return Err(rules::conflict(claim.what, &claim.value, owner).into());
            }
        }
        for claim in claims {
            self.leave_quarantine(&claim, name.as_str())?;
            self.planner.put(claim.key, name.as_str());
        }
        Ok(())
    }

    fn readdress_endpoint(
        &mut self,
        name: &Name,
        mac: Mac,
        addresses: &[IpNet],
        generation: Revision,
    ) -> Result<(), PlanError> {
        let name_key = keys::endpoint_name(name);
        let Some(value) = self.planner.get(&name_key)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        let vni: Vni = values::word(name_key.as_bytes(), &value)?;
        let (key, network_key) = (keys::endpoint(vni, name), keys::network(vni));
        self.planner.need(&[key.clone(), network_key.clone()])?;
        let Some((previous, written)) = self.written_endpoint(vni, name)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        if self.planner.generation(&key) != Some(generation) {
            return Err(rules::changed_meanwhile(name).into());
        }
        let value = EndpointValue {
            mac,
            addresses: addresses.to_vec(),
            ..previous.clone()
        };
        if value == previous {
            return Ok(());
        }
        let Some(network) = self.planner.get(&network_key)? else {
            return Err(rules::missing_network(vni).into());
        };
        let network: Network = values::read(network_key.as_bytes(), &network)?;
        let endpoint = value.clone().into_endpoint(vni, name.clone(), generation);
        rules::check_addresses(&endpoint, &network)?;
        let of = |value: &EndpointValue| -> Vec<Claim> {
            let ips: Vec<IpAddr> = value.addresses.iter().map(IpNet::addr).collect();
            claims(vni, value.mac, ips.into_iter()).collect()
        };
        let has = |all: &[Claim], claim: &Claim| all.iter().any(|other| other.key == claim.key);
        let (mut new, mut old) = (of(&value), of(&previous));
        let kept: Vec<Claim> = of(&value);
        new.retain(|claim| !has(&old, claim));
        old.retain(|claim| !has(&kept, claim));
        let needed = new.iter().flat_map(Claim::keys);
        self.planner.need(&needed.collect::<Vec<_>>())?;
        self.take_claims(vni, name, new)?;
        for claim in old {
            self.give_up(claim, name.as_str());
        }
        self.planner
            .put(key, values::rewrite(&written, &previous, &value)?);
        Ok(())
    }

    /// Refuses what somebody else had until a moment ago, unless it was given up in this very commit. What
    /// `name` may have is no longer in quarantine.
    fn leave_quarantine(&mut self, claim: &Claim, name: &str) -> Result<(), PlanError> {
        let Some(key) = &claim.quarantine else {
            return Ok(());
        };
        let Some(value) = self.planner.get(key)? else {
            return Ok(());
        };
        let owner: String = values::word(key.as_bytes(), &value)?;
        if owner != name && !self.planner.has_given_up(key) {
            let lease = self.planner.peek(key)?.map_or(0, |row| row.lease);
            return Err(PlanError::Quarantined(QuarantineHit {
                what: claim.what,
                value: claim.value.clone(),
                owner,
                lease,
            }));
        }
        self.planner.delete(key.clone());
        Ok(())
    }

    fn move_endpoint(
        &mut self,
        name: &Name,
        node: &Name,
        attachment: Option<&Attachment>,
    ) -> Result<(), PlanError> {
        let (name_key, node_key) = (keys::endpoint_name(name), keys::node(node));
        self.planner.need(&[name_key.clone(), node_key.clone()])?;
        let Some(value) = self.planner.get(&name_key)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        let vni: Vni = values::word(name_key.as_bytes(), &value)?;
        let Some((previous, written)) = self.written_endpoint(vni, name)? else {
            return Err(rules::missing_endpoint(name).into());
        };
        if self.planner.get(&node_key)?.is_none() {
            return Err(rules::missing_node(node).into());
        }
        let endpoint = EndpointValue {
            node: node.clone(),
            attachment: attachment.cloned(),
            ..previous.clone()
        };
        if endpoint == previous {
            return Ok(());
        }
        if endpoint.node != previous.node {
            self.planner
                .delete(keys::on_node(&previous.node, vni, name));
            self.planner.put(keys::on_node(node, vni, name), "");
        }
        let value = values::rewrite(&written, &previous, &endpoint)?;
        self.planner.put(keys::endpoint(vni, name), value);
        Ok(())
    }

    fn remove_endpoint(
        &mut self,
        name: &Name,
        generation: Option<Revision>,
    ) -> Result<(), PlanError> {
        let key = keys::endpoint_name(name);
        let Some(value) = self.planner.get(&key)? else {
            return Ok(());
        };
        let vni = values::word(key.as_bytes(), &value)?;
        if let Some(generation) = generation {
            let key = keys::endpoint(vni, name);
            self.planner.get(&key)?;
            // What this commit itself has written is of no generation yet.
            if self.planner.generation(&key) != Some(generation) {
                return Ok(());
            }
        }
        self.take_endpoint(vni, name)
    }

    /// Removes an endpoint with all that speaks of it.
    fn take_endpoint(&mut self, vni: Vni, name: &Name) -> Result<(), PlanError> {
        let called = format!("endpoint {name}");
        let target = ObjectId::of_endpoint(name);
        self.release(&called, std::slice::from_ref(&target))?;
        self.watch_referrers(&target)?;
        let Some(endpoint) = self.endpoint(vni, name)? else {
            return Ok(());
        };
        let ips = endpoint.addresses.iter().map(IpNet::addr);
        for claim in claims(vni, endpoint.mac, ips) {
            self.give_up(claim, name.as_str());
        }
        self.planner.delete(keys::endpoint(vni, name));
        self.planner.delete(keys::endpoint_name(name));
        self.planner
            .delete(keys::on_node(&endpoint.node, vni, name));
        Ok(())
    }

    fn endpoint(&mut self, vni: Vni, name: &Name) -> Result<Option<EndpointValue>, PlanError> {
        let written = self.written_endpoint(vni, name)?;
        Ok(written.map(|(endpoint, _)| endpoint))
    }

    /// The same with its value as it is written.
    fn written_endpoint(
        &mut self,
        vni: Vni,
        name: &Name,
    ) -> Result<Option<(EndpointValue, Vec<u8>)>, PlanError> {
        let key = keys::endpoint(vni, name);
        match self.planner.get(&key)? {
            Some(value) => Ok(Some((values::read(key.as_bytes(), &value)?, value))),
            None => Ok(None),
        }
    }

    /// Frees what `owner` had, after its quarantine.
    fn give_up(&mut self, claim: Claim, owner: &str) {
        self.planner.delete(claim.key);
        let rests = match claim.time {
            None => self.is_quarantined,
            Some(time) => !time.is_zero(),
        };
        if let Some(key) = claim.quarantine.filter(|_| rests) {
            self.planner.quarantine(key, owner, claim.time);
        }
    }

    /// The owner of a claim, from its value, for example "endpoint blue (node h1)".
    fn claimant(&mut self, vni: Option<Vni>, key: &str, value: &[u8]) -> Result<String, PlanError> {
        match (values::owner(value), vni) {
            (Some(id), _) => Ok(id.to_string()),
            (None, Some(vni)) => {
                let name = values::word(key.as_bytes(), value)?;
                self.owner(vni, &name)
            }
            (None, None) => Ok(values::word(key.as_bytes(), value)?),
        }
    }

    /// "endpoint blue (node h1)".
    fn owner(&mut self, vni: Vni, name: &Name) -> Result<String, PlanError> {
        Ok(match self.endpoint(vni, name)? {
            Some(endpoint) => format!("endpoint {name} (node {})", endpoint.node),
            None => format!("endpoint {name}, which is gone: see `overlay registry check`"),
        })
    }
}

/// What an endpoint claims. Addresses first: the MAC may follow from one, and then nobody has asked for
/// it.
fn claims(vni: Vni, mac: Mac, ips: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = Claim> {
    let ips = ips.map(move |ip| model::Claim::Ip { vni, ip });
    ips.chain([model::Claim::Mac { vni, mac }])
        .map(|claim| Claim::of(&claim))
}
