//! What routers say about packets that were too long (RFC 1191). The kernel believes it of the tunnels' packets
//! because of the VXLAN device's socket, keeps it with its routes, and tells nobody.

use std::{io, time::Duration};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{net::UdpSocket, time::sleep};

use super::netns::Netns;

/// Destination unreachable, fragmentation needed (RFC 792).
const FRAGMENTATION_NEEDED: u32 = 0x0304;

/// How long the kernel may take to keep what the same packet told it.
const SETTLE: Duration = Duration::from_millis(50);

/// Opcodes of classic BPF (`linux/filter.h`).
const LOAD_HEADER_LEN: u16 = 0xb1;
const LOAD_HALF_BEHIND_HEADER: u16 = 0x48;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Hears such words. The socket is none of UDP, but tokio has no other type for what receives datagrams.
pub(super) struct Listener(UdpSocket);

impl Listener {
    /// Opens a socket in `netns` that takes in nothing but those.
    pub(super) async fn open(netns: &Netns) -> io::Result<Self> {
        let socket = netns
            .run(|| {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
                socket.attach_filter(&[
                    SockFilter::new(LOAD_HEADER_LEN, 0, 0, 0),
                    SockFilter::new(LOAD_HALF_BEHIND_HEADER, 0, 0, 0),
                    SockFilter::new(JUMP_IF_EQUAL, 0, 1, FRAGMENTATION_NEEDED),
                    SockFilter::new(RETURN, 0, 0, 1),
                    SockFilter::new(RETURN, 0, 0, 0),
                ])?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .await?;
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// Waits for the next, and until the kernel has taken it in. Many that come meanwhile count as one.
    pub(super) async fn heard(&self) -> io::Result<()> {
        // The filter leaves one byte of each.
        let mut rest = [0];
        self.0.recv(&mut rest).await?;
        sleep(SETTLE).await;
        while self.0.try_recv(&mut rest).is_ok() {}
        Ok(())
    }
}
