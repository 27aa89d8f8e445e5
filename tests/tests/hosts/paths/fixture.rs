//! Two hosts, and a switch between them that loses what a test wants it to.

use std::net::Ipv4Addr;

use overlay_lab::{Agent, Lab, Netns, lab::Host, until};
use overlay_user::model::{Attachment, Change, Endpoint, Mac, Name, Vni};
use serde_json::Value;

/// Two hosts with an agent each, and what is between them.
pub(crate) struct Fixture {
    pub(crate) agents: [Agent; 2],
    pub(crate) hosts: [Host; 2],
    pub(crate) lab: Lab,
}

/// Both agents have tried the path to the other, and it is well.
pub(crate) fn fixture() -> Fixture {
    let lab = Lab::new();
    let hosts = lab.hosts();
    let agents = Agent::on_each(&lab, &hosts, "--vni 42");
    let fixture = Fixture { agents, hosts, lab };
    for agent in &fixture.agents {
        until("the path to be tried", || path(agent)["state"] == "ok");
    }
    fixture
}

/// What an agent says of the path to the other.
pub(crate) fn path(agent: &Agent) -> Value {
    let vteps = agent.json("vtep ls");
    let other = vteps
        .as_array()
        .unwrap()
        .iter()
        .find(|vtep| vtep["node"] != agent.instance())
        .unwrap();
    other["path"].clone()
}

/// What `doctor` says of it; none: it is well.
pub(crate) fn finding(agent: &Agent) -> Option<Value> {
    let run = agent.overlay("-o json doctor");
    let view: Value = serde_json::from_str(&run.stdout).unwrap();
    let findings = view["findings"].as_array().unwrap();
    let of_path = |finding: &&Value| {
        let subject = finding["subject"].as_str().unwrap();
        subject.starts_with("path to")
    };
    findings.iter().find(of_path).cloned()
}

impl Fixture {
    /// An endpoint on each host: web at 7.7.7.2 and db at 7.7.7.3.
    pub(crate) fn endpoints(&self) {
        let [one, two] = &self.agents;
        one.endpoint(&self.lab.name("web"), 42, &["7.7.7.2/24"]);
        two.endpoint(&self.lab.name("db"), 42, &["7.7.7.3/24"]);
    }

    /// Has the registry know an endpoint on a host, whether or not an agent runs there.
    pub(crate) fn place(&self, short: &str, vni: u32, address: &str, host: usize) {
        let name: Name = self.lab.name(short).parse().unwrap();
        let (ip, _) = address.split_once('/').unwrap();
        let ip: Ipv4Addr = ip.parse().unwrap();
        self.lab.commit(&[Change::CreateEndpoint(Endpoint {
            name: name.clone(),
            vni: Vni::try_from(vni).unwrap(),
            mac: Mac::from_ipv4(ip),
            addresses: vec![address.parse().unwrap()],
            node: self.agents[host].instance().parse().unwrap(),
            attachment: Some(Attachment::veth(name, "eth0".parse().unwrap())),
            generation: 0,
        })]);
    }

    /// Has the switch drop what it takes in from a host and `matches`, in the words of nft. None: nothing more.
    pub(crate) fn filter(&self, host: usize, matches: Option<&str>) {
        self.rule(host, matches.map(|matches| format!("{matches} drop")));
    }

    /// Has the switch do something to what it takes in from a host. None: nothing more.
    pub(crate) fn rule(&self, host: usize, rule: Option<String>) {
        let switch = Netns::named(self.lab.name("sw"));
        let mut nft = switch.command("nft");
        let table = format!("netdev lab{host}");
        nft.arg(match rule {
            Some(rule) => format!(
                "add table {table}; add chain {table} port {{ type filter hook ingress device \"h{}-u0\" \
                 priority 0; }}; add rule {table} port {rule}",
                host + 1
            ),
            None => format!("delete table {table}"),
        });
        assert!(nft.status().unwrap().success());
    }
}

/// What changes tunnel packets: the byte behind an echo's header is a zero. Bits are counted from the UDP header.
pub(crate) const DAMAGE: &str = "udp dport 4789 @th,368,8 set 0xff";

/// All tunnel packets.
pub(crate) const TUNNELS: Option<&str> = Some("udp dport 4789");
