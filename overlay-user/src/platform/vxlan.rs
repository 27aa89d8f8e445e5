//! The VXLAN device that opens the tunnels' UDP port, and the bridge that spreads head-room.
//!
//! The device is in external mode and carries what the programs can't. That it is up makes the kernel
//! aggregate VXLAN packets (GRO) before the programs see them, and believe what routers say of the path's MTU.
//! It would also take in whatever comes to the port past the programs: by another interface, over IPv6, over
//! loopback. So it is not up before it has the program that drops such packets.
//!
//! A veth reserves no head-room for the headers that the programs put in front, so the kernel
//! copies each such packet. Ports of a bridge reserve what the neediest of them asks for, and a
//! VXLAN device asks for just that. The one that does is another one, which is down and serves for
//! nothing else. The bridge is down, so its ports are disabled. Should somebody set it up, its ports
//! are isolated from one another.

use std::{collections::BTreeSet, io};

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkVxlan};

use super::{
    Context, External, PlatformError, TunnelDevices, errno,
    link::{Link, Vxlan},
    link_change::Change,
    linux::{Linux, Occupant},
    netlink::Netlink,
    ownership::{self, Device},
};

/// UDP port of the device that asks for head-room, which is never opened. On the tunnels' own port an
/// agent of an earlier version would take the device for somebody else's.
const UNUSED_PORT: u16 = 1;

/// MTU of the device, bytes: it limits nothing, and is as long as the kernel lets it be.
const LONGEST: u32 = 65_485;

/// UDP ports that the device sends from: the dynamic ones (RFC 6335 section 6).
const SOURCE_PORTS: (u16, u16) = (49152, 65535);

impl Linux {
    pub(super) async fn make_vxlan(&self, port: u16) -> Result<External, PlatformError> {
        let making = || format!("making the VXLAN device on UDP port {port}");
        let host = self.open_host().await?;
        let links = host.links().await.context(making)?;
        let found = self.seek(&host, &links, Device::Vxlan).await?;
        let ours = found.as_ref().map(|link| link.index);
        let rival = links.iter().find(|link| {
            Some(link.index) != ours && link.vxlan.is_some_and(|vxlan| vxlan.port == port)
        });
        if let Some(instance) = rival.and_then(ownership::instance_of) {
            return Err(PlatformError::Refused(format!(
                "UDP port {port} is overlay instance {instance}'s in this network namespace, which has its \
                 tunnels there: choose another port with --port"
            )));
        }
        if let Some(Link { name, .. }) = rival {
            return Err(PlatformError::Refused(format!(
                "UDP port {port} is taken by VXLAN device {name} in this network namespace: remove \
                 it with `ip link del {name}`, or choose another port with --port"
            )));
        }

        let is_new = found.is_none();
        let link = match found {
            Some(link) if link.vxlan == Some(external(port)) => link,
            found => {
                if let Some(previous) = found {
                    host.delete(previous.index).await.context(making)?;
                }
                self.add_external(&host, port).await?
            }
        };
        self.set_alias(&host, &link, Device::Vxlan)
            .await
            .context(making)?;
        self.keep_silent(&host, &link).await;
        host.apply(Change::of(&link).free().mtu(LONGEST))
            .await
            .context(making)?;
        Ok(External {
            ifindex: link.index,
            is_new,
        })
    }

    pub(super) async fn set_vxlan_up(
        &self,
        port: u16,
        external: External,
    ) -> Result<TunnelDevices, PlatformError> {
        let opening = || format!("opening UDP port {port} by the VXLAN device");
        let host = self.open_host().await?;
        let link = host.link(external.ifindex).await.context(opening)?;
        let link = link.ok_or_else(|| PlatformError::Kernel {
            what: opening(),
            cause: "somebody removed it".to_owned(),
        })?;
        let change = Change::of(&link).flags(LinkFlags::Up | LinkFlags::Noarp);
        if let Err(error) = host.apply(change).await {
            // Not even a device that is down stays when the port is somebody else's.
            host.delete(link.index).await.context(opening)?;
            return Err(refusal(&error, port));
        }
        let mut devices = TunnelDevices {
            ifindexes: BTreeSet::from([link.index]),
            no_headroom: None,
            mended: Vec::new(),
        };
        if external.is_new {
            devices
                .mended
                .push(format!("device {} was gone", link.name));
        } else if !link.is_up() {
            devices
                .mended
                .push(format!("device {} was down", link.name));
        }
        let links = host.links().await.context(opening)?;
        let absent = [Device::Bridge, Device::Headroom].map(|device| {
            let name = device.name(&self.instance);
            (!links.iter().any(|link| link.name == name)).then_some(device)
        });
        let ifindexes = &mut devices.ifindexes;
        if let Err(error) = self.spread_headroom(&host, &links, ifindexes).await {
            tracing::debug!(%error, "veths reserve no head-room for the tunnel's headers");
            devices.no_headroom = Some(error);
        }
        for device in absent.into_iter().flatten() {
            // A kernel without bridges has none now either.
            if let Occupant::Ours(link) = self.find(&host, device).await? {
                devices
                    .mended
                    .push(format!("device {} was gone", link.name));
            }
        }
        Ok(devices)
    }

    pub(super) async fn unmake_vxlan(&self) -> Result<(), PlatformError> {
        let host = self.open_host().await?;
        let reading = || "reading the host's links".to_owned();
        let links = host.links().await.context(reading)?;
        for device in [Device::Bridge, Device::Headroom, Device::Vxlan] {
            let name = device.name(&self.instance);
            let removing = || format!("removing {name}");
            match self.seek(&host, &links, device).await {
                Ok(Some(link)) => host.delete(link.index).await.context(removing)?,
                // What has the name is somebody else's.
                Ok(None) | Err(PlatformError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
            self.records.devices.remove(&name).context(removing)?;
        }
        Ok(())
    }

    /// Makes `link` a port of the bridge, if there is a bridge. Without it the link works too, and the next
    /// look at the devices says so: [`Self::make_vxlan`].
    pub(super) async fn share_headroom(&self, host: &Netlink, link: &Link) {
        if let Ok(Occupant::Ours(bridge)) = self.find(host, Device::Bridge).await
            && let Err(error) = join(host, &bridge, link).await
        {
            tracing::debug!(%error, link = link.name, "no head-room for the tunnel's headers");
        }
    }

    /// Our link for `device`, by its name again if somebody gave it another.
    async fn seek(
        &self,
        host: &Netlink,
        links: &[Link],
        device: Device<'_>,
    ) -> Result<Option<Link>, PlatformError> {
        if let Some(link) = self.find(host, device).await?.for_us()? {
            return Ok(Some(link));
        }
        let (name, alias) = (device.name(&self.instance), device.alias(&self.instance));
        let is_it = |link: &&Link| {
            let is_external = link.vxlan.is_some_and(|vxlan| vxlan.external);
            link.kind == Some(device.kind())
                && link.alias.as_ref() == Some(&alias)
                && is_external == (device == Device::Vxlan)
        };
        let Some(renamed) = links.iter().find(is_it) else {
            return Ok(None);
        };
        host.rename(renamed, &name)
            .await
            .context(|| format!("naming {} back to {name}", renamed.name))?;
        // A listing does not tell all that there is to it.
        self.find(host, device).await?.for_us()
    }

    async fn add_external(&self, host: &Netlink, port: u16) -> Result<Link, PlatformError> {
        let name = Device::Vxlan.name(&self.instance);
        let message = LinkMessageBuilder::<LinkVxlan>::new(&name)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .mtu(LONGEST)
            // As RFC 7348 section 5 recommends, and as the programs do.
            .port_range(SOURCE_PORTS.0, SOURCE_PORTS.1)
            // RFC 6935: tunnels may send zero checksums over IPv6.
            .udp_zero_csum6_rx(true)
            .build();
        self.add(host, Device::Vxlan, message)
            .await
            .map_err(|error| refusal(&error, port))
    }

    /// Keeps the host from saying anything on the link of its own accord.
    async fn keep_silent(&self, host: &Netlink, link: &Link) {
        if let Err(error) = host.apply(Change::of(link).without_addresses()).await {
            tracing::debug!(%error, link = link.name, "the link may have IPv6 addresses");
        }
        if link.has_ipv6 {
            self.disable_ipv6(&link.name).await;
        }
    }

    /// Makes the bridge and the device that asks for head-room, whose index comes to `ifindexes`, and makes
    /// all veths that there are its ports. A kernel that has no bridges is as fast as it can be.
    async fn spread_headroom(
        &self,
        host: &Netlink,
        links: &[Link],
        ifindexes: &mut BTreeSet<u32>,
    ) -> Result<(), PlatformError> {
        let making = || "making the bridge that spreads head-room".to_owned();
        let bridge = if let Some(bridge) = self.seek(host, links, Device::Bridge).await? {
            bridge
        } else {
            let name = Device::Bridge.name(&self.instance);
            // STP and VLAN filtering are off unless asked for.
            let message = LinkMessageBuilder::<LinkBridge>::new(&name)
                .mcast_snooping(false)
                .build();
            match self.add(host, Device::Bridge, message).await {
                Err(error) if errno(&error) == Errno::EOPNOTSUPP => return Ok(()),
                added => added.context(making)?,
            }
        };
        host.apply(Change::of(&bridge).down())
            .await
            .context(making)?;
        self.set_alias(host, &bridge, Device::Bridge)
            .await
            .context(making)?;
        self.keep_silent(host, &bridge).await;
        let headroom = self.make_headroom(host, links).await?;
        ifindexes.insert(headroom.index);
        join(host, &bridge, &headroom).await.context(making)?;
        self.join_veths(host, &bridge, links).await
    }

    /// Makes the veths among `links` ports of the bridge.
    async fn join_veths(
        &self,
        host: &Netlink,
        bridge: &Link,
        links: &[Link],
    ) -> Result<(), PlatformError> {
        let (mut result, mut is_full) = (Ok(()), false);
        for link in links {
            let is_ours = link.is_veth() && ownership::endpoint_of(link, &self.instance).is_some();
            if !is_ours || (is_full && link.controller != Some(bridge.index)) {
                continue;
            }
            let what = format!("giving {} head-room for the tunnel's headers", link.name);
            let joined = match join(host, bridge, link).await {
                // It went meanwhile.
                Err(error) if errno(&error) == Errno::ENODEV => Ok(()),
                Err(error) if errno(&error) == Errno::EXFULL => {
                    is_full = true;
                    let cause = "a bridge has no more than 1023 ports".to_owned();
                    Err(PlatformError::Kernel { what, cause })
                }
                joined => joined.context(|| what),
            };
            // One that fails keeps none of the others.
            result = result.and(joined);
        }
        result
    }

    /// Makes the device that asks for head-room, down: it sends and receives nothing.
    async fn make_headroom(&self, host: &Netlink, links: &[Link]) -> Result<Link, PlatformError> {
        let making = || "making the device that asks for head-room".to_owned();
        let found = self.seek(host, links, Device::Headroom).await?;
        let wanted = Vxlan {
            port: UNUSED_PORT,
            ..Vxlan::default()
        };
        let link = match found {
            Some(link) if link.vxlan == Some(wanted) => link,
            found => {
                if let Some(previous) = found {
                    host.delete(previous.index).await.context(making)?;
                }
                let name = Device::Headroom.name(&self.instance);
                let message = LinkMessageBuilder::<LinkVxlan>::new(&name)
                    .id(ownership::vni_of(&self.instance))
                    .learning(false)
                    .port(UNUSED_PORT)
                    .build();
                self.add(host, Device::Headroom, message)
                    .await
                    .context(making)?
            }
        };
        host.apply(Change::of(&link).down()).await.context(making)?;
        self.set_alias(host, &link, Device::Headroom)
            .await
            .context(making)?;
        self.keep_silent(host, &link).await;
        Ok(link)
    }

    /// Makes the link that `message` asks for under `device`'s name; recorded, not marked yet.
    async fn add(
        &self,
        host: &Netlink,
        device: Device<'_>,
        message: LinkMessage,
    ) -> io::Result<Link> {
        let name = device.name(&self.instance);
        self.records.devices.put(&name, "")?;
        if let Err(error) = host.add(message).await {
            self.records.devices.remove(&name)?;
            return Err(error);
        }
        Ok(host.link_named(&name).await?.ok_or(Errno::ENODEV)?)
    }

    /// Puts the alias on `link`, which from then on needs no record.
    async fn set_alias(&self, host: &Netlink, link: &Link, device: Device<'_>) -> io::Result<()> {
        let alias = device.alias(&self.instance);
        host.apply(Change::of(link).alias(alias)).await?;
        self.records.devices.remove(&link.name)
    }
}

/// The settings of the device in external mode.
fn external(port: u16) -> Vxlan {
    Vxlan {
        port,
        external: true,
        ..Vxlan::default()
    }
}

/// Makes `link` a port of `bridge` that is isolated from the other ports. One that can't be isolated is
/// none.
async fn join(host: &Netlink, bridge: &Link, link: &Link) -> io::Result<()> {
    let mut port = link.clone();
    if port.controller != Some(bridge.index) {
        host.apply(Change::of(link).controller(bridge.index))
            .await?;
        port.controller = Some(bridge.index);
        port.bridge_port.clear();
    }
    let isolated = host.apply(Change::of(&port).isolated()).await;
    if isolated.is_err()
        && let Err(error) = host.apply(Change::of(&port).free()).await
    {
        tracing::warn!(%error, link = link.name, "a port of the bridge is not isolated and stays one");
    }
    isolated
}

/// Why there is no VXLAN device on UDP `port`.
fn refusal(error: &io::Error, port: u16) -> PlatformError {
    match errno(error) {
        Errno::EOPNOTSUPP => PlatformError::Refused(
            "this kernel has no VXLAN devices: load module vxlan or use a kernel with CONFIG_VXLAN"
                .to_owned(),
        ),
        // The port belongs to the namespace that a VXLAN device was made in, wherever it is now.
        Errno::EEXIST | Errno::EADDRINUSE => PlatformError::Refused(format!(
            "UDP port {port} is taken in this network namespace by a program (see `ss -lunp`) or by \
             a VXLAN device that was made here and moved to another namespace: stop that, or choose \
             another port with --port"
        )),
        _ => PlatformError::failed(format!("making the VXLAN device on UDP port {port}"), error),
    }
}
