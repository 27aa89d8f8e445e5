//! Two hosts with three endpoints: blue and cyan on the first, green on the second.

use overlay_lab::{Agent, Lab, Netns, lab::Host};

pub(crate) const VNI: u32 = 42;
/// Nobody's MTU but this: both fabrics have the same.
pub(crate) const MTU: u32 = 1450;

/// An endpoint: its name, where it is, and its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Party {
    name: &'static str,
    /// Its host.
    host: usize,
    pub(crate) ipv4: &'static str,
    pub(crate) ipv6: &'static str,
    mac: &'static str,
}

pub(crate) const BLUE: Party = Party {
    name: "blue",
    host: 0,
    ipv4: "7.7.7.2",
    ipv6: "fd07::2",
    mac: "02:42:07:07:07:02",
};
pub(crate) const CYAN: Party = Party {
    name: "cyan",
    host: 0,
    ipv4: "7.7.7.4",
    ipv6: "fd07::4",
    mac: "02:42:07:07:07:04",
};
pub(crate) const GREEN: Party = Party {
    name: "green",
    host: 1,
    ipv4: "7.7.7.3",
    ipv6: "fd07::3",
    mac: "02:42:07:07:07:03",
};

const PARTIES: [Party; 3] = [BLUE, CYAN, GREEN];

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fabric {
    /// Linux' VXLAN devices and bridges.
    Kernel,
    /// The overlay.
    Overlay,
}

/// The hosts and the endpoints.
pub(crate) struct Fixture {
    pub(crate) blue: Netns,
    pub(crate) cyan: Netns,
    pub(crate) green: Netns,
    pub(crate) hosts: [Host; 2],
    /// Agents, where the overlay carries the frames.
    pub(crate) agents: Vec<Agent>,
    _lab: Lab,
}

impl Fixture {
    pub(crate) fn new(fabric: Fabric) -> Self {
        let lab = Lab::new();
        let hosts = lab.hosts();
        let (agents, endpoints) = match fabric {
            Fabric::Kernel => (Vec::new(), kernel(&lab, &hosts)),
            Fabric::Overlay => overlay(&lab, &hosts),
        };
        let [blue, cyan, green] = endpoints;
        for (from, to) in [
            (&blue, GREEN),
            (&blue, CYAN),
            (&green, BLUE),
            (&cyan, GREEN),
        ] {
            from.reaches(to.ipv4);
            from.reaches(to.ipv6);
        }
        Self {
            blue,
            cyan,
            green,
            hosts,
            agents,
            _lab: lab,
        }
    }
}

fn overlay(lab: &Lab, hosts: &[Host; 2]) -> (Vec<Agent>, [Netns; 3]) {
    let agents: Vec<Agent> = hosts
        .iter()
        .map(|host| Agent::start(lab, host, &format!("--vni {VNI}")))
        .collect();
    let endpoints = PARTIES.map(|party| {
        let addresses = [format!("{}/24", party.ipv4), format!("{}/64", party.ipv6)];
        let addresses = addresses.each_ref().map(String::as_str);
        agents[party.host].endpoint(&lab.name(party.name), VNI, &addresses)
    });
    (agents, endpoints)
}

/// Every host's bridge and device know every endpoint, and every endpoint knows the others.
fn kernel(lab: &Lab, hosts: &[Host; 2]) -> [Netns; 3] {
    for Host { netns, ip, .. } in hosts {
        netns.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        netns.ip(&format!(
            "link add vx0 mtu {MTU} type vxlan id {VNI} dstport 4789 local {ip} dev u0 nolearning"
        ));
        netns.ip("link set vx0 master br0 up");
        netns.ip("link set br0 up");
    }
    for party in PARTIES {
        for (index, host) in hosts.iter().enumerate() {
            if index != party.host {
                let [mac, vtep] = [party.mac, &hosts[party.host].ip.to_string()];
                let bridge = |args: &str| host.netns.run("bridge", args);
                bridge(&format!("fdb replace {mac} dev vx0 self dst {vtep}"));
                bridge(&format!("fdb replace {mac} dev vx0 master static"));
            }
        }
    }
    PARTIES.map(|party| {
        let endpoint = lab.netns(party.name);
        let host = &hosts[party.host].netns;
        let port = format!("p-{}", party.name);
        host.ip(&format!(
            "link add {port} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {}",
            endpoint.name()
        ));
        host.ip(&format!("link set {port} master br0 up"));
        endpoint.ip(&format!("link set eth0 address {} up", party.mac));
        endpoint.ip(&format!("address add {}/24 dev eth0", party.ipv4));
        endpoint.ip(&format!("address add {}/64 dev eth0 nodad", party.ipv6));
        for other in PARTIES {
            for ip in [other.ipv4, other.ipv6] {
                if other.name != party.name {
                    endpoint.ip(&format!(
                        "neigh replace {ip} lladdr {} dev eth0 nud permanent",
                        other.mac
                    ));
                }
            }
        }
        endpoint
    })
}
