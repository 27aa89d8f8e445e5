//! Ways beyond one network: routed, out of the overlay, and the kernel's for comparison.
//!
//! ```text
//!  ours           two hosts with agents; client 7.7.7.2, its router's server 8.8.8.3, and what is outside: host 2 itself
//!  kernel routed  container - bridge - VXLAN - bridge with the gateway's address, which routes - bridge - container
//!  masquerade     container - bridge with the gateway's address - nft masquerade - host 2 itself
//!  wire           the two hosts of it themselves: nothing is faster, whatever translates
//! ```

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    Agents, End, Host, INNER_MTU, Mode, PREFIX, Pair, UNDERLAY, VNI, build_hosts, clean, kernel,
    mac_of, mac_text, overlay,
};
use crate::underlay::Offloads;
use overlay_lab::netns::{Netns, OwnedNetns, try_ip};
use overlay_lab::process;

/// The other network of the router.
const FAR: u32 = 43;
const FAR_SERVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(7, 7, 7, 1);
const FAR_GATEWAY: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 1);
/// The MAC of our routers' gateways.
const OUR_GATEWAY: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x01, 0x01];
/// An endpoint with an external address of its own, and that one.
const FLOATED: Ipv4Addr = Ipv4Addr::new(7, 7, 7, 9);
const FLOAT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const INSIDE: &str = "eth0";
const BRIDGE: &str = "br0";

/// A way that packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Ours, within one network.
    Layer2,
    /// Ours, into another network of its router.
    Routed,
    /// Ours, out behind the host's address.
    Snat,
    /// Ours, out with an address of the endpoint's own.
    Float,
    /// The kernel's: VXLAN, and a router behind it.
    KernelRouted,
    /// The kernel's: a bridge and nft's masquerade.
    Masquerade,
    /// None: from host to host.
    Wire,
}

impl Way {
    pub(crate) const ALL: [Self; 7] = [
        Self::Layer2,
        Self::Routed,
        Self::Snat,
        Self::Float,
        Self::KernelRouted,
        Self::Masquerade,
        Self::Wire,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Layer2 => "overlay, one network",
            Self::Routed => "overlay, routed",
            Self::Snat => "overlay, SNAT",
            Self::Float => "overlay, float",
            Self::KernelRouted => "kernel VXLAN + router",
            Self::Masquerade => "nft masquerade",
            Self::Wire => "host to host",
        }
    }
}

/// A pair for each way. Those of ours share two hosts.
pub(crate) struct Ways {
    // The one that owns the agents goes last.
    pairs: Vec<(Way, Pair)>,
}

impl Ways {
    pub(crate) fn build(agent: &Path) -> Result<Self> {
        clean(agent).context("removing what an earlier run left")?;
        let [masquerade, wire] = masquerade_and_wire()?;
        let mut pairs = vec![
            (Way::KernelRouted, kernel_routed()?),
            (Way::Wire, wire),
            (Way::Masquerade, masquerade),
        ];
        pairs.extend(ours(agent)?);
        Ok(Self { pairs })
    }

    pub(crate) fn pair(&self, way: Way) -> Result<&Pair> {
        let found = self.pairs.iter().find(|(its, _)| *its == way);
        found.map(|(_, pair)| pair).context("a way was not built")
    }

    pub(crate) fn set_offloads(&self, offloads: Offloads) -> Result<()> {
        let mut hosts = self.pairs.iter().flat_map(|(_, pair)| &pair.hosts);
        hosts.try_for_each(|host| offloads.apply(host, UNDERLAY))
    }
}

fn ours(agent: &Path) -> Result<Vec<(Way, Pair)>> {
    let names = Host::BOTH.map(|host| host.name(Mode::Overlay));
    let built = build_hosts(&names)?;
    let hosts = built.each_ref().map(|host| Netns::clone(host));
    let (client, server, inner, agents) = overlay::build(&hosts, agent)?;
    let [one, two] = &agents.agents[..] else {
        anyhow::bail!("there are two agents");
    };
    let (vni, far) = (VNI.to_string(), FAR.to_string());
    one.verb(&[
        "network",
        "create",
        "far",
        "--vni",
        &far,
        "--subnet",
        "8.8.8.0/24",
    ])?;
    one.verb(&["router", "create", "r1"])?;
    let gateway = format!("{GATEWAY}/24");
    one.verb(&["router", "attach", "r1", &vni, "--ip", &gateway])?;
    one.verb(&["router", "attach", "r1", "far"])?;
    one.verb(&["router", "set", "r1", "--outside", "host"])?;
    let network = format!("vni-{VNI}");
    one.verb(&["network", "set", &network, "--snat", "host"])?;
    let name = format!("{}-far", names[1]);
    let far_netns = OwnedNetns::adopt(&name);
    let ip = format!("{FAR_SERVER}/24");
    two.verb(&["endpoint", "add", &name, "--vni", &far, "--ip", &ip])?;
    let name = format!("{}-float", names[0]);
    let float_netns = OwnedNetns::adopt(&name);
    let ip = format!("{FLOATED}/24");
    one.verb(&["endpoint", "add", &name, "--vni", &vni, "--ip", &ip])?;
    one.verb(&["float", "add", &FLOAT.to_string(), "--endpoint", &name])?;

    let by_gateway = |netns: &Netns, ifname, ip| End {
        mac: OUR_GATEWAY,
        ..End::new(netns.clone(), ifname, ip)
    };
    let far_server = || by_gateway(&far_netns, INSIDE, FAR_SERVER);
    let outside = || by_gateway(&hosts[1], UNDERLAY, Host::Two.underlay_ip());
    let again = |end: &End| End::new(end.netns.clone(), end.ifname, end.ip);
    let floated = End::new(Netns::clone(&float_netns), INSIDE, FLOATED);
    use_cubic_by(&client, GATEWAY)?;
    use_cubic_by(&floated, GATEWAY)?;
    use_cubic_by(&far_server(), FAR_GATEWAY)?;
    let pair = |client, server| Pair {
        mode: Mode::Overlay,
        client,
        server,
        agents: Agents::default(),
        _owned: Vec::new(),
        hosts: hosts.clone(),
    };
    let mut pairs = vec![
        (Way::Routed, pair(again(&client), far_server())),
        (Way::Snat, pair(again(&client), outside())),
        (Way::Float, pair(floated, outside())),
    ];
    let owner = Pair {
        agents,
        _owned: inner
            .into_iter()
            .chain([far_netns, float_netns])
            .chain(built)
            .collect(),
        ..pair(client, server)
    };
    pairs.push((Way::Layer2, owner));
    for (way, pair) in &pairs {
        pair.get_ready().with_context(|| way.title())?;
    }
    Ok(pairs)
}

/// Cubic on the way through a gateway too: see [`End::use_cubic`].
fn use_cubic_by(end: &End, gateway: Ipv4Addr) -> Result<()> {
    end.netns.try_ip(&format!(
        "route replace default via {gateway} dev {} congctl lock cubic",
        end.ifname
    ))
}

fn forward(netns: &Netns) -> Result<()> {
    let line = ["sysctl", "-qw", "net.ipv4.ip_forward=1"];
    process::run("switching forwarding on", &netns.line(&line)).map(drop)
}

/// A container behind a bridge.
fn container(
    bridge_netns: &Netns,
    bridge: &str,
    name: &str,
    ip: Ipv4Addr,
    mtu: u32,
) -> Result<OwnedNetns> {
    let container = OwnedNetns::create(name)?;
    let port = format!("p{}", ip.octets()[3]);
    try_ip(&format!(
        "link add {port} netns {} type veth peer name {INSIDE} netns {name} address {}",
        bridge_netns.name(),
        mac_text(mac_of(ip)),
    ))?;
    bridge_netns.try_ip(&format!("link set {port} mtu {mtu} master {bridge} up"))?;
    container.try_ip(&format!("link set {INSIDE} mtu {mtu} up"))?;
    container.try_ip(&format!("address add {ip}/24 dev {INSIDE}"))?;
    Ok(container)
}

fn bridge(netns: &Netns, name: &str, gateway: Ipv4Addr) -> Result<()> {
    netns.try_ip(&format!(
        "link add {name} address {} type bridge",
        mac_text(mac_of(gateway))
    ))?;
    netns.try_ip(&format!("address add {gateway}/24 dev {name}"))?;
    netns.try_ip(&format!("link set {name} up"))
}

fn kernel_routed() -> Result<Pair> {
    let names = [1, 2].map(|number| format!("{PREFIX}routed-{number}"));
    let built = build_hosts(&names)?;
    let hosts = built.each_ref().map(|host| Netns::clone(host));
    let (client, first) = kernel::build(Host::One, &hosts[0])?;
    let (_, second) = kernel::build(Host::Two, &hosts[1])?;
    let [_, near] = &first;
    let [_, router] = &second;
    // The router is where the other bridge is: on the second host.
    let mac = mac_text(mac_of(GATEWAY));
    router.try_ip(&format!("link set {BRIDGE} address {mac}"))?;
    router.try_ip(&format!("address add {GATEWAY}/24 dev {BRIDGE}"))?;
    bridge(router, "br1", FAR_GATEWAY)?;
    forward(router)?;
    router.try_ip(&format!(
        "neighbour replace {} lladdr {} dev {BRIDGE} nud permanent",
        client.ip,
        mac_text(client.mac)
    ))?;
    near.try_ip(&format!(
        "neighbour replace {GATEWAY} lladdr {mac} dev vxlan1 nud permanent"
    ))?;
    let to = Host::Two.underlay_ip().to_string();
    let entry = [
        "bridge",
        "fdb",
        "replace",
        &mac,
        "dev",
        "vxlan1",
        "dst",
        &to,
        "self",
        "permanent",
    ];
    process::run("adding an FDB entry", &near.line(&entry))?;
    let far = container(
        router,
        "br1",
        &format!("{}-far", names[1]),
        FAR_SERVER,
        INNER_MTU,
    )?;
    let server = End {
        mac: mac_of(GATEWAY),
        ..End::new(Netns::clone(&far), INSIDE, FAR_SERVER)
    };
    use_cubic_by(&client, GATEWAY)?;
    use_cubic_by(&server, FAR_GATEWAY)?;
    let pair = Pair {
        mode: Mode::Kernel,
        client,
        server,
        agents: Agents::default(),
        _owned: first
            .into_iter()
            .chain(second)
            .chain([far])
            .chain(built)
            .collect(),
        hosts,
    };
    pair.get_ready().context(Way::KernelRouted.title())?;
    Ok(pair)
}

/// Both use the same hosts, which the first owns.
fn masquerade_and_wire() -> Result<[Pair; 2]> {
    let names = [1, 2].map(|number| format!("{PREFIX}nat-{number}"));
    let built = build_hosts(&names)?;
    let hosts = built.each_ref().map(|host| Netns::clone(host));
    let [one, two] = &hosts;
    bridge(one, BRIDGE, GATEWAY)?;
    forward(one)?;
    for line in [
        "add table ip nat",
        "add chain ip nat out { type nat hook postrouting priority srcnat; }",
    ] {
        process::run("nft", &one.line(&["nft", line]))?;
    }
    let rule = format!("add rule ip nat out oifname {UNDERLAY} masquerade");
    process::run("nft", &one.line(&["nft", &rule]))?;
    let ip = Host::One.container_ip();
    let inside = container(one, BRIDGE, &format!("{}-c", names[0]), ip, 1500)?;
    let client = End::new(Netns::clone(&inside), INSIDE, ip);
    use_cubic_by(&client, GATEWAY)?;
    let server = End {
        mac: mac_of(GATEWAY),
        ..End::new(two.clone(), UNDERLAY, Host::Two.underlay_ip())
    };
    let [from, to] = [Host::One, Host::Two].map(Host::underlay_ip);
    let wire = Pair {
        mode: Mode::Bare,
        client: End::new(one.clone(), UNDERLAY, from),
        server: End::new(two.clone(), UNDERLAY, to),
        agents: Agents::default(),
        _owned: Vec::new(),
        hosts: hosts.clone(),
    };
    let pair = Pair {
        mode: Mode::Kernel,
        client,
        server,
        agents: Agents::default(),
        _owned: [inside].into_iter().chain(built).collect(),
        hosts,
    };
    pair.get_ready().context(Way::Masquerade.title())?;
    wire.client.use_cubic()?;
    wire.server.use_cubic()?;
    wire.get_ready().context(Way::Wire.title())?;
    Ok([pair, wire])
}
