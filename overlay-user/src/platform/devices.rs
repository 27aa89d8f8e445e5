//! Watches the devices that serve the tunnels.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::{events, link::Link, netns::Netns, ownership::Device};
use crate::model::Name;

/// How an instance's devices are known.
struct Ours {
    names: [String; 3],
    /// The same for all of them.
    alias: String,
}

/// See [`super::Platform::device_changes`].
pub(super) async fn changes(netns: &Netns, instance: &Name) -> io::Result<mpsc::Receiver<()>> {
    let devices = [Device::Vxlan, Device::Headroom, Device::Bridge];
    let ours = Ours {
        names: devices.map(|device| device.name(instance)),
        alias: Device::Vxlan.alias(instance),
    };
    events::changes(netns, &[MulticastGroup::Link], move |event| {
        ours.may_be_in(event)
    })
    .await
}

impl Ours {
    /// Whether an event may be about one of the devices. What can't be read may be.
    fn may_be_in(&self, event: &[u8]) -> bool {
        let Ok(event) = NetlinkBuffer::new_checked(event) else {
            return true;
        };
        matches!(event.message_type(), libc::RTM_NEWLINK | libc::RTM_DELLINK)
            && Link::of(event.payload()).map_or(true, |link| self.has(&link))
    }

    /// A link that was renamed is known by its alias.
    fn has(&self, link: &Link) -> bool {
        self.names.contains(&link.name) || link.alias.as_ref() == Some(&self.alias)
    }
}
