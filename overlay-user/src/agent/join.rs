//! How this node comes into the registry, also where another node has its VTEP's address.
//!
//! Hosts get their addresses from elsewhere, so a claim may be out of date: the host that had the address
//! is dead, or has another one by now. What proves it is the holder's own word, or its silence: each
//! agent gives its previous address up before it waits for another's, and a node that has not been heard
//! of for the grace time loses its address to one that has it. See docs/adr/0029-hosts.md.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use overlay_ebpf::abi::ABI_VERSION;
use tokio::time::Instant;

use crate::{
    config::Config,
    model::{Change, Name, Network, NetworkRef, Node, Session, Vni, Vtep, free_vni},
    registry::{Registry, RegistryError, Scope},
};

/// How long a first start waits for a living node to give an address up; the service tries again.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// The VTEP's address is another node's, and may soon be no more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Claimed(String);

/// Enters this node into the registry.
pub(super) struct Join<'a> {
    config: &'a Config,
    node: Node,
    session: &'a Session,
    /// No agent of this instance ran here before.
    is_first: bool,
    begun: Instant,
    /// Which node has the address, and since when it has been silent, by this host's clock.
    silent: Mutex<Option<(Name, Instant)>>,
}

/// What to do about who has the address.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is taken over.
    Take,
    /// It may be free soon: why it is not yet.
    Wait(String),
    /// It stays another's.
    Refuse,
}

impl<'a> Join<'a> {
    /// To be entered is the node of this configuration with `vtep` and its underlay's MTU in bytes.
    pub(super) fn new(
        config: &'a Config,
        vtep: Vtep,
        mtu: u32,
        session: &'a Session,
        is_first: bool,
    ) -> Self {
        Self {
            config,
            node: Node {
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                abi: Some(ABI_VERSION),
                mtu: Some(mtu),
                ..Node::new(config.node.clone(), vtep, true)
            },
            session,
            is_first,
            begun: Instant::now(),
            silent: Mutex::default(),
        }
    }

    /// Enters the node and the networks that it was told of, all or nothing. [`Claimed`]: worth another
    /// try.
    pub(super) async fn attempt(&self, registry: &dyn Registry) -> anyhow::Result<Node> {
        let node = &self.node;
        // Before anything of the node is changed: it may be another host's.
        registry.heartbeat(&node.name, self.session).await?;
        loop {
            let reading = registry.read(Scope::Resident(node.name.clone())).await?;
            let mut known: BTreeSet<Vni> = reading.networks.iter().map(|known| known.vni).collect();
            // One that can't be read is there all the same.
            known.extend(reading.rejected.networks());
            let is_known =
                |name: &str| reading.networks.iter().any(|net| net.name.as_str() == name);
            let mut changes = vec![Change::PutNode(node.clone())];
            for wanted in &self.config.vnis {
                let network = match wanted {
                    NetworkRef::Vni(vni) if known.contains(vni) => continue,
                    NetworkRef::Vni(vni) => self.network(format!("vni-{vni}").parse()?, *vni),
                    NetworkRef::Name(_)
                        if reading
                            .networks
                            .iter()
                            .any(|net| wanted.is(net.vni, &net.name)) =>
                    {
                        continue;
                    }
                    NetworkRef::Name(name) => {
                        let vni = free_vni(&known).context("no VNI is free")?;
                        self.network(name.clone(), vni)
                    }
                };
                known.insert(network.vni);
                changes.push(Change::CreateNetwork(network));
            }
            match registry.commit(&changes).await {
                // Another agent made the same network just now: then it exists, which is the point.
                Err(RegistryError::Conflict { what: "VNI", .. }) => {}
                Err(RegistryError::Conflict {
                    what: "network name",
                    value,
                    ..
                }) if self.is_wanted(&value) && !is_known(&value) => {}
                Err(conflict @ RegistryError::Conflict { what: "VTEP", .. }) => {
                    self.claim(registry, conflict).await?;
                }
                committed => {
                    committed?;
                    registry.heartbeat(&node.name, self.session).await?;
                    return Ok(node.clone());
                }
            }
        }
    }

    /// A network that is to be there. With a gateway it has the gateway's subnet, of which endpoints get addresses.
    fn network(&self, name: Name, vni: Vni) -> Network {
        let gateway = self.config.gateway.into_iter();
        Network {
            subnets: gateway.map(|gateway| gateway.trunc().into()).collect(),
            ..Network::new(name, vni)
        }
    }

    /// Whether a network of this name is to be there.
    fn is_wanted(&self, name: &str) -> bool {
        let mut wanted = self.config.vnis.iter();
        wanted.any(|wanted| matches!(wanted, NetworkRef::Name(wanted) if wanted.as_str() == name))
    }

    /// Another node has the address: takes it over if that can be. This host's previous one is free from
    /// now on whatever comes of it: the session is ours, and the host has another.
    async fn claim(&self, registry: &dyn Registry, conflict: RegistryError) -> anyhow::Result<()> {
        let nodes = registry.nodes().await?;
        let Node { name, vtep, .. } = &self.node;
        let own = nodes.iter().find(|node| node.name == *name);
        if let Some(own) = own
            && own.vtep.ip != vtep.ip
            && !own.vtep.is_discard()
        {
            tracing::info!(previous = %own.vtep.ip, "giving up the VTEP's previous address");
            let without = self.node.clone().without_address();
            registry.commit(&[Change::PutNode(without)]).await?;
        }
        let Some(holder) = nodes.iter().find(|node| node.vtep.ip == vtep.ip) else {
            return Err(Claimed(format!(
                "VTEP address {} is claimed, and no node says that it has it: if that lasts, see `overlay \
                 registry check`",
                vtep.ip
            ))
            .into());
        };
        match self.judge(holder, own.is_some(), Instant::now()) {
            Verdict::Take => {
                tracing::warn!(
                    ip = %vtep.ip, previous = %holder.name,
                    "taking the VTEP's address over from a node that has not been heard of"
                );
                let takeover = [
                    Change::ReleaseVtep(holder.name.clone()),
                    Change::PutNode(self.node.clone()),
                ];
                match registry.commit(&takeover).await {
                    // It lives again, or another host was faster.
                    Err(RegistryError::Refused(_) | RegistryError::Conflict { .. }) => Ok(()),
                    taken => Ok(taken.map(drop)?),
                }
            }
            Verdict::Wait(why) => Err(Claimed(why).into()),
            Verdict::Refuse => Err(conflict.into()),
        }
    }

    /// `is_member`: the registry knows this node already, so it had another address before.
    fn judge(&self, holder: &Node, is_member: bool, now: Instant) -> Verdict {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.alive || !holder.agent {
            *silent = None;
        }
        if !holder.agent {
            return Verdict::Refuse;
        }
        let ip = holder.vtep.ip;
        if holder.alive {
            let waits =
                !self.is_first || (is_member && now.duration_since(self.begun) < FIRST_TIMEOUT);
            return if waits {
                Verdict::Wait(format!(
                    "VTEP address {ip} is node {}'s in the registry, and its agent is alive: this node waits \
                     until that one gives it up; if both hosts have it, one needs another",
                    holder.name
                ))
            } else {
                Verdict::Refuse
            };
        }
        let since = match &*silent {
            Some((name, since)) if *name == holder.name => *since,
            _ => silent.insert((holder.name.clone(), now)).1,
        };
        let left = self
            .config
            .node_grace
            .saturating_sub(now.duration_since(since));
        if left.is_zero() {
            return Verdict::Take;
        }
        Verdict::Wait(format!(
            "VTEP address {ip} is node {name}'s in the registry, which is not heard of: this node takes it \
             over in {} s, or at once after `overlay vtep rm {name}`",
            left.as_secs_f64().ceil(),
            name = holder.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const GRACE: Duration = Duration::from_mins(1);

    fn config() -> Config {
        let settings = Settings {
            iface: Some("u0".parse().unwrap()),
            node: Some("h9".parse().unwrap()),
            ..Settings::default()
        };
        Config {
            node_grace: GRACE,
            ..Config::load(settings, None).unwrap()
        }
    }

    fn vtep() -> Vtep {
        Vtep {
            ip: "10.0.0.1".parse().unwrap(),
            port: 4789,
        }
    }

    fn holder(alive: bool) -> Node {
        Node {
            alive,
            ..Node::new("h1".parse().unwrap(), vtep(), true)
        }
    }

    fn judge_first(holder: &Node, is_member: bool, after: Duration) -> Verdict {
        let (config, session) = (config(), Session::new("s".to_owned()));
        let join = Join::new(&config, vtep(), 1500, &session, true);
        join.judge(holder, is_member, join.begun + after)
    }

    #[test]
    fn an_address_is_taken_from_a_node_that_is_silent_for_the_grace_time_and_not_before() {
        let (config, session) = (config(), Session::new("s".to_owned()));
        let join = Join::new(&config, vtep(), 1500, &session, true);
        let judge = |holder: &Node, after| join.judge(holder, false, join.begun + after);
        let nearly = Duration::from_secs(59);
        let Verdict::Wait(why) = judge(&holder(false), Duration::ZERO) else {
            panic!("not waited for");
        };
        assert!(why.contains("node h1's") && why.contains("60 s"), "{why}");
        assert!(matches!(judge(&holder(false), nearly), Verdict::Wait(_)));
        // Heard of in between: the time begins anew.
        assert_eq!(judge(&holder(true), nearly), Verdict::Refuse);
        assert!(matches!(judge(&holder(false), GRACE), Verdict::Wait(_)));
        assert_eq!(judge(&holder(false), GRACE * 2), Verdict::Take);
        // Another one has it by now.
        let other = Node {
            name: "h2".parse().unwrap(),
            ..holder(false)
        };
        assert!(matches!(judge(&other, GRACE * 2), Verdict::Wait(_)));
    }

    #[test]
    fn a_living_node_is_waited_for_by_hosts_that_had_another_address_before() {
        let living = holder(true);
        assert_eq!(judge_first(&living, false, Duration::ZERO), Verdict::Refuse);
        assert!(matches!(
            judge_first(&living, true, Duration::ZERO),
            Verdict::Wait(_)
        ));
        assert_eq!(judge_first(&living, true, FIRST_TIMEOUT), Verdict::Refuse);
        let (config, session) = (config(), Session::new("s".to_owned()));
        let again = Join::new(&config, vtep(), 1500, &session, false);
        let late = again.begun + FIRST_TIMEOUT * 9;
        assert!(matches!(again.judge(&living, true, late), Verdict::Wait(_)));
    }

    #[test]
    fn the_address_of_an_imported_vtep_stays_its_own() {
        let foreign = Node {
            agent: false,
            ..holder(false)
        };
        assert_eq!(judge_first(&foreign, true, GRACE * 9), Verdict::Refuse);
    }
}
