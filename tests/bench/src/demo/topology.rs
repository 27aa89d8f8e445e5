//! The demo's topology: the drawing, and the names and addresses that it shows.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use overlay_ebpf::abi::ABI_VERSION;

use crate::quick;

/// What the title is followed by.
pub(super) const DRAWING: &str = "\
 host-1 (overlay-h1)                           host-2 (overlay-h2)
 ┌─────────────────────────────┐               ┌─────────────────────────────┐
 │ ┌─────────┐     ┌─────────┐ │ VXLAN, VNI 42 │ ┌─────────┐     ┌─────────┐ │
 │ │ blue    ├─────┤ BPF, TC ├─┼───────────────┼─┤ BPF, TC ├─────┤ green   │ │
 │ │ 7.7.7.2 │     └────┬────┘ │192.0.2.1     .2 └────┬────┘     │ 7.7.7.3 │ │
 │ └─────────┘      maps│      │               │      │maps      └─────────┘ │
 │            ┌─────────┴────┐ │               │ ┌────┴─────────┐            │
 │            │ overlay run  │ │               │ │ overlay run  │            │
 └────────────┴───────┬──────┴─┘               └─┴────┬─────────┴────────────┘
                      └────── SQLite registry ────────┘";

/// The interface between the hosts, in each of them.
pub(super) const UNDERLAY: &str = "underlay";

/// The namespace that is no part of the overlay, and what it is reached by: host-1's interface, and the addresses.
pub(super) const OUTSIDE: &str = "overlay-outside";
pub(super) const UPLINK: &str = "uplink";
pub(super) const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(super) const UPLINK_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// An address outside that is to be an endpoint's.
pub(super) const FLOAT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// The demo's files: the registry, the agents' logs, and what it has taken ([`super::environment`]).
pub(super) const STATE: &str = "/run/overlay-demo";

/// Where green lives while it is on host-1: namespaces have one name on the whole machine.
pub(super) const GREEN_ON_ONE: &str = "green-1";

/// Hosts for comparison, that have the kernel's VXLAN device.
pub(super) const KERNEL_HOSTS: [&str; 2] = ["overlay-k1", "overlay-k2"];

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    One,
    Two,
}

impl Host {
    pub(super) const BOTH: [Self; 2] = [Self::One, Self::Two];

    /// The node's name, and the prompt.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "host-1",
            Self::Two => "host-2",
        }
    }

    pub(super) fn netns(self) -> &'static str {
        match self {
            Self::One => "overlay-h1",
            Self::Two => "overlay-h2",
        }
    }

    /// The agent's.
    pub(super) fn instance(self) -> &'static str {
        match self {
            Self::One => "demo1",
            Self::Two => "demo2",
        }
    }

    pub(super) fn underlay_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, if self == Self::One { 1 } else { 2 })
    }

    /// Where the agent logs to, in [`STATE`].
    pub(super) fn log(self) -> String {
        format!("{}.log", self.name())
    }

    /// Where the agent pins its maps.
    pub(super) fn maps(self) -> PathBuf {
        pins(self.instance()).join(format!("v{ABI_VERSION}/maps"))
    }
}

/// Where an instance of the agent pins what it loads.
pub(super) fn pins(instance: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/overlay").join(instance)
}

/// An endpoint; its namespace has its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    pub(super) ip: Ipv4Addr,
    pub(super) host: Host,
}

impl Endpoint {
    pub(super) const BLUE: Self = Self::new("blue", 2, Host::One);
    pub(super) const GREEN: Self = Self::new("green", 3, Host::Two);

    const fn new(name: &'static str, last_octet: u8, host: Host) -> Self {
        Self {
            name,
            ip: Ipv4Addr::new(7, 7, 7, last_octet),
            host,
        }
    }

    /// As the comparison takes it.
    pub(super) fn at_a_glance(self) -> quick::Endpoint<'static> {
        quick::Endpoint {
            host: self.host.netns(),
            netns: self.name,
            ifname: "eth0",
            ip: self.ip,
        }
    }
}

/// Every namespace that a run makes, or has made for it.
pub(super) fn namespaces() -> Vec<String> {
    let hosts = Host::BOTH.map(Host::netns);
    let endpoints = [Endpoint::BLUE.name, Endpoint::GREEN.name, GREEN_ON_ONE];
    let own = hosts.into_iter().chain(endpoints).chain([OUTSIDE]);
    let own = own.map(str::to_owned);
    // The comparison's names: the host, its container, and where its bridge is.
    let compared = KERNEL_HOSTS
        .into_iter()
        .flat_map(|host| ["", "-c", "-over"].map(|suffix| format!("{host}{suffix}")));
    own.chain(compared).collect()
}

/// Lines to paste while the demo is up; the agent's binary is in `folder`.
pub(super) fn look_around(folder: &Path) -> String {
    let [one, two] = Host::BOTH;
    format!(
        "\
export PATH=\"{folder}:$PATH\" OVERLAY_INSTANCE={instance}
overlay status
overlay endpoint ls
overlay endpoint add red --vni 42 --ip 7.7.7.4/24
nsenter --net=/run/netns/{host} timeout 5 tcpdump -nti {UNDERLAY} -c 4 udp port 4789 &
ip netns exec red ping -c 3 7.7.7.3
overlay --instance {other} drops
bpftool map dump pinned {maps}/fdb
bpftool prog show pinned {programs}/endpoint_ingress
cat {STATE}/{log}
",
        folder = folder.display(),
        instance = one.instance(),
        other = two.instance(),
        maps = one.maps().display(),
        programs = pins(one.instance())
            .join(format!("v{ABI_VERSION}/programs"))
            .display(),
        host = two.netns(),
        log = one.log(),
    )
}
