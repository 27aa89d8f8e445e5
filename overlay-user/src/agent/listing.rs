//! Lists endpoints for clients: from the registry, or what this host knows of them.

use std::{
    collections::BTreeMap,
    fmt::Display,
    iter, mem,
    net::{IpAddr, Ipv4Addr},
};

use tokio::sync::mpsc;

use super::{
    api::{EndpointView, ListEndpoints, NodeState, OperationError, endpoint_view, with_counts},
    liveness::Liveness,
    operations::no_network,
    server::{Page, Paged},
    service::Agent,
};
use crate::{
    model::{Endpoint, EndpointState, Name, Node, PortCounts, Vni},
    reconcile::{Observer, View},
    registry::{PAGE, Reading, RegistryError, Scope},
};

/// Endpoints that a list has in their order at most: some 20 MB.
const SORTED: usize = 100_000;
/// Pages that wait for a slow reader.
const PAGES_AHEAD: usize = 2;

impl Agent {
    /// The endpoints that pass `filter`, from the registry, in the order of their VNIs and names as far as
    /// [`SORTED`] goes.
    pub(super) async fn list(
        &self,
        filter: ListEndpoints,
    ) -> Result<Paged<EndpointView>, OperationError> {
        let lost = self.observer.view().await.refusal();
        if let Some(lost) = lost {
            return self.list_known(filter, &lost.reason).await;
        }
        let vni = match &filter.vni {
            Some(network) => Some(self.vni_of(network).await?),
            None => None,
        };
        let reading = match self.registry.read(scope_of(vni)).await {
            Err(RegistryError::Unavailable(why)) => return self.list_known(filter, &why).await,
            read => read?,
        };
        check_network_of(&filter, vni, &reading)?;
        let listing = Listing::new(filter, &self.liveness, reading.nodes)
            .with_counts(self.port_counts(None).await);
        let (observer, node) = (self.observer.clone(), self.config.node.clone());
        let pages = list_pages(reading.endpoints, listing, node, Some(observer));
        Ok(Paged { pages, note: None })
    }

    /// The endpoints that pass `filter`, as far as this host knows of them.
    async fn list_known(
        &self,
        filter: ListEndpoints,
        away: &impl Display,
    ) -> Result<Paged<EndpointView>, OperationError> {
        let wanted = match &filter.vni {
            Some(network) => Some(self.network(network).await?.vni),
            None => None,
        };
        let counts = self.port_counts(None).await;
        let view = self.observer.view().await;
        let nodes = view.mirror.nodes().cloned().collect();
        let listing = Listing::new(filter, &self.liveness, nodes).with_counts(counts);
        let known = view.mirror.endpoints();
        let known = known.filter(|known| wanted.is_none_or(|vni| known.vni() == vni));
        let held = listing.filter(known.map(|known| known.to_endpoint()).collect());
        let mut sorted = Sorted {
            held,
            is_too_long: false,
        };
        let pages = sorted.rest();
        let pages: Vec<_> = pages
            .into_iter()
            .map(|page| listing.views(page, Some(&view), &self.config.node))
            .collect();
        drop(view);
        let (sender, receiver) = mpsc::channel(pages.len().max(1));
        for page in pages {
            // Nobody has closed it, and there is room.
            let _ = sender.try_send(Ok(page));
        }
        Ok(Paged {
            pages: receiver,
            note: Some(format!(
                "the registry is away or not followed ({away}): these are the endpoints that this host knows of"
            )),
        })
    }

    /// How an endpoint looks from here.
    pub(super) async fn view_of(&self, endpoint: Endpoint) -> Result<EndpointView, OperationError> {
        let nodes = self.registry.nodes().await?;
        let ifindex = self.observer.view().await.ifindex(&endpoint.name);
        let counts = match ifindex {
            Some(ifindex) => self.port_counts(Some(ifindex)).await,
            None => None,
        };
        let counted = counts.as_ref().zip(ifindex);
        let counted = counted.and_then(|(counts, ifindex)| counts.get(&ifindex).cloned());
        let listing =
            Listing::new(ListEndpoints::default(), &self.liveness, nodes).with_counts(counts);
        let view = self.observer.view().await;
        let seen = listing.view(endpoint, Some(&view), &self.config.node);
        drop(view);
        Ok(self.with_qos(seen, counted.as_ref()).await)
    }
}

/// The endpoints of one network, or of all.
pub(super) fn scope_of(vni: Option<Vni>) -> Scope {
    vni.map_or(Scope::All, Scope::Network)
}

/// Refuses a network that is not there. One that can't be read may have endpoints all the same.
pub(super) fn check_network_of(
    filter: &ListEndpoints,
    vni: Option<Vni>,
    reading: &Reading,
) -> Result<(), OperationError> {
    let (Some(wanted), Some(vni)) = (&filter.vni, vni) else {
        return Ok(());
    };
    let mut networks = reading.networks.iter();
    if networks.any(|network| network.vni == vni) || reading.rejected.networks().contains(&vni) {
        return Ok(());
    }
    Err(no_network(wanted))
}

/// Endpoints as they are read, as views of this `node`, in order. Without an observer no agent tells how its
/// own stand.
pub(super) fn list_pages(
    mut pages: mpsc::Receiver<Result<Vec<Endpoint>, RegistryError>>,
    listing: Listing,
    node: Name,
    observer: Option<Observer>,
) -> mpsc::Receiver<Page<EndpointView>> {
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(async move {
        let mut sorted = Sorted::default();
        loop {
            let (ready, is_last) = match pages.recv().await {
                Some(Ok(page)) => (sorted.add(listing.filter(page)), false),
                Some(Err(error)) => {
                    // Nobody there: nobody wants it.
                    let _ = sender.send(Err(error.into())).await;
                    return;
                }
                None => (sorted.rest(), true),
            };
            for page in ready {
                let views = match &observer {
                    Some(observer) => {
                        let view = observer.view().await;
                        listing.views(page, Some(&view), &node)
                    }
                    None => listing.views(page, None, &node),
                };
                if sender.send(Ok(views)).await.is_err() {
                    return;
                }
            }
            if is_last {
                return;
            }
        }
    });
    receiver
}

/// What an endpoint's view takes from elsewhere.
pub(super) struct Listing {
    filter: ListEndpoints,
    states: BTreeMap<Name, NodeState>,
    vteps: BTreeMap<Name, IpAddr>,
    /// What was counted of this host's endpoints, by their interfaces. `None`: it is not known.
    counts: Option<BTreeMap<u32, PortCounts>>,
}

impl Listing {
    pub(super) fn new(filter: ListEndpoints, liveness: &Liveness, nodes: Vec<Node>) -> Self {
        let states = liveness.states(&nodes);
        let vteps = nodes
            .into_iter()
            .map(|node| (node.name, node.vtep.ip.into()));
        Self {
            filter,
            states,
            vteps: vteps.collect(),
            counts: None,
        }
    }

    /// The same, and what was counted of this host's endpoints.
    fn with_counts(mut self, counts: Option<BTreeMap<u32, PortCounts>>) -> Self {
        self.counts = counts;
        self
    }

    /// Those of a page that pass.
    fn filter(&self, mut page: Vec<Endpoint>) -> Vec<Endpoint> {
        if let Some(wanted) = &self.filter.node {
            page.retain(|endpoint| endpoint.node == *wanted);
        }
        page
    }

    fn views(&self, page: Vec<Endpoint>, view: Option<&View>, node: &Name) -> Vec<EndpointView> {
        let page = page.into_iter();
        page.map(|endpoint| self.view(endpoint, view, node))
            .collect()
    }

    fn view(&self, endpoint: Endpoint, view: Option<&View>, node: &Name) -> EndpointView {
        let vtep = self.vteps.get(&endpoint.node).copied();
        let state = if endpoint.node == *node {
            view.map_or(EndpointState::Unknown, |view| view.state_of(&endpoint.name))
        } else if self.states.get(&endpoint.node) == Some(&NodeState::Down) {
            EndpointState::Down
        } else {
            EndpointState::Remote
        };
        let error = view.and_then(|view| view.failure(&endpoint.name).map(str::to_owned));
        let vtep = vtep.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = view.and_then(|view| view.ifindex(&endpoint.name));
        let counts = port.zip(self.counts.as_ref());
        let counts = counts.map(|(port, counts)| counts.get(&port).cloned().unwrap_or_default());
        let view = endpoint_view(endpoint, vtep, state).with_error(error);
        with_counts(view, counts)
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
            attachment: None,
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
