//! The VXLAN device that opens the tunnels' UDP port, and the bridge that spreads its head-room.
//!
//! The device is in external mode and carries nothing itself. That it is up makes the kernel
//! aggregate VXLAN packets (GRO) before the programs see them.
//!
//! A veth reserves no head-room for the headers that the programs put in front, so the kernel
//! copies each such packet. Ports of a bridge reserve what the neediest of them asks for, and a
//! VXLAN device asks for just that. The bridge is down, so its ports are disabled: it forwards
//! nothing, and what the programs leave to the host ends there.

use std::io;

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkVxlan};

use super::{
    PlatformError, Tried, errno,
    linux::{Linux, Place},
    mark::{self, Device},
    netlink::{Change, Link, Netlink, Vxlan},
};

impl Linux {
    pub(super) async fn make_vxlan(&self, port: u16) -> Result<(), PlatformError> {
        let making = || format!("making the VXLAN device on UDP port {port}");
        let host = self.open_host().await?;
        let found = self.find(&host, Device::Vxlan).await?.for_us()?;
        let links = host.links().await.tried(making)?;
        let ours = found.as_ref().map(|link| link.index);
        let rival = links.iter().find(|link| {
            Some(link.index) != ours && link.vxlan.is_some_and(|vxlan| vxlan.port == port)
        });
        if let Some(Link { name, .. }) = rival {
            return Err(PlatformError::Refused(format!(
                "UDP port {port} is taken by VXLAN device {name} in this network namespace: remove \
                 it with `ip link del {name}`, or choose another port with --port"
            )));
        }

        let wanted = Vxlan {
            port,
            external: true,
        };
        let usable = found.as_ref().filter(|link| link.vxlan == Some(wanted));
        let link = if let Some(link) = usable {
            link.clone()
        } else {
            if let Some(former) = &found {
                host.delete(former.index).await.tried(making)?;
            }
            let name = Device::Vxlan.name(&self.instance);
            let message = LinkMessageBuilder::<LinkVxlan>::new(&name)
                .collect_metadata(true)
                .learning(false)
                .port(port)
                // RFC 6935: tunnels may send zero checksums over IPv6.
                .udp_zero_csum6_rx(true)
                .build();
            self.add(&host, Device::Vxlan, message)
                .await
                .map_err(|error| refusal(&error, port))?
        };
        self.mark(&host, &link, Device::Vxlan).await.tried(making)?;
        self.disable_ipv6(&link.name).await;
        if let Err(error) = host.apply(Change::of(&link).flags(LinkFlags::Up)).await {
            // Not even a device that is down stays when the port is somebody else's.
            host.delete(link.index).await.tried(making)?;
            return Err(refusal(&error, port));
        }
        if let Err(error) = self.make_bridge(&host, &link).await {
            tracing::debug!(%error, "no bridge: veths reserve no head-room for the tunnel's headers");
        }
        Ok(())
    }

    pub(super) async fn unmake_vxlan(&self) -> Result<(), PlatformError> {
        let host = self.open_host().await?;
        for device in [Device::Bridge, Device::Vxlan] {
            let name = device.name(&self.instance);
            let removing = || format!("removing {name}");
            if let Place::Ours(link) = self.find(&host, device).await? {
                host.delete(link.index).await.tried(removing)?;
            }
            self.records.devices.remove(&name).tried(removing)?;
        }
        Ok(())
    }

    /// Makes `link` a port of the bridge, if there is a bridge. Without it the link works too.
    pub(super) async fn share_headroom(&self, host: &Netlink, link: &Link) {
        if let Ok(Place::Ours(bridge)) = self.find(host, Device::Bridge).await {
            join(host, &bridge, link).await;
        }
    }

    async fn make_bridge(&self, host: &Netlink, vxlan: &Link) -> Result<(), PlatformError> {
        let making = || "making the bridge that spreads head-room".to_owned();
        let found = self.find(host, Device::Bridge).await?.for_us()?;
        let bridge = if let Some(bridge) = found {
            bridge
        } else {
            let name = Device::Bridge.name(&self.instance);
            // STP and VLAN filtering are off unless asked for.
            let message = LinkMessageBuilder::<LinkBridge>::new(&name)
                .mcast_snooping(false)
                .build();
            self.add(host, Device::Bridge, message)
                .await
                .tried(making)?
        };
        self.mark(host, &bridge, Device::Bridge)
            .await
            .tried(making)?;
        self.disable_ipv6(&bridge.name).await;
        host.apply(Change::of(&bridge).down()).await.tried(making)?;
        join(host, &bridge, vxlan).await;
        for link in host.links().await.tried(making)? {
            if link.is_veth() && mark::endpoint_of(&link, &self.instance).is_some() {
                join(host, &bridge, &link).await;
            }
        }
        Ok(())
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
    async fn mark(&self, host: &Netlink, link: &Link, device: Device<'_>) -> io::Result<()> {
        let alias = device.alias(&self.instance);
        host.apply(Change::of(link).alias(alias)).await?;
        self.records.devices.remove(&link.name)
    }
}

/// Makes `link` a port of `bridge`.
async fn join(host: &Netlink, bridge: &Link, link: &Link) {
    // EXFULL: a bridge has no more than 1023 ports.
    if let Err(error) = host.apply(Change::of(link).controller(bridge.index)).await {
        tracing::debug!(%error, link = link.name, "no head-room for the tunnel's headers");
    }
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
