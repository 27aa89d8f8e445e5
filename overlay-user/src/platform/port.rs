//! An endpoint's port: a namespace and a veth pair that leads into it.
//!
//! A port is made in this order, and each step is one that a later call finds and goes on from:
//! record, namespace, veth, alias, then everything that can be set on what is there.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkFlags, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    PlatformError, Port, PortSpec, Tried, errno,
    linux::{Linux, Place},
    mark::{self, Device},
    netlink::{Change, Link, Netlink},
    netns::{self, Named, Netns},
    offloads,
};
use crate::model::Name;

/// Longest packet that an endpoint may leave to be segmented later, bytes: with the tunnel's
/// headers around it, its length still fits the 16 bits of the outer IP header.
const GSO_MAX_SIZE: u32 = 65_536 - 64;

/// What is there of a port before it is changed.
struct Found {
    /// The veth's host side.
    outside: Option<Link>,
    /// The namespace, if its name is taken.
    netns: Option<Netns>,
    /// The veth's other end, if it is in that namespace.
    inside: Option<Link>,
}

impl Linux {
    pub(super) async fn make_port(&self, spec: &PortSpec) -> Result<Port, PlatformError> {
        check(spec)?;
        let host = self.open_host().await?;
        let found = self.look(&host, spec).await?;
        if found.inside.is_some() {
            return self.converge(&host, spec).await;
        }

        let endpoint = &spec.endpoint;
        let recording = || format!("recording endpoint {endpoint}");
        let ports = &self.records.ports;
        let former = ports.get(endpoint.as_str()).tried(recording)?;
        ports
            .put(endpoint.as_str(), spec.netns.as_str())
            .tried(recording)?;
        if let Some(misplaced) = found.outside {
            host.delete(misplaced.index)
                .await
                .tried(|| format!("removing the former veth of endpoint {endpoint}"))?;
        }
        let made = self.make_pair(&host, spec, found.netns).await;
        if made.is_err()
            && let Err(error) = self.unmake_port(endpoint).await
        {
            tracing::warn!(%endpoint, %error, "what was made of the endpoint stays until it is removed");
        }
        if let Some(former) = former.and_then(|name| name.parse().ok())
            && former != spec.netns
        {
            self.retire_netns(&former).await?;
        }
        made
    }

    pub(super) async fn unmake_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        let removing = || format!("removing the veth of endpoint {endpoint}");
        let host = self.open_host().await?;
        if let Some(link) = self.outside(&host, endpoint).await? {
            host.delete(link.index).await.tried(removing)?;
        }
        let ports = &self.records.ports;
        if let Some(netns) = ports.get(endpoint.as_str()).tried(removing)?
            && let Ok(netns) = netns.parse()
        {
            self.retire_netns(&netns).await?;
        }
        ports.remove(endpoint.as_str()).tried(removing)
    }

    /// Forgets ports that are recorded and not there: a crash before the veth, or somebody deleted
    /// it.
    pub(super) async fn forget_lost_ports(&self) -> Result<(), PlatformError> {
        let reading = || "reading which ports are ours".to_owned();
        let links = self.open_host().await?.links().await.tried(reading)?;
        for endpoint in self.records.ports.names().tried(reading)? {
            let name = Device::Port(&endpoint).name(&self.instance);
            if links.iter().all(|link| link.name != name) {
                self.records
                    .ports
                    .remove(endpoint.as_str())
                    .tried(reading)?;
            }
        }
        Ok(())
    }

    /// The host side of the endpoint's veth, also if somebody renamed it since we made it.
    async fn outside(
        &self,
        host: &Netlink,
        endpoint: &Name,
    ) -> Result<Option<Link>, PlatformError> {
        if let Place::Ours(link) = self.find(host, Device::Port(endpoint)).await? {
            return Ok(Some(link));
        }
        let reading = || "reading the host's links".to_owned();
        if !self.records.ports.has(endpoint.as_str()).tried(reading)? {
            return Ok(None);
        }
        let links = host.links().await.tried(reading)?;
        Ok(links.into_iter().find(|link| {
            link.is_veth() && mark::endpoint_of(link, &self.instance).as_ref() == Some(endpoint)
        }))
    }

    /// Finds out what is there. Refused: something that isn't ours is in the way.
    async fn look(&self, host: &Netlink, spec: &PortSpec) -> Result<Found, PlatformError> {
        let PortSpec { netns, ifname, .. } = spec;
        let looking = || format!("looking into namespace {netns}");
        self.find(host, Device::Port(&spec.endpoint))
            .await?
            .for_us()?;
        let outside = self.outside(host, &spec.endpoint).await?;
        let namespace = match netns::find(netns).await.tried(looking)? {
            // `bpf_redirect_peer` drops what would not leave its namespace.
            Named::Netns(namespace) if namespace.is(&self.host).tried(looking)? => {
                return Err(PlatformError::Refused(format!(
                    "namespace {netns} is the agent's own, an endpoint needs another: choose one \
                     with --netns"
                )));
            }
            Named::Netns(namespace) => namespace,
            Named::Missing => return Ok(Found::without_netns(outside)),
            Named::EmptyFile if self.records.namespaces.has(netns.as_str()).tried(looking)? => {
                return Ok(Found::without_netns(outside));
            }
            Named::EmptyFile | Named::Other => {
                return Err(PlatformError::Refused(format!(
                    "{}/{netns} is no network namespace: remove that file, or choose another name \
                     with --netns",
                    netns::NETNS_DIR
                )));
            }
        };
        let inner = Netlink::open(&namespace).await.tried(looking)?;
        let inside = match &outside {
            Some(outside) => self.other_end(host, outside, netns).await.tried(looking)?,
            None => None,
        };
        let taken = inner.link_named(ifname.as_str()).await.tried(looking)?;
        if taken.is_some_and(|taken| Some(taken.index) != inside) {
            return Err(PlatformError::Refused(format!(
                "interface {ifname} exists in namespace {netns} and belongs to somebody else: \
                 choose another name with --ifname, or rename that one"
            )));
        }
        let inside = match inside {
            Some(index) => inner.link(index).await.tried(looking)?,
            None => None,
        };
        Ok(Found {
            outside,
            netns: Some(namespace),
            inside,
        })
    }

    /// Index of the other end of `outside`, if that is in the namespace.
    async fn other_end(
        &self,
        host: &Netlink,
        outside: &Link,
        netns: &Name,
    ) -> io::Result<Option<u32>> {
        // An index alone says nothing: each namespace counts its own.
        Ok(match outside.peer_nsid {
            Some(id) if host.nsid(netns).await? == Some(id) => outside.peer,
            _ => None,
        })
    }

    /// Makes the veth pair, and the namespace if there is none yet.
    async fn make_pair(
        &self,
        host: &Netlink,
        spec: &PortSpec,
        netns: Option<Netns>,
    ) -> Result<Port, PlatformError> {
        let netns = match netns {
            Some(netns) => netns,
            None => self.make_netns(&spec.netns).await?,
        };
        let name = Device::Port(&spec.endpoint).name(&self.instance);
        let made = host.add(veth(&name, spec, &netns)).await;
        made.map_err(|error| match errno(&error) {
            Errno::EOPNOTSUPP => PlatformError::Refused(
                "this kernel has no veth devices: load module veth or use a kernel with \
                 CONFIG_VETH"
                    .to_owned(),
            ),
            Errno::EEXIST => PlatformError::Refused(format!(
                "interface {name} here or {} in namespace {} was made by somebody else just now: \
                 choose another name with --ifname, or rename that one",
                spec.ifname, spec.netns
            )),
            _ => PlatformError::failed(
                format!("making the veth of endpoint {}", spec.endpoint),
                &error,
            ),
        })?;
        self.converge(host, spec).await
    }

    async fn make_netns(&self, name: &Name) -> Result<Netns, PlatformError> {
        // What a crash left half made.
        self.retire_netns(name).await?;
        let records = self.records.namespaces.clone();
        let record_name = name.clone();
        netns::create(name, move |identity| {
            records.put(record_name.as_str(), identity)
        })
        .await
        .tried(|| format!("making namespace {name}"))
    }

    /// Makes a pair that is there what `spec` says.
    async fn converge(&self, host: &Netlink, spec: &PortSpec) -> Result<Port, PlatformError> {
        let PortSpec {
            endpoint, netns, ..
        } = spec;
        let setting = || format!("setting up the veth of endpoint {endpoint}");
        let found = self.look(host, spec).await?;
        let (Some(outside), Some(namespace), Some(inside)) =
            (found.outside, found.netns, found.inside)
        else {
            return Err(PlatformError::Kernel {
                what: setting(),
                cause: "somebody removed it meanwhile".to_owned(),
            });
        };
        let inner = Netlink::open(&namespace).await.tried(setting)?;
        if self.made(netns, &namespace).await.tried(setting)? {
            bring_up_loopback(&inner).await.tried(setting)?;
        }
        if !Change::of(&inside).limit_gso(GSO_MAX_SIZE).is_done() {
            self.prefer_gro(&namespace, inside.index, outside.index)
                .await
                .unwrap_or_else(|error| {
                    tracing::debug!(%endpoint, %error, "TCP segments will not be aggregated");
                });
        }
        set_inside(&inner, &inside, spec).await.tried(setting)?;
        set_addresses(&inner, inside.index, spec).await?;
        self.set_outside(host, &outside, spec).await?;
        self.share_headroom(host, &outside).await;
        Ok(Port {
            endpoint: endpoint.clone(),
            host_ifindex: outside.index,
            host_ifname: Device::Port(endpoint).name(&self.instance),
        })
    }

    /// Lets the inside aggregate what comes through the pair's queue (ADR 17). A veth does so
    /// only for a sender that leaves no segmentation to it. Done once, before the limit on GSO
    /// that every port has: what an administrator sets later is his affair.
    async fn prefer_gro(&self, inner: &Netns, inside: u32, outside: u32) -> io::Result<()> {
        offloads::set(inner, inside, &offloads::GRO, true).await?;
        offloads::set(&self.host, outside, &offloads::TCP_SEGMENTATION, false).await
    }

    async fn set_outside(
        &self,
        host: &Netlink,
        link: &Link,
        spec: &PortSpec,
    ) -> Result<(), PlatformError> {
        let setting = || format!("setting up the veth of endpoint {}", spec.endpoint);
        let device = Device::Port(&spec.endpoint);
        let (name, alias) = (device.name(&self.instance), device.alias(&self.instance));
        if link.name != name {
            rename(host, link.index, &name).await.tried(setting)?;
        }
        // The host has no business of its own on this link: no addresses, so no ARP.
        let change = Change::of(link)
            .alias(alias)
            .mtu(spec.mtu)
            .flags(LinkFlags::Noarp);
        host.apply(change).await.tried(setting)?;
        // After the MTU: coming from below 1280 bytes, IPv6 starts afresh. Before it is up.
        self.disable_ipv6(&name).await;
        let change = Change::of(link).flags(LinkFlags::Up);
        host.apply(change).await.tried(setting)
    }
}

impl Found {
    fn without_netns(outside: Option<Link>) -> Self {
        Self {
            outside,
            netns: None,
            inside: None,
        }
    }
}

/// Refuses what the kernel would refuse half-way.
fn check(spec: &PortSpec) -> Result<(), PlatformError> {
    // 68: RFC 791 section 3.2. 1280: RFC 8200 section 5. 65535: the kernel's limit for a veth.
    let has_ipv6 = spec.addresses.iter().any(|net| net.addr().is_ipv6());
    let least = if has_ipv6 { 1280 } else { 68 };
    if (least..=65_535).contains(&spec.mtu) {
        return Ok(());
    }
    Err(PlatformError::Refused(format!(
        "endpoint {} can't have an MTU of {} bytes: choose one from {least} to 65535",
        spec.endpoint, spec.mtu
    )))
}

/// The request for a pair with one end already where it belongs, so that it never shows elsewhere.
fn veth(name: &str, spec: &PortSpec, netns: &Netns) -> LinkMessage {
    let inside = LinkMessageBuilder::<LinkUnspec>::new()
        .name(spec.ifname.as_str())
        .address(spec.mac.octets().to_vec())
        .mtu(spec.mtu)
        .setns_by_fd(netns.as_fd().as_raw_fd())
        .build();
    LinkVeth::new(name, spec.ifname.as_str())
        .mtu(spec.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .build()
}

async fn bring_up_loopback(inner: &Netlink) -> io::Result<()> {
    match inner.link_named("lo").await? {
        Some(lo) if !lo.is_up() => {
            let message = LinkUnspec::new_with_index(lo.index).up().build();
            inner.change(message).await
        }
        _ => Ok(()),
    }
}

async fn set_inside(inner: &Netlink, link: &Link, spec: &PortSpec) -> io::Result<()> {
    if link.name != spec.ifname.as_str() {
        rename(inner, link.index, spec.ifname.as_str()).await?;
    }
    let change = Change::of(link)
        .address(spec.mac.octets())
        .mtu(spec.mtu)
        .flags(LinkFlags::Up);
    inner.apply(change).await?;
    match inner.apply(Change::of(link).limit_gso(GSO_MAX_SIZE)).await {
        Err(error) if matches!(errno(&error), Errno::EOPNOTSUPP | Errno::EINVAL) => {
            tracing::debug!(endpoint = %spec.endpoint, "this kernel can't limit a veth's GSO size");
            Ok(())
        }
        applied => applied,
    }
}

/// Gives the inside the addresses of `spec` and takes off all others that an administrator set.
/// Link-local ones and those from autoconfiguration are the namespace's own affair.
async fn set_addresses(inner: &Netlink, index: u32, spec: &PortSpec) -> Result<(), PlatformError> {
    let setting = || format!("setting the addresses of endpoint {}", spec.endpoint);
    for address in inner.addresses(index).await.tried(setting)? {
        if address.permanent
            && !is_link_local(&address.net)
            && !spec.addresses.contains(&address.net)
        {
            inner.remove_address(address).await.tried(setting)?;
        }
    }
    // With a primary IPv4 address the kernel removes its secondaries: look again.
    let present = inner.addresses(index).await.tried(setting)?;
    for net in &spec.addresses {
        if present.iter().any(|address| address.net == *net) {
            continue;
        }
        match inner.add_address(index, *net).await {
            Err(error) if errno(&error) == Errno::EACCES && net.addr().is_ipv6() => {
                return Err(PlatformError::Refused(format!(
                    "{net} can't be set: IPv6 is off in namespace {}: write 0 to \
                     net.ipv6.conf.{}.disable_ipv6 there",
                    spec.netns, spec.ifname
                )));
            }
            added => added.tried(setting)?,
        }
    }
    Ok(())
}

fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Renames a link, which before Linux 6.2 has to be down for that.
async fn rename(netlink: &Netlink, index: u32, name: &str) -> io::Result<()> {
    let named = LinkUnspec::new_with_index(index).name(name).build();
    match netlink.change(named.clone()).await {
        Err(error) if errno(&error) == Errno::EBUSY => {
            let link = || LinkUnspec::new_with_index(index);
            netlink.change(link().down().build()).await?;
            netlink.change(named).await?;
            netlink.change(link().up().build()).await
        }
        renamed => renamed,
    }
}
