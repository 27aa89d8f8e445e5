//! Loads that the programs leave to the kernel's VXLAN device (ADR 32).

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::{Conditions, Metric, Reading, iperf};
use crate::lab::{End, Pair};
use overlay_lab::interrupt;

/// Bytes of a datagram: one that passes the tunnel whole.
const DATAGRAM: usize = 1400;
/// Datagrams that the sender hands to the kernel at once: what fits into one IP packet.
const AT_ONCE: usize = 45;
const PORT: u16 = 9002;

/// UDP datagrams by the dozen: the kernel cuts them apart as late as it can and hands them to the receiver
/// together again, if it has not had to.
pub(super) fn aggregates(pair: &Pair, conditions: &Conditions) -> Result<Vec<Reading>> {
    const SETTLE: Duration = Duration::from_millis(200);
    let (client, server) = (&pair.client, &pair.server);
    let target = SocketAddrV4::new(server.ip, PORT);
    let receiver = server.netns.try_enter(|| receiver(target))?;
    let sender = client.netns.try_enter(|| sender(target))?;
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen = thread::scope(|scope| {
        let cores = &conditions.cores;
        let sending = scope.spawn(|| send(&sender, &cores.client, &stop));
        let receiving = scope.spawn(|| receive(&receiver, &cores.server, &stop, &bytes));
        let seen = interrupt::sleep(SETTLE).and_then(|()| {
            let (begun, before) = (Instant::now(), bytes.load(Ordering::Relaxed));
            interrupt::sleep(conditions.window)?;
            let seen = bytes.load(Ordering::Relaxed) - before;
            Ok((seen, begun.elapsed()))
        });
        stop.store(true, Ordering::Relaxed);
        for thread in [sending, receiving] {
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the load panicked"))??;
        }
        seen
    });
    let (bytes, time) = seen?;
    if bytes == 0 {
        bail!("no datagram arrived");
    }
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
    let rate = bytes as f64 * 8.0 / time.as_secs_f64() / 1e9;
    Ok(vec![(Metric::UdpAggregates, rate)])
}

fn receiver(at: SocketAddrV4) -> Result<UdpSocket> {
    const POLL: Duration = Duration::from_millis(50);
    let socket = UdpSocket::bind(at).with_context(|| format!("opening UDP {at}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).context("enlarging a buffer")?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true).context("asking for UDP_GRO")?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

fn sender(to: SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a UDP socket")?;
    let datagram = i32::try_from(DATAGRAM)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &datagram).context("asking for UDP_SEGMENT")?;
    socket
        .connect(to)
        .with_context(|| format!("sending to {to}"))?;
    Ok(socket)
}

fn send(socket: &UdpSocket, cpu: &str, stop: &AtomicBool) -> Result<()> {
    stay_on(cpu)?;
    let datagrams = vec![0x42; DATAGRAM * AT_ONCE];
    while !stop.load(Ordering::Relaxed) {
        match socket.send(&datagrams) {
            Ok(_) => {}
            // What a queue on the way does not take is lost.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => return Err(error).context("sending datagrams"),
        }
    }
    Ok(())
}

fn receive(socket: &UdpSocket, cpu: &str, stop: &AtomicBool, received: &AtomicU64) -> Result<()> {
    stay_on(cpu)?;
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(len) => drop(received.fetch_add(len as u64, Ordering::Relaxed)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("receiving datagrams"),
        }
    }
    Ok(())
}

/// Keeps the calling thread on one CPU.
fn stay_on(cpu: &str) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu.parse()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("moving to CPU {cpu}"))
}

/// TCP through a VXLAN device in each endpoint, as containers have that run an overlay of their own.
pub(super) fn nested(pair: &Pair, conditions: &Conditions) -> Result<Vec<Reading>> {
    let client = Nested::on(&pair.client, &pair.server, 1)?;
    let server = Nested::on(&pair.server, &pair.client, 2)?;
    iperf::tcp(&client.end, &server.end, conditions, Metric::TcpNested, &[])
}

/// A VXLAN device in an endpoint. It goes away with this value.
struct Nested {
    end: End,
}

impl Nested {
    const IFNAME: &str = "nested0";

    fn on(end: &End, peer: &End, number: u8) -> Result<Self> {
        let ip = Ipv4Addr::new(198, 18, 0, number);
        // Neither the port nor the VNI of the network that carries it.
        end.netns.try_ip(&format!(
            "link add {} type vxlan id 7 dstport 4790 local {} remote {} dev {}",
            Self::IFNAME,
            end.ip,
            peer.ip,
            end.ifname
        ))?;
        let nested = Self {
            end: End::new(end.netns.clone(), Self::IFNAME, ip),
        };
        let netns = &nested.end.netns;
        netns.try_ip(&format!("address add {ip}/24 dev {}", Self::IFNAME))?;
        netns.try_ip(&format!("link set {} up", Self::IFNAME))?;
        nested.end.use_cubic()?;
        Ok(nested)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        if let Err(error) = self.end.netns.try_ip(&format!("link del {}", Self::IFNAME)) {
            eprintln!("warning: {} stays: {error:#}", Self::IFNAME);
        }
    }
}
