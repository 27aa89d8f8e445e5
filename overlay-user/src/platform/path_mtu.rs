//! What routers say about packets that were too long (RFC 1191). The kernel believes it of the tunnels' packets
//! because of the VXLAN device's socket, keeps it with its routes, and tells nobody.

use std::{io, time::Duration};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use super::netns::Netns;

/// Destination unreachable, fragmentation needed (RFC 792).
const FRAGMENTATION_NEEDED: u32 = 0x0304;

/// How long the kernel may take to keep what the same packet told it.
const SETTLE: Duration = Duration::from_millis(50);

/// Between two that are told of: anybody can send such packets, and each costs a look at all paths.
const PAUSE: Duration = Duration::from_secs(1);

/// `IPPROTO_UDP`, and where an ICMP error quotes a packet's protocol, behind its own header.
const UDP: u32 = 17;
const QUOTED_PROTOCOL: u32 = 8 + 9;

/// Opcodes of classic BPF (`linux/filter.h`).
const LOAD_HEADER_LEN: u16 = 0xb1;
const LOAD_HALF_BEHIND_HEADER: u16 = 0x48;
const LOAD_BYTE_BEHIND_HEADER: u16 = 0x50;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Hears such words. The socket is none of UDP, but tokio has no other type for what receives datagrams.
pub(super) struct Listener {
    socket: UdpSocket,
    /// When the next may be told of.
    next: Instant,
}

impl Listener {
    /// Opens a socket in `netns` that takes in nothing but those.
    pub(super) async fn open(netns: &Netns) -> io::Result<Self> {
        let socket = netns
            .run(|| {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
                socket.attach_filter(&[
                    SockFilter::new(LOAD_HEADER_LEN, 0, 0, 0),
                    SockFilter::new(LOAD_HALF_BEHIND_HEADER, 0, 0, 0),
                    SockFilter::new(JUMP_IF_EQUAL, 0, 3, FRAGMENTATION_NEEDED),
                    SockFilter::new(LOAD_BYTE_BEHIND_HEADER, 0, 0, QUOTED_PROTOCOL),
                    SockFilter::new(JUMP_IF_EQUAL, 0, 1, UDP),
                    SockFilter::new(RETURN, 0, 0, 1),
                    SockFilter::new(RETURN, 0, 0, 0),
                ])?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .await?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            next: Instant::now(),
        })
    }

    /// Waits for the next, and until the kernel has taken it in. Many that come meanwhile count as one.
    pub(super) async fn heard(&mut self) -> io::Result<()> {
        // The filter leaves one byte of each.
        let mut rest = [0];
        self.socket.recv(&mut rest).await?;
        sleep_until(self.next.max(Instant::now() + SETTLE)).await;
        self.next = Instant::now() + PAUSE;
        while self.socket.try_recv(&mut rest).is_ok() {}
        Ok(())
    }
}
