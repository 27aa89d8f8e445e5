//! The hosts: one pair for each mode, all of them up for the whole run.
//!
//! ```text
//!  bare      [host 1: underlay]======veth======[underlay: host 2]
//!
//!  kernel    [container]-veth-[bridge, vxlan]  [bridge, vxlan]-veth-[container]
//!                      (namespace "over") |      | (namespace "over")
//!                         [host 1: underlay]====[underlay: host 2]
//!
//!  overlay   [container]-veth                                  veth-[container]
//!                       [agent, host 1: underlay]====[underlay: host 2, agent]
//! ```
//!
//! Pairs of their own, rather than one pair that is rebuilt, let the modes alternate within seconds
//! and keep one mode's programs off another's interfaces. A pair that is not measured is idle.

mod kernel;
mod overlay;
mod ways;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::underlay::Offloads;
use crate::agent::{Agent, remove_instances};
use overlay::Agents;
use overlay_lab::interrupt;
use overlay_lab::netns::{self, Netns, OwnedNetns, try_ip};
use overlay_lab::process;
pub(crate) use ways::{Way, Ways};

/// Every namespace and instance of a run starts so.
pub(super) const PREFIX: &str = "bd-";
/// The network that is measured.
pub(super) const VNI: u32 = 42;
/// IANA's port for VXLAN (RFC 7348 section 8).
const VXLAN_PORT: u16 = 4789;
/// Bytes; what 1500 of the underlay leave beside the 50 of VXLAN over IPv4.
const INNER_MTU: u32 = 1450;
/// The interface between hosts, in each of them.
pub(super) const UNDERLAY: &str = "underlay";

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// The underlay itself: nothing is tunnelled.
    Bare,
    /// The kernel's VXLAN device on a bridge.
    Kernel,
    /// Our agents and BPF programs.
    Overlay,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Bare, Self::Kernel, Self::Overlay];

    /// As tables, JSON and namespaces name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Kernel => "kernel",
            Self::Overlay => "overlay",
        }
    }
}

/// One of the two hosts of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// Where the load comes from.
    One,
    /// Where it is counted.
    Two,
}

impl Host {
    const BOTH: [Self; 2] = [Self::One, Self::Two];

    fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    fn peer(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    fn underlay_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number())
    }

    fn container_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(7, 7, 7, self.number() + 1)
    }

    /// Its name in a mode's pair; what else belongs to the host appends to it.
    fn name(self, mode: Mode) -> String {
        format!("{PREFIX}{}-{}", mode.name(), self.number())
    }
}

/// The MAC of whoever has this address: 02:42 and the four bytes of it, as the agent does it.
fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x42, a, b, c, d]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Where measured traffic starts or ends.
pub(super) struct End {
    pub(super) netns: Netns,
    pub(super) ifname: &'static str,
    pub(super) ip: Ipv4Addr,
    pub(super) mac: [u8; 6],
}

impl End {
    pub(super) fn new(netns: Netns, ifname: &'static str, ip: Ipv4Addr) -> Self {
        Self {
            netns,
            ifname,
            ip,
            mac: mac_of(ip),
        }
    }

    /// Cubic gives steadier figures than bbr, which some machines have as their default. The route
    /// says so: a namespace's own default can't be set to what the machine restricts to root.
    pub(super) fn use_cubic(&self) -> Result<()> {
        let [a, b, c, _] = self.ip.octets();
        self.netns.try_ip(&format!(
            "route change {a}.{b}.{c}.0/24 dev {} proto kernel scope link src {} congctl lock cubic",
            self.ifname, self.ip
        ))
    }
}

/// Two hosts in one mode.
pub(super) struct Pair {
    pub(super) mode: Mode,
    pub(super) client: End,
    pub(super) server: End,
    // Fields are dropped in this order: agents while their hosts are there.
    agents: Agents,
    _owned: Vec<OwnedNetns>,
    hosts: [Netns; 2],
}

impl Pair {
    fn build(mode: Mode, agent: &Path) -> Result<Self> {
        Self::on(&Host::BOTH.map(|host| host.name(mode)), mode, Some(agent))
    }

    /// The kernel's own VXLAN between two hosts, outside a lab. All of its namespaces start with one
    /// of `names`.
    pub(super) fn kernel(names: &[String; 2]) -> Result<Self> {
        Self::on(names, Mode::Kernel, None)
    }

    /// Two endpoints that are up already.
    pub(super) fn existing(hosts: [&str; 2], client: End, server: End) -> Result<Self> {
        let pair = Self {
            mode: Mode::Overlay,
            client,
            server,
            agents: Agents::default(),
            _owned: Vec::new(),
            hosts: hosts.map(Netns::named),
        };
        pair.get_ready()?;
        Ok(pair)
    }

    fn on(hosts: &[String; 2], mode: Mode, agent: Option<&Path>) -> Result<Self> {
        let built = build_hosts(hosts)?;
        let hosts = built.each_ref().map(|host| Netns::clone(host));
        let [one, two] = &hosts;
        let (client, server, inner, agents) = match mode {
            Mode::Bare => (
                End::new(one.clone(), UNDERLAY, Host::One.underlay_ip()),
                End::new(two.clone(), UNDERLAY, Host::Two.underlay_ip()),
                Vec::new(),
                Agents::default(),
            ),
            Mode::Kernel => {
                let (client, first) = kernel::build(Host::One, one)?;
                let (server, second) = kernel::build(Host::Two, two)?;
                let inner = first.into_iter().chain(second).collect();
                (client, server, inner, Agents::default())
            }
            Mode::Overlay => {
                let binary = agent.context("mode overlay needs the agent's binary")?;
                overlay::build(&hosts, binary)?
            }
        };
        let pair = Self {
            mode,
            client,
            server,
            agents,
            _owned: inner.into_iter().chain(built).collect(),
            hosts,
        };
        pair.get_ready()?;
        Ok(pair)
    }

    /// The agent of the host that the other's changes have to reach.
    pub(super) fn watching_agent(&self) -> Result<&Agent> {
        self.agents.agents.last().context("this pair has no agents")
    }

    fn get_ready(&self) -> Result<()> {
        self.client.use_cubic()?;
        self.server.use_cubic()?;
        self.wait_for_contact()
            .with_context(|| format!("mode {}", self.mode.name()))
    }

    /// Waits until a ping gets through; that resolves neighbours on the way too.
    fn wait_for_contact(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(15);
        let target = self.server.ip.to_string();
        let ping = self
            .client
            .netns
            .line(&["ping", "-n", "-c", "1", "-W", "1", &target]);
        interrupt::wait_until(&format!("{target} answers a ping"), LIMIT, || {
            Ok(process::run("ping", &ping).is_ok())
        })
    }
}

/// The two hosts and the veth between them.
fn build_hosts([one, two]: &[String; 2]) -> Result<[OwnedNetns; 2]> {
    let one = OwnedNetns::create(one)?;
    let two = OwnedNetns::create(two)?;
    try_ip(&format!(
        "link add {UNDERLAY} netns {} address {} type veth peer name {UNDERLAY} netns {} address {}",
        one.name(),
        mac_text(mac_of(Host::One.underlay_ip())),
        two.name(),
        mac_text(mac_of(Host::Two.underlay_ip())),
    ))?;
    for (netns, host) in [&one, &two].into_iter().zip(Host::BOTH) {
        netns.try_ip(&format!(
            "address add {}/24 dev {UNDERLAY}",
            host.underlay_ip()
        ))?;
        netns.try_ip(&format!("link set {UNDERLAY} up"))?;
    }
    Ok([one, two])
}

/// All pairs of a run.
pub(super) struct Lab {
    pairs: Vec<Pair>,
}

impl Lab {
    /// Builds a pair for each mode; `agent` is the binary that mode overlay runs.
    pub(super) fn build(modes: &[Mode], agent: &Path) -> Result<Self> {
        clean(agent).context("removing what an earlier run left")?;
        let pairs = modes
            .iter()
            .map(|&mode| {
                interrupt::check()?;
                Pair::build(mode, agent)
            })
            .collect::<Result<_>>()?;
        Ok(Self { pairs })
    }

    pub(super) fn pair(&self, mode: Mode) -> Result<&Pair> {
        match self.pairs.iter().find(|pair| pair.mode == mode) {
            Some(pair) => Ok(pair),
            None => bail!("mode {} was not set up", mode.name()),
        }
    }

    /// Makes every underlay interface behave so.
    pub(super) fn set_offloads(&self, offloads: Offloads) -> Result<()> {
        self.pairs
            .iter()
            .flat_map(|pair| &pair.hosts)
            .try_for_each(|host| offloads.apply(host, UNDERLAY))
    }
}

/// Removes what an earlier run left that could not clean up after itself.
fn clean(agent: &Path) -> Result<()> {
    netns::remove_all(PREFIX)?;
    remove_instances(agent, PREFIX)
}
