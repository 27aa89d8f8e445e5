//! What can be told of an instance while no agent runs: its datapath from what is pinned, the lists from the
//! registry that its last agent had.

use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use overlay_ebpf::abi::{Counter, DropReason, map};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use super::{
    api::{
        AttachMode, DatapathView, DropNames, DropTotals, DropsView, EndpointCounts, EndpointView,
        ListEndpoints, NetworkView, NodeState, RegistryView, ShowDrops, StatusView, VtepView,
        drop_counts, drop_samples, drop_totals, endpoint_drop_counts, vtep_view,
    },
    instance::{self, InstanceRecord},
    last_known::LastKnown,
    listing::{Listing, check_network_of, list_pages, scope_of},
    liveness::Liveness,
    offline_registry::is_denied,
    operations::no_network,
    pinned::Pinned,
    server::Page,
};
use crate::{
    config::{self, InstancePaths},
    datapath::pinned_drops,
    model::{Mac, MapUsage, Name, Network, NetworkRef, Node, Vni},
    registry::{self, Registry, Scope, limited},
};

/// How long the registry may take over an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the kernel may take to print the maps.
const READING: Duration = Duration::from_secs(10);
/// How long the registry may take to say who is who: without it the packets are worth a look too.
const NAMES: Duration = Duration::from_secs(3);
/// The maps that have a row for each thing that there is.
const TABLES: [&str; 5] = [
    map::FDB,
    map::NEIGHBORS,
    map::ENDPOINTS,
    map::VTEPS,
    map::NETWORKS,
];

/// What the last agent of an instance left on this host since it booted.
#[derive(Debug)]
pub struct Left {
    instance: Name,
    paths: InstancePaths,
    record: InstanceRecord,
}

impl Left {
    /// `None`: nothing is left.
    pub fn find(instance: &Name) -> anyhow::Result<Option<Self>> {
        let paths = InstancePaths::new(instance);
        match InstanceRecord::read(&paths) {
            Ok(record) => Ok(record.map(|record| Self {
                instance: instance.clone(),
                paths,
                record,
            })),
            Err(error) if is_denied(&error) => bail!(
                "no agent of instance {instance} runs, and only root may read what the last one left: be \
                 root, or start it"
            ),
            Err(error) => Err(error),
        }
    }

    /// The state of the datapath that is there; `why` says that no agent runs.
    pub async fn status(&self, why: &str) -> anyhow::Result<StatusView> {
        let datapath = self.on_pins(read_datapath).await?;
        let is_up = datapath.is_some();
        let datapath = datapath.unwrap_or_else(no_datapath);
        let rows = |map: &str| {
            let entries = datapath.maps.get(map).map_or(0, |usage| usage.entries);
            usize::try_from(entries).unwrap_or(usize::MAX)
        };
        let local = rows(map::ENDPOINTS);
        let last_known: Option<LastKnown> = instance::find(&self.paths.last_known)?;
        let InstanceRecord {
            node,
            iface,
            registry,
            vtep,
            port,
            ..
        } = &self.record;
        let goes_on = if is_up {
            "traffic goes on with what the maps hold"
        } else {
            "there is no datapath either"
        };
        Ok(StatusView {
            instance: self.instance.clone(),
            node: node.clone(),
            ready: false,
            agent: false,
            iface: iface.clone(),
            vtep: vtep.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            port: port.unwrap_or(config::DEFAULT_PORT),
            registry: RegistryView {
                url: registry.url.clone(),
                connected: false,
                revision: last_known.map_or(0, |known| known.revision),
                followed: false,
                stale_for_s: 0,
                error: None,
                rejected: Vec::new(),
            },
            networks: rows(map::NETWORKS),
            endpoints: EndpointCounts {
                local,
                remote: rows(map::FDB).saturating_sub(local),
                ..EndpointCounts::default()
            },
            paths: BTreeMap::new(),
            dhcp: BTreeMap::new(),
            datapath,
            problems: vec![format!("{why}; {goes_on}")],
            stalled: Vec::new(),
        })
    }

    /// Dropped packets by reason. `None`: there is no datapath.
    pub async fn drops(&self) -> anyhow::Result<Option<BTreeMap<String, u64>>> {
        let drops = self.on_pins(drops_of).await?;
        let named = |(reason, count): (&str, u64)| (reason.to_owned(), count);
        Ok(drops.map(|drops| drops.into_iter().map(named).collect()))
    }

    /// The same with some of the packets; of one endpoint, if one is named. Endpoints are named as far as the
    /// registry says who they are. `None`: there is no datapath.
    pub async fn drops_detail(&self, filter: ShowDrops) -> anyhow::Result<Option<DropsView>> {
        let Some(counts) = self.on_pins(drops_of).await? else {
            return Ok(None);
        };
        let root = self.paths.pins.clone();
        let reading = spawn_blocking(move || pinned_drops(&root));
        let kept = timeout(READING, reading).await.with_context(too_late)???;
        let names = self.drop_names(&kept.ports).await;
        let wanted = match &filter.endpoint {
            Some(endpoint) => Some(interface_of(endpoint, names.as_ref())?),
            None => None,
        };
        let names = names.unwrap_or_default();
        Ok(Some(DropsView {
            endpoint: filter.endpoint,
            reasons: match wanted {
                Some(port) => {
                    endpoint_drop_counts(&kept.endpoints.get(&port).cloned().unwrap_or_default())
                }
                None => drop_counts(counts),
            },
            samples: drop_samples(kept.frames, wanted, &names),
        }))
    }

    /// Names for what is behind these interfaces, and for the nodes. An error: the registry does not say.
    async fn drop_names(&self, ports: &BTreeMap<u32, (Vni, Mac)>) -> anyhow::Result<DropNames> {
        let asking = async {
            let reading = self.registry().await?.read(self.few_endpoints()).await?;
            anyhow::Ok(reading.collect().await?)
        };
        let known = timeout(NAMES, asking).await??;
        let owners = known
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.node == self.record.node);
        let names: BTreeMap<_, _> = owners
            .map(|endpoint| ((endpoint.vni, endpoint.mac), endpoint.name.clone()))
            .collect();
        let endpoints = ports.iter().filter_map(|(port, owner)| {
            let name = names.get(owner)?;
            Some((*port, name.clone()))
        });
        let nodes = known.nodes.into_iter();
        let nodes = nodes.map(|node| (node.vtep.ip.into(), node.name));
        Ok(DropNames {
            endpoints: endpoints.collect(),
            nodes: nodes.collect(),
        })
    }

    /// Every network, in the order of their VNIs.
    pub async fn networks(&self) -> anyhow::Result<Vec<NetworkView>> {
        let registry = self.registry().await?;
        let mut networks = self.networks_in(&*registry).await?;
        networks.sort_by_key(|network| network.vni);
        Ok(networks.into_iter().map(NetworkView::from).collect())
    }

    /// Every node, in the order of their names. How the ways there are only an agent knows.
    pub async fn vteps(&self) -> anyhow::Result<Vec<VtepView>> {
        let mut nodes = self.registry().await?.nodes().await?;
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let states = Liveness::new(config::DEFAULT_NODE_GRACE).states(&nodes);
        let view = |node: Node| {
            let state = states.get(&node.name).copied();
            vtep_view(node, state.unwrap_or(NodeState::NoAgent))
        };
        Ok(nodes.into_iter().map(view).collect())
    }

    /// The endpoints that pass `filter`, page by page, in the same order as an agent has them.
    pub async fn endpoints(
        &self,
        filter: ListEndpoints,
    ) -> anyhow::Result<mpsc::Receiver<Page<EndpointView>>> {
        let registry = self.registry().await?;
        let vni = match &filter.vni {
            Some(network) => Some(self.vni_of(network, &*registry).await?),
            None => None,
        };
        let reading = registry.read(scope_of(vni)).await?;
        check_network_of(&filter, vni, &reading)?;
        let liveness = Liveness::new(config::DEFAULT_NODE_GRACE);
        let listing = Listing::new(filter, &liveness, reading.nodes);
        Ok(list_pages(
            reading.endpoints,
            listing,
            self.record.node.clone(),
            None,
        ))
    }

    /// The VNI of the network that is meant.
    async fn vni_of(&self, wanted: &NetworkRef, registry: &dyn Registry) -> anyhow::Result<Vni> {
        if let NetworkRef::Vni(vni) = wanted {
            return Ok(*vni);
        }
        let networks = self.networks_in(registry).await?;
        let mut networks = networks.iter();
        let found = networks.find(|network| wanted.is(network.vni, &network.name));
        let found = found.ok_or_else(|| no_network(wanted))?;
        Ok(found.vni)
    }

    async fn networks_in(&self, registry: &dyn Registry) -> anyhow::Result<Vec<Network>> {
        Ok(registry.read(self.few_endpoints()).await?.networks)
    }

    /// A reading is of all networks and nodes, and of as many endpoints as one asks for.
    fn few_endpoints(&self) -> Scope {
        Scope::Resident(self.record.node.clone())
    }

    async fn registry(&self) -> anyhow::Result<Arc<dyn Registry>> {
        let settings = &self.record.registry;
        let opening = registry::open_existing(settings);
        Ok(limited::open(&settings.url, ANSWER, opening).await?)
    }

    /// Reads from the pinned maps. `None`: there are none.
    async fn on_pins<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Pinned) -> io::Result<T> + Send + 'static,
    ) -> anyhow::Result<Option<T>> {
        let root = self.paths.pins.clone();
        let reading = spawn_blocking(move || {
            let pinned = Pinned::find(&root)?;
            pinned.map(|pinned| read(&pinned)).transpose()
        });
        let read = timeout(READING, reading).await.with_context(too_late)?;
        read?.context("the pinned maps can't be read")
    }
}

fn too_late() -> String {
    format!(
        "the kernel has not told what the maps hold within {} s: traffic goes on",
        READING.as_secs()
    )
}

/// The host-side interface of an endpoint that is to be found by its name.
fn interface_of(endpoint: &Name, names: Result<&DropNames, &anyhow::Error>) -> anyhow::Result<u32> {
    let names = names.map_err(|why| {
        anyhow::anyhow!(
            "which interface endpoint {endpoint} has only the registry tells, and it does not answer ({why:#}): \
             see all drops with `overlay drops -v`"
        )
    })?;
    let mut endpoints = names.endpoints.iter();
    let found = endpoints.find(|(_, name)| *name == endpoint);
    let (port, _) = found.with_context(|| {
        format!("endpoint {endpoint} does not stand on this host: see `overlay endpoint ls`")
    })?;
    Ok(*port)
}

/// Dropped packets by reason; every reason is there.
fn drops_of(pinned: &Pinned) -> io::Result<Vec<(&'static str, u64)>> {
    let counts = pinned.counters(map::DROPS)?;
    let named = |reason: &DropReason| {
        let count = counts.get(&reason.number()).copied();
        (reason.name(), count.unwrap_or(0))
    };
    Ok(DropReason::ALL.iter().map(named).collect())
}

fn read_datapath(pinned: &Pinned) -> io::Result<DatapathView> {
    let usage = |map: &str| -> io::Result<_> {
        let usage = MapUsage {
            entries: pinned.entries(map)?,
            ..MapUsage::default()
        };
        Ok((map.to_owned(), usage))
    };
    let counted = pinned.counters(map::COUNTERS)?;
    let named = |counter: &Counter| {
        let count = counted.get(&counter.number()).copied();
        (counter.name().to_owned(), count.unwrap_or(0))
    };
    Ok(DatapathView {
        drops: drop_totals(drops_of(pinned)?),
        attach: pinned.attach_mode()?,
        abi: pinned.abi(),
        maps: TABLES.into_iter().map(usage).collect::<io::Result<_>>()?,
        counters: Counter::ALL.iter().map(named).collect(),
        ..no_datapath()
    })
}

fn no_datapath() -> DatapathView {
    DatapathView {
        attach: AttachMode::Tcx,
        abi: 0,
        fast_path: false,
        fast_path_error: None,
        maps: BTreeMap::new(),
        counters: BTreeMap::new(),
        drops: DropTotals::default(),
    }
}
