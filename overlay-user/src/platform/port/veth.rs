//! The driver of veths: a namespace and a pair that leads into it.
//!
//! A port is made in this order, and each step is one that a later call finds and goes on from:
//! record, namespace, veth, alias, then everything that can be set on what is there. Both ends are down
//! until the pair has its rows and programs and the host side is set up; the next look opens the inside
//! (`opening.rs`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use async_trait::async_trait;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkFlags, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    super::{
        Context, PlatformError, Port, errno,
        link::Link,
        link_change::Change,
        linux::Linux,
        netlink::Netlink,
        netns::{self, Named, Netns},
        netns_port::NetnsPort,
        offloads,
        opening::GSO_MAX_SIZE,
        ownership::Device,
    },
    PortDriver,
};
use crate::model::Name;

/// A veth pair with one end in a namespace.
pub(super) struct Veth<'a> {
    pub(super) linux: &'a Linux,
    pub(super) port: NetnsPort<'a>,
}

#[async_trait]
impl PortDriver for Veth<'_> {
    async fn ensure(&self) -> Result<Port, PlatformError> {
        self.linux.make_veth(&self.port).await
    }

    async fn refresh(&self) -> Result<Option<Port>, PlatformError> {
        self.linux.refresh_veth(&self.port).await
    }
}

/// What is there of a port before it is changed.
enum Found {
    Pair(Pair),
    Parts {
        /// The veth's host side, if it is there and its other end not where it belongs.
        host_side: Option<Link>,
        /// The namespace, if there is one.
        netns: Option<Netns>,
    },
}

/// A port that is there as a whole.
struct Pair {
    /// The veth's host side.
    host_side: Link,
    netns: Netns,
    /// Netlink in that namespace.
    inner: Netlink,
    /// The veth's other end, in it.
    container_side: Link,
    /// Whether somebody else's interface has the name that the other end is to have.
    is_name_taken: bool,
}

impl Linux {
    async fn make_veth(&self, spec: &NetnsPort<'_>) -> Result<Port, PlatformError> {
        check(spec)?;
        let endpoint = spec.endpoint;
        let recording = || format!("recording endpoint {endpoint}");
        // Until the veth is in it: otherwise the last port that goes may take the namespace with it.
        let in_netns = self.netns_changes.lock(spec.netns).await;
        let host = self.open_host().await?;
        let (host_side, netns) = match self.look(&host, spec).await? {
            Found::Pair(pair) => return self.converge(&host, spec, pair, false).await,
            Found::Parts { host_side, netns } => (host_side, netns),
        };
        let ports = &self.records.ports;
        let previous = ports.get(endpoint.as_str()).context(recording)?;
        let guests = &self.records.guests;
        let is_guest = guests.get(endpoint.as_str()).context(recording)?.is_some();
        ports
            .put(endpoint.as_str(), spec.netns.as_str())
            .context(recording)?;
        if let Some(misplaced) = host_side {
            host.delete(misplaced.index)
                .await
                .context(|| format!("removing the previous veth of endpoint {endpoint}"))?;
        }
        let made = self.make_pair(&host, spec, netns).await;
        drop(in_netns);
        let cleared = match &made {
            Ok(_) => Ok(()),
            Err(_) if is_guest => self.clear_port(endpoint).await,
            Err(_) => self.unmake_port(endpoint).await,
        };
        if let Err(error) = cleared {
            tracing::warn!(%endpoint, %error, "what was made of the endpoint stays until it is removed");
        }
        if let Some(previous) = previous.and_then(|name| name.parse().ok())
            && previous != *spec.netns
        {
            self.delete_netns_if_unused(&previous).await?;
            self.detach_unused(&previous).await?;
        }
        made
    }

    async fn refresh_veth(&self, spec: &NetnsPort<'_>) -> Result<Option<Port>, PlatformError> {
        let host = self.open_host().await?;
        match self.look(&host, spec).await? {
            Found::Pair(pair) => self.converge(&host, spec, pair, true).await.map(Some),
            Found::Parts { .. } => Ok(None),
        }
    }

    /// Finds out what is there. Refused: something that isn't ours is in the way, or the namespace is
    /// missing and not ours to make.
    async fn look(&self, host: &Netlink, spec: &NetnsPort<'_>) -> Result<Found, PlatformError> {
        let NetnsPort { netns, ifname, .. } = spec;
        let looking = || format!("looking into namespace {netns}");
        let host_side = self.host_side(host, spec.endpoint).await?.for_us()?;
        let Some(namespace) = self.find_netns(spec).await? else {
            return Ok(Found::Parts {
                host_side,
                netns: None,
            });
        };
        let inner = Netlink::open(&namespace).await.context(looking)?;
        let container_side = match &host_side {
            Some(host_side) => other_end(host, &inner, host_side, &namespace).await,
            None => Ok(None),
        }
        .context(looking)?;
        let is_name_taken = match &container_side {
            Some(container_side) if container_side.name == ifname.as_str() => false,
            _ => inner
                .link_named(ifname.as_str())
                .await
                .context(looking)?
                .is_some(),
        };
        Ok(match (host_side, container_side) {
            (Some(host_side), Some(container_side)) => Found::Pair(Pair {
                host_side,
                netns: namespace,
                inner,
                container_side,
                is_name_taken,
            }),
            _ if is_name_taken => {
                return Err(PlatformError::Refused(format!(
                    "interface {ifname} exists in namespace {netns} and belongs to somebody else: \
                     choose another name with --ifname, or rename that one"
                )));
            }
            (host_side, _) => Found::Parts {
                host_side,
                netns: Some(namespace),
            },
        })
    }

    /// The endpoint's namespace. `None`: there is none, and it is ours to make.
    async fn find_netns(&self, spec: &NetnsPort<'_>) -> Result<Option<Netns>, PlatformError> {
        let NetnsPort {
            endpoint, netns, ..
        } = spec;
        let looking = || format!("looking into namespace {netns}");
        let named = netns::find(netns).await.context(looking)?;
        self.check_attached(endpoint, netns, &named).await?;
        match named {
            // `bpf_redirect_peer` drops what would not leave its namespace.
            Named::Netns(namespace) if namespace.is(&self.host).context(looking)? => {
                return Err(PlatformError::Refused(format!(
                    "namespace {netns} is the agent's own, an endpoint needs another: choose one \
                     with --netns"
                )));
            }
            Named::Netns(namespace) => return Ok(Some(namespace)),
            Named::Missing | Named::EmptyFile | Named::Dangling | Named::Other => {}
        }
        // Only one that nobody else made, or may be about to make.
        let host = self
            .records
            .guests
            .get(endpoint.as_str())
            .context(looking)?;
        if host.as_deref() == Some(netns.as_str()) {
            return Err(PlatformError::Refused(format!(
                "namespace {netns} is gone, and the agent did not make it: whoever did has to make \
                 it again, under the same name; or put the endpoint into another with `overlay endpoint move {endpoint} --netns`"
            )));
        }
        match named {
            Named::Missing => Ok(None),
            Named::EmptyFile
                if self
                    .records
                    .namespaces
                    .has(netns.as_str())
                    .context(looking)? =>
            {
                Ok(None)
            }
            _ => Err(PlatformError::Refused(format!(
                "{}/{netns} is no network namespace: remove that file, or choose another name \
                 with --netns",
                netns::NETNS_DIR
            ))),
        }
    }

    /// Notes whether somebody else made the namespace that the endpoint's port is in, or comes into.
    /// Such a one the agent never makes. `true`: it is ours.
    async fn note_owner(&self, spec: &NetnsPort<'_>, namespace: &Netns) -> io::Result<bool> {
        let is_ours = self.made(spec.netns, namespace).await?;
        let guests = &self.records.guests;
        let (endpoint, netns) = (spec.endpoint.as_str(), spec.netns.as_str());
        let known = guests.get(endpoint)?;
        if is_ours && known.is_some() {
            guests.remove(endpoint)?;
        } else if !is_ours && known.as_deref() != Some(netns) {
            guests.put(endpoint, netns)?;
        }
        Ok(is_ours)
    }

    /// Makes the veth pair, and the namespace if there is none yet.
    async fn make_pair(
        &self,
        host: &Netlink,
        spec: &NetnsPort<'_>,
        netns: Option<Netns>,
    ) -> Result<Port, PlatformError> {
        let netns = match netns {
            Some(netns) => netns,
            None => self.make_netns(spec.netns).await?,
        };
        self.note_owner(spec, &netns)
            .await
            .context(|| format!("recording whose namespace {} is", spec.netns))?;
        let name = Device::Port(spec.endpoint).name(&self.instance);
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
        match self.look(host, spec).await? {
            Found::Pair(pair) => {
                let port = self.converge(host, spec, pair, false).await?;
                // It had nothing yet that somebody could have changed.
                let mended = Vec::new();
                Ok(Port { mended, ..port })
            }
            Found::Parts { .. } => Err(PlatformError::Kernel {
                what: format!("making the veth of endpoint {}", spec.endpoint),
                cause: "somebody removed it meanwhile".to_owned(),
            }),
        }
    }

    async fn make_netns(&self, name: &Name) -> Result<Netns, PlatformError> {
        // What a crash left half made.
        self.retire_locked(name).await?;
        let records = self.records.namespaces.clone();
        let record_name = name.clone();
        netns::create(name, move |identity| {
            records.put(record_name.as_str(), identity)
        })
        .await
        .context(|| format!("making namespace {name}"))
    }

    /// Makes a pair that is there what `spec` says.
    async fn converge(
        &self,
        host: &Netlink,
        spec: &NetnsPort<'_>,
        pair: Pair,
        is_look: bool,
    ) -> Result<Port, PlatformError> {
        let endpoint = spec.endpoint;
        let setting = || format!("setting up the veth of endpoint {endpoint}");
        let Pair {
            host_side,
            netns,
            inner,
            container_side,
            is_name_taken,
        } = pair;
        let is_own_netns = self.note_owner(spec, &netns).await.context(setting)?;
        if is_own_netns {
            bring_up_loopback(&inner).await.context(setting)?;
        }
        if !Change::of(&container_side)
            .limit_gso(GSO_MAX_SIZE)
            .is_done()
        {
            self.prefer_gro(&netns, container_side.index, host_side.index)
                .await
                .unwrap_or_else(|error| {
                    tracing::debug!(%endpoint, %error, "TCP segments will not be aggregated");
                });
        }
        let mut mended = changes(&container_side, &host_side, spec);
        if is_name_taken {
            tracing::debug!(%endpoint, name = container_side.name, "the interface keeps a name that is not ours");
        } else if container_side.name != spec.ifname.as_str() {
            let renamed = inner.rename(&container_side, spec.ifname.as_str()).await;
            renamed.context(setting)?;
            mended.push(format!("its interface's name was {}", container_side.name));
        }
        let ends = ((host, &host_side), (&inner, &container_side));
        let set = self.set_container_side(ends.0, ends.1, (&netns, spec), is_look);
        let missed = set.await?;
        let is_open = missed.is_some();
        if is_open && is_own_netns {
            let set = self.set_default_routes(&inner, container_side.index, spec);
            // Its network is there without.
            if let Err(error) = set.await {
                tracing::warn!(%endpoint, %error, "the endpoint has no default route");
            }
            if let Err(error) = self.set_local_ports(&netns, spec).await {
                tracing::warn!(%endpoint, %error, "the endpoint's sockets have other ports than its block");
            }
        }
        for net in missed.into_iter().flatten() {
            mended.push(format!("its address {net} was gone"));
        }
        self.set_host_side(host, &host_side, spec).await?;
        if host_side.controller.is_none() {
            self.share_headroom(host, &host_side).await;
        }
        let port = Port {
            endpoint: endpoint.clone(),
            host_ifindex: host_side.index,
            host_ifname: Device::Port(endpoint).name(&self.instance),
            is_up: host_side.is_up(),
            is_open,
            has_xdp: container_side.has_xdp,
            mended,
        };
        self.watched
            .insert(spec, &port, (host_side.peer_nsid, container_side.index));
        Ok(port)
    }

    /// Lets the inside aggregate what comes through the pair's queue (ADR 17). A veth does so
    /// only for a sender that leaves no segmentation to it. Done once, before the limit on GSO
    /// that every port has: what an administrator sets later is his affair.
    async fn prefer_gro(
        &self,
        inner: &Netns,
        container_side: u32,
        host_side: u32,
    ) -> io::Result<()> {
        offloads::set(inner, container_side, &offloads::GRO, true).await?;
        offloads::set(&self.host, host_side, &offloads::TCP_SEGMENTATION, false).await
    }

    async fn set_host_side(
        &self,
        host: &Netlink,
        link: &Link,
        spec: &NetnsPort<'_>,
    ) -> Result<(), PlatformError> {
        let setting = || format!("setting up the veth of endpoint {}", spec.endpoint);
        let device = Device::Port(spec.endpoint);
        let (name, alias) = (device.name(&self.instance), device.alias(&self.instance));
        if link.name != name {
            host.rename(link, &name).await.context(setting)?;
        }
        // The host has no business of its own on this link: no addresses, so no ARP.
        let change = Change::of(link)
            .alias(alias)
            .mtu(host_mtu(spec.mtu))
            .flags(LinkFlags::Noarp);
        let is_new = !change.is_done() || !link.is_up();
        host.apply(change).await.context(setting)?;
        if is_new {
            // After the MTU: coming from below 1280 bytes, IPv6 starts afresh. Before it is up, which
            // it is once its program is there.
            self.disable_ipv6(&name).await;
        }
        Ok(())
    }
}

/// What of the pair itself is not as `spec` says, each in a few words.
fn changes(container_side: &Link, host_side: &Link, spec: &NetnsPort<'_>) -> Vec<String> {
    let mut changes = Vec::new();
    if container_side.address != spec.mac.octets() {
        let bytes = container_side
            .address
            .iter()
            .map(|byte| format!("{byte:02x}"));
        let mac = bytes.collect::<Vec<_>>().join(":");
        changes.push(format!("its MAC was {mac}"));
    }
    let ends = [
        (container_side, spec.mtu, "its"),
        (host_side, host_mtu(spec.mtu), "its host side's"),
    ];
    for (link, mtu, whose) in ends {
        if link.mtu != mtu {
            changes.push(format!("{whose} MTU was {}", link.mtu));
        }
    }
    if host_side.is_up() && !container_side.is_up() {
        changes.push("its interface was down".to_owned());
    }
    changes
}

/// Refuses what the kernel would refuse half-way.
fn check(spec: &NetnsPort<'_>) -> Result<(), PlatformError> {
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

/// MTU of the host side, bytes. A veth takes in nothing that is longer than its own, so that the programs could
/// neither count it nor tell its sender: so it is longer than the endpoint's, in case somebody raises that, but
/// not so long that native XDP programs without fragments could no more be attached inside (`veth_xdp_set` in
/// drivers/net/veth.c).
fn host_mtu(mtu: u32) -> u32 {
    const LONGEST_FOR_XDP: u32 = 3500;
    mtu.max(LONGEST_FOR_XDP)
}

/// The request for a pair with one end already where it belongs, so that it never shows elsewhere.
fn veth(name: &str, spec: &NetnsPort<'_>, netns: &Netns) -> LinkMessage {
    let container_side = LinkMessageBuilder::<LinkUnspec>::new()
        .name(spec.ifname.as_str())
        .address(spec.mac.octets().to_vec())
        .mtu(spec.mtu)
        .setns_by_fd(netns.as_fd().as_raw_fd())
        .build();
    LinkVeth::new(name, spec.ifname.as_str())
        .mtu(host_mtu(spec.mtu))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(container_side)))
        .build()
}

/// The other end of `host_side`, if that is in the namespace of `inner`.
async fn other_end(
    host: &Netlink,
    inner: &Netlink,
    host_side: &Link,
    namespace: &Netns,
) -> io::Result<Option<Link>> {
    // An index alone says nothing: each namespace counts its own.
    match (host_side.peer_nsid, host_side.peer) {
        (Some(id), Some(index)) if host.nsid(namespace).await? == Some(id) => {
            inner.link(index).await
        }
        _ => Ok(None),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_is_as_it_shall_be_was_changed_by_nobody() {
        let web: Name = "web".parse().unwrap();
        let spec = NetnsPort {
            endpoint: &web,
            netns: &web,
            ifname: &"eth0".parse().unwrap(),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: &[],
            mtu: 1450,
            gateways: &[],
            local_ports: None,
        };
        let container_side = Link {
            address: spec.mac.octets().to_vec(),
            mtu: spec.mtu,
            flags: LinkFlags::Up,
            ..Link::default()
        };
        let host_side = Link {
            mtu: host_mtu(spec.mtu),
            flags: LinkFlags::Up,
            ..Link::default()
        };
        assert!(changes(&container_side, &host_side, &spec).is_empty());
        let shorter = Link {
            mtu: spec.mtu,
            ..host_side
        };
        assert_eq!(
            changes(&container_side, &shorter, &spec),
            ["its host side's MTU was 1450"]
        );
    }
}
