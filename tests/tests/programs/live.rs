//! What `BPF_PROG_TEST_RUN` does not make: IP packets that end within their header. They come in by
//! a real device, the loopback device of the test's namespace.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType, tc};
use nix::{
    ifaddrs::getifaddrs,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _,
            bind, recv, sendto, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use overlay_ebpf::abi::{
    DropReason,
    program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Datapath, Settings, classifier},
    frames::{ETH, Tunnel, VXLAN, patched, udp4, udp6},
    network::{BLUE, GREEN},
};

const LOOPBACK: &str = "lo";
/// Longer than any machine takes to hand a frame to itself.
const ARRIVAL_TIMEOUT: Duration = Duration::from_mins(1);

/// A program on the loopback device, and a socket that sends frames there.
struct Wire {
    datapath: Datapath,
    socket: OwnedFd,
    device: LinkAddr,
}

impl Wire {
    fn with(program: &str) -> Self {
        let mut datapath = Datapath::load(Settings::default());
        bring_loopback_up();
        if SchedClassifier::query_tcx(LOOPBACK, TcAttachType::Ingress).is_err() {
            tc::qdisc_add_clsact(LOOPBACK).unwrap();
        }
        classifier(&mut datapath.ebpf, program)
            .attach(LOOPBACK, TcAttachType::Ingress)
            .unwrap();
        Self {
            datapath,
            socket: packet_socket(None),
            device: loopback(),
        }
    }

    fn send(&self, frame: &[u8]) {
        let sent = sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.device,
            MsgFlags::empty(),
        );
        assert_eq!(sent, Ok(frame.len()), "{:?}", self.device.family());
    }

    /// What was counted by the time that anything is.
    fn counted(&mut self) -> Vec<(u32, u64)> {
        let started = Instant::now();
        loop {
            let counted = self.datapath.newly_counted();
            if !counted.is_empty() || started.elapsed() > ARRIVAL_TIMEOUT {
                return counted;
            }
            thread::yield_now();
        }
    }
}

/// Hears what the loopback device of the test's namespace receives.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub(crate) fn on_loopback() -> Self {
        bring_loopback_up();
        let socket = packet_socket(SockProtocol::EthAll);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(10)).unwrap();
        bind(socket.as_raw_fd(), &loopback()).unwrap();
        Self(socket)
    }

    /// The next frame.
    pub(crate) fn next(&self) -> Vec<u8> {
        let mut frame = vec![0; 2048];
        let len = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        frame.truncate(len);
        frame
    }
}

fn packet_socket(protocol: impl Into<Option<SockProtocol>>) -> OwnedFd {
    let family = AddressFamily::Packet;
    socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap()
}

/// The device's address; the namespace has no other.
fn loopback() -> LinkAddr {
    getifaddrs()
        .unwrap()
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap()
}

/// Through sysfs, which shows the namespace that it is mounted from: this thread's, for this thread
/// alone.
fn bring_loopback_up() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let here: Option<&str> = None;
    mount(here, "/", here, MsFlags::MS_REC | MsFlags::MS_PRIVATE, here).unwrap();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), here).unwrap();
    let flags = format!("{:#x}", libc::IFF_UP | libc::IFF_LOOPBACK);
    fs::write("/sys/class/net/lo/flags", flags).unwrap();
}

#[test]
fn an_endpoints_packets_without_a_whole_ip_header_are_dropped() {
    let mut wire = Wire::with(ENDPOINT_INGRESS);
    for (frame, header) in [(udp4(&BLUE, &GREEN), 20), (udp6(&BLUE, &GREEN), 40)] {
        for len in ETH..ETH + header {
            wire.send(&frame[..len]);
            let expected = [(DropReason::Truncated.number(), 1)];
            assert_eq!(wire.counted(), expected, "{len} bytes");
        }
    }
}

#[test]
fn the_underlays_packets_without_a_whole_ip_header_pass() {
    let mut wire = Wire::with(UNDERLAY_INGRESS);
    let frame = Tunnel::to_this_host(udp4(&GREEN, &BLUE)).frame();
    for len in ETH..ETH + 20 {
        wire.send(&frame[..len]);
    }
    // Frames keep their order; this one shows that those before it have passed.
    wire.send(&patched(frame, VXLAN, &[0]));
    assert_eq!(wire.counted(), [(DropReason::VxlanFlags.number(), 1)]);
}
