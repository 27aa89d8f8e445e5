//! What most labs begin with.

use crate::{
    agent::Agent,
    lab::{Host, Lab},
    netns::Netns,
};

/// Addresses of blue and green.
pub type Addresses = [&'static [&'static str]; 2];

/// 7.7.7.2 and 7.7.7.3.
pub const IPV4: Addresses = [&["7.7.7.2/24"], &["7.7.7.3/24"]];
/// The same, and `fd07::2` and `fd07::3`.
pub const BOTH: Addresses = [&["7.7.7.2/24", "fd07::2/64"], &["7.7.7.3/24", "fd07::3/64"]];

/// Two hosts with an agent each, `blue` on the first and `green` on the second, which reach each other on
/// VNI 42.
#[derive(Debug)]
pub struct TwoHosts {
    // Fields are dropped in this order: agents before their hosts.
    /// An agent on each.
    pub agents: [Agent; 2],
    /// The endpoint on the first host.
    pub blue: Netns,
    /// The endpoint on the second host.
    pub green: Netns,
    /// The hosts.
    pub hosts: [Host; 2],
    /// Where they are.
    pub lab: Lab,
}

impl TwoHosts {
    /// Hosts of a new lab, and these words for `run`.
    pub fn new(options: &str, addresses: Addresses) -> Self {
        let lab = Lab::new();
        let hosts = lab.hosts();
        Self::on(lab, hosts, options, addresses)
    }

    /// Hosts that are there.
    pub fn on(lab: Lab, hosts: [Host; 2], options: &str, addresses: Addresses) -> Self {
        let agents = Agent::on_each(&lab, &hosts, options);
        let [one, two] = &agents;
        let blue = one.endpoint(&lab.name("blue"), 42, addresses[0]);
        let green = two.endpoint(&lab.name("green"), 42, addresses[1]);
        for address in addresses[1] {
            let (ip, _) = address.split_once('/').unwrap();
            blue.reaches(ip);
        }
        Self {
            agents,
            blue,
            green,
            hosts,
            lab,
        }
    }
}
