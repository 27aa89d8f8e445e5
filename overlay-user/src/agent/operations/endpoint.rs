//! Operations on endpoints: `overlay endpoint`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use tokio::time::timeout;

use crate::agent::service::{Agent, CARRYING};
use crate::{
    agent::{
        api::{
            AddEndpoint, EndpointView, ErrorKind, ListEndpoints, MoveEndpoint, OperationError,
            RemoveEndpoint, RemovedView, SetEndpoint, ShowEndpoint,
        },
        server::{Handle, Outcome},
    },
    config,
    model::{Attachment, Change, Endpoint, Mac, Name, NetnsRef, Network, QosSubject, Revision},
    registry::RegistryError,
};

/// How often an address that is handed out may turn out to be taken by somebody faster.
const ADDRESS_ATTEMPTS: usize = 64;

impl Handle<AddEndpoint> for Agent {
    /// Adds the endpoint and waits until it is ready; takes it back if it can't be made.
    async fn handle(&self, request: AddEndpoint) -> Outcome<AddEndpoint> {
        self.check_reach().await?;
        let netns = self.place_of(&request).await?;
        let added = self.add_in(&request, &netns).await;
        self.platform.end_attach(&netns).await;
        added
    }
}

impl Handle<ListEndpoints> for Agent {
    async fn handle(&self, filter: ListEndpoints) -> Outcome<ListEndpoints> {
        self.list(filter).await
    }
}

impl Handle<ShowEndpoint> for Agent {
    async fn handle(&self, ShowEndpoint { name }: ShowEndpoint) -> Outcome<ShowEndpoint> {
        self.check_reach().await?;
        self.view_of(self.find(&name).await?).await
    }
}

impl Handle<SetEndpoint> for Agent {
    /// Gives an endpoint another MAC, other addresses or limits and waits until this host has followed; puts it back
    /// if it lives here and can't have them.
    async fn handle(&self, request: SetEndpoint) -> Outcome<SetEndpoint> {
        self.check_reach().await?;
        let name = &request.name;
        let previous = self.find(name).await?;
        let network = self.network(&previous.vni.into()).await?;
        let mut wanted = previous.clone();
        wanted.mac = request.mac.unwrap_or(previous.mac);
        if !request.addresses.is_empty() {
            let addresses = request.addresses.iter();
            wanted.addresses = addresses
                .map(|address| address.in_network(&network.name, &network.subnets))
                .collect::<Result<_, _>>()?;
        }
        let subject = QosSubject::Endpoint(name.clone());
        let binding = match request.qos.clone() {
            Some(qos) => self.binding_change(subject, qos.into_option()).await?,
            None => None,
        };
        if wanted == previous {
            if let Some(binding) = binding {
                self.commit(&[binding]).await?;
            }
            return self.view_of(previous).await;
        }
        let readdress = readdress_to(&wanted, previous.generation);
        wanted.generation = self.commit(&[readdress]).await?;
        match self.failure(name).await {
            Some(reason) if previous.node == self.config.node => {
                tracing::warn!(endpoint = %name, %reason, "giving the endpoint its previous addresses back");
                self.commit(&[readdress_to(&previous, wanted.generation)])
                    .await?;
                Err(OperationError::new(
                    ErrorKind::Refused,
                    format_args!("{reason}; endpoint {name} has its previous addresses back"),
                ))
            }
            _ => {
                if let Some(binding) = binding {
                    self.commit(&[binding]).await?;
                }
                self.view_of(wanted).await
            }
        }
    }
}

impl Handle<MoveEndpoint> for Agent {
    /// Puts an endpoint onto another node and waits until this host has followed; puts it back if
    /// it was to live here and can't.
    async fn handle(&self, to: MoveEndpoint) -> Outcome<MoveEndpoint> {
        self.check_reach().await?;
        let previous = self.find(&to.name).await?;
        let node = to.node.clone().unwrap_or_else(|| self.config.node.clone());
        self.check_destination(&node).await?;
        let attachment = self.attachment_of(&to, &previous, &node).await?;
        let (entered, left) = (attachment.netns().cloned(), previous.netns().cloned());
        let moved = self.relocate_to(previous, node, attachment).await;
        if let Some(netns) = entered {
            self.platform.end_attach(&netns).await;
        }
        if let Some(netns) = left {
            self.platform.leave(&netns).await;
        }
        moved
    }
}

impl Handle<RemoveEndpoint> for Agent {
    async fn handle(&self, RemoveEndpoint { name }: RemoveEndpoint) -> Outcome<RemoveEndpoint> {
        self.check_reach().await?;
        let removed = self.registry.find_endpoint(&name).await?.is_some();
        // Also of one whose row can't be found that way: a removal is never wrong.
        self.commit(&[Change::RemoveEndpoint(name)]).await?;
        Ok(RemovedView { removed })
    }
}

impl Agent {
    async fn add_in(
        &self,
        request: &AddEndpoint,
        netns: &Name,
    ) -> Result<EndpointView, OperationError> {
        let (endpoint, revision) = match self.commit_endpoint(request, netns).await {
            // Its name is taken, or its network has no more addresses to hand out.
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Refused) => {
                return self.find_same(request, netns, error).await;
            }
            committed => committed?,
        };
        self.carried_over(revision).await?;
        let name = endpoint.name.clone();
        let Some(reason) = self.failure(&name).await else {
            return self.view_of(endpoint).await;
        };
        tracing::warn!(endpoint = %name, revision, %reason, "taking the endpoint back");
        self.commit(&[Change::RemoveGeneration(name, revision)])
            .await?;
        Err(OperationError::new(ErrorKind::Refused, reason))
    }

    /// The endpoint that is there already just as it is asked for; otherwise what it was refused for.
    async fn find_same(
        &self,
        request: &AddEndpoint,
        netns: &Name,
        refusal: OperationError,
    ) -> Result<EndpointView, OperationError> {
        let Some(found) = self.registry.find_endpoint(&request.name).await? else {
            return Err(refusal);
        };
        let network = self.network(&request.vni).await?;
        let addresses = request.addresses.iter();
        let addresses: Result<BTreeSet<IpNet>, _> = addresses
            .map(|address| address.in_network(&network.name, &network.subnets))
            .collect();
        let addresses = addresses?;
        let wanted = self.endpoint(request, &network, netns, found.addresses.clone());
        let is_same = Endpoint {
            generation: found.generation,
            mac: request.mac.unwrap_or(found.mac),
            ..wanted
        } == found;
        if !is_same || !(addresses.is_empty() || addresses.iter().eq(sorted(&found.addresses))) {
            return Err(refusal);
        }
        let own = self.qos_at(&QosSubject::Endpoint(found.name.clone())).await;
        if request.qos.is_some() && request.qos != own {
            return Err(refusal);
        }
        let view = self.view_of(found).await?;
        Ok(EndpointView {
            existed: true,
            ..view
        })
    }

    /// How a moved endpoint is connected to its node: as it was, unless it is said otherwise.
    async fn attachment_of(
        &self,
        to: &MoveEndpoint,
        previous: &Endpoint,
        node: &Name,
    ) -> Result<Attachment, OperationError> {
        if let Some(unknown @ Attachment::Unknown(_)) = &previous.attachment
            && (&to.netns, &to.ifname) == (&None, &None)
        {
            return Ok(unknown.clone());
        }
        let netns = match &to.netns {
            Some(NetnsRef::Name(netns)) => netns.clone(),
            Some(netns) if *node == self.config.node => self.platform.attach(netns).await?,
            Some(netns) => {
                return Err(OperationError::new(
                    ErrorKind::Refused,
                    format_args!(
                        "{netns} would be looked for on this host, and the endpoint is to live on {node}: move \
                         it from there, or write a namespace's name"
                    ),
                ));
            }
            // What a process of this host is in has no such name elsewhere.
            None => match previous.netns() {
                Some(netns) if *node == previous.node || !self.platform.is_attached(netns) => {
                    netns.clone()
                }
                _ => to.name.clone(),
            },
        };
        let ifname = to.ifname.as_ref().or_else(|| previous.ifname());
        let ifname = ifname.cloned().unwrap_or_else(config::default_ifname);
        let dhcp = previous.attachment.as_ref().is_some_and(Attachment::dhcp);
        Ok(Attachment::veth(netns, ifname).with_dhcp(dhcp))
    }

    async fn relocate_to(
        &self,
        previous: Endpoint,
        node: Name,
        attachment: Attachment,
    ) -> Result<EndpointView, OperationError> {
        let name = &previous.name;
        let moved = Endpoint {
            node: node.clone(),
            attachment: Some(attachment),
            ..previous.clone()
        };
        let generation = self.commit(&[move_to(&moved)]).await?;
        match self.failure(name).await {
            _ if moved == previous => self.view_of(previous).await,
            Some(reason) if node == self.config.node => {
                tracing::warn!(endpoint = %name, %reason, "putting the endpoint back");
                self.commit(&[move_to(&previous)]).await?;
                let place = if previous.node == node {
                    "where it was".to_owned()
                } else {
                    format!("on node {}", previous.node)
                };
                Err(OperationError::new(
                    ErrorKind::Refused,
                    format_args!("{reason}; endpoint {name} is back {place}"),
                ))
            }
            _ => {
                self.view_of(Endpoint {
                    generation,
                    ..moved
                })
                .await
            }
        }
    }

    /// Refuses a node on which nobody would make the endpoint.
    async fn check_destination(&self, node: &Name) -> Result<(), OperationError> {
        let refused = |why: &str| {
            Err(OperationError::new(
                ErrorKind::Refused,
                format_args!("node {node} {why}: see `overlay vtep ls`"),
            ))
        };
        let nodes = self.registry.nodes().await?;
        match nodes.iter().find(|known| known.name == *node) {
            None => Err(OperationError::new(
                ErrorKind::NotFound,
                format_args!("there is no node {node}: see `overlay vtep ls`"),
            )),
            Some(node) if !node.agent => refused("runs no agent that could make the endpoint"),
            Some(node) if !node.alive => refused("is not alive: nobody would make the endpoint"),
            Some(_) => Ok(()),
        }
    }

    /// The endpoint of this name.
    pub(in crate::agent) async fn find(&self, name: &Name) -> Result<Endpoint, OperationError> {
        self.registry.find_endpoint(name).await?.ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!("there is no endpoint {name}: see `overlay endpoint ls`"),
            )
        })
    }

    /// Why an endpoint of this host does not stand, once that is known: one whose interface is still being made
    /// is waited for.
    async fn failure(&self, name: &Name) -> Option<String> {
        let made = timeout(CARRYING, self.observer.clone().made(name)).await;
        let view = self.observer.view().await;
        let late = || {
            format!(
                "its interface is not made after {} s: something in its namespace or in the kernel is slow",
                CARRYING.as_secs()
            )
        };
        let failure = view.failure(name).map(str::to_owned);
        failure.or_else(|| made.is_err().then(late))
    }

    /// The name of the namespace that the endpoint is to be in.
    async fn place_of(&self, request: &AddEndpoint) -> Result<Name, OperationError> {
        match &request.netns {
            Some(netns) => Ok(self.platform.attach(netns).await?),
            None => Ok(request.name.clone()),
        }
    }

    /// Commits the endpoint that is asked for, with free addresses if it names none, and with a free MAC
    /// if it names none and its usual one is taken.
    async fn commit_endpoint(
        &self,
        request: &AddEndpoint,
        netns: &Name,
    ) -> Result<(Endpoint, Revision), OperationError> {
        let network = self.network(&request.vni).await?;
        let binding = match request.qos.clone() {
            Some(qos) => {
                let subject = QosSubject::Endpoint(request.name.clone());
                self.binding_change(subject, Some(qos)).await?
            }
            None => None,
        };
        let mut refused = BTreeSet::new();
        let mut no_blocks = BTreeSet::new();
        let mut spare = None;
        for attempt in 0..ADDRESS_ATTEMPTS {
            let addresses = self.addresses_for(request, &network, &refused).await?;
            let endpoint = self.endpoint(request, &network, netns, addresses);
            let endpoint = Endpoint {
                mac: request.mac.or(spare).unwrap_or(endpoint.mac),
                ..endpoint
            };
            let mut changes = vec![Change::CreateEndpoint(endpoint.clone())];
            let block = self.block_for(&endpoint, &no_blocks).await;
            if let Some((_, claims)) = &block {
                changes.extend(claims.iter().cloned());
            }
            changes.extend(binding.clone());
            let error = match self.in_registry(&changes).await? {
                Ok(generation) => {
                    let made = Endpoint {
                        generation,
                        ..endpoint
                    };
                    return Ok((made, generation));
                }
                Err(error) => error,
            };
            // Somebody was faster, on another agent, or has chosen a MAC that others get by their address.
            match &error {
                RegistryError::Conflict { what, value, .. }
                | RegistryError::Quarantined { what, value, .. } => match (*what, value.parse()) {
                    ("IP", Ok(ip)) if request.addresses.is_empty() => drop(refused.insert(ip)),
                    ("claim" | "key", _) if block.is_some() => {
                        no_blocks.extend(block.map(|(key, _)| key));
                    }
                    ("MAC", _) if request.mac.is_none() => {
                        spare = Some(Mac::spare(request.name.as_str(), attempt));
                    }
                    _ => return Err(error.into()),
                },
                _ => return Err(error.into()),
            }
        }
        Err(OperationError::new(
            ErrorKind::Unavailable,
            format_args!(
                "{ADDRESS_ATTEMPTS} addresses were taken by others before endpoint {} could have \
                 one: try again, or give --ip and --mac",
                request.name
            ),
        ))
    }

    async fn addresses_for(
        &self,
        request: &AddEndpoint,
        network: &Network,
        refused: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpNet>, OperationError> {
        if !request.addresses.is_empty() {
            return request
                .addresses
                .iter()
                .map(|address| address.in_network(&network.name, &network.subnets))
                .collect();
        }
        let mut addresses = Vec::new();
        for family in network.by_family() {
            let free = self.registry.next_ip(&family, refused).await?;
            addresses.push(free.ok_or_else(|| is_full(&family))?);
        }
        if addresses.is_empty() {
            return Err(OperationError::new(
                ErrorKind::Refused,
                format_args!(
                    "network {} has no subnet to take an address from: give --ip",
                    network.name
                ),
            ));
        }
        Ok(addresses)
    }

    /// The endpoint that is asked for, on this node.
    fn endpoint(
        &self,
        request: &AddEndpoint,
        network: &Network,
        netns: &Name,
        addresses: Vec<IpNet>,
    ) -> Endpoint {
        let ifname = request.ifname.clone();
        let ifname = ifname.unwrap_or_else(config::default_ifname);
        Endpoint {
            name: request.name.clone(),
            vni: network.vni,
            mac: request.mac.unwrap_or_else(|| default_mac(&addresses)),
            addresses,
            node: self.config.node.clone(),
            attachment: Some(Attachment::veth(netns.clone(), ifname).with_dhcp(request.dhcp)),
            generation: 0,
        }
    }
}

/// A network has no address left in its subnets, which are of one family.
fn is_full(family: &Network) -> OperationError {
    let version = if family.has_ipv6() { "IPv6" } else { "IPv4" };
    OperationError::new(
        ErrorKind::Refused,
        format_args!(
            "network {} has no free {version} address left: remove an endpoint, or give --ip for the \
             addresses that it is to have",
            family.name
        ),
    )
}

fn sorted(addresses: &[IpNet]) -> impl Iterator<Item = &IpNet> {
    let sorted: BTreeSet<&IpNet> = addresses.iter().collect();
    sorted.into_iter()
}

/// The change that puts an endpoint where it says.
fn move_to(endpoint: &Endpoint) -> Change {
    Change::MoveEndpoint {
        name: endpoint.name.clone(),
        node: endpoint.node.clone(),
        attachment: endpoint.attachment.clone(),
    }
}

/// The change that gives an endpoint the MAC and the addresses that it has here, if it is still of this
/// generation.
fn readdress_to(endpoint: &Endpoint, generation: Revision) -> Change {
    Change::ReaddressEndpoint {
        name: endpoint.name.clone(),
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        generation,
    }
}

/// 02:42 and the first IPv4 address, or the end of the first IPv6 address.
fn default_mac(addresses: &[IpNet]) -> Mac {
    let ipv4 = addresses.iter().find_map(|address| match address.addr() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let from_ipv6 = || {
        addresses.iter().find_map(|address| match address.addr() {
            IpAddr::V6(ip) => {
                let [.., a, b, c, d] = ip.octets();
                Some(Ipv4Addr::new(a, b, c, d))
            }
            IpAddr::V4(_) => None,
        })
    };
    Mac::from_ipv4(ipv4.or_else(from_ipv6).unwrap_or(Ipv4Addr::UNSPECIFIED))
}
