//! Endpoints as clients want them: made, moved, listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, mem,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use tokio::{sync::mpsc, time::timeout};

use super::{
    api::{
        EndpointFilter, EndpointPages, EndpointRequest, EndpointView, ErrorKind, MoveRequest,
        NodeState, OperationError, SetRequest,
    },
    networks::no_network,
    operations::{Agent, CARRYING},
};
use crate::{
    config,
    model::{Change, Endpoint, EndpointState, Mac, Name, NetnsRef, Network, Revision},
    reconcile::View,
    registry::{PAGE, Reading, RegistryError, Scope},
};

/// How often an address that is handed out may turn out to be taken by somebody faster.
const ADDRESS_ATTEMPTS: usize = 64;
/// Endpoints that a list has in their order at most: some 20 MB.
const SORTED: usize = 100_000;
/// Pages that wait for a slow reader.
const PAGES_AHEAD: usize = 2;

impl Agent {
    /// Makes the endpoint that is asked for and waits until it stands; takes it back if it can't.
    pub(super) async fn add(
        &self,
        request: &EndpointRequest,
    ) -> Result<EndpointView, OperationError> {
        self.check_reach().await?;
        let netns = self.place_of(request).await?;
        let added = self.add_in(request, &netns).await;
        self.platform.end_attach(&netns).await;
        added
    }

    async fn add_in(
        &self,
        request: &EndpointRequest,
        netns: &Name,
    ) -> Result<EndpointView, OperationError> {
        let (endpoint, revision) = self.commit_endpoint(request, netns).await?;
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
        let node = to.node.clone().unwrap_or_else(|| self.config.node.clone());
        self.check_destination(&node).await?;
        let netns = match &to.netns {
            Some(NetnsRef::Name(netns)) => netns.clone(),
            Some(netns) if node == self.config.node => self.platform.attach(netns).await?,
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
            None => match &former.netns {
                Some(netns) if node == former.node || !self.platform.is_attached(netns) => {
                    netns.clone()
                }
                _ => name.clone(),
            },
        };
        let place = former.netns.clone();
        let moved = self.relocate_to(former, to, node, &netns).await;
        self.platform.end_attach(&netns).await;
        if let Some(place) = place {
            self.platform.leave(&place).await;
        }
        moved
    }

    async fn relocate_to(
        &self,
        former: Endpoint,
        to: MoveRequest,
        node: Name,
        netns: &Name,
    ) -> Result<EndpointView, OperationError> {
        let name = &former.name;
        let moved = Endpoint {
            node: node.clone(),
            netns: Some(netns.clone()),
            ifname: to
                .ifname
                .or_else(|| former.ifname.clone())
                .or_else(|| Some(config::default_ifname())),
            ..former.clone()
        };
        let generation = self.commit(&[move_to(&moved)]).await?;
        match self.failure(name).await {
            _ if moved == former => self.view_of(former).await,
            Some(reason) if node == self.config.node => {
                tracing::warn!(endpoint = %name, %reason, "putting the endpoint back");
                self.commit(&[move_to(&former)]).await?;
                let place = if former.node == node {
                    "where it was".to_owned()
                } else {
                    format!("on node {}", former.node)
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

    /// Gives an endpoint another MAC or other addresses and waits until this host has followed; puts it back
    /// if it lives here and can't have them.
    pub(super) async fn readdress(
        &self,
        name: &Name,
        request: SetRequest,
    ) -> Result<EndpointView, OperationError> {
        self.check_reach().await?;
        let former = self.find(name).await?;
        let network = self.network(&former.vni.into()).await?;
        let mut wanted = former.clone();
        wanted.mac = request.mac.unwrap_or(former.mac);
        if !request.addresses.is_empty() {
            let addresses = request.addresses.iter();
            wanted.addresses = addresses
                .map(|address| address.in_network(&network))
                .collect::<Result<_, _>>()?;
        }
        if wanted == former {
            return self.view_of(former).await;
        }
        wanted.generation = self
            .commit(&[readdress_to(&wanted, former.generation)])
            .await?;
        match self.failure(name).await {
            Some(reason) if former.node == self.config.node => {
                tracing::warn!(endpoint = %name, %reason, "giving the endpoint its former addresses back");
                self.commit(&[readdress_to(&former, wanted.generation)])
                    .await?;
                Err(OperationError::new(
                    ErrorKind::Refused,
                    format_args!("{reason}; endpoint {name} has its former addresses back"),
                ))
            }
            _ => self.view_of(wanted).await,
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

    /// The endpoints that pass `filter`, from the registry, in the order of their VNIs and names as far as
    /// [`SORTED`] goes.
    pub(super) async fn list(
        &self,
        filter: EndpointFilter,
    ) -> Result<EndpointPages, OperationError> {
        self.check_reach().await?;
        let scope = match &filter.vni {
            Some(network) => Scope::Network(self.vni_of(network).await?),
            None => Scope::All,
        };
        let Reading {
            networks,
            nodes,
            rejected,
            endpoints: mut pages,
            ..
        } = self.registry.read(scope.clone()).await?;
        if let (Scope::Network(vni), Some(wanted)) = (scope, &filter.vni)
            && !networks.iter().any(|network| network.vni == vni)
            && !rejected.networks().contains(&vni)
        {
            return Err(no_network(wanted));
        }
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
            let mut sorted = Sorted::default();
            while let Some(page) = pages.recv().await {
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        // Nobody there: nobody wants it.
                        let _ = sender.send(Err(error.into())).await;
                        return;
                    }
                };
                for page in sorted.add(listing.filter(page)) {
                    let views = listing.views(page, &*observer.view().await, &node);
                    if sender.send(Ok(views)).await.is_err() {
                        return;
                    }
                }
            }
            for page in sorted.rest() {
                let views = listing.views(page, &*observer.view().await, &node);
                if sender.send(Ok(views)).await.is_err() {
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

    /// The name of the namespace that the endpoint is to be in.
    async fn place_of(&self, request: &EndpointRequest) -> Result<Name, OperationError> {
        match &request.netns {
            Some(netns) => Ok(self.platform.attach(netns).await?),
            None => Ok(request.name.clone()),
        }
    }

    /// Commits the endpoint that is asked for, with free addresses if it names none, and with a free MAC
    /// if it names none and its usual one is taken.
    async fn commit_endpoint(
        &self,
        request: &EndpointRequest,
        netns: &Name,
    ) -> Result<(Endpoint, Revision), OperationError> {
        let network = self.network(&request.vni).await?;
        let mut refused = BTreeSet::new();
        let mut spare = None;
        for attempt in 0..ADDRESS_ATTEMPTS {
            let addresses = self.addresses_for(request, &network, &refused).await?;
            let mac = request.mac.or(spare);
            let endpoint = Endpoint {
                name: request.name.clone(),
                vni: network.vni,
                mac: mac.unwrap_or_else(|| default_mac(&addresses)),
                addresses,
                node: self.config.node.clone(),
                netns: Some(netns.clone()),
                ifname: Some(
                    request
                        .ifname
                        .clone()
                        .unwrap_or_else(config::default_ifname),
                ),
                generation: 0,
            };
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
            // Somebody was faster, on another agent, or has chosen a MAC that others get by their address.
            match &error {
                RegistryError::Conflict { what, value, .. }
                | RegistryError::Quarantined { what, value, .. } => match (*what, value.parse()) {
                    ("IP", Ok(ip)) if request.addresses.is_empty() => drop(refused.insert(ip)),
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
}

/// A network has no address left in its subnets, which are of one family.
fn is_full(family: &Network) -> OperationError {
    let version = if family.has_ipv6() { "IPv6" } else { "IPv4" };
    OperationError::new(
        ErrorKind::Refused,
        format_args!(
            "network {} has no free {version} address left: remove an endpoint, or give --ip for the \
             addresses that it shall have",
            family.name
        ),
    )
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

/// Endpoints that are brought into order, which a store does not keep: only as many as the agent has memory
/// for, and of more each page by itself.
#[derive(Default)]
struct Sorted {
    held: Vec<Endpoint>,
    is_too_long: bool,
}

impl Sorted {
    /// Takes more; gives back what is not held.
    fn add(&mut self, page: Vec<Endpoint>) -> Vec<Vec<Endpoint>> {
        self.held.extend(page);
        self.is_too_long |= self.held.len() > SORTED;
        if self.is_too_long {
            self.rest()
        } else {
            Vec::new()
        }
    }

    /// What is held, in order and in pages.
    fn rest(&mut self) -> Vec<Vec<Endpoint>> {
        let mut held = mem::take(&mut self.held);
        held.sort_unstable_by(|one, other| (one.vni, &one.name).cmp(&(other.vni, &other.name)));
        let mut held = held.into_iter();
        let page = || -> Vec<Endpoint> { held.by_ref().take(PAGE).collect() };
        iter::repeat_with(page)
            .take_while(|page| !page.is_empty())
            .collect()
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

/// What an endpoint's view takes from elsewhere.
struct Listing {
    filter: EndpointFilter,
    states: BTreeMap<Name, NodeState>,
    vteps: BTreeMap<Name, IpAddr>,
}

impl Listing {
    /// Those of a page that pass.
    fn filter(&self, mut page: Vec<Endpoint>) -> Vec<Endpoint> {
        if let Some(wanted) = &self.filter.node {
            page.retain(|endpoint| endpoint.node == *wanted);
        }
        page
    }

    fn views(&self, page: Vec<Endpoint>, view: &View, node: &Name) -> Vec<EndpointView> {
        let page = page.into_iter();
        page.map(|endpoint| self.view(endpoint, view, node))
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vni;

    fn endpoint(vni: u32, name: &str) -> Endpoint {
        Endpoint {
            name: name.parse().unwrap(),
            vni: Vni::try_from(vni).unwrap(),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: Vec::new(),
            node: "h1".parse().unwrap(),
            netns: None,
            ifname: None,
            generation: 1,
        }
    }

    #[test]
    fn a_list_is_in_the_order_of_vni_and_name_whatever_the_stores_is() {
        let mut sorted = Sorted::default();
        for page in [[(43, "a"), (42, "c")], [(100, "a"), (42, "b")]] {
            let page = page.map(|(vni, name)| endpoint(vni, name));
            assert!(sorted.add(page.into()).is_empty());
        }
        let pages = sorted.rest();
        let order: Vec<_> = pages
            .iter()
            .flatten()
            .map(|endpoint| (endpoint.vni.get(), endpoint.name.as_str()))
            .collect();
        assert_eq!(order, [(42, "b"), (42, "c"), (43, "a"), (100, "a")]);
    }

    #[test]
    fn a_list_that_is_too_long_to_be_held_comes_in_pages_all_the_same() {
        let mut sorted = Sorted::default();
        let page = || vec![endpoint(42, "a"); PAGE];
        let mut given: usize = 0;
        for _ in 0..=SORTED / PAGE {
            given += sorted.add(page()).iter().map(Vec::len).sum::<usize>();
        }
        assert_eq!(given, SORTED + PAGE);
        assert_eq!(sorted.add(page()).len(), 1);
        assert!(sorted.rest().is_empty());
    }
}
