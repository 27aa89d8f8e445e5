//! Subscribes to netlink events, where only the fact of a change matters.

use std::io;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::{runtime, sync::mpsc};

use super::{errno, netlink_socket::KERNEL, netns::Netns};

/// Bytes of an event that are read. What is longer is cut off.
const EVENT: usize = 64 << 10;

/// Something arrives after each event of `groups` in `netns` that `concerns` the receiver, and after
/// events that got lost because too much came at once. Ends if the kernel stops telling.
pub(super) async fn changes(
    netns: &Netns,
    groups: &'static [MulticastGroup],
    concerns: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
) -> io::Result<mpsc::Receiver<()>> {
    let runtime = runtime::Handle::current();
    let socket = netns
        .run(move || {
            let _registers_the_socket = runtime.enter();
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind_auto()?;
            for group in groups {
                socket.socket_mut().add_membership(*group as u32)?;
            }
            Ok(socket)
        })
        .await?;
    // One that waits says as much as many.
    let (sender, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        let listening = async {
            let mut event = Vec::with_capacity(EVENT);
            while let Ok(heard) = receive(&socket, &mut event).await {
                let is_change = match heard {
                    Heard::Event => concerns(&event),
                    Heard::Loss => true,
                    Heard::Other => false,
                };
                if is_change && let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(())
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = sender.closed() => {}
        }
    });
    Ok(changes)
}

enum Heard {
    Event,
    /// Events were lost.
    Loss,
    /// Not the kernel's.
    Other,
}

/// Waits for the next datagram. Fails only if there will be no more.
async fn receive(socket: &TokioSocket, event: &mut Vec<u8>) -> io::Result<Heard> {
    event.clear();
    match socket.recv_from(event).await {
        Ok(sender) if sender.port_number() == KERNEL => Ok(Heard::Event),
        Ok(_) => Ok(Heard::Other),
        Err(error) => match errno(&error) {
            Errno::ENOBUFS => Ok(Heard::Loss),
            Errno::EINTR => Ok(Heard::Other),
            _ => Err(error),
        },
    }
}
