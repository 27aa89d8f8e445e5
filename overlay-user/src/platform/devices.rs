//! Changes to the devices that serve the tunnels, as the kernel tells of them.

use std::io;

use futures_util::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use rtnetlink::MulticastGroup;
use tokio::{runtime, sync::mpsc};

use super::{mark::Device, netns::Netns};
use crate::model::Name;

/// How an instance's devices are known.
struct Ours {
    names: [String; 3],
    /// The same for all of them.
    alias: String,
}

/// See [`super::Platform::device_changes`].
pub(super) async fn changes(netns: &Netns, instance: &Name) -> io::Result<mpsc::Receiver<()>> {
    let runtime = runtime::Handle::current();
    let (connection, _, mut messages) = netns
        .run(move || {
            let _registers_the_socket = runtime.enter();
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
        })
        .await?;
    let devices = [Device::Vxlan, Device::Headroom, Device::Bridge];
    let ours = Ours {
        names: devices.map(|device| device.name(instance)),
        alias: Device::Vxlan.alias(instance),
    };
    // One that waits says as much as many.
    let (sender, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        let listening = async {
            while let Some((message, _)) = messages.next().await {
                if concerns(&message.payload, &ours)
                    && let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(())
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = connection => {}
            () = sender.closed() => {}
        }
    });
    Ok(changes)
}

/// Whether a message may be about one of the devices. What is no message of links may be: that the
/// kernel had more to say than the socket could hold.
fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>, ours: &Ours) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => is_ours(link, ours),
        NetlinkPayload::InnerMessage(_) => false,
        _ => true,
    }
}

/// A link that was renamed is known by its alias.
fn is_ours(link: &LinkMessage, ours: &Ours) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfName(name) => ours.names.contains(name),
        LinkAttribute::IfAlias(alias) => *alias == ours.alias,
        _ => false,
    })
}
