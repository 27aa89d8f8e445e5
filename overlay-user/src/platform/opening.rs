//! The last step of an endpoint's port: its own end is set up and gets its addresses.
//!
//! An interface that is up and has no carrier, or whose carrier came a moment ago, takes what is sent, and
//! the kernel throws it away: the first question for a neighbour, say, which is asked again after a second.
//! Each end of a pair has its carrier when the other is up. So nothing can be sent, for want of an
//! address, before the host side is up and the kernel has seen to both ends.

use std::{io, time::Duration};

use ipnet::IpNet;
use netlink_packet_route::link::LinkFlags;
use nix::errno::Errno;
use tokio::time::{sleep, timeout};

use super::{
    Context, PlatformError, errno, link::Link, link_change::Change, linux::Linux, netlink::Netlink,
    netns::Netns, netns_port::NetnsPort,
};

/// Longest packet that an endpoint may leave to be segmented later, bytes: with the tunnel's
/// headers around it, its length still fits the 16 bits of the outer IP header.
pub(super) const GSO_MAX_SIZE: u32 = 65_536 - 64;

/// How long the kernel may take over a carrier. It is done in no time; somebody may have told the interface
/// to wait for a word of his.
const CARRIER: Duration = Duration::from_millis(100);
/// How often it is asked: up to Linux 6.7 the question does not have it done.
const CARRIER_RETRY: Duration = Duration::from_millis(1);

impl Linux {
    /// Makes the endpoint's own end what `spec` says; gives the addresses that somebody had taken away.
    /// `None`: it is down, and stays so without addresses; only a look sets it up, and only if the host side is.
    pub(super) async fn set_container_side(
        &self,
        (host, host_side): (&Netlink, &Link),
        (inner, container_side): (&Netlink, &Link),
        (netns, spec): (&Netns, &NetnsPort<'_>),
        is_look: bool,
    ) -> Result<Option<Vec<IpNet>>, PlatformError> {
        let setting = || format!("setting up the veth of endpoint {}", spec.endpoint);
        let is_open = host_side.is_up() && (is_look || container_side.is_up());
        change_container_side(inner, container_side, spec, is_open)
            .await
            .context(setting)?;
        if !is_open {
            return Ok(None);
        }
        if !container_side.is_up() {
            let ends = [(inner, container_side.index), (host, host_side.index)];
            await_carrier(ends).await.context(setting)?;
        }
        let set = self.set_addresses(netns, inner, container_side.index, spec);
        set.await.map(Some)
    }
}

async fn change_container_side(
    inner: &Netlink,
    link: &Link,
    spec: &NetnsPort<'_>,
    is_up: bool,
) -> io::Result<()> {
    let flags = if is_up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    let change = Change::of(link)
        .address(spec.mac.octets())
        .mtu(spec.mtu)
        .flags(flags);
    inner.apply(change).await?;
    match inner.apply(Change::of(link).limit_gso(GSO_MAX_SIZE)).await {
        Err(error) if matches!(errno(&error), Errno::EOPNOTSUPP | Errno::EINVAL) => {
            tracing::debug!(endpoint = %spec.endpoint, "this kernel can't limit a veth's GSO size");
            Ok(())
        }
        applied => applied,
    }
}

/// Waits until both ends can send. The kernel follows a carrier later than it shows it, and at once where it is
/// asked about the link (`rtnl_getlink`, since Linux 6.8).
async fn await_carrier(ends: [(&Netlink, u32); 2]) -> io::Result<()> {
    let waiting = async {
        for (netlink, index) in ends {
            while netlink
                .link(index)
                .await?
                .is_some_and(|link| !link.can_send())
            {
                sleep(CARRIER_RETRY).await;
            }
        }
        Ok(())
    };
    timeout(CARRIER, waiting).await.unwrap_or(Ok(()))
}
