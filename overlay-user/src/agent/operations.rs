//! What the agent does for its clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::IpNet;
use overlay_ebpf::abi::ABI_VERSION;
use tokio::sync::{Mutex, watch};

use super::{
    Reconciling,
    api::{
        DatapathView, EndpointCounts, EndpointRequest, EndpointView, ErrorKind, ImportArpdRequest,
        ImportView, NetworkView, OperationError, Operations, RegistryView, StatusView, VtepView,
    },
    teardown,
};
use crate::{
    config::{Config, InstancePaths},
    datapath::Datapath,
    integration::arpd,
    model::{Change, Endpoint, EndpointState, Mac, Name, Network, Revision, ipam},
    platform::{Platform, Underlay, netns::Netns},
    reconcile::{Observer, View},
    registry::{Registry, RegistryError},
};

/// How often an address that is handed out may turn out to be taken by somebody faster.
const ADDRESS_ATTEMPTS: usize = 64;

/// The agent as its clients see it.
pub(super) struct Agent {
    config: Config,
    underlay: Underlay,
    registry: Arc<dyn Registry>,
    platform: Arc<dyn Platform>,
    datapath: Arc<dyn Datapath>,
    observer: Observer,
    reconciling: Mutex<Option<Reconciling>>,
    stop: watch::Sender<bool>,
}

/// What an agent is made of.
pub(super) struct Parts {
    pub config: Config,
    pub underlay: Underlay,
    pub registry: Arc<dyn Registry>,
    pub platform: Arc<dyn Platform>,
    pub datapath: Arc<dyn Datapath>,
    pub observer: Observer,
    pub reconciling: Reconciling,
    pub stop: watch::Sender<bool>,
}

impl From<Parts> for Agent {
    fn from(parts: Parts) -> Self {
        Self {
            config: parts.config,
            underlay: parts.underlay,
            registry: parts.registry,
            platform: parts.platform,
            datapath: parts.datapath,
            observer: parts.observer,
            reconciling: Mutex::new(Some(parts.reconciling)),
            stop: parts.stop,
        }
    }
}

#[async_trait]
impl Operations for Agent {
    async fn network_create(&self, network: Network) -> Result<NetworkView, OperationError> {
        let view = NetworkView::from(network.clone());
        self.commit(&[Change::CreateNetwork(network)]).await?;
        Ok(view)
    }

    async fn network_ls(&self) -> Result<Vec<NetworkView>, OperationError> {
        let view = self.observer.view().await;
        Ok(view
            .mirror
            .networks
            .values()
            .cloned()
            .map(NetworkView::from)
            .collect())
    }

    async fn network_rm(&self, name: &Name) -> Result<(), OperationError> {
        let vni = {
            let view = self.observer.view().await;
            let network = view
                .mirror
                .networks
                .values()
                .find(|network| network.name == *name);
            network.map(|network| network.vni)
        };
        match vni {
            Some(vni) => self.commit(&[Change::RemoveNetwork(vni)]).await.map(drop),
            None => Ok(()),
        }
    }

    async fn endpoint_add(&self, request: EndpointRequest) -> Result<EndpointView, OperationError> {
        let (endpoint, revision) = self.commit_endpoint(&request).await?;
        let name = endpoint.name.clone();
        let view = self.observer.view().await;
        match view.failures.get(&name) {
            None => self.endpoint_view(&view, &name),
            Some(reason) => {
                let reason = reason.clone();
                drop(view);
                tracing::warn!(endpoint = %name, revision, %reason, "taking the endpoint back");
                self.commit(&[Change::RemoveEndpoint(name)]).await?;
                Err(OperationError::new(ErrorKind::Refused, reason))
            }
        }
    }

    async fn endpoint_ls(&self) -> Result<Vec<EndpointView>, OperationError> {
        let view = self.observer.view().await;
        view.mirror
            .endpoints
            .keys()
            .map(|name| self.endpoint_view(&view, name))
            .collect()
    }

    async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, OperationError> {
        self.endpoint_view(&*self.observer.view().await, name)
    }

    async fn endpoint_rm(&self, name: &Name) -> Result<(), OperationError> {
        self.commit(&[Change::RemoveEndpoint(name.clone())])
            .await
            .map(drop)
    }

    async fn vtep_ls(&self) -> Result<Vec<VtepView>, OperationError> {
        let nodes = self.registry.nodes().await?;
        Ok(nodes
            .into_iter()
            .map(|node| {
                let is_alive = node.alive;
                VtepView::new(node, is_alive)
            })
            .collect())
    }

    async fn status(&self) -> Result<StatusView, OperationError> {
        let view = self.observer.view().await;
        let local = view
            .mirror
            .endpoints
            .values()
            .filter(|endpoint| endpoint.node == self.config.node)
            .count();
        Ok(StatusView {
            instance: self.config.instance.clone(),
            node: self.config.node.clone(),
            ready: view.applied > 0 && view.errors.is_empty(),
            iface: self.config.iface.clone(),
            vtep: self.underlay.ip.into(),
            port: self.config.port,
            registry: RegistryView {
                url: self.registry.url(),
                connected: view.lost.is_none(),
                revision: view.mirror.revision,
            },
            networks: view.mirror.networks.len(),
            endpoints: EndpointCounts {
                local,
                remote: view.mirror.endpoints.len() - local,
            },
            datapath: DatapathView {
                attach: self.datapath.attach_mode(),
                abi: ABI_VERSION,
                fast_path: true,
            },
        })
    }

    async fn drops(&self) -> Result<BTreeMap<String, u64>, OperationError> {
        let drops = self.datapath.drops()?;
        Ok(drops
            .into_iter()
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect())
    }

    async fn import_arpd(&self, request: ImportArpdRequest) -> Result<ImportView, OperationError> {
        let ImportArpdRequest { vni, dir } = request;
        let folder = tokio::task::spawn_blocking(move || arpd::Folder::read(&dir))
            .await
            .map_err(|error| OperationError::new(ErrorKind::Internal, error))?;
        let snapshot = self.registry.snapshot().await?;
        let plan = arpd::plan(&folder, vni, self.config.port, &snapshot)
            .map_err(|error| OperationError::new(ErrorKind::Refused, error))?;
        self.commit(&plan.changes).await?;
        Ok(ImportView {
            vni,
            endpoints: plan.endpoints,
            vteps: plan.vteps,
        })
    }

    async fn down(&self) -> Result<(), OperationError> {
        if let Some(reconciling) = self.reconciling.lock().await.take() {
            reconciling.abort();
            // It ends cancelled; what it left half done goes now.
            let _ = reconciling.await;
        }
        let paths = InstancePaths::new(&self.config.instance);
        let mut errors = Vec::new();
        match Netns::current() {
            Ok(host) => {
                let platform = Arc::clone(&self.platform);
                teardown::remove_from_host(&paths, platform, &host, &mut errors).await;
            }
            Err(error) => errors.push(error.to_string()),
        }
        let removed = self
            .registry
            .commit(&[Change::RemoveNode(self.config.node.clone())])
            .await;
        errors.extend(removed.err().map(|error| error.to_string()));
        self.stop.send_replace(true);
        teardown::finish(&paths, &errors)
            .map_err(|error| OperationError::new(ErrorKind::Internal, format_args!("{error:#}")))
    }
}

impl Agent {
    /// Whether [`Operations::down`] has begun.
    pub(super) async fn is_going_down(&self) -> bool {
        self.reconciling.lock().await.is_none()
    }

    /// Commits, and waits until this host's kernel is what came of it.
    async fn commit(&self, changes: &[Change]) -> Result<Revision, OperationError> {
        let revision = self.registry.commit(changes).await?;
        if self.observer.clone().applied(revision).await {
            Ok(revision)
        } else {
            Err(OperationError::new(
                ErrorKind::Internal,
                "the agent's reconciler has ended: see its log and start the agent again",
            ))
        }
    }

    /// Commits the endpoint that is asked for, with the next free address if it names none.
    async fn commit_endpoint(
        &self,
        request: &EndpointRequest,
    ) -> Result<(Endpoint, Revision), OperationError> {
        let mut refused = BTreeSet::new();
        for _ in 0..ADDRESS_ATTEMPTS {
            let (network, addresses) = self.addresses_for(request, &refused).await?;
            let endpoint = self.endpoint(request, &network, addresses.clone());
            let taken = match self
                .registry
                .commit(&[Change::CreateEndpoint(endpoint.clone())])
                .await
            {
                Ok(revision) => {
                    self.observer.clone().applied(revision).await;
                    return Ok((endpoint, revision));
                }
                Err(error) if request.addresses.is_empty() => error,
                Err(error) => return Err(error.into()),
            };
            // Somebody was faster: on another agent, or with a MAC made from the same address.
            match taken {
                RegistryError::Conflict {
                    what: "IP" | "MAC", ..
                } if request.mac.is_none() => {
                    refused.extend(addresses.iter().map(IpNet::addr));
                }
                RegistryError::Conflict { what: "IP", .. } => {
                    refused.extend(addresses.iter().map(IpNet::addr));
                }
                error => return Err(error.into()),
            }
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

    async fn addresses_for(
        &self,
        request: &EndpointRequest,
        refused: &BTreeSet<IpAddr>,
    ) -> Result<(Network, Vec<IpNet>), OperationError> {
        let view = self.observer.view().await;
        let network = view.mirror.networks.get(&request.vni).ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "there is no network with VNI {vni}: make one with `overlay network create NAME \
                     --vni {vni}`",
                    vni = request.vni
                ),
            )
        })?;
        if !request.addresses.is_empty() {
            let addresses: Result<Vec<IpNet>, OperationError> = request
                .addresses
                .iter()
                .map(|address| address.in_network(network))
                .collect();
            return Ok((network.clone(), addresses?));
        }
        let used: BTreeSet<IpAddr> = view
            .mirror
            .endpoints
            .values()
            .filter(|endpoint| endpoint.vni == request.vni)
            .flat_map(Endpoint::ips)
            .collect();
        let free = ipam::next_free(network, |ip| used.contains(&ip) || refused.contains(&ip));
        match free {
            Some(address) => Ok((network.clone(), vec![address])),
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

    fn endpoint(
        &self,
        request: &EndpointRequest,
        network: &Network,
        addresses: Vec<IpNet>,
    ) -> Endpoint {
        Endpoint {
            name: request.name.clone(),
            vni: network.vni,
            mac: request.mac.unwrap_or_else(|| default_mac(&addresses)),
            addresses,
            node: self.config.node.clone(),
            netns: Some(
                request
                    .netns
                    .clone()
                    .unwrap_or_else(|| request.name.clone()),
            ),
            ifname: Some(
                request
                    .ifname
                    .clone()
                    .unwrap_or_else(crate::config::default_ifname),
            ),
            generation: 0,
        }
    }

    fn endpoint_view(&self, view: &View, name: &Name) -> Result<EndpointView, OperationError> {
        let endpoint = view.mirror.endpoints.get(name).ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!("there is no endpoint {name}: see `overlay endpoint ls`"),
            )
        })?;
        let node = view.mirror.nodes.get(&endpoint.node);
        let vtep = node.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |node| node.vtep.ip);
        let state: EndpointState = view.state_of(name, &self.config.node);
        Ok(EndpointView::new(endpoint.clone(), vtep, state)
            .with_error(view.failures.get(name).cloned()))
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
