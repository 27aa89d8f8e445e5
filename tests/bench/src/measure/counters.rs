//! The kernel's counters before and after a load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use procfs::net::{InterfaceDeviceStatus, Snmp, TcpNetEntries, TcpState};
use procfs::{CurrentSI as _, FromRead as _, FromReadSI as _, KernelStats};

use crate::lab::End;

/// Counters of one end and of the machine at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    at: Instant,
    /// Frames that the end's interface has received.
    received: u64,
    /// Datagrams that got as far as a UDP socket, those that found its buffer full included.
    at_socket: u64,
    /// CPU time that was not idle, all CPUs added up.
    busy: Duration,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Difference {
    pub(super) seconds: f64,
    pub(super) received: f64,
    pub(super) at_socket: f64,
    /// Nanoseconds.
    pub(super) busy: f64,
}

impl Counters {
    pub(super) fn read(end: &End) -> Result<Self> {
        let ifname = end.ifname;
        end.netns.try_enter(|| {
            // The symlink /proc/net leads to the main thread's namespace.
            let interfaces = InterfaceDeviceStatus::from_file("/proc/thread-self/net/dev")?;
            let at = Instant::now();
            let busy = busy()?;
            let snmp = Snmp::from_file("/proc/thread-self/net/snmp")?;
            Ok(Self {
                at,
                received: interfaces
                    .0
                    .get(ifname)
                    .with_context(|| format!("interface {ifname} is gone"))?
                    .recv_packets,
                at_socket: snmp.udp_in_datagrams + snmp.udp_rcvbuf_errors,
                busy,
            })
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "differences of a few seconds stay far below 2^53"
    )]
    pub(super) fn since(self, earlier: Self) -> Difference {
        Difference {
            seconds: self.at.duration_since(earlier.at).as_secs_f64(),
            received: self.received.saturating_sub(earlier.received) as f64,
            at_socket: self.at_socket.saturating_sub(earlier.at_socket) as f64,
            busy: self.busy.saturating_sub(earlier.busy).as_nanos() as f64,
        }
    }
}

/// CPU time since boot that was neither idle nor waiting nor another guest's.
pub(super) fn busy() -> Result<Duration> {
    let total = KernelStats::current()
        .context("reading the CPUs' times")?
        .total;
    Ok(total.user_duration()
        + total.nice_duration()
        + total.system_duration()
        + total.irq_duration().unwrap_or_default()
        + total.softirq_duration().unwrap_or_default())
}

/// Whether somebody listens on a TCP port in the calling thread's namespace.
pub(super) fn listens(port: u16) -> Result<bool> {
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let entries = TcpNetEntries::from_file(table, procfs::current_system_info())?;
        if entries
            .0
            .iter()
            .any(|socket| socket.state == TcpState::Listen && socket.local_address.port() == port)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
