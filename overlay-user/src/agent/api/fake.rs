//! An agent that remembers what it was asked and answers from constants.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;
use crate::model::{
    DropClass, DropDirection, Endpoint, EndpointDrops, EndpointState, FrameView, LostAt, MapUsage,
    Node, PingSize, Vtep,
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
        netns: Some("web".parse().unwrap()),
        ifname: Some("eth0".parse().unwrap()),
        generation: 7,
    };
    EndpointView::new(endpoint, "10.0.0.1".parse().unwrap(), EndpointState::Ready)
}

pub(crate) fn imported_endpoint() -> EndpointView {
    let endpoint = Endpoint {
        name: "old".parse().unwrap(),
        vni: "42".parse().unwrap(),
        mac: "02:42:07:07:07:09".parse().unwrap(),
        addresses: vec!["7.7.7.9/24".parse().unwrap()],
        node: "vtep-10.0.0.9".parse().unwrap(),
        netns: None,
        ifname: None,
        generation: 8,
    };
    EndpointView::new(endpoint, "10.0.0.9".parse().unwrap(), EndpointState::Remote)
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
        VtepView::new(
            Node {
                alive: true,
                version: Some("0.2.0".into()),
                abi: Some(2),
                mtu: Some(1500),
                ..node("h1", "10.0.0.1", true, Some(seen))
            },
            NodeState::Alive,
        ),
        VtepView::new(
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

pub(crate) fn drops_of(filter: &DropsFilter) -> DropsView {
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

/// Nothing has the address 10.0.0.99.
pub(crate) fn removed_vtep(vtep: &VtepRef) -> Option<VtepRemovedView> {
    let ip: IpAddr = "10.0.0.9".parse().unwrap();
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

/// The fake agent.
#[derive(Default)]
pub(crate) struct Fake {
    /// What it was asked, in order.
    pub(crate) calls: Mutex<Vec<String>>,
    /// What every operation ends with, instead of its answer.
    pub(crate) refusal: Option<OperationError>,
    /// What `endpoint_ls` says beside the endpoints.
    pub(crate) note: Option<String>,
    /// If set, `endpoint_add` says so on the first and waits for the second.
    pub(crate) gate: Option<(Notify, Notify)>,
}

impl Fake {
    pub(crate) fn refusing(kind: ErrorKind, message: &str) -> Self {
        Self {
            refusal: Some(OperationError::new(kind, message)),
            ..Self::default()
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn answer<T>(&self, call: String, answer: T) -> Result<T, OperationError> {
        self.calls.lock().unwrap().push(call);
        self.refusal.clone().map_or(Ok(answer), Err)
    }
}

#[async_trait]
impl Operations for Fake {
    async fn network_create(&self, request: NetworkRequest) -> Result<NetworkView, OperationError> {
        self.answer(format!("network_create {request:?}"), network().into())
    }

    async fn network_set(
        &self,
        name: &Name,
        settings: NetworkSettings,
    ) -> Result<NetworkView, OperationError> {
        let view = network().with(settings).into();
        self.answer(format!("network_set {name} {settings:?}"), view)
    }

    async fn network_ls(&self) -> Result<Vec<NetworkView>, OperationError> {
        self.answer("network_ls".into(), vec![network().into()])
    }

    async fn network_rm(&self, name: &Name) -> Result<RemovedView, OperationError> {
        self.answer(format!("network_rm {name}"), removed(name))
    }

    async fn endpoint_add(&self, request: EndpointRequest) -> Result<EndpointView, OperationError> {
        if let Some((begun, go_on)) = &self.gate {
            begun.notify_one();
            go_on.notified().await;
        }
        self.answer(format!("endpoint_add {request:?}"), endpoint())
    }

    async fn endpoint_ls(&self, filter: EndpointFilter) -> Result<EndpointListing, OperationError> {
        let (sender, pages) = mpsc::channel(2);
        self.answer(format!("endpoint_ls {filter:?}"), ())?;
        for page in [vec![imported_endpoint()], vec![endpoint()]] {
            sender.send(Ok(page)).await.unwrap();
        }
        Ok(EndpointListing {
            pages,
            note: self.note.clone(),
        })
    }

    async fn endpoint_move(
        &self,
        name: &Name,
        to: MoveRequest,
    ) -> Result<EndpointView, OperationError> {
        self.answer(format!("endpoint_move {name} {to:?}"), endpoint())
    }

    async fn endpoint_show(&self, name: &Name) -> Result<EndpointView, OperationError> {
        self.answer(format!("endpoint_show {name}"), endpoint())
    }

    async fn endpoint_set(
        &self,
        name: &Name,
        request: SetRequest,
    ) -> Result<EndpointView, OperationError> {
        self.answer(format!("endpoint_set {name} {request:?}"), endpoint())
    }

    async fn endpoint_rm(&self, name: &Name) -> Result<RemovedView, OperationError> {
        if name.as_str() == "stuck" {
            return Err(OperationError::new(ErrorKind::Refused, "stuck stays"));
        }
        self.answer(format!("endpoint_rm {name}"), removed(name))
    }

    async fn vtep_ls(&self) -> Result<Vec<VtepView>, OperationError> {
        self.answer("vtep_ls".into(), vteps())
    }

    async fn vtep_rm(&self, vtep: &VtepRef) -> Result<Option<VtepRemovedView>, OperationError> {
        self.answer(format!("vtep_rm {vtep}"), removed_vtep(vtep))
    }

    async fn status(&self) -> Result<StatusView, OperationError> {
        self.answer("status".into(), status())
    }

    async fn drops(&self) -> Result<BTreeMap<String, u64>, OperationError> {
        self.answer("drops".into(), drops())
    }

    async fn drops_detail(&self, filter: DropsFilter) -> Result<DropsView, OperationError> {
        let answer = drops_of(&filter);
        self.answer(format!("drops_detail {filter:?}"), answer)
    }

    async fn monitor(&self) -> Result<mpsc::Receiver<EventView>, OperationError> {
        let (sender, events) = mpsc::channel(1);
        sender.send(event()).await.unwrap();
        self.answer("monitor".into(), events)
    }

    async fn verify(&self, request: VerifyRequest) -> Result<VerifyView, OperationError> {
        self.answer(format!("verify {request:?}"), verified())
    }

    async fn doctor(&self) -> Result<DoctorView, OperationError> {
        self.answer("doctor".into(), examined())
    }

    async fn doctor_cluster(&self) -> Result<ClusterView, OperationError> {
        self.answer("doctor_cluster".into(), cluster())
    }

    async fn ping(&self, request: PingRequest) -> Result<Pinged, OperationError> {
        self.answer(format!("ping {request:?}"), pinged(request.size))
    }

    async fn registry_adopt(&self, request: AdoptRequest) -> Result<AdoptView, OperationError> {
        let view = AdoptView {
            adopted: request.confirmed,
            identity: None,
            former: None,
            endpoints: vec!["web".parse().unwrap()],
            remote_endpoints: Some(2),
            networks: Vec::new(),
            nodes: Vec::new(),
        };
        self.answer(format!("registry_adopt {}", request.confirmed), view)
    }

    async fn import_arpd(&self, request: ImportArpdRequest) -> Result<ImportView, OperationError> {
        let answer = ImportView {
            vni: network().vni,
            endpoints: 3,
            vteps: 2,
        };
        self.answer(
            format!("import_arpd {} {}", request.vni, request.dir.display()),
            answer,
        )
    }

    async fn down(&self) -> Result<(), OperationError> {
        self.answer("down".into(), ())
    }
}
