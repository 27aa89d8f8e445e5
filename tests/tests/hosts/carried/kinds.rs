//! Kinds of traffic. Each gives what arrived, in a form that can be compared.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use overlay_lab::{Netns, traffic};

use super::fabric::{BLUE, CYAN, Fixture, GREEN, Party};

/// Traffic between endpoints, and how it is called.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    run: fn(&Fixture) -> String,
}

/// Every kind.
pub(crate) const ALL: &[Kind] = &[
    kind("TCP", tcp),
    kind("TCP on one host", tcp_on_one_host),
    kind("datagrams of each size", datagrams),
    kind("datagrams in fragments", fragments),
    kind("UDP_SEGMENT", segments),
    kind("UDP_SEGMENT on one host", segments_on_one_host),
    kind("UDP_SEGMENT, the largest sends", largest_segments),
    kind("single datagrams in a burst", burst),
    kind("large pings", pings),
    kind("TCP through a VXLAN device inside", nested_tcp),
    kind("UDP_SEGMENT through a VXLAN device inside", nested_segments),
    kind("TCP that an endpoint forwards", forwarded_tcp),
    kind("UDP_SEGMENT that an endpoint forwards", forwarded_segments),
    kind("TCP with a large gso_max_size", large_gso),
];

const fn kind(name: &'static str, run: fn(&Fixture) -> String) -> Kind {
    Kind { name, run }
}

impl Kind {
    /// What arrived, or what failed.
    pub(crate) fn outcome(&self, fixture: &Fixture) -> String {
        panic::catch_unwind(AssertUnwindSafe(|| (self.run)(fixture))).unwrap_or_else(|cause| {
            let text = cause
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("failed: {}", text.unwrap_or_default())
        })
    }
}

const BYTES: u64 = 3 << 20;

/// Both ends compare what they got with what was sent.
const ALL_OF_IT: &str = "all of it";

fn tcp(fixture: &Fixture) -> String {
    for ip in [GREEN.ipv4, GREEN.ipv6] {
        traffic::tcp(&fixture.blue, &fixture.green, ip, BYTES);
    }
    ALL_OF_IT.to_owned()
}

fn tcp_on_one_host(fixture: &Fixture) -> String {
    for ip in [CYAN.ipv4, CYAN.ipv6] {
        traffic::tcp(&fixture.blue, &fixture.cyan, ip, BYTES);
    }
    ALL_OF_IT.to_owned()
}

fn datagrams(fixture: &Fixture) -> String {
    for ip in [GREEN.ipv4, GREEN.ipv6] {
        traffic::udp(&fixture.blue, &fixture.green, ip, [0, 1, 700, 1401, 1402]);
    }
    ALL_OF_IT.to_owned()
}

fn fragments(fixture: &Fixture) -> String {
    for ip in [GREEN.ipv4, GREEN.ipv6, CYAN.ipv4, CYAN.ipv6] {
        let server = if ip == GREEN.ipv4 || ip == GREEN.ipv6 {
            &fixture.green
        } else {
            &fixture.cyan
        };
        traffic::udp(&fixture.blue, server, ip, [1423, 8000, 60_000]);
    }
    ALL_OF_IT.to_owned()
}

pub(crate) fn segments(fixture: &Fixture) -> String {
    arrivals_at(fixture, GREEN, 1200, 20, 25)
}

fn segments_on_one_host(fixture: &Fixture) -> String {
    arrivals_at(fixture, CYAN, 1200, 20, 25)
}

fn largest_segments(fixture: &Fixture) -> String {
    arrivals_at(fixture, GREEN, 1400, 46, 10)
}

fn burst(fixture: &Fixture) -> String {
    arrivals_at(fixture, GREEN, 600, 1, 400)
}

/// [`arrivals`] from blue at one of the others, over IPv4 and over IPv6.
fn arrivals_at(fixture: &Fixture, to: Party, size: usize, segments: usize, sends: usize) -> String {
    let server = if to == CYAN {
        &fixture.cyan
    } else {
        &fixture.green
    };
    [to.ipv4, to.ipv6]
        .map(|ip| arrivals(&fixture.blue, server, ip, size, segments, sends))
        .join(", ")
}

fn pings(fixture: &Fixture) -> String {
    [GREEN.ipv4, GREEN.ipv6]
        .map(|ip| {
            let is_back = |options| fixture.blue.pings(ip, options);
            format!(
                "{} {} {}",
                is_back("-c 1 -W 2 -s 1402 -M do"),
                is_back("-c 1 -W 2 -s 4000"),
                is_back("-c 1 -W 2 -s 4000 -t 255"),
            )
        })
        .join(", ")
}

/// Sends `sends` times `segments` datagrams of `size` bytes at once, and gives how many came in which order.
fn arrivals(
    client: &Netns,
    server: &Netns,
    ip: &str,
    size: usize,
    segments: usize,
    sends: usize,
) -> String {
    let ip: IpAddr = ip.parse().unwrap();
    let any: SocketAddr = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }
        .parse()
        .unwrap();
    let receiver = server.enter(|| UdpSocket::bind(any).unwrap());
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = client.enter(|| UdpSocket::bind(any).unwrap());
    sender.connect((ip, port)).unwrap();
    if segments > 1 {
        setsockopt(
            &sender,
            sockopt::UdpGsoSegment,
            &i32::try_from(size).unwrap(),
        )
        .unwrap();
    }
    let total = segments * sends;
    let payload = |number: usize| {
        let mut payload = vec![u8::try_from(number % 251).unwrap(); size];
        payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
        payload
    };
    for first in (0..total).step_by(segments) {
        let message: Vec<u8> = (first..first + segments).flat_map(payload).collect();
        sender.send(&message).unwrap();
    }
    let (mut came, mut changed, mut swapped, mut last) = (0, 0, 0, 0);
    let mut buffer = vec![0; 65_536];
    while came < total
        && let Ok(len) = receiver.recv(&mut buffer)
    {
        let number = u64::from_le_bytes(buffer[..8].try_into().unwrap());
        let number = usize::try_from(number).unwrap();
        came += 1;
        changed += usize::from(buffer[..len] != payload(number));
        swapped += usize::from(number < last);
        last = number;
    }
    format!("{came} of {total}, {changed} changed, {swapped} out of order")
}

/// Addresses of the VXLAN devices inside blue and green.
const INSIDE: [&str; 2] = ["10.77.0.2", "10.77.0.3"];

fn within_tunnel_inside(fixture: &Fixture, work: impl FnOnce() -> String) -> String {
    let ends = [(&fixture.blue, BLUE, GREEN), (&fixture.green, GREEN, BLUE)];
    for ((netns, own, other), ip) in ends.iter().zip(INSIDE) {
        netns.ip(&format!(
            "link add vxin mtu 1400 type vxlan id 7 dstport 8472 local {} remote {} dev eth0",
            own.ipv4, other.ipv4
        ));
        netns.ip(&format!("address add {ip}/24 dev vxin"));
        netns.ip("link set vxin up");
    }
    fixture.blue.reaches(INSIDE[1]);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    for (netns, ..) in ends {
        netns.ip("link del vxin");
    }
    outcome.unwrap_or_else(|cause| panic::resume_unwind(cause))
}

fn nested_tcp(fixture: &Fixture) -> String {
    within_tunnel_inside(fixture, || {
        traffic::tcp(&fixture.blue, &fixture.green, INSIDE[1], BYTES);
        ALL_OF_IT.to_owned()
    })
}

fn nested_segments(fixture: &Fixture) -> String {
    within_tunnel_inside(fixture, || {
        arrivals(&fixture.blue, &fixture.green, INSIDE[1], 1200, 20, 10)
    })
}

/// Where green has what comes from blue for this port go on to cyan, in its own name.
const FORWARD_PORTS: &str = "30000-60999";

fn within_forwarding(fixture: &Fixture, work: impl FnOnce() -> String) -> String {
    let green = &fixture.green;
    green.run("sysctl", "-qw net.ipv4.ip_forward=1");
    let rules = format!(
        "add table ip lab; \
         add chain ip lab pre {{ type nat hook prerouting priority -100; }}; \
         add chain ip lab post {{ type nat hook postrouting priority 100; }}; \
         add rule ip lab pre ip saddr {} meta l4proto {{ tcp, udp }} th dport {FORWARD_PORTS} dnat to {}; \
         add rule ip lab post ip daddr {} masquerade",
        BLUE.ipv4, CYAN.ipv4, CYAN.ipv4
    );
    let mut nft = green.command("nft");
    assert!(nft.arg(&rules).status().unwrap().success());
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    green.run("nft", "delete table ip lab");
    green.run("sysctl", "-qw net.ipv4.ip_forward=0");
    outcome.unwrap_or_else(|cause| panic::resume_unwind(cause))
}

fn forwarded_tcp(fixture: &Fixture) -> String {
    within_forwarding(fixture, || {
        traffic::tcp(&fixture.blue, &fixture.cyan, GREEN.ipv4, BYTES);
        ALL_OF_IT.to_owned()
    })
}

fn forwarded_segments(fixture: &Fixture) -> String {
    within_forwarding(fixture, || {
        arrivals(&fixture.blue, &fixture.cyan, GREEN.ipv4, 1200, 20, 10)
    })
}

fn large_gso(fixture: &Fixture) -> String {
    let sizes = |size| {
        for netns in [&fixture.blue, &fixture.green] {
            netns.ip(&format!("link set eth0 gso_max_size {size}"));
        }
    };
    sizes(130_000);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| tcp(fixture)));
    sizes(65_536);
    outcome.unwrap_or_else(|cause| panic::resume_unwind(cause))
}
