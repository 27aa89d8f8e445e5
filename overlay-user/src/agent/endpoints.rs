//! Endpoints as clients want them: made, moved, listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use tokio::{sync::mpsc, time::timeout};

use super::{
    api::{
        EndpointFilter, EndpointPages, EndpointRequest, EndpointView, ErrorKind, MoveRequest,
        NodeState, OperationError,
    },
    operations::{Agent, CARRYING},
};
use crate::{
    config,
    model::{Change, Endpoint, EndpointState, Mac, Name, Network, Revision, Vni},
    reconcile::View,
    registry::{Reading, RegistryError, Scope},
};

/// How often an address that is handed out may turn out to be taken by somebody faster.
const ADDRESS_ATTEMPTS: usize = 64;
/// Pages that wait for a slow reader.
const PAGES_AHEAD: usize = 2;

impl Agent {
    /// Makes the endpoint that is asked for and waits until it stands; takes it back if it can't.
    pub(super) async fn add(
        &self,
        request: &EndpointRequest,
    ) -> Result<EndpointView, OperationError> {
        self.check_reach().await?;
        let (endpoint, revision) = self.commit_endpoint(request).await?;
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

    /// Puts an endpoint onto another node and waits until this host has followed; puts it back if
    /// it was to live here and can't.
    pub(super) async fn relocate(
        &self,
        name: &Name,
        to: MoveRequest,
    ) -> Result<EndpointView, OperationError> {
        self.check_reach().await?;
        let former = self.find(name).await?;
        let node = to.node.unwrap_or_else(|| self.config.node.clone());
        self.check_destination(&node).await?;
        let moved = Endpoint {
            node: node.clone(),
            netns: to
                .netns
                .or_else(|| former.netns.clone())
                .or_else(|| Some(name.clone())),
            ifname: to
                .ifname
                .or_else(|| former.ifname.clone())
                .or_else(|| Some(config::default_ifname())),
            ..former.clone()
        };
        let generation = self.commit(&[move_to(&moved)]).await?;
        match self.failure(name).await {
            Some(reason) if node == self.config.node && former.node != node => {
                tracing::warn!(endpoint = %name, %reason, "putting the endpoint back");
                self.commit(&[move_to(&former)]).await?;
                Err(OperationError::new(
                    ErrorKind::Refused,
                    format_args!("{reason}; endpoint {name} is back on node {}", former.node),
                ))
            }
            _ if former.node == node => self.view_of(former).await,
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
    pub(super) async fn find(&self, name: &Name) -> Result<Endpoint, OperationError> {
        self.registry.find_endpoint(name).await?.ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!("there is no endpoint {name}: see `overlay endpoint ls`"),
            )
        })
    }

    /// The endpoints that pass `filter`, from the registry.
    pub(super) async fn list(
        &self,
        filter: EndpointFilter,
    ) -> Result<EndpointPages, OperationError> {
        self.check_reach().await?;
        let scope = filter.vni.map_or(Scope::All, Scope::Network);
        let Reading {
            nodes,
            endpoints: mut pages,
            ..
        } = self.registry.read(scope).await?;
        let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
        let listing = Listing {
            filter,
            states: self.liveness.states(&nodes),
            vteps: nodes
                .into_iter()
                .map(|node| (node.name, node.vtep.ip))
                .collect(),
        };
        let (observer, node) = (self.observer.clone(), self.config.node.clone());
        tokio::spawn(async move {
            while let Some(page) = pages.recv().await {
                let views = match page {
                    Ok(page) => Ok(listing.views(page, &*observer.view().await, &node)),
                    Err(error) => Err(error.into()),
                };
                if sender.send(views).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// How an endpoint looks from here.
    pub(super) async fn view_of(&self, endpoint: Endpoint) -> Result<EndpointView, OperationError> {
        let nodes = self.registry.nodes().await?;
        let listing = Listing {
            filter: EndpointFilter::default(),
            states: self.liveness.states(&nodes),
            vteps: nodes
                .into_iter()
                .map(|node| (node.name, node.vtep.ip))
                .collect(),
        };
        let view = self.observer.view().await;
        Ok(listing.view(endpoint, &view, &self.config.node))
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
        let failure = view.failures.get(name).cloned();
        failure.or_else(|| made.is_err().then(late))
    }

    /// Commits the endpoint that is asked for, with the next free address if it names none.
    async fn commit_endpoint(
        &self,
        request: &EndpointRequest,
    ) -> Result<(Endpoint, Revision), OperationError> {
        let network = self.network(request.vni).await?;
        let mut refused = BTreeSet::new();
        for _ in 0..ADDRESS_ATTEMPTS {
            let addresses = self.addresses_for(request, &network, &refused).await?;
            let endpoint = self.endpoint(request, addresses.clone());
            let error = match self
                .in_registry(&[Change::CreateEndpoint(endpoint.clone())])
                .await?
            {
                Ok(generation) => {
                    let made = Endpoint {
                        generation,
                        ..endpoint
                    };
                    return Ok((made, generation));
                }
                Err(error) => error,
            };
            // Somebody was faster: on another agent, or with a MAC made from the same address.
            let another_address_helps = match &error {
                RegistryError::Conflict { what, .. } | RegistryError::Quarantined { what, .. } => {
                    *what == "IP" || (*what == "MAC" && request.mac.is_none())
                }
                _ => false,
            };
            if !request.addresses.is_empty() || !another_address_helps {
                return Err(error.into());
            }
            refused.extend(addresses.iter().map(IpNet::addr));
        }
        Err(OperationError::new(
            ErrorKind::Unavailable,
            format_args!(
                "{ADDRESS_ATTEMPTS} addresses were taken by others before endpoint {} could have \
                 one: try again, or give --ip",
                request.name
            ),
        ))
    }

    async fn network(&self, vni: Vni) -> Result<Network, OperationError> {
        let view = self.observer.view().await;
        view.mirror.network(vni).cloned().ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "there is no network with VNI {vni}: make one with `overlay network create \
                     NAME --vni {vni}`"
                ),
            )
        })
    }

    async fn addresses_for(
        &self,
        request: &EndpointRequest,
        network: &Network,
        refused: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpNet>, OperationError> {
        if !request.addresses.is_empty() {
            return request
                .addresses
                .iter()
                .map(|address| address.in_network(network))
                .collect();
        }
        match self.registry.next_ip(network, refused).await? {
            Some(address) => Ok(vec![address]),
            None if network.subnets.is_empty() => Err(OperationError::new(
                ErrorKind::Refused,
                format_args!(
                    "network {} has no subnet to take an address from: give --ip",
                    network.name
                ),
            )),
            None => Err(OperationError::new(
                ErrorKind::Refused,
                format_args!("network {} has no free address left", network.name),
            )),
        }
    }

    fn endpoint(&self, request: &EndpointRequest, addresses: Vec<IpNet>) -> Endpoint {
        let netns = request.netns.clone();
        let ifname = request.ifname.clone();
        Endpoint {
            name: request.name.clone(),
            vni: request.vni,
            mac: request.mac.unwrap_or_else(|| default_mac(&addresses)),
            addresses,
            node: self.config.node.clone(),
            netns: Some(netns.unwrap_or_else(|| request.name.clone())),
            ifname: Some(ifname.unwrap_or_else(config::default_ifname)),
            generation: 0,
        }
    }
}

/// The change that puts an endpoint where it says.
fn move_to(endpoint: &Endpoint) -> Change {
    Change::MoveEndpoint {
        name: endpoint.name.clone(),
        node: endpoint.node.clone(),
        netns: endpoint.netns.clone(),
        ifname: endpoint.ifname.clone(),
    }
}

/// What an endpoint's view takes from elsewhere.
struct Listing {
    filter: EndpointFilter,
    states: BTreeMap<Name, NodeState>,
    vteps: BTreeMap<Name, IpAddr>,
}

impl Listing {
    /// Those of a page that pass, in the order of their names.
    fn views(&self, page: Vec<Endpoint>, view: &View, node: &Name) -> Vec<EndpointView> {
        let wanted = self.filter.node.as_ref();
        let mut views: Vec<_> = page
            .into_iter()
            .filter(|endpoint| wanted.is_none_or(|wanted| endpoint.node == *wanted))
            .map(|endpoint| self.view(endpoint, view, node))
            .collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    fn view(&self, endpoint: Endpoint, view: &View, node: &Name) -> EndpointView {
        let vtep = self.vteps.get(&endpoint.node).copied();
        let state = if endpoint.node == *node {
            view.state_of(&endpoint.name)
        } else if self.states.get(&endpoint.node) == Some(&NodeState::Down) {
            EndpointState::Down
        } else {
            EndpointState::Remote
        };
        let error = view.failures.get(&endpoint.name).cloned();
        let vtep = vtep.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        EndpointView::new(endpoint, vtep, state).with_error(error)
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
