//! [`Platform`] on Linux: what each operation is, in its order. The steps are in the files beside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    sync::{self, Arc, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc},
    time::{Instant, sleep, timeout},
};

use super::{
    Context, External, Platform, PlatformError, Port, PortChange, PortSpec, TunnelDevices,
    Underlay, devices,
    link::Link,
    netlink::Netlink,
    netns::{self, Named, Netns},
    ownership::{self, Device},
    route,
    state_dir::StateDir,
    underlay::{self, Choice},
    watch::{self, WatchedPorts},
};
use crate::model::{IfName, Name, VtepAddr, VtepPath};

/// How long the links of a namespace that is gone may take to follow it.
const DISMANTLING: Duration = Duration::from_secs(10);

/// How long a look at the underlay may take.
const UNDERLAY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a port may take. What takes longer is tried again, and keeps nothing else from its turn.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Links and namespaces of one instance, in the network namespace that it was made in.
#[derive(Debug)]
pub struct Linux {
    pub(super) instance: Name,
    pub(super) iface: IfName,
    /// Which of the interface's addresses is the VTEP's.
    choice: Mutex<Choice>,
    /// Where the underlay and the host sides of the veths are.
    pub(super) host: Netns,
    pub(super) records: StateDir,
    /// What events are held against.
    pub(super) watched: Arc<WatchedPorts>,
    /// One change of each endpoint's port at a time.
    pub(super) port_changes: Locks,
    /// One change of each namespace at a time: an endpoint that comes must not find the one that
    /// another, the last one in it, takes with it. Taken after the port's.
    pub(super) netns_changes: Locks,
    device_changes: Mutex<()>,
    /// Names of namespaces that endpoints are just being attached to.
    pub(super) attaching: sync::Mutex<Vec<Name>>,
}

/// Locks by name: one change at a time of what has the name, while all others go on.
#[derive(Debug, Default)]
pub(super) struct Locks(sync::Mutex<BTreeMap<Name, Weak<Mutex<()>>>>);

impl Locks {
    pub(super) async fn lock(&self, name: &Name) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| lock.strong_count() > 0);
            held.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
                let lock = Arc::default();
                held.insert(name.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// What a look at the underlay found. One that failed found nothing.
#[derive(Debug)]
pub enum Look {
    /// It is fit, and has the address.
    There(Underlay),
    /// The kernel says that the interface or its address is not there.
    Gone(PlatformError),
    /// It is there and can't carry the tunnels at the moment: it is down, for example.
    Unfit(PlatformError),
}

impl Look {
    /// The underlay, or why there is none that can carry the tunnels.
    fn fit(self) -> Result<Underlay, PlatformError> {
        match self {
            Self::There(underlay) => Ok(underlay),
            Self::Gone(why) | Self::Unfit(why) => Err(why),
        }
    }
}

/// What stands where one of our links belongs.
pub(super) enum Occupant {
    /// Nothing.
    Free,
    /// Our link.
    Ours(Link),
    /// Somebody else's.
    Foreign(Link),
}

impl Occupant {
    /// Our link, if it is there. Refused: somebody else's is.
    pub(super) fn for_us(self) -> Result<Option<Link>, PlatformError> {
        match self {
            Self::Free => Ok(None),
            Self::Ours(link) => Ok(Some(link)),
            Self::Foreign(link) => Err(PlatformError::Refused(in_the_way(&link))),
        }
    }
}

/// That somebody else's link has the name of one of ours.
fn in_the_way(link: &Link) -> String {
    let name = &link.name;
    if let Some(instance) = ownership::instance_of(link) {
        return format!(
            "interface {name} is overlay instance {instance}'s and has the name of one of ours: choose \
             another --instance for this agent, or another name for the endpoint"
        );
    }
    format!(
        "interface {name} (alias: {}) is in the way and not ours: rename it, or remove it with `ip link del \
         {name}`",
        link.alias.as_deref().unwrap_or("none")
    )
}

/// What an instance has made outside of BPF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Endpoints that have an interface.
    pub endpoints: BTreeSet<Name>,
    /// Namespaces that it made.
    pub namespaces: BTreeSet<Name>,
    /// Links on the host.
    pub devices: BTreeSet<String>,
}

impl Linux {
    /// The platform of `instance` with underlay interface `iface`, bound to the network namespace
    /// of the calling thread. `local_ip` names the VTEP's address if `iface` has several.
    ///
    /// Changes nothing, and checks nothing: that is [`Linux::underlay`]'s.
    pub fn new(
        instance: Name,
        iface: IfName,
        local_ip: Option<Ipv4Addr>,
    ) -> Result<Self, PlatformError> {
        Ok(Self {
            records: StateDir::new(&instance),
            host: Netns::current().context(|| "opening this network namespace".to_owned())?,
            watched: Arc::default(),
            port_changes: Locks::default(),
            netns_changes: Locks::default(),
            device_changes: Mutex::default(),
            attaching: sync::Mutex::default(),
            instance,
            iface,
            choice: Mutex::new(local_ip.map_or(Choice::Own, Choice::Named)),
        })
    }

    /// The interface that carries the tunnels. Refused: it is missing, down, not Ethernet, has too
    /// small an MTU or not the address.
    pub async fn underlay(&self) -> Result<Underlay, PlatformError> {
        let choice = *self.choice.lock().await;
        self.look_at_underlay(choice).await?.fit()
    }

    /// The underlay with the address that the interface has by itself, whichever the VTEP has now.
    pub async fn underlay_anew(&self) -> Result<Underlay, PlatformError> {
        let choice = match *self.choice.lock().await {
            Choice::Named(ip) => Choice::Named(ip),
            Choice::Kept(_) | Choice::Own => Choice::Own,
        };
        self.look_at_underlay(choice).await?.fit()
    }

    /// Whether the VTEP's address is where it was. The error: it is not known.
    pub async fn find_underlay(&self) -> Result<Look, PlatformError> {
        let choice = *self.choice.lock().await;
        self.look_at_underlay(choice).await
    }

    /// From now on the VTEP has this address of the interface and no other, unless the configuration
    /// names one.
    pub async fn keep_address(&self, ip: Ipv4Addr) {
        let mut choice = self.choice.lock().await;
        if !matches!(*choice, Choice::Named(_)) {
            *choice = Choice::Kept(ip);
        }
    }

    async fn look_at_underlay(&self, choice: Choice) -> Result<Look, PlatformError> {
        let what = || format!("looking at interface {}", self.iface);
        within(UNDERLAY_TIMEOUT, what, self.read_underlay(choice)).await
    }

    async fn read_underlay(&self, choice: Choice) -> Result<Look, PlatformError> {
        let host = self.open_host().await?;
        let read = || format!("reading interface {}", self.iface);
        let found = host.link_named(self.iface.as_str()).await.context(read)?;
        let Some(link) = found else {
            let links = host.links().await.context(read)?;
            return Ok(Look::Gone(underlay::missing(&self.iface, &links)));
        };
        let mac = match underlay::check(&link) {
            Ok(mac) => mac,
            Err(why) => return Ok(Look::Unfit(why)),
        };
        let addresses = host.addresses(link.index).await.context(read)?;
        Ok(match underlay::choose(&link.name, &addresses, choice) {
            Ok(ip) => Look::There(Underlay {
                ifindex: link.index,
                mtu: link.mtu,
                ip,
                mac,
            }),
            Err(why) => Look::Gone(why),
        })
    }

    /// What of this instance is on the host.
    pub async fn inventory(&self) -> Result<Inventory, PlatformError> {
        let reading = || "reading what is here of the instance".to_owned();
        let host = self.open_host().await?;
        let links = host.links().await.context(reading)?;
        let ours = links
            .into_iter()
            .filter(|link| ownership::instance_of(link) == Some(self.instance.as_str()));
        let (mut endpoints, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for link in ours {
            endpoints.extend(ownership::endpoint_of(&link, &self.instance));
            devices.insert(link.name);
        }
        endpoints.extend(self.records.ports.names().context(reading)?);
        let namespaces = self.records.namespaces.names().context(reading)?;
        Ok(Inventory {
            endpoints,
            namespaces: namespaces.into_iter().collect(),
            devices,
        })
    }

    /// Removes what is left of an instance whose host's namespace is gone: the namespaces that it
    /// made. The kernel takes the links between them apart in its own time, which is waited for up
    /// to ten seconds. To be called from another namespace.
    pub async fn forget_host(&self) -> Result<(), PlatformError> {
        let deadline = Instant::now() + DISMANTLING;
        loop {
            self.remove_orphan_namespaces().await?;
            let left = self.records.namespaces.names();
            let is_done = left
                .context(|| "reading which namespaces are ours".to_owned())?
                .is_empty();
            if is_done || Instant::now() >= deadline {
                return self.remove_vxlan().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn open_host(&self) -> Result<Netlink, PlatformError> {
        Netlink::open(&self.host)
            .await
            .context(|| "opening netlink in the host's namespace".to_owned())
    }

    /// What has `device`'s name.
    pub(super) async fn find(
        &self,
        host: &Netlink,
        device: Device<'_>,
    ) -> Result<Occupant, PlatformError> {
        let name = device.name(&self.instance);
        let found = host
            .link_named(&name)
            .await
            .context(|| format!("looking for interface {name}"))?;
        Ok(match found {
            None => Occupant::Free,
            Some(link) if self.owns(&link, device)? => Occupant::Ours(link),
            Some(link) => Occupant::Foreign(link),
        })
    }

    /// Whether `link`, which has `device`'s name, carries our mark or is one that we were making.
    fn owns(&self, link: &Link, device: Device<'_>) -> Result<bool, PlatformError> {
        if link.kind != Some(device.kind()) {
            return Ok(false);
        }
        if let Some(alias) = &link.alias {
            return Ok(*alias == device.alias(&self.instance));
        }
        let being_made = match device {
            Device::Port(endpoint) => self.records.ports.has(endpoint.as_str()),
            Device::Vxlan | Device::Headroom | Device::Bridge => {
                self.records.devices.has(&link.name)
            }
        };
        being_made.context(|| format!("reading the record of {}", link.name))
    }

    /// Keeps the host from speaking IPv6 of its own accord on the link `name`.
    pub(super) async fn disable_ipv6(&self, name: &str) {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if let Err(error) = self.host.run(move || fs::write(path, "1")).await {
            // No IPv6 in this kernel, or /proc/sys is read-only: the link works nevertheless.
            tracing::debug!(%error, link = name, "IPv6 stays as it is");
        }
    }

    /// Lets the link `name` in a namespace have IPv6 addresses.
    pub(super) async fn enable_ipv6(&self, netns: &Netns, name: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        netns.run(move || fs::write(path, "0")).await
    }

    /// Whether we made `netns`, which is found under `name` now.
    pub(super) async fn made(&self, name: &Name, netns: &Netns) -> io::Result<bool> {
        match self.records.namespaces.get(name.as_str())? {
            Some(ours) => Ok(netns.identity().await? == ours),
            None => Ok(false),
        }
    }

    /// Takes away the namespace `name` if we made it, it still is the same and nothing is in it.
    /// If it isn't the same, forgets it.
    pub(super) async fn delete_netns_if_unused(&self, name: &Name) -> Result<(), PlatformError> {
        let _turn = self.netns_changes.lock(name).await;
        self.retire_locked(name).await
    }

    /// The same for who changes the namespace already.
    pub(super) async fn retire_locked(&self, name: &Name) -> Result<(), PlatformError> {
        let removing = || format!("removing namespace {name}");
        let records = &self.records.namespaces;
        let Some(ours) = records.get(name.as_str()).context(removing)? else {
            return Ok(());
        };
        match netns::find(name).await.context(removing)? {
            Named::Netns(netns) if netns.identity().await.context(removing)? == ours => {
                if !is_empty(&netns).await.context(removing)? {
                    return Ok(());
                }
                netns::remove(name).context(removing)?;
            }
            Named::EmptyFile => netns::remove(name).context(removing)?,
            Named::Netns(_) | Named::Missing | Named::Dangling | Named::Other => {}
        }
        records.remove(name.as_str()).context(removing)
    }
}

/// An endpoint and where it is, in the user's words.
fn described(spec: &PortSpec) -> String {
    match spec.attachment.netns() {
        Some(netns) => format!("endpoint {} in {netns}", spec.endpoint),
        None => format!("endpoint {}", spec.endpoint),
    }
}

/// Gives up on `work` after `limit`.
async fn within<T>(
    limit: Duration,
    what: impl Fn() -> String,
    work: impl Future<Output = Result<T, PlatformError>>,
) -> Result<T, PlatformError> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(PlatformError::Kernel {
            what: what(),
            cause: format!("the kernel has not done it within {} s", limit.as_secs()),
        })
    })
}

/// Whether only those links are in `netns` that the kernel itself puts into a new one.
async fn is_empty(netns: &Netns) -> io::Result<bool> {
    // The devices that `net.core.fb_tunnels_only_for_init_net` is about: can't be deleted.
    const FALLBACK_TUNNELS: [&str; 9] = [
        "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
    ];
    let links = Netlink::open(netns).await?.links().await?;
    Ok(links
        .iter()
        .all(|link| link.name == "lo" || FALLBACK_TUNNELS.contains(&link.name.as_str())))
}

#[async_trait]
impl Platform for Linux {
    async fn ports(&self) -> Result<Vec<Port>, PlatformError> {
        let reading = || "reading the host's links".to_owned();
        let host = self.open_host().await?;
        let half_made: Vec<_> = self
            .records
            .ports
            .names()
            .context(reading)?
            .into_iter()
            .map(|endpoint| (Device::Port(&endpoint).name(&self.instance), endpoint))
            .collect();
        let endpoint_of = |link: &Link| match link.alias {
            Some(_) => ownership::endpoint_of(link, &self.instance),
            None => half_made
                .iter()
                .find(|(name, _)| *name == link.name)
                .map(|(_, endpoint)| endpoint.clone()),
        };
        let links = host.links().await.context(reading)?;
        Ok(links
            .into_iter()
            .filter(ownership::is_port)
            .filter_map(|link| {
                Some(Port {
                    endpoint: endpoint_of(&link)?,
                    host_ifindex: link.index,
                    is_up: link.is_up(),
                    is_open: false,
                    has_xdp: false,
                    mended: Vec::new(),
                    host_ifname: link.name,
                })
            })
            .collect())
    }

    async fn port_namespaces(&self) -> Result<BTreeMap<Name, Name>, PlatformError> {
        let reading = || "reading which ports are ours".to_owned();
        let ports = &self.records.ports;
        let mut places = BTreeMap::new();
        for endpoint in ports.names().context(reading)? {
            let netns = ports.get(endpoint.as_str()).context(reading)?;
            let netns = netns.and_then(|netns| netns.parse().ok());
            places.extend(netns.map(|netns| (endpoint, netns)));
        }
        Ok(places)
    }

    async fn ensure_port(&self, spec: &PortSpec) -> Result<Port, PlatformError> {
        let what = || format!("setting up {}", described(spec));
        within(PORT_TIMEOUT, what, async {
            let _turn = self.port_changes.lock(&spec.endpoint).await;
            self.driver(spec)?.ensure().await
        })
        .await
    }

    async fn refresh_port(&self, spec: &PortSpec) -> Result<Option<Port>, PlatformError> {
        let what = || format!("looking at {}", described(spec));
        within(PORT_TIMEOUT, what, async {
            let _turn = self.port_changes.lock(&spec.endpoint).await;
            self.driver(spec)?.refresh().await
        })
        .await
    }

    async fn port_changes(&self) -> Result<mpsc::Receiver<PortChange>, PlatformError> {
        watch::changes(&self.host, Arc::clone(&self.watched))
            .await
            .context(|| "listening to the links of all namespaces".to_owned())
    }

    async fn set_ports_up(
        &self,
        ifindexes: &BTreeSet<u32>,
        is_up: bool,
    ) -> Result<(), PlatformError> {
        if ifindexes.is_empty() {
            return Ok(());
        }
        let host = self.open_host().await?;
        let mut result = Ok(());
        for ifindex in ifindexes {
            let set = host.set_up(*ifindex, is_up).await;
            let state = if is_up { "up" } else { "down" };
            // One that fails keeps none of the others.
            result = result
                .and(set.context(|| format!("setting the interface with index {ifindex} {state}")));
        }
        result
    }

    async fn remove_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        let what = || format!("removing the veth of endpoint {endpoint}");
        within(PORT_TIMEOUT, what, async {
            let _turn = self.port_changes.lock(endpoint).await;
            self.unmake_port(endpoint).await
        })
        .await
    }

    async fn remove_orphan_namespaces(&self) -> Result<(), PlatformError> {
        self.forget_lost_ports().await?;
        let names = self
            .records
            .namespaces
            .names()
            .context(|| "reading which namespaces are ours".to_owned())?;
        // A namespace with a port is no orphan, and need not be looked into.
        let reading = || "reading which ports are ours".to_owned();
        let in_use: BTreeSet<Name> = self.port_namespaces().await?.into_values().collect();
        let mut result = Ok(());
        for name in &names {
            let is_whole = netns::is_mounted(name).context(reading)?;
            if is_whole && in_use.contains(name) {
                continue;
            }
            // One that fails keeps none of the others.
            result = result.and(self.delete_netns_if_unused(name).await);
        }
        result.and(self.detach_all_unused().await)
    }

    async fn forget_guests_but(&self, endpoints: &BTreeSet<Name>) -> Result<(), PlatformError> {
        let forgetting = || "forgetting whose namespaces were used".to_owned();
        let guests = &self.records.guests;
        for endpoint in guests.names().context(forgetting)? {
            if !endpoints.contains(&endpoint) {
                guests.remove(endpoint.as_str()).context(forgetting)?;
            }
        }
        Ok(())
    }

    async fn ensure_vxlan(&self, port: u16) -> Result<External, PlatformError> {
        let _turn = self.device_changes.lock().await;
        self.make_vxlan(port).await
    }

    async fn open_vxlan(
        &self,
        port: u16,
        external: External,
    ) -> Result<TunnelDevices, PlatformError> {
        let _turn = self.device_changes.lock().await;
        self.set_vxlan_up(port, external).await
    }

    async fn paths(
        &self,
        vteps: &[VtepAddr],
    ) -> Result<BTreeMap<VtepAddr, VtepPath>, PlatformError> {
        let underlay = self.underlay().await?;
        let host = self.open_host().await?;
        let mut paths = BTreeMap::new();
        for &vtep in vteps {
            // The programs reach IPv4 VTEPs alone.
            let path = match vtep.ipv4() {
                Some(ip) => host
                    .path(underlay.ifindex, underlay.ip, ip)
                    .await
                    .context(|| format!("looking for the route to {vtep}"))?,
                None => VtepPath::default(),
            };
            paths.insert(vtep, path);
        }
        Ok(paths)
    }

    async fn route_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError> {
        route::changes(&self.host)
            .await
            .context(|| "watching the host's routes".to_owned())
    }

    async fn device_changes(&self) -> Result<mpsc::Receiver<()>, PlatformError> {
        devices::changes(&self.host, &self.instance)
            .await
            .context(|| "watching the host's interfaces".to_owned())
    }

    async fn remove_vxlan(&self) -> Result<(), PlatformError> {
        let _turn = self.device_changes.lock().await;
        self.unmake_vxlan().await?;
        // The instance's last objects: what is remembered of ports that are gone is of no use any more.
        let forgetting = || "removing the records of endpoints".to_owned();
        self.records.guests.clear().context(forgetting)?;
        self.detach_all_unused().await?;
        self.records.routes.clear().context(forgetting)?;
        self.records.local_ports.clear().context(forgetting)?;
        self.records.addresses.clear().context(forgetting)
    }
}
