//! An agent that remembers its calls and answers each operation from a map.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, from_value, json};
use tokio::sync::{Notify, mpsc};

mod explain;
mod outside;

use explain::explained;
pub(crate) use outside::router;
use outside::{dhcp, float, flow, nat, owner, pool};

use super::api::*;
use crate::{
    agent::server::{Handle, Outcome, Paged, Respond},
    model::{Attachment, Endpoint, EndpointDrops, Network, NetworkSettings, Node, Vtep},
};

pub(crate) fn network() -> Network {
    Network {
        subnets: vec!["7.7.7.0/24".parse().unwrap()],
        ..Network::new("blue".parse().unwrap(), "42".parse().unwrap())
    }
}

pub(crate) fn endpoint() -> EndpointView {
    let endpoint = Endpoint {
        name: "web".parse().unwrap(),
        vni: "42".parse().unwrap(),
        mac: "02:42:07:07:07:02".parse().unwrap(),
        addresses: vec!["7.7.7.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        node: "h1".parse().unwrap(),
        attachment: Some(Attachment::veth(
            "web".parse().unwrap(),
            "eth0".parse().unwrap(),
        )),
        generation: 7,
    };
    endpoint_view(endpoint, "10.0.0.1".parse().unwrap(), EndpointState::Ready)
}

pub(crate) fn imported_endpoint() -> EndpointView {
    let endpoint = Endpoint {
        name: "old".parse().unwrap(),
        vni: "42".parse().unwrap(),
        mac: "02:42:07:07:07:09".parse().unwrap(),
        addresses: vec!["7.7.7.9/24".parse().unwrap()],
        node: "vtep-10.0.0.9".parse().unwrap(),
        attachment: None,
        generation: 8,
    };
    endpoint_view(endpoint, "10.0.0.9".parse().unwrap(), EndpointState::Remote)
}

fn qos() -> QosView {
    QosView {
        name: "gold".parse().unwrap(),
        egress: Some("1gbit".parse().unwrap()),
        ingress: Some("1500mbit".parse().unwrap()),
        burst: Some("1mb".parse().unwrap()),
        pps: None,
        dscp: Some("af21".parse().unwrap()),
        priority: None,
        endpoints: vec!["web".parse().unwrap()],
        networks: vec!["42".parse().unwrap()],
    }
}

pub(crate) fn vteps() -> Vec<VtepView> {
    let node = |name: &str, ip: &str, agent, last_seen| {
        let vtep = Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        };
        Node {
            last_seen,
            ..Node::new(name.parse().unwrap(), vtep, agent)
        }
    };
    let seen = SystemTime::UNIX_EPOCH + Duration::from_micros(1_785_585_600_123_456);
    vec![
        vtep_view(
            Node {
                alive: true,
                version: Some("0.2.0".into()),
                abi: Some(2),
                mtu: Some(1500),
                ..node("h1", "10.0.0.1", true, Some(seen))
            },
            NodeState::Alive,
        ),
        vtep_view(
            node("vtep-10.0.0.9", "10.0.0.9", false, None),
            NodeState::NoAgent,
        ),
    ]
}

pub(crate) fn status() -> StatusView {
    let usage = MapUsage {
        entries: 7,
        capacity: 262_144,
        refused: 0,
        stale: 0,
    };
    StatusView {
        instance: "default".parse().unwrap(),
        node: "h1".parse().unwrap(),
        ready: true,
        agent: true,
        iface: "eth0".parse().unwrap(),
        vtep: "10.0.0.1".parse().unwrap(),
        port: 4789,
        registry: RegistryView {
            url: "sqlite:///var/lib/overlay/registry.db".into(),
            connected: true,
            followed: true,
            revision: 12,
            stale_for_s: 0,
            error: None,
            rejected: Vec::new(),
        },
        networks: 2,
        endpoints: EndpointCounts {
            local: 3,
            remote: 4,
            failed: 0,
            waiting: 0,
        },
        paths: BTreeMap::from([(PathState::Ok, 1), (PathState::OneWay, 1)]),
        dhcp: BTreeMap::new(),
        datapath: DatapathView {
            attach: AttachMode::Tcx,
            abi: 1,
            fast_path: true,
            fast_path_error: None,
            maps: BTreeMap::from([("fdb".to_owned(), usage)]),
            counters: BTreeMap::new(),
            drops: DropTotals { loss: 3, noise: 12 },
        },
        problems: Vec::new(),
        stalled: Vec::new(),
    }
}

pub(crate) fn event() -> EventView {
    EventView {
        time: "2026-08-01T12:00:00.123Z".parse().unwrap(),
        event: Event::Drop {
            reason: "too_big".into(),
            packets: 3,
            total: 7,
            class: DropClass::Loss,
        },
    }
}

pub(crate) fn verified() -> VerifyView {
    VerifyView {
        agree: false,
        revision: 12,
        hosts: vec![HostView {
            node: "h2".parse().unwrap(),
            verdict: Verdict::Differs,
            revision: Some(12),
            rows: Some(7),
        }],
        differences: vec![Difference {
            node: "h2".parse().unwrap(),
            vni: "42".parse().unwrap(),
            map: "fdb".into(),
            entry: "02:42:07:07:07:02".into(),
            endpoint: Some("web".parse().unwrap()),
            wanted: Some(EntryView {
                vtep: Some("10.0.0.1:4789".into()),
                mac: None,
                generation: 7,
            }),
            installed: None,
        }],
        more: 0,
    }
}

pub(crate) fn examined() -> DoctorView {
    let mut found = DoctorView::default();
    found.pass("kernel");
    found.pass("maps");
    found.find(Finding::warning("peer h3", "silent", "see its log"));
    found.find(Finding::problem("peer h2", "ABI version 3", "upgrade it"));
    found.concluded()
}

pub(crate) fn drops() -> BTreeMap<String, u64> {
    [("unknown_vni", 3), ("malformed", 0)]
        .map(|(reason, packets)| (reason.to_owned(), packets))
        .into()
}

pub(crate) fn drop_sample() -> DropSampleView {
    DropSampleView {
        time: "2026-11-20T22:52:44.800Z".parse().unwrap(),
        dropped: DroppedView {
            reason: "source_ip".to_owned(),
            class: DropClass::Loss,
            direction: DropDirection::Sent,
            endpoint: Some("web".parse().unwrap()),
            vni: Some("42".parse().unwrap()),
            peer: Some("10.0.0.2".parse().unwrap()),
            node: Some("h2".parse().unwrap()),
            frame: FrameView {
                source_mac: [2, 0x42, 7, 7, 7, 2].into(),
                destination_mac: [2, 0x42, 7, 7, 7, 3].into(),
                ether_type: "ipv4".to_owned(),
                source_ip: Some("7.7.7.9".parse().unwrap()),
                destination_ip: Some("7.7.7.3".parse().unwrap()),
                protocol: Some("icmp".to_owned()),
                source_port: None,
                destination_port: None,
                icmp_type: Some(8),
                icmp_code: Some(0),
                length: 98,
            },
        },
    }
}

pub(crate) fn drops_of(filter: &ShowDrops) -> DropsView {
    let web = EndpointDrops {
        sent: BTreeMap::from([("source_ip", 70)]),
        ..EndpointDrops::default()
    };
    let all = [
        ("multicast_membership", 99),
        ("source_ip", 70),
        ("too_big", 0),
    ];
    DropsView {
        endpoint: filter.endpoint.clone(),
        reasons: match filter.endpoint {
            Some(_) => endpoint_drop_counts(&web),
            None => drop_counts(all),
        },
        samples: vec![drop_sample()],
    }
}

pub(crate) fn create_network() -> CreateNetwork {
    CreateNetwork {
        subnets: network().subnets,
        ..CreateNetwork::new(network().name, VniChoice::Vni(network().vni))
    }
}

/// Nothing has the address 10.0.0.99.
pub(crate) fn removed_vtep(vtep: &VtepRef) -> Option<VtepRemovedView> {
    let ip: std::net::IpAddr = "10.0.0.9".parse().unwrap();
    (*vtep != VtepRef::Ip("10.0.0.99".parse().unwrap())).then(|| VtepRemovedView {
        node: "vtep-10.0.0.9".parse().unwrap(),
        ip,
        endpoints: 2,
    })
}

/// Nothing is called nope.
fn removed(name: &Name) -> RemovedView {
    RemovedView {
        removed: name.as_str() != "nope",
    }
}

pub(crate) fn adopted(confirmed: bool) -> AdoptView {
    AdoptView {
        adopted: confirmed,
        identity: None,
        former: None,
        endpoints: vec!["web".parse().unwrap()],
        remote_endpoints: Some(2),
        networks: Vec::new(),
        nodes: Vec::new(),
    }
}

pub(crate) fn pinged(size: Option<PingSize>) -> Pinged {
    let lost = LostAt {
        last_seen: Some("h1".parse().unwrap()),
        reason: None,
        message: "it left h1, and did not get to h2".to_owned(),
        advice: "let UDP through".to_owned(),
    };
    let is_short = matches!(size, None | Some(PingSize::Auto));
    Pinged {
        from: "web".parse().unwrap(),
        from_node: "h1".parse().unwrap(),
        to: "db".parse().unwrap(),
        to_node: "h2".parse().unwrap(),
        via: Some("10.0.0.2".parse().unwrap()),
        vni: Some("42".parse().unwrap()),
        size: if is_short { 84 } else { 1400 },
        rtt_us: is_short.then_some(210),
        largest: matches!(size, Some(PingSize::Auto)).then_some(1200),
        expected: 1450,
        lost: (!is_short).then_some(lost),
    }
}

pub(crate) fn cluster() -> ClusterView {
    let host = |vtep: VtepView| ClusterHost {
        node: vtep.node,
        vtep: vtep.ip,
        state: vtep.state,
        answered: true,
        version: Some("0.1.0".to_owned()),
        abi: Some(2),
        clock_ms: Some(0),
    };
    let path = |from: &str, to: &str, way| ClusterPath {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        way,
        rtt_us: Some(210),
        loss: Some(0),
        largest: Some(1450),
        expected: Some(1450),
    };
    let hosts: Vec<_> = vteps().into_iter().take(2).map(host).collect();
    let (one, two) = (hosts[0].node.to_string(), hosts[1].node.to_string());
    ClusterView {
        healthy: false,
        paths: vec![path(&one, &two, Way::Lost), path(&two, &one, Way::Ok)],
        findings: vec![Finding::problem(
            format_args!("path {one} -> {two}"),
            "packets do not get there",
            "let UDP through",
        )],
        hosts,
    }
}

/// Answers one operation, by its parameters.
type Answer = Box<dyn Fn(Json) -> Result<Json, OperationError> + Send + Sync>;

/// The fake agent.
pub(crate) struct Fake {
    /// What it was asked, in order.
    calls: Mutex<Vec<String>>,
    answers: BTreeMap<String, Answer>,
    /// What every operation ends with, instead of its answer.
    refusal: Option<OperationError>,
    /// What a list says beside its elements.
    note: Option<String>,
    /// If set, [`AddEndpoint`] says so on the first and waits for the second.
    pub(crate) gate: Option<(Notify, Notify)>,
}

/// An operation's place in the map of answers.
fn key_of<Op: Operation>() -> String {
    format!("{} {}", Op::METHOD.as_str(), Op::PATH)
}

/// An operation as the fake remembers it.
pub(crate) fn call_of<Op: Operation>(operation: &Op) -> String {
    format!("{} {}", key_of::<Op>(), json!(operation))
}

impl Default for Fake {
    fn default() -> Self {
        let fake = Self {
            calls: Mutex::default(),
            answers: BTreeMap::new(),
            refusal: None,
            note: None,
            gate: None,
        };
        fake.with(|_: CreateNetwork| NetworkView::from(network()))
            .with(|set: SetNetwork| {
                let settings = NetworkSettings {
                    mtu: set.mtu,
                    flood: set.flood,
                    learning: set.learning,
                };
                NetworkView::from(network().with(settings))
            })
            .with(|_: ListNetworks| vec![NetworkView::from(network())])
            .with(|RemoveNetwork { name }| removed(&name))
            .with(|_: AddEndpoint| endpoint())
            .with(|_: ListEndpoints| vec![imported_endpoint(), endpoint()])
            .with(|_: ShowEndpoint| endpoint())
            .with(|_: SetEndpoint| endpoint())
            .with(|_: MoveEndpoint| endpoint())
            .with_outcome(|RemoveEndpoint { name }| match name.as_str() {
                "stuck" => Err(OperationError::new(ErrorKind::Refused, "stuck stays")),
                _ => Ok(removed(&name)),
            })
            .with(|_: CreateRouter| RouterView {
                ports: Vec::new(),
                routes: Vec::new(),
                ..router()
            })
            .with(|_: ListRouters| vec![router()])
            .with(|_: ShowRouter| router())
            .with(|RemoveRouter { name }| removed(&name))
            .with(|set: SetRouter| RouterView {
                outside: set.outside.unwrap_or_default(),
                ..router()
            })
            .with(|add: AddFloat| FloatView {
                ip: add.ip,
                endpoint: add.endpoint,
                ..float()
            })
            .with(|to: MoveFloat| FloatView {
                ip: to.ip,
                endpoint: to.endpoint,
                ..float()
            })
            .with(|_: ListFloats| vec![float()])
            .with(|RemoveFloat { ip }| RemovedView {
                removed: ip == float().ip,
            })
            .with(|create: CreatePool| PoolView {
                name: create.name,
                ips: create.ips,
                used: 0,
                ..pool()
            })
            .with(|_: ListPools| vec![pool()])
            .with(|RemovePool { name }| removed(&name))
            .with(|_: ListNat| nat())
            .with(|_: CheckNat| vec![owner()])
            .with(|_: ListFlows| vec![flow()])
            .with(|_: RemoveFlows| FlowsEndedView { ended: 3 })
            .with(|_: AttachRouter| router())
            .with(|detach: DetachRouter| removed(&detach.router))
            .with(|add: AddRoute| RouteView {
                prefix: add.prefix,
                target: add.target,
            })
            .with(|remove: RemoveRoute| removed(&remove.router))
            .with_settings()
            .with(|_: ListVteps| vteps())
            .with(|RemoveVtep { vtep }| removed_vtep(&vtep))
            .with(|_: ShowStatus| status())
            .with(|_: CountDrops| drops())
            .with(|filter: ShowDrops| drops_of(&filter))
            .with_events::<Monitor>(&[event()])
            .with(|_: Verify| verified())
            .with(|_: Examine| examined())
            .with(|_: ExamineCluster| cluster())
            .with(|ping: SendPing| pinged(ping.size))
            .with(|explain: Explain| explained(&explain))
            .with(|adopt: AdoptRegistry| adopted(adopt.confirmed))
            .with(|_: ImportArpd| ImportView {
                vni: network().vni,
                endpoints: 3,
                vteps: 2,
            })
            .with(|_: Down| DownView {})
    }
}

impl Fake {
    /// What networks and endpoints are given beside their addresses.
    fn with_settings(self) -> Self {
        self.with(|_: SetDhcp| dhcp())
            .with(|_: ListDhcp| vec![dhcp()])
            .with(|_: ShowDhcp| dhcp())
            .with(|RemoveDhcp { network }| RemovedView {
                removed: network.to_string() != "nope",
            })
            .with(|_: CreateQos| qos())
            .with(|_: SetQos| qos())
            .with(|_: ListQos| vec![qos()])
            .with(|_: ShowQos| qos())
            .with(|RemoveQos { name }| removed(&name))
    }

    pub(crate) fn refusing(kind: ErrorKind, message: &str) -> Self {
        Self {
            refusal: Some(OperationError::new(kind, message)),
            ..Self::default()
        }
    }

    /// Says this beside each list.
    pub(crate) fn with_note(note: &str) -> Self {
        Self {
            note: Some(note.to_owned()),
            ..Self::default()
        }
    }

    /// Waits in [`AddEndpoint`] until it may go on.
    pub(crate) fn gated() -> Self {
        Self {
            gate: Some((Notify::new(), Notify::new())),
            ..Self::default()
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn with<Op: Operation>(
        self,
        answer: impl Fn(Op) -> Op::Answer + Send + Sync + 'static,
    ) -> Self {
        self.with_outcome(move |operation| Ok(answer(operation)))
    }

    fn with_outcome<Op: Operation>(
        mut self,
        answer: impl Fn(Op) -> Result<Op::Answer, OperationError> + Send + Sync + 'static,
    ) -> Self {
        let answer = move |parameters| answer(from_value(parameters).unwrap()).map(|it| json!(it));
        self.answers.insert(key_of::<Op>(), Box::new(answer));
        self
    }

    fn with_events<Op: Operation>(mut self, events: &[Op::Answer]) -> Self {
        let events = json!(events);
        let answer = move |_| Ok(events.clone());
        self.answers.insert(key_of::<Op>(), Box::new(answer));
        self
    }
}

impl<Op: Operation<Form: Faked<Op>>> Handle<Op> for Fake {
    async fn handle(&self, operation: Op) -> Outcome<Op> {
        let key = key_of::<Op>();
        if let Some((begun, go_on)) = &self.gate
            && key == key_of::<AddEndpoint>()
        {
            begun.notify_one();
            go_on.notified().await;
        }
        let answer = self.answers[&key](json!(operation));
        self.calls.lock().unwrap().push(call_of(&operation));
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Op::Form::fake(answer?, self)),
        }
    }
}

/// A handler's result from JSON.
pub(crate) trait Faked<Op: Operation>: Respond<Op> {
    fn fake(answer: Json, fake: &Fake) -> Self::Output;
}

impl<Op: Operation> Faked<Op> for Value {
    fn fake(answer: Json, _: &Fake) -> Op::Answer {
        from_value(answer).unwrap()
    }
}

/// Each element has a page of its own.
impl<Op, T> Faked<Op> for Pages
where
    Op: Operation<Answer = Vec<T>>,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    fn fake(answer: Json, fake: &Fake) -> Paged<T> {
        let elements: Vec<T> = from_value(answer).unwrap();
        Paged {
            pages: sent(elements.into_iter().map(|element| Ok(vec![element]))),
            note: fake.note.clone(),
        }
    }
}

impl<Op: Operation> Faked<Op> for Lines {
    fn fake(answer: Json, _: &Fake) -> mpsc::Receiver<Op::Answer> {
        let events: Vec<Op::Answer> = from_value(answer).unwrap();
        sent(events)
    }
}

/// A channel in which these are, and nothing follows.
fn sent<T>(values: impl IntoIterator<Item = T>) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(16);
    for value in values {
        assert!(sender.try_send(value).is_ok());
    }
    receiver
}
