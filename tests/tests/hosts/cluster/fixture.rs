//! Three hosts on an etcd cluster, with an agent, an endpoint and traffic each.

use std::{collections::BTreeSet, time::Duration};

use overlay_ebpf::abi::FdbEntry;
use overlay_lab::{
    Agent, Cluster, Host, Lab, Netns,
    agent::FAILED,
    etcd::ClusterSettings,
    traffic::{Flow, Stream},
    until_within,
};

/// The network of all.
pub(crate) const VNI: u32 = 42;
/// Within it an agent is back to normal after whatever befell its registry: connections are given
/// up, retries are patient.
pub(crate) const RECOVERY: Duration = Duration::from_secs(90);
/// How many hosts there are.
pub(crate) const HOSTS: usize = 3;

/// All of it. Fields go in this order: agents while their registry is there.
pub(crate) struct Fixture {
    pub(crate) agents: Vec<Agent>,
    pub(crate) hosts: Vec<Host>,
    /// The endpoint of each host: 7.7.7.1, 7.7.7.2 and so on.
    pub(crate) endpoints: Vec<Netns>,
    pub(crate) cluster: Cluster,
    pub(crate) lab: Lab,
}

impl Fixture {
    /// Everything up, and every endpoint in reach of each other.
    pub(crate) fn new() -> Self {
        Self::with(ClusterSettings::default(), "")
    }

    /// The same with settings of etcd's and more words for `run`.
    pub(crate) fn with(settings: ClusterSettings, options: &str) -> Self {
        let lab = Lab::new();
        let hosts: [_; HOSTS] = lab.hosts();
        let cluster = Cluster::with(&lab, &hosts, settings);
        let mut fixture = Self {
            agents: Vec::new(),
            hosts: hosts.to_vec(),
            endpoints: Vec::new(),
            cluster,
            lab,
        };
        let options = format!("{} {options}", fixture.options());
        fixture.agents = hosts
            .iter()
            .map(|host| Agent::spawn(&fixture.lab, host, &options))
            .collect();
        for (agent, last) in fixture.agents.iter().zip(1..) {
            agent.await_ready();
            let name = fixture.lab.name(&format!("on{last}"));
            let endpoint = agent.endpoint(&name, VNI, &[&format!("7.7.7.{last}/24")]);
            fixture.endpoints.push(endpoint);
        }
        for endpoint in &fixture.endpoints {
            for last in 1..=HOSTS {
                endpoint.reaches(&format!("7.7.7.{last}"));
            }
        }
        fixture
    }

    /// What every agent is told.
    pub(crate) fn options(&self) -> String {
        format!("{} --vni {VNI}", self.cluster.options())
    }

    /// Starts traffic that nothing may disturb.
    pub(crate) fn traffic(&self) -> Traffic {
        let [one, two, three] = [0, 1, 2].map(|index| &self.endpoints[index]);
        Traffic {
            streams: vec![
                Stream::start(one, two, "7.7.7.2"),
                Stream::start(three, one, "7.7.7.1"),
            ],
            flow: Flow::start(two, three, "7.7.7.3"),
        }
    }

    /// The registry as the agent at `index` sees it is in reach (`true`) or out of it.
    #[track_caller]
    pub(crate) fn await_connected(&self, index: usize, is_connected: bool) {
        let agent = &self.agents[index];
        let what = format!("{}: connected is {is_connected}", agent.instance());
        until_within(RECOVERY, &what, || {
            agent.json("status")["registry"]["connected"] == is_connected
        });
    }

    /// The agent at `index` makes an endpoint, and all `others` hear of it; likewise its removal.
    #[track_caller]
    pub(crate) fn changes_arrive(&self, index: usize, others: &[usize]) {
        let name = self.lab.name("new");
        let words = format!("endpoint add {name} --vni {VNI} --ip 7.7.7.100/24");
        until_within(RECOVERY, "an endpoint can be made", || {
            let run = self.agents[index].overlay(&words);
            // A try that got no answer may have been carried out.
            run.code == 0 || run.stderr.contains("is taken by")
        });
        for other in others {
            until_within(RECOVERY, &format!("host {other} hears of it"), || {
                self.has(*other, "7.7.7.100")
            });
        }
        until_within(RECOVERY, "an endpoint can be removed", || {
            self.agents[index]
                .overlay(&format!("endpoint rm {name}"))
                .code
                == 0
        });
        for other in others {
            until_within(
                RECOVERY,
                &format!("host {other} hears that it is gone"),
                || !self.has(*other, "7.7.7.100"),
            );
        }
    }

    /// Whether the maps of the host at `index` know an address.
    pub(crate) fn has(&self, index: usize, ip: &str) -> bool {
        let suffix = format!(" {ip}");
        installed(&self.agents[index], &self.hosts[index])
            .iter()
            .any(|row| row.contains(&suffix))
    }

    /// A change on the host at `index` is refused, in a line that names the registry.
    #[track_caller]
    pub(crate) fn refuses_changes(&self, index: usize) -> String {
        let name = self.lab.name("refused");
        let words = format!("endpoint add {name} --vni {VNI} --ip 7.7.7.101/24");
        let line = self.agents[index].overlay(&words).error(FAILED);
        assert!(line.contains("registry"), "{line}");
        line
    }

    /// All hosts have the same in their maps, and the first one's `verify` says so too.
    #[track_caller]
    pub(crate) fn agrees(&self) {
        self.maps_agree();
        until_within(RECOVERY, "verify finds that all agree", || {
            self.agents[0].overlay("verify").code == 0
        });
    }

    /// All hosts have the same in their maps.
    #[track_caller]
    pub(crate) fn maps_agree(&self) {
        until_within(RECOVERY, "all maps are the same", || {
            let rows: Vec<_> = self
                .agents
                .iter()
                .zip(&self.hosts)
                .map(|(agent, host)| installed(agent, host))
                .collect();
            rows.windows(2).all(|pair| pair[0] == pair[1])
        });
    }

    /// A fourth host, without an agent.
    pub(crate) fn another_host(&self) -> Host {
        let host = self.lab.host(&self.hosts[0].switch, 4);
        self.cluster.admit(&host);
        host
    }
}

/// What a host has in its maps, in words that don't depend on the host.
fn installed(agent: &Agent, host: &Host) -> BTreeSet<String> {
    let own = format!("{:?}", host.ip.octets().map(u64::from));
    let fdb = agent.dump("fdb").into_iter().map(|row| {
        let (key, value) = (&row["key"], &row["value"]);
        let vtep = if value["kind"] == FdbEntry::REMOTE {
            value["vtep"].to_string().replace(',', ", ")
        } else {
            own.clone()
        };
        format!(
            "{} {} behind {vtep}, generation {}",
            key["vni"], key["mac"], value["generation"]
        )
    });
    let neighbors = agent.dump("neighbors").into_iter().map(|row| {
        let (key, value) = (&row["key"], &row["value"]);
        let ip: Vec<u8> = serde_json::from_value(key["ip"].clone()).unwrap();
        let ip = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(ip).unwrap());
        format!(
            "{} {} is {}, generation {}",
            key["vni"],
            ip.to_canonical(),
            value["mac"],
            value["generation"]
        )
    });
    fdb.chain(neighbors).collect()
}

/// UDP and TCP that goes on while things happen.
pub(crate) struct Traffic {
    streams: Vec<Stream>,
    flow: Flow,
}

impl Traffic {
    /// Waits until all of it has gone on for a while.
    #[track_caller]
    pub(crate) fn flows(&self) {
        for stream in &self.streams {
            stream.flows(1000);
        }
        self.flow.flows(1 << 20);
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// Anything was lost.
    #[track_caller]
    pub(crate) fn lost_nothing(self) {
        self.flows();
        for stream in self.streams {
            let (sent, lost) = stream.finish();
            assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
        }
        self.flow.finish();
    }
}
