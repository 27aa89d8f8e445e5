//! trafgen: ready-made 64-byte frames, as fast as one core puts them on the wire.
//!
//! Frames are counted where the receiving end's interface takes them. What becomes of them then is
//! work for the same core, and the same in every mode: they are dropped at once, which leaves the
//! network's own cost, or they go on to a socket, which is what a program would see.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::counters::Counters;
use super::{Conditions, Metric, Reading};
use crate::lab::{End, Pair};
use overlay_lab::interrupt;
use overlay_lab::process;

/// Nobody reads it.
const PORT: u16 = 9001;
/// Bytes of payload: with 14 of Ethernet, 20 of IPv4, 8 of UDP and the 4 of the checksum that the
/// hardware would append this is the shortest frame of Ethernet, 64 bytes.
pub(super) const PAYLOAD: u16 = 18;

/// Where frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// At the interface, once it has counted them.
    Interface,
    /// At a socket.
    Socket,
}

pub(super) fn run(pair: &Pair, conditions: &Conditions, target: Target) -> Result<Vec<Reading>> {
    /// Frames that show that the flood has begun.
    const BEGUN: f64 = 1000.0;
    const BEGIN: Duration = Duration::from_secs(5);
    const SETTLE: Duration = Duration::from_millis(300);
    /// Part of what the interface took that has to be seen at the socket too; the two counters are
    /// not read at the same instant.
    const REACHES_SOCKET: f64 = 0.99;

    let server = &pair.server;
    let _sink = server.netns.try_enter(|| sink(server.ip))?;
    let frame = frame(&pair.client, server);
    let before = Counters::read(server)?;
    let generator = conditions.start_client(
        &pair.client,
        "trafgen",
        &[
            "trafgen",
            "--dev",
            pair.client.ifname,
            "--cpus",
            "1",
            "--no-sock-mem",
            "--notouch-irq",
            &frame,
        ],
    )?;
    // At the socket first, whatever the target: only whole and right frames get there.
    interrupt::wait_until("the flood reaches a socket", BEGIN, || {
        generator.check()?;
        Ok(Counters::read(server)?.since(before).at_socket > BEGUN)
    })?;
    let _drop = match target {
        Target::Interface => Some(DropAll::at(server)?),
        Target::Socket => None,
    };
    interrupt::sleep(SETTLE)?;

    let start = Counters::read(server)?;
    interrupt::sleep(conditions.window)?;
    let seen = Counters::read(server)?.since(start);
    generator.check()?;

    if seen.received < BEGUN {
        bail!("the flood stopped arriving");
    }
    if target == Target::Socket && seen.at_socket < seen.received * REACHES_SOCKET {
        bail!(
            "{:.0} frames arrived but only {:.0} reached the socket",
            seen.received,
            seen.at_socket
        );
    }
    let (rate, cpu) = match target {
        Target::Interface => (Metric::FloodRate, Metric::FloodCpu),
        Target::Socket => (Metric::SocketFloodRate, Metric::SocketFloodCpu),
    };
    Ok(vec![
        (rate, seen.received / seen.seconds / 1e3),
        (cpu, seen.busy / seen.received),
    ])
}

/// Drops what an interface receives, as soon as it has counted it.
struct DropAll<'a> {
    end: &'a End,
}

impl<'a> DropAll<'a> {
    /// By a classic BPF program of one instruction, "return `TC_ACT_SHOT`". The kernel has that
    /// classifier wherever the overlay runs, and not always another.
    fn at(end: &'a End) -> Result<Self> {
        const RETURN_SHOT: &str = "1,6 0 0 2";
        let tc = |words: &[&str]| process::run("tc", &end.netns.line(words));
        tc(&["tc", "qdisc", "add", "dev", end.ifname, "clsact"])?;
        let dropping = Self { end };
        tc(&[
            "tc",
            "filter",
            "add",
            "dev",
            end.ifname,
            "ingress",
            "bpf",
            "bytecode",
            RETURN_SHOT,
            "direct-action",
        ])?;
        Ok(dropping)
    }
}

impl Drop for DropAll<'_> {
    fn drop(&mut self) {
        let line = ["tc", "qdisc", "del", "dev", self.end.ifname, "clsact"];
        let removed = self.end.netns.line(&line);
        if let Err(error) = process::run("tc", &removed) {
            eprintln!(
                "warning: {} in {} goes on dropping everything: {error:#}",
                self.end.ifname,
                self.end.netns.name()
            );
        }
    }
}

/// A socket whose buffer is full at once: each datagram takes the whole way to it and ends there,
/// without a reader's CPU time and without ICMP errors.
fn sink(ip: Ipv4Addr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(ip, PORT))
        .with_context(|| format!("opening the flood's sink on {ip}:{PORT}"))?;
    setsockopt(&socket, sockopt::RcvBuf, &0).context("shrinking the sink's buffer")?;
    Ok(socket)
}

/// The frame in trafgen's language; the UDP checksum is left out, as IPv4 allows.
fn frame(from: &End, to: &End) -> String {
    let mac = |mac: [u8; 6]| mac.map(|octet| format!("{octet:#04x}")).join(", ");
    let ip = |ip: Ipv4Addr| ip.octets().map(|octet| octet.to_string()).join(", ");
    format!(
        "{{ {}, {}, c16(0x0800), \
         0x45, 0, c16({}), c16(0), c16(0x4000), 64, 17, csumip(14, 33), {}, {}, \
         c16({PORT}), c16({PORT}), c16({}), c16(0), fill(0x42, {PAYLOAD}) }}",
        mac(to.mac),
        mac(from.mac),
        20 + 8 + PAYLOAD,
        ip(from.ip),
        ip(to.ip),
        8 + PAYLOAD,
    )
}
