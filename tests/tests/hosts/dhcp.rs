//! DHCP and router advertisements: real clients in endpoints whose network answers them.

use nix::sys::signal::Signal;
use overlay_lab::{Agent, DhcpClient, Host, Lab, Netns, until};
use serde_json::{Value, json};

const VNI: u32 = 42;

/// A host with an agent, and a network with a router that answers DHCP.
struct Served {
    // Fields are dropped in this order.
    agent: Agent,
    _hosts: [Host; 1],
    lab: Lab,
}

impl Served {
    fn new() -> Self {
        let served = Self::without_router();
        served.agent.does("router create r1");
        served.agent.does("router attach r1 blue");
        served
    }

    fn without_router() -> Self {
        let lab = Lab::new();
        let hosts = lab.hosts();
        let agent = Agent::start(&lab, &hosts[0], "");
        agent.does(&format!(
            "network create blue --vni {VNI} --subnet 7.7.7.0/24 --subnet fd07::/64"
        ));
        agent.does("dhcp set blue --dns 7.7.7.53 --dns fd07::53 --domain cloud.example --lease 1h");
        Self {
            agent,
            _hosts: hosts,
            lab,
        }
    }

    /// An endpoint whose addresses a client sets.
    fn endpoint(&self, name: &str, words: &str) -> Netns {
        let name = self.lab.name(name);
        self.agent
            .does(&format!("endpoint add {name} --vni {VNI} --dhcp {words}"));
        Netns::named(name)
    }

    fn answers(&self, kind: &str) -> u64 {
        let status = self.agent.json("status");
        status["dhcp"][kind].as_u64().unwrap()
    }
}

/// The addresses of a namespace's eth0 that were set, by family.
fn addresses(netns: &Netns) -> Vec<String> {
    let links: Value = serde_json::from_str(&netns.ip("-j addr show dev eth0")).unwrap();
    let all = links[0]["addr_info"].as_array().unwrap().iter();
    all.filter(|address| address["scope"] == "global")
        .map(|address| address["local"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_endpoint_made_for_dhcp_comes_up_without_addresses_and_gets_the_registrys() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    assert!(addresses(&web).is_empty(), "{:?}", addresses(&web));
    let name = web.name();
    let shown = served.agent.json(&format!("endpoint show {name}"));
    assert_eq!(
        (&shown["dhcp"], &shown["state"]),
        (&json!(true), &json!("ready"))
    );
    let mut client = DhcpClient::udhcpc(&web, "");
    let told = client.hears(&["bound"], 0);
    let of = |key: &str| told.get(key).map(String::as_str);
    assert_eq!(of("ip"), Some("7.7.7.20"));
    assert_eq!(of("mask"), Some("24"));
    assert_eq!(of("router"), Some("7.7.7.1"));
    assert_eq!(of("dns"), Some("7.7.7.53"));
    assert_eq!(of("domain"), Some("cloud.example"));
    assert_eq!(of("lease"), Some("3600"));
    assert_eq!(of("serverid"), Some("7.7.7.1"));
    let db = served
        .agent
        .endpoint(&served.lab.name("db"), VNI, &["7.7.7.30/24"]);
    db.reaches("7.7.7.20");
    web.reaches("7.7.7.1");
    // It asks the gateway alone, whatever is on the way there.
    client.signal(Signal::SIGUSR1);
    client.hears(&["renew"], 0);
    assert!(served.answers("offer") >= 1 && served.answers("ack") >= 2);
    client.signal(Signal::SIGUSR2);
    until("the lease is given back", || served.answers("release") == 1);
    client.stop();
}
